/* SPDX-License-Identifier: BSD-2-Clause */
#include "request.h"

#include <stddef.h>
#include <string.h>

#define SECTORS_PER_PAGE (XPV_PAGE_SIZE >> VBD_SECTOR_SHIFT)

/* Where the fields are. Those in front of the first 64-bit number are where they are everywhere. */
struct layout {
	uint8_t entry_size;
	uint8_t id, sector;	   /* of each kind of request */
	uint8_t segments;	   /* read, write, flush, barrier */
	uint8_t nr_sectors;	   /* discard */
	uint8_t indirect_segments; /* their number */
	uint8_t descriptors;	   /* grants of an indirect request */
};

static const struct layout layouts[] = {
    [VBD_ABI_X86_64] = {.entry_size = 112,
	.id = 8,
	.sector = 16,
	.segments = 24,
	.nr_sectors = 24,
	.indirect_segments = 2,
	.descriptors = 28},
    [VBD_ABI_X86_32] = {.entry_size = 108,
	.id = 4,
	.sector = 12,
	.segments = 20,
	.nr_sectors = 20,
	.indirect_segments = 2,
	.descriptors = 24},
};

#ifdef __x86_64__
_Static_assert(sizeof(union blkif_sring_entry) == 112 && offsetof(blkif_request_t, id) == 8 &&
		   offsetof(blkif_request_t, sector_number) == 16 &&
		   offsetof(blkif_request_t, seg) == 24 &&
		   offsetof(blkif_request_discard_t, nr_sectors) == 24 &&
		   offsetof(blkif_request_indirect_t, nr_segments) == 2 &&
		   offsetof(blkif_request_indirect_t, id) == 8 &&
		   offsetof(blkif_request_indirect_t, sector_number) == 16 &&
		   offsetof(blkif_request_indirect_t, indirect_grefs) == 28,
    "blkif.h as this compiler lays it out is the x86_64 layout");
#endif

unsigned
vbd_entry_size(enum vbd_abi abi)
{
	return layouts[abi].entry_size;
}

void
vbd_request_read(enum vbd_abi abi, const void *entry, struct vbd_request *r)
{
	const struct layout *at = &layouts[abi];
	const uint8_t *bytes = entry;
	uint16_t indirect_segments;

	memset(r, 0, sizeof(*r));
	r->operation = bytes[0];
	memcpy(&r->id, bytes + at->id, sizeof(r->id));
	memcpy(&r->sector, bytes + at->sector, sizeof(r->sector));
	switch (r->operation) {
	case BLKIF_OP_INDIRECT:
		r->indirect = true;
		r->operation = bytes[1];
		memcpy(
		    &indirect_segments, bytes + at->indirect_segments, sizeof(indirect_segments));
		r->nr_segments = indirect_segments;
		memcpy(r->descriptors, bytes + at->descriptors, sizeof(r->descriptors));
		break;
	case BLKIF_OP_DISCARD:
		r->secure = (bytes[1] & BLKIF_DISCARD_SECURE) != 0;
		memcpy(&r->nr_sectors, bytes + at->nr_sectors, sizeof(r->nr_sectors));
		break;
	default:
		r->nr_segments = bytes[1];
		memcpy(r->segments, bytes + at->segments, sizeof(r->segments));
		break;
	}
}

void
vbd_response_write(enum vbd_abi abi, void *entry, uint64_t id, uint8_t operation, int16_t status)
{
	/* Both layouts are the same up to the padding at the end. */
	blkif_response_t response;

	memset(&response, 0, sizeof(response)); /* nothing of ours leaks in padding (XSA-216) */
	response.id = id;
	response.operation = operation;
	response.status = status;
	memcpy(entry, &response, abi == VBD_ABI_X86_32 ? 12 : sizeof(response));
}

static int16_t
refuse(const char **why, const char *text)
{
	*why = text;
	return BLKIF_RSP_ERROR;
}

static bool
inside(uint64_t sector, uint64_t nr_sectors, const struct vbd_bounds *bounds)
{
	return sector <= bounds->sectors && nr_sectors <= bounds->sectors - sector;
}

static bool
aligned(uint64_t sectors, const struct vbd_bounds *bounds)
{
	return sectors % (bounds->sector_size >> VBD_SECTOR_SHIFT) == 0;
}

static int16_t
check_discard(const struct vbd_request *r, const struct vbd_bounds *bounds, const char **why)
{
	if (bounds->read_only)
		return refuse(why, "a discard on a read-only disk");
	/* Never a plain one in place of a secure one: the guest would believe that its data is
	 * gone.
	 */
	if (!bounds->discard || (r->secure && !bounds->secure_discard))
		return BLKIF_RSP_EOPNOTSUPP;
	if (r->nr_sectors == 0 || !inside(r->sector, r->nr_sectors, bounds))
		return refuse(why, "a discard beyond the end of the disk");
	if (!aligned(r->sector, bounds) || !aligned(r->nr_sectors, bounds))
		return refuse(why, "a discard of less than a sector");
	return BLKIF_RSP_OKAY;
}

int16_t
vbd_request_check(const struct vbd_request *r, const struct vbd_bounds *bounds, const char **why)
{
	bool plain = r->operation == BLKIF_OP_READ || r->operation == BLKIF_OP_WRITE;
	unsigned max = r->indirect ? bounds->max_segments : BLKIF_MAX_SEGMENTS_PER_REQUEST;

	if (r->indirect && bounds->max_segments == 0)
		return BLKIF_RSP_EOPNOTSUPP;
	switch (r->operation) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
		break;
	case BLKIF_OP_FLUSH_DISKCACHE:
	case BLKIF_OP_WRITE_BARRIER:
		if (r->indirect)
			return refuse(why, "an indirect request that is no read or write");
		break;
	case BLKIF_OP_DISCARD:
		if (r->indirect)
			return refuse(why, "an indirect request that is no read or write");
		return check_discard(r, bounds, why);
	default:
		return BLKIF_RSP_EOPNOTSUPP;
	}
	if (r->nr_segments > max)
		return refuse(why, "more segments than a request can have");
	if (r->nr_segments == 0 && plain)
		return refuse(why, "a read or write of nothing");
	if (r->nr_segments > 0 && r->operation != BLKIF_OP_READ && bounds->read_only)
		return refuse(why, "a write to a read-only disk");
	return BLKIF_RSP_OKAY;
}

int16_t
vbd_segments_check(const struct vbd_request *r, const struct blkif_request_segment *segments,
    const struct vbd_bounds *bounds, uint32_t *nr_sectors, const char **why)
{
	*nr_sectors = 0;
	for (unsigned i = 0; i < r->nr_segments; i++) {
		const struct blkif_request_segment *s = &segments[i];
		unsigned length;

		if (s->first_sect > s->last_sect || s->last_sect >= SECTORS_PER_PAGE)
			return refuse(why, "a segment with impossible sectors");
		length = s->last_sect - s->first_sect + 1u;
		if (!aligned(length, bounds))
			return refuse(why, "a segment that is not whole sectors");
		*nr_sectors += length;
	}
	if (!aligned(r->sector, bounds))
		return refuse(why, "a request that begins within a sector");
	if (!inside(r->sector, *nr_sectors, bounds))
		return refuse(why, "a request beyond the end of the disk");
	return BLKIF_RSP_OKAY;
}
