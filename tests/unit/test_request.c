/* SPDX-License-Identifier: BSD-2-Clause */
/* Ring entries byte by byte, and every reason to refuse one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "request.h"

#define SECTORS 4096u

static const struct vbd_bounds disk = {.sectors = SECTORS,
    .sector_size = 512,
    .max_segments = VBD_MAX_SEGMENTS,
    .discard = true,
    .secure_discard = true};
static const struct vbd_bounds disk_4k = {
    .sectors = SECTORS, .sector_size = 4096, .max_segments = VBD_MAX_SEGMENTS, .discard = true};
static const struct vbd_bounds read_only = {
    .sectors = SECTORS, .sector_size = 512, .max_segments = VBD_MAX_SEGMENTS, .read_only = true};

/* Where the header says that fields are, in numbers of its own. */
static const struct {
	enum vbd_abi abi;
	unsigned size, id, sector, segments, descriptors;
} layouts[] = {
    {VBD_ABI_X86_64, 112, 8, 16, 24, 28},
    {VBD_ABI_X86_32, 108, 4, 12, 20, 24},
};

static void
put(uint8_t *at, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

static void
plain_requests(void **state)
{
	for (unsigned l = 0; l < 2; l++) {
		uint8_t entry[112];
		struct vbd_request r;

		memset(entry, 0xee, sizeof(entry));
		entry[0] = BLKIF_OP_WRITE;
		entry[1] = 11;
		put(entry + layouts[l].id, 0x0123456789abcdef, 8);
		put(entry + layouts[l].sector, 0xfedcba9876543210, 8);
		for (unsigned i = 0; i < 11; i++) {
			uint8_t *segment = entry + layouts[l].segments + 8 * i;

			put(segment, 0x10203040 + i, 4);
			segment[4] = i % 8;
			segment[5] = 7;
		}
		/* The last segment ends within the entry. */
		assert_true(layouts[l].segments + 88 <= layouts[l].size);
		assert_int_equal(vbd_entry_size(layouts[l].abi), layouts[l].size);
		vbd_request_read(layouts[l].abi, entry, &r);
		assert_int_equal(r.operation, BLKIF_OP_WRITE);
		assert_false(r.indirect);
		assert_false(r.secure);
		assert_int_equal(r.nr_segments, 11);
		assert_int_equal(r.id, 0x0123456789abcdef);
		assert_int_equal(r.sector, 0xfedcba9876543210);
		for (unsigned i = 0; i < 11; i++) {
			assert_int_equal(r.segments[i].gref, 0x10203040 + i);
			assert_int_equal(r.segments[i].first_sect, i % 8);
			assert_int_equal(r.segments[i].last_sect, 7);
		}
	}
}

static void
indirect_requests(void **state)
{
	for (unsigned l = 0; l < 2; l++) {
		uint8_t entry[112];
		struct vbd_request r;

		memset(entry, 0xee, sizeof(entry));
		entry[0] = BLKIF_OP_INDIRECT;
		entry[1] = BLKIF_OP_READ;
		put(entry + 2, 0x0100, 2);
		put(entry + layouts[l].id, 77, 8);
		put(entry + layouts[l].sector, 88, 8);
		for (unsigned i = 0; i < 8; i++)
			put(entry + layouts[l].descriptors + 4 * i, 900 + i, 4);
		vbd_request_read(layouts[l].abi, entry, &r);
		assert_int_equal(r.operation, BLKIF_OP_READ);
		assert_true(r.indirect);
		assert_int_equal(r.nr_segments, 256);
		assert_int_equal(r.id, 77);
		assert_int_equal(r.sector, 88);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(r.descriptors[i], 900 + i);
	}
}

static void
discard_requests(void **state)
{
	for (unsigned l = 0; l < 2; l++) {
		uint8_t entry[112];
		struct vbd_request r;

		memset(entry, 0xee, sizeof(entry));
		entry[0] = BLKIF_OP_DISCARD;
		entry[1] = BLKIF_DISCARD_SECURE;
		put(entry + layouts[l].id, 5, 8);
		put(entry + layouts[l].sector, 6, 8);
		put(entry + layouts[l].segments, 0xfffffffffffffff0, 8);
		vbd_request_read(layouts[l].abi, entry, &r);
		assert_int_equal(r.operation, BLKIF_OP_DISCARD);
		assert_true(r.secure);
		assert_int_equal(r.nr_segments, 0);
		assert_int_equal(r.id, 5);
		assert_int_equal(r.sector, 6);
		assert_int_equal(r.nr_sectors, 0xfffffffffffffff0);
		entry[1] = (uint8_t)~BLKIF_DISCARD_SECURE;
		vbd_request_read(layouts[l].abi, entry, &r);
		assert_false(r.secure);
	}
}

/* Every byte of an answer is ours, and none beyond it is touched. */
static void
responses(void **state)
{
	static const unsigned sizes[] = {[VBD_ABI_X86_64] = 16, [VBD_ABI_X86_32] = 12};

	for (unsigned abi = 0; abi < 2; abi++) {
		uint8_t entry[20], expected[20];

		memset(entry, 0xee, sizeof(entry));
		memset(expected, 0, sizeof(expected));
		memset(expected + sizes[abi], 0xee, sizeof(expected) - sizes[abi]);
		put(expected, 0x1122334455667788, 8);
		expected[8] = BLKIF_OP_FLUSH_DISKCACHE;
		put(expected + 10, (uint16_t)BLKIF_RSP_EOPNOTSUPP, 2);
		vbd_response_write(
		    abi, entry, 0x1122334455667788, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_RSP_EOPNOTSUPP);
		assert_memory_equal(entry, expected, sizeof(entry));
	}
}

/* ---- what is sense ---- */

static int16_t
check(const struct vbd_request *r, const struct vbd_bounds *bounds)
{
	const char *why = NULL;
	int16_t status = vbd_request_check(r, bounds, &why);

	assert_int_equal(why != NULL, status == BLKIF_RSP_ERROR);
	return status;
}

#define assert_check(bounds, status, ...)                                                          \
	assert_int_equal(check(&(struct vbd_request){__VA_ARGS__}, bounds), status)

static void
operations(void **state)
{
	for (unsigned op = 0; op < 256; op++) {
		bool known = op <= BLKIF_OP_FLUSH_DISKCACHE || op == BLKIF_OP_DISCARD;

		assert_check(&disk, known ? BLKIF_RSP_OKAY : BLKIF_RSP_EOPNOTSUPP, .operation = op,
		    .nr_segments = 1, .nr_sectors = 1);
		known = op <= BLKIF_OP_WRITE;
		if (known)
			assert_check(&disk, BLKIF_RSP_OKAY, .operation = op, .indirect = true,
			    .nr_segments = 256);
		else if (op <= BLKIF_OP_FLUSH_DISKCACHE || op == BLKIF_OP_DISCARD)
			assert_check(&disk, BLKIF_RSP_ERROR, .operation = op, .indirect = true,
			    .nr_segments = 1, .nr_sectors = 1);
		else
			assert_check(
			    &disk, BLKIF_RSP_EOPNOTSUPP, .operation = op, .indirect = true);
	}
}

static void
numbers_of_segments(void **state)
{
	assert_check(&disk, BLKIF_RSP_ERROR, .operation = BLKIF_OP_READ);
	assert_check(&disk, BLKIF_RSP_ERROR, .operation = BLKIF_OP_WRITE);
	assert_check(&disk, BLKIF_RSP_ERROR, .operation = BLKIF_OP_READ, .indirect = true);
	assert_check(&disk, BLKIF_RSP_OKAY, .operation = BLKIF_OP_FLUSH_DISKCACHE);
	assert_check(&disk, BLKIF_RSP_OKAY, .operation = BLKIF_OP_WRITE_BARRIER);
	assert_check(&disk, BLKIF_RSP_OKAY, .operation = BLKIF_OP_READ, .nr_segments = 11);
	for (unsigned op = BLKIF_OP_READ; op <= BLKIF_OP_FLUSH_DISKCACHE; op++) {
		assert_check(&disk, BLKIF_RSP_ERROR, .operation = op, .nr_segments = 12);
		assert_check(&disk, BLKIF_RSP_ERROR, .operation = op, .nr_segments = 255);
	}
	assert_check(&disk, BLKIF_RSP_ERROR, .operation = BLKIF_OP_READ, .indirect = true,
	    .nr_segments = 257);
	assert_check(&disk, BLKIF_RSP_ERROR, .operation = BLKIF_OP_READ, .indirect = true,
	    .nr_segments = UINT16_MAX);
}

static void
read_only_disk(void **state)
{
	assert_check(&read_only, BLKIF_RSP_OKAY, .operation = BLKIF_OP_READ, .nr_segments = 1);
	assert_check(&read_only, BLKIF_RSP_OKAY, .operation = BLKIF_OP_FLUSH_DISKCACHE);
	assert_check(&read_only, BLKIF_RSP_OKAY, .operation = BLKIF_OP_WRITE_BARRIER);
	for (unsigned op = BLKIF_OP_WRITE; op <= BLKIF_OP_FLUSH_DISKCACHE; op++)
		assert_check(&read_only, BLKIF_RSP_ERROR, .operation = op, .nr_segments = 1);
	assert_check(&read_only, BLKIF_RSP_ERROR, .operation = BLKIF_OP_WRITE, .indirect = true,
	    .nr_segments = 1);
	assert_check(&read_only, BLKIF_RSP_ERROR, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1);
}

static void
discards(void **state)
{
	static const struct {
		uint64_t sector, nr_sectors;
		bool fits, fits_4k;
	} cases[] = {
	    {0, SECTORS, true, true}, {8, 8, true, true}, {1, 8, true, false}, {8, 1, true, false},
	    {SECTORS - 1, 1, true, false}, {0, 0, false, false}, {SECTORS, 0, false, false},
	    {SECTORS, 8, false, false}, {SECTORS - 8, 16, false, false},
	    {0, SECTORS + 8, false, false}, {8, UINT64_MAX - 7, false, false},
	    {UINT64_MAX - 7, 8, false, false}, {UINT64_MAX - 7, 16, false, false},
	    {UINT64_C(1) << 55, 8, false, false}, /* in bytes: nothing is left of it */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vbd_request r = {.operation = BLKIF_OP_DISCARD,
		    .sector = cases[i].sector,
		    .nr_sectors = cases[i].nr_sectors};

		assert_int_equal(
		    check(&r, &disk), cases[i].fits ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR);
		assert_int_equal(
		    check(&r, &disk_4k), cases[i].fits_4k ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR);
	}
}

static void
what_was_not_offered(void **state)
{
	struct vbd_bounds less = disk;

	assert_check(
	    &less, BLKIF_RSP_OKAY, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1, .secure = true);
	less.secure_discard = false;
	assert_check(&less, BLKIF_RSP_EOPNOTSUPP, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1,
	    .secure = true);
	assert_check(&less, BLKIF_RSP_OKAY, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1);
	less.discard = false;
	assert_check(&less, BLKIF_RSP_EOPNOTSUPP, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1);
	less.max_segments = 32;
	assert_check(
	    &less, BLKIF_RSP_OKAY, .operation = BLKIF_OP_READ, .indirect = true, .nr_segments = 32);
	assert_check(&less, BLKIF_RSP_ERROR, .operation = BLKIF_OP_READ, .indirect = true,
	    .nr_segments = 33);
	less.max_segments = 0;
	for (unsigned op = 0; op < 256; op++)
		assert_check(&less, BLKIF_RSP_EOPNOTSUPP, .operation = op, .indirect = true,
		    .nr_segments = 1);
	assert_check(&less, BLKIF_RSP_OKAY, .operation = BLKIF_OP_READ, .nr_segments = 11);
}

/* A request of one segment or of two. */
static bool
segments_fit(const struct vbd_bounds *bounds, uint64_t sector, unsigned first, unsigned last,
    unsigned count, uint32_t *nr_sectors)
{
	struct vbd_request r = {
	    .operation = BLKIF_OP_READ, .sector = sector, .nr_segments = (uint16_t)count};
	struct blkif_request_segment segments[VBD_MAX_SEGMENTS];
	const char *why = NULL;
	int16_t status;

	for (unsigned i = 0; i < count; i++)
		segments[i] = (struct blkif_request_segment){1, 0, 7};
	segments[count - 1].first_sect = (uint8_t)first;
	segments[count - 1].last_sect = (uint8_t)last;
	status = vbd_segments_check(&r, segments, bounds, nr_sectors, &why);
	assert_int_equal(why != NULL, status == BLKIF_RSP_ERROR);
	return status == BLKIF_RSP_OKAY;
}

static void
segments_within_a_page(void **state)
{
	uint32_t n;

	for (unsigned first = 0; first < 256; first++) {
		for (unsigned last = 0; last < 256; last++) {
			bool fits = first <= last && last < 8;

			assert_int_equal(segments_fit(&disk, 0, first, last, 1, &n), fits);
			if (fits)
				assert_int_equal(n, last - first + 1);
			assert_int_equal(
			    segments_fit(&disk_4k, 0, first, last, 1, &n), first == 0 && last == 7);
		}
	}
}

static void
segments_on_the_disk(void **state)
{
	uint32_t n;

	assert_true(segments_fit(&disk, SECTORS - 8, 0, 7, 1, &n));
	assert_true(segments_fit(&disk, SECTORS - 9, 0, 0, 2, &n));
	assert_int_equal(n, 9);
	assert_false(segments_fit(&disk, SECTORS - 8, 0, 0, 2, &n));
	assert_false(segments_fit(&disk, SECTORS - 7, 0, 7, 1, &n));
	assert_false(segments_fit(&disk, SECTORS, 0, 0, 1, &n));
	assert_true(segments_fit(&disk, SECTORS - 2048, 0, 7, 256, &n));
	assert_int_equal(n, 2048);
	assert_false(segments_fit(&disk, SECTORS - 2047, 0, 7, 256, &n));
	/* Sums that begin again at zero. */
	assert_false(segments_fit(&disk, UINT64_MAX, 0, 0, 1, &n));
	assert_false(segments_fit(&disk, UINT64_MAX - 7, 0, 7, 1, &n));
	assert_false(segments_fit(&disk, UINT64_MAX - 7, 0, 7, 2, &n));
	assert_false(segments_fit(&disk, UINT64_C(1) << 55, 0, 7, 1, &n));
	assert_false(segments_fit(&disk, UINT64_C(1) << 63, 0, 7, 1, &n));
}

static void
large_sectors(void **state)
{
	uint32_t n;

	for (unsigned sector = 0; sector < 16; sector++)
		assert_int_equal(segments_fit(&disk_4k, sector, 0, 7, 2, &n), sector % 8 == 0);
	assert_true(segments_fit(&disk_4k, SECTORS - 16, 0, 7, 2, &n));
	assert_false(segments_fit(&disk_4k, SECTORS - 8, 0, 7, 2, &n));
}

static void
no_medium(void **state)
{
	struct vbd_bounds empty = {
	    .sector_size = 512, .max_segments = VBD_MAX_SEGMENTS, .discard = true};
	uint32_t n;

	assert_false(segments_fit(&empty, 0, 0, 0, 1, &n));
	assert_check(&empty, BLKIF_RSP_ERROR, .operation = BLKIF_OP_DISCARD, .nr_sectors = 1);
	assert_check(&empty, BLKIF_RSP_OKAY, .operation = BLKIF_OP_FLUSH_DISKCACHE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain_requests),
	    cmocka_unit_test(indirect_requests),
	    cmocka_unit_test(discard_requests),
	    cmocka_unit_test(responses),
	    cmocka_unit_test(operations),
	    cmocka_unit_test(numbers_of_segments),
	    cmocka_unit_test(read_only_disk),
	    cmocka_unit_test(discards),
	    cmocka_unit_test(what_was_not_offered),
	    cmocka_unit_test(segments_within_a_page),
	    cmocka_unit_test(segments_on_the_disk),
	    cmocka_unit_test(large_sectors),
	    cmocka_unit_test(no_medium),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
