/* SPDX-License-Identifier: BSD-2-Clause */
/* Names of disks (xen-vbd-interface(7)), and which geometries are accepted. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "blkfront.h"
#include "xenpv/xenbus.h"

#define COUNT(a)   (sizeof(a) / sizeof((a)[0]))
#define XVD(d, p)  (202u << 8 | (d) << 4 | (p))
#define XVD2(d, p) (1u << 28 | (d) << 8 | (p))

static void
names(void **state)
{
	static const struct {
		uint32_t vdev;
		const char *name;
	} all[] = {
	    {51712, "xvda"},
	    {51713, "xvda1"},
	    {51727, "xvda15"},
	    {51728, "xvdb"},
	    {XVD(15, 0), "xvdp"},
	    {XVD(15, 15), "xvdp15"},
	    {268439552, "xvdq"},
	    {XVD2(16, 1), "xvdq1"},
	    {XVD2(25, 0), "xvdz"},
	    {XVD2(26, 0), "xvdaa"},
	    {XVD2(27, 255), "xvdab255"},
	    {XVD2(26 + 26 * 26 - 1, 0), "xvdzz"},
	    {XVD2(26 + 26 * 26, 0), "xvdaaa"},
	    {XVD2(0, 16), "xvda16"},
	    {XVD2(0xfffff, 255), "xvdbgqcv255"},
	    {768, "hda"},
	    {768 + 63, "hda63"},
	    {832, "hdb"},
	    {5632, "hdc"},
	    {5633, "hdc1"},
	    {5696, "hdd"},
	    {2048, "sda"},
	    {2049, "sda1"},
	    {2064, "sdb"},
	    {2048 + 255, "sdp15"},
	    /* Numbers without a meaning. */
	    {0, "vbd-0"},
	    {5, "vbd-5"},
	    {203 << 8, "vbd-51968"},
	    {201 << 8, "vbd-51456"},
	    {768 + 128, "vbd-896"},
	    {5632 + 255, "vbd-5887"},
	    {0x0fffffff, "vbd-268435455"},
	    {2u << 28, "vbd-536870912"},
	    {3u << 28 | 16 << 8, "vbd-805310464"},
	    {0x7fffffff, "vbd-2147483647"},
	    {UINT32_MAX, "vbd-4294967295"},
	};
	char name[32];

	for (unsigned i = 0; i < COUNT(all); i++) {
		xpv_vbd_name(all[i].vdev, name, sizeof(name));
		assert_string_equal(name, all[i].name);
	}
}

static void
name_without_room(void **state)
{
	char name[5] = "####";

	xpv_vbd_name(XVD(1, 12), name, sizeof(name));
	assert_string_equal(name, "xvdb");
}

static const struct blk_geometry good = {
    .sectors = 2048,
    .sector_size = 512,
    .physical_sector_size = 4096,
    .discard_granularity = 4096,
    .discard_alignment = 512,
    .queues = 1,
    .depth = 64,
    .max_io_bytes = 128 * 1024,
};

static bool
valid(struct blk_geometry g)
{
	const char *why = NULL;
	bool result = blk_geometry_valid(&g, &why);

	assert_int_equal(result, why == NULL);
	return result;
}

/* The good one with another value. */
#define VALID(member, value)                                                                       \
	({                                                                                         \
		struct blk_geometry g_ = good;                                                     \
		g_.member = (value);                                                               \
		valid(g_);                                                                         \
	})

static void
sector_sizes(void **state)
{
	struct blk_geometry g = good;

	assert_true(valid(good));
	g.discard_granularity = g.discard_alignment = 0;
	for (uint32_t size = 512; size <= 4096; size *= 2) {
		g.sector_size = size;
		assert_true(valid(g));
	}
	assert_false(VALID(sector_size, 0));
	assert_false(VALID(sector_size, 1));
	assert_false(VALID(sector_size, 256));
	assert_false(VALID(sector_size, 513));
	assert_false(VALID(sector_size, 1536));
	assert_false(VALID(sector_size, 8192));
	assert_false(VALID(sector_size, 1000000000));
	assert_false(VALID(sector_size, UINT32_MAX));

	assert_true(VALID(physical_sector_size, 512));
	assert_true(VALID(physical_sector_size, 1 << 20));
	assert_false(VALID(physical_sector_size, 0));
	assert_false(VALID(physical_sector_size, 256));
	assert_false(VALID(physical_sector_size, 768));
	assert_false(VALID(physical_sector_size, 2 << 20));
	g.sector_size = 4096;
	g.physical_sector_size = 512;
	assert_false(valid(g));
}

static void
sizes(void **state)
{
	struct blk_geometry g = good;

	assert_true(VALID(sectors, 1));
	assert_false(VALID(sectors, 0));
	/* Bytes must fit a signed number of 64 bits. */
	assert_true(VALID(sectors, UINT64_MAX >> 10));
	assert_false(VALID(sectors, (UINT64_MAX >> 10) + 1));
	assert_false(VALID(sectors, 1ull << 63));
	assert_false(VALID(sectors, UINT64_MAX));

	g.sector_size = 4096;
	g.discard_alignment = 0;
	assert_true(valid(g));
	for (unsigned more = 1; more < 8; more++) {
		g.sectors = 2048 + more;
		assert_false(valid(g));
	}
	g.sectors = 8;
	assert_true(valid(g));
}

static void
limits(void **state)
{
	assert_true(VALID(queues, BLK_MAX_QUEUES));
	assert_false(VALID(queues, 0));
	assert_false(VALID(queues, BLK_MAX_QUEUES + 1));
	assert_false(VALID(queues, UINT16_MAX));
	assert_true(VALID(depth, 1));
	assert_true(VALID(depth, 4096));
	assert_false(VALID(depth, 0));
	assert_false(VALID(depth, 4097));
	assert_true(VALID(max_io_bytes, 4096));
	assert_true(VALID(max_io_bytes, BLK_MAX_IO_BYTES));
	assert_false(VALID(max_io_bytes, 0));
	assert_false(VALID(max_io_bytes, 2048));
	assert_false(VALID(max_io_bytes, 4096 + 512));
	assert_false(VALID(max_io_bytes, BLK_MAX_IO_BYTES + 4096));
}

static void
discard(void **state)
{
	struct blk_geometry g = good;

	assert_true(VALID(discard_granularity, 0));
	assert_true(VALID(discard_granularity, 512));
	assert_false(VALID(discard_granularity, 7));
	assert_false(VALID(discard_granularity, 4097));
	assert_true(VALID(discard_alignment, 0));
	assert_false(VALID(discard_alignment, 1));
	assert_false(VALID(discard_alignment, UINT32_MAX));
	g.sector_size = 4096;
	assert_false(valid(g)); /* the alignment is 512 */
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names),
	    cmocka_unit_test(name_without_room),
	    cmocka_unit_test(sector_sizes),
	    cmocka_unit_test(sizes),
	    cmocka_unit_test(limits),
	    cmocka_unit_test(discard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
