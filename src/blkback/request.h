/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_REQUEST_H
#define BLKBACK_REQUEST_H

#include <xenpv/ring.h>
#include <xen/io/blkif.h>

#include "blkback.h"

/*
 * Ring entries in each frontend's layout, and what of them is sense.
 * Source: xen/include/public/io/blkif.h. The layouts differ in the alignment of 64-bit numbers: 8
 * bytes (x86_64) or 4 (x86_32).
 */

/* A request, whatever its layout was. */
struct vbd_request {
	uint8_t operation; /* of an indirect request: the inner one */
	bool indirect;
	bool secure;	      /* BLKIF_OP_DISCARD */
	uint16_t nr_segments; /* as claimed; "segments" or "descriptors" hold so many */
	uint64_t id;
	uint64_t sector;
	uint64_t nr_sectors; /* of a discard */
	struct blkif_request_segment segments[BLKIF_MAX_SEGMENTS_PER_REQUEST];
	uint32_t descriptors[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST]; /* grants of segment lists */
};

/* Bytes from one entry of a ring to the next. */
unsigned vbd_entry_size(enum vbd_abi abi);

/* Reads an entry that was copied out of the ring. */
void vbd_request_read(enum vbd_abi abi, const void *entry, struct vbd_request *r);

/* Writes a response into the ring. */
void vbd_response_write(
    enum vbd_abi abi, void *entry, uint64_t id, uint8_t operation, int16_t status);

/* The disk that requests are measured against. */
struct vbd_bounds {
	uint64_t sectors; /* VBD_SECTOR_SIZE */
	uint32_t sector_size;
	unsigned max_segments; /* of an indirect request; 0: there are none */
	bool read_only;
	bool discard, secure_discard;
};

/*
 * Checks all but the segments. BLKIF_RSP_OKAY; BLKIF_RSP_EOPNOTSUPP for what we never offered;
 * BLKIF_RSP_ERROR with "why" for what no honest frontend sends.
 */
int16_t vbd_request_check(
    const struct vbd_request *r, const struct vbd_bounds *bounds, const char **why);

/* Checks the segments of a read or write, private copies, and adds them up. */
int16_t vbd_segments_check(const struct vbd_request *r,
    const struct blkif_request_segment *segments, const struct vbd_bounds *bounds,
    uint32_t *nr_sectors, const char **why);

#endif
