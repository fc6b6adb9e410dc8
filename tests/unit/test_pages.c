/* SPDX-License-Identifier: BSD-2-Clause */
/* Pages of a frontend made of memory: what is mapped, kept, given back and copied. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

#define DOMID	 5
#define GRANTS	 2000
#define MAPS_MAX 600

/* ---- the grant device ---- */

struct xpv_gntdev {
	struct {
		uint8_t *base;
		unsigned count;
	} maps[MAPS_MAX];
	unsigned nmaps;
	unsigned calls;	 /* that mapped */
	unsigned mapped; /* pages now */
	unsigned copies;
	bool revoked[GRANTS], read_only[GRANTS];
	bool lends; /* so a page may be mapped more than once */
	bool last_writable;
	unsigned times[GRANTS]; /* each is mapped now */
	uint32_t grefs[MAPS_MAX][VBD_MAX_SEGMENTS];
};

static struct xpv_gntdev gntdev;
static struct vbd_stats stats;

void *__wrap_xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable);
int __wrap_xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count);
int __wrap_xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count);

/* Each page holds its grant's number, so that one can see which it is. */
void *
__wrap_xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable)
{
	uint8_t *base;

	assert_int_equal(domid, DOMID);
	assert_in_range(count, 1, VBD_MAX_SEGMENTS);
	assert_true(writable || g->lends);
	g->last_writable = writable;
	for (unsigned i = 0; i < count; i++) {
		assert_in_range(grefs[i], 0, GRANTS - 1);
		if (g->revoked[grefs[i]] || (writable && g->read_only[grefs[i]])) {
			errno = EINVAL;
			return NULL;
		}
	}
	assert_in_range(g->nmaps, 0, MAPS_MAX - 1);
	base = aligned_alloc(XPV_PAGE_SIZE, (size_t)count * XPV_PAGE_SIZE);
	for (unsigned i = 0; i < count; i++) {
		memcpy(base + (size_t)i * XPV_PAGE_SIZE, &grefs[i], sizeof(grefs[i]));
		g->times[grefs[i]]++;
		assert_true(g->times[grefs[i]] == 1 || g->lends);
		g->grefs[g->nmaps][i] = grefs[i];
	}
	g->maps[g->nmaps].base = base;
	g->maps[g->nmaps++].count = count;
	g->mapped += count;
	g->calls++;
	return base;
}

int
__wrap_xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count)
{
	unsigned m = 0;

	while (m < g->nmaps && g->maps[m].base != base)
		m++;
	assert_in_range(m, 0, g->nmaps - 1);
	assert_int_equal(g->maps[m].count, count);
	for (unsigned i = 0; i < count; i++)
		g->times[g->grefs[m][i]]--;
	free(base);
	g->mapped -= count;
	g->nmaps--;
	g->maps[m] = g->maps[g->nmaps];
	memcpy(g->grefs[m], g->grefs[g->nmaps], sizeof(g->grefs[m]));
	return 0;
}

int
__wrap_xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count)
{
	assert_false(g->lends);
	assert_int_equal(count, 1);
	assert_int_equal(copies->domid, DOMID);
	assert_int_equal(copies->offset, 0);
	assert_false(copies->to_foreign);
	g->copies++;
	if (g->revoked[copies->gref])
		return -1;
	memset(copies->local, 0, copies->length);
	memcpy(copies->local, &copies->gref, sizeof(copies->gref));
	return 0;
}

/* ---- what is asked ---- */

static struct pages *p;

static void
make(unsigned cache_pages, unsigned buffer_pages)
{
	gntdev = (struct xpv_gntdev){0};
	stats = (struct vbd_stats){0};
	p = pages_new(&(struct pages_config){
	    .gntdev = &gntdev,
	    .domid = DOMID,
	    .cache_pages = cache_pages,
	    .buffer_pages = buffer_pages,
	    .stats = &stats,
	});
	assert_non_null(p);
}

static void
make_lending(unsigned cache_pages, unsigned buffer_pages)
{
	make(cache_pages, buffer_pages);
	pages_free(p);
	gntdev.lends = true;
	p = pages_new(&(struct pages_config){
	    .gntdev = &gntdev,
	    .domid = DOMID,
	    .cache_pages = cache_pages,
	    .buffer_pages = buffer_pages,
	    .lend = true,
	    .stats = &stats,
	});
	assert_non_null(p);
}

static int
teardown(void **state)
{
	pages_free(p);
	p = NULL;
	return gntdev.nmaps == 0 && gntdev.mapped == 0 ? 0 : -1;
}

static void
consecutive(uint32_t *grefs, uint32_t first, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		grefs[i] = first + i;
}

static void
assert_pages(const struct page_set *set, const uint32_t *grefs, unsigned count)
{
	assert_true(set->mapped);
	assert_int_equal(set->count, count);
	for (unsigned i = 0; i < count; i++) {
		uint32_t found;

		memcpy(&found, pages_address(p, set, i), sizeof(found));
		assert_int_equal(found, grefs[i]);
	}
	assert_int_equal(xpv_counter_get(&stats.mapped), gntdev.mapped);
}

/* Gets "count" pages from "first" on, which must be mapped. */
static void
get(struct page_set *set, uint32_t first, unsigned count)
{
	uint32_t grefs[VBD_MAX_SEGMENTS];

	consecutive(grefs, first, count);
	assert_int_equal(pages_get(p, set, grefs, count, true), PAGES_THERE);
	assert_pages(set, grefs, count);
}

/* And puts them back. */
static void
touch(uint32_t first, unsigned count)
{
	struct page_set set;

	get(&set, first, count);
	pages_put(p, &set);
}

static void
are_kept(void **state)
{
	make(600, 256);
	touch(0, 256);
	assert_int_equal(gntdev.calls, 1);
	touch(0, 256);
	touch(17, 100);
	touch(255, 1);
	assert_int_equal(gntdev.calls, 1);
	/* What is known is found and the rest mapped in one call. */
	touch(200, 100);
	assert_int_equal(gntdev.calls, 2);
	assert_int_equal(gntdev.mapped, 300);
	assert_int_equal(gntdev.copies, 0);
}

static void
the_same_grant_often(void **state)
{
	uint32_t grefs[VBD_MAX_SEGMENTS];
	struct page_set set, other;

	make(4, 256);
	for (unsigned i = 0; i < VBD_MAX_SEGMENTS; i++)
		grefs[i] = 7 + i % 3;
	assert_int_equal(pages_get(p, &set, grefs, VBD_MAX_SEGMENTS, true), PAGES_THERE);
	assert_pages(&set, grefs, VBD_MAX_SEGMENTS);
	assert_int_equal(gntdev.mapped, 3);
	assert_int_equal(pages_get(p, &other, grefs, VBD_MAX_SEGMENTS, true), PAGES_THERE);
	assert_pages(&other, grefs, VBD_MAX_SEGMENTS);
	pages_put(p, &set);
	/* Still in use by the other. */
	assert_true(pages_age(p));
	assert_true(pages_age(p));
	assert_int_equal(gntdev.mapped, 3);
	assert_pages(&other, grefs, VBD_MAX_SEGMENTS);
	pages_put(p, &other);
	assert_false(pages_age(p));
	assert_int_equal(gntdev.mapped, 0);
}

/* Grants whose hashes are the same. */
static void
collisions(void **state)
{
	uint32_t grefs[VBD_MAX_SEGMENTS / 2], one;
	struct page_set set;

	make(8, 256);
	for (unsigned i = 0; i < 8; i++)
		grefs[i] = 3 + 64 * i;
	assert_int_equal(pages_get(p, &set, grefs, 8, true), PAGES_THERE);
	assert_pages(&set, grefs, 8);
	pages_put(p, &set);
	one = 3 + 64 * 9;
	assert_int_equal(pages_get(p, &set, &one, 1, true), PAGES_THERE);
	assert_pages(&set, &one, 1);
	pages_put(p, &set);
	assert_int_equal(pages_get(p, &set, grefs, 8, true), PAGES_THERE);
	assert_pages(&set, grefs, 8);
	pages_put(p, &set);
}

static void
the_longest_unused_goes(void **state)
{
	make(10, 256);
	touch(0, 4);
	touch(10, 4);
	touch(0, 1);
	touch(20, 4); /* in place of 10.. */
	assert_int_equal(gntdev.calls, 3);
	assert_int_equal(gntdev.times[10], 0);
	touch(0, 4);
	touch(20, 4);
	assert_int_equal(gntdev.calls, 3);
}

static void
what_is_in_use_stays(void **state)
{
	struct page_set oldest, set;
	uint32_t grefs[8];

	make(10, 256);
	get(&oldest, 0, 4);
	touch(10, 4);
	touch(20, 4); /* in place of 10.., as 0.. is in use */
	assert_int_equal(gntdev.times[0], 1);
	assert_int_equal(gntdev.times[10], 0);
	/* There can be no room for these: buffers then. */
	consecutive(grefs, 30, 7);
	assert_int_equal(pages_get(p, &set, grefs, 7, true), PAGES_THERE);
	assert_false(set.mapped);
	pages_put(p, &set);
	/* And none for what is partly known: nothing stays in use of it. */
	consecutive(grefs, 3, 8);
	assert_int_equal(pages_get(p, &set, grefs, 8, true), PAGES_THERE);
	assert_false(set.mapped);
	pages_put(p, &set);
	consecutive(grefs, 0, 4);
	assert_pages(&oldest, grefs, 4);
	pages_put(p, &oldest);
	while (pages_age(p))
		;
	assert_int_equal(gntdev.mapped, 0);
}

/* The pages that are known do not make room for those of the same request that are not. */
static void
room_for_the_same_request(void **state)
{
	make(8, 256);
	touch(0, 4);
	touch(4, 2);
	touch(0, 1); /* so that 4.. is the longest unused */
	touch(4, 6); /* there is just enough room without it, and with it in place of 0.. */
	assert_int_equal(gntdev.times[0], 0);
	assert_int_equal(gntdev.times[4], 1);
	assert_int_equal(gntdev.calls, 3);
}

static void
larger_than_the_cache(void **state)
{
	uint32_t grefs[VBD_MAX_SEGMENTS];
	struct page_set set;

	make(8, 256);
	touch(0, 8);
	consecutive(grefs, 100, 9);
	assert_int_equal(pages_get(p, &set, grefs, 9, true), PAGES_THERE);
	assert_false(set.mapped);
	pages_put(p, &set);
	/* Nothing was given up for it. */
	assert_int_equal(gntdev.mapped, 8);
}

static void
what_cannot_be_mapped_is_buffered(void **state)
{
	uint32_t grefs[4] = {1, 2, 3, 4};
	struct page_set set;

	make(16, 256);
	touch(1, 1);
	gntdev.revoked[3] = true;
	assert_int_equal(pages_get(p, &set, grefs, 4, true), PAGES_THERE);
	assert_false(set.mapped);
	pages_put(p, &set);
	assert_int_equal(gntdev.mapped, 1);
	assert_int_equal(xpv_counter_get(&stats.mapped), 1);
	/* Nothing is in use. */
	assert_true(pages_age(p));
	assert_false(pages_age(p));
}

static void
buffers_run_out(void **state)
{
	static struct page_set sets[300];
	uint32_t grefs[VBD_MAX_SEGMENTS];

	make(0, 300);
	consecutive(grefs, 0, VBD_MAX_SEGMENTS);
	assert_int_equal(pages_get(p, &sets[0], grefs, 256, true), PAGES_THERE);
	assert_int_equal(pages_get(p, &sets[1], grefs, 45, true), PAGES_SHORT);
	assert_int_equal(pages_get(p, &sets[1], grefs, 44, true), PAGES_THERE);
	assert_int_equal(pages_get(p, &sets[2], grefs, 1, true), PAGES_SHORT);
	/* Each page is in one place. */
	for (unsigned i = 0; i < 256; i++)
		memset(pages_address(p, &sets[0], i), 1, XPV_PAGE_SIZE);
	for (unsigned i = 0; i < 44; i++)
		memset(pages_address(p, &sets[1], i), 2, XPV_PAGE_SIZE);
	for (unsigned i = 0; i < 256; i++) {
		assert_int_equal(pages_address(p, &sets[0], i)[0], 1);
		assert_int_equal(pages_address(p, &sets[0], i)[XPV_PAGE_SIZE - 1], 1);
	}
	pages_put(p, &sets[0]);
	pages_put(p, &sets[0]); /* it is empty by now */
	pages_put(p, &sets[1]);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(pages_get(p, &sets[i], grefs, 1, true), PAGES_THERE);
	assert_int_equal(pages_get(p, &sets[0], grefs, 1, true), PAGES_SHORT);
	assert_int_equal(gntdev.calls, 0);
}

static void
ageing(void **state)
{
	struct page_set set;

	make(100, 256);
	assert_false(pages_age(p));
	touch(0, 10);
	get(&set, 20, 10);
	assert_true(pages_age(p)); /* used since */
	touch(0, 1);
	assert_true(pages_age(p));
	assert_int_equal(gntdev.mapped, 20);
	assert_true(pages_age(p));
	assert_int_equal(gntdev.mapped, 10);
	pages_put(p, &set);
	assert_false(pages_age(p));
	assert_int_equal(gntdev.mapped, 0);
	assert_int_equal(xpv_counter_get(&stats.mapped), 0);
	touch(0, 10);
}

static void
reading(void **state)
{
	uint32_t found;

	make(4, 256);
	assert_true(pages_read(p, 9, &found, sizeof(found)));
	assert_int_equal(found, 9);
	assert_int_equal(gntdev.mapped, 1);
	gntdev.revoked[8] = true;
	assert_false(pages_read(p, 8, &found, sizeof(found)));
	assert_false(pages_age(p) && pages_age(p));
	pages_free(p);
	make(0, 256);
	assert_true(pages_read(p, 9, &found, sizeof(found)));
	assert_int_equal(found, 9);
	assert_int_equal(gntdev.copies, 1);
	gntdev.revoked[8] = true;
	assert_false(pages_read(p, 8, &found, sizeof(found)));
}

/* In one call each, for as long as they are needed, and not for longer. */
static void
lending(void **state)
{
	static struct page_set sets[4];
	uint32_t grefs[VBD_MAX_SEGMENTS], found;

	make_lending(0, 300);
	consecutive(grefs, 0, VBD_MAX_SEGMENTS);
	grefs[5] = grefs[4];
	assert_int_equal(pages_get(p, &sets[0], grefs, 256, true), PAGES_THERE);
	assert_true(gntdev.last_writable);
	assert_int_equal(gntdev.calls, 1);
	assert_int_equal(gntdev.mapped, 256);
	for (unsigned i = 0; i < 256; i++) {
		memcpy(&found, pages_address(p, &sets[0], i), sizeof(found));
		assert_int_equal(found, grefs[i]);
	}
	/* They are counted, and what is over is waited for. */
	assert_int_equal(pages_get(p, &sets[1], grefs, 45, true), PAGES_SHORT);
	assert_int_equal(pages_get(p, &sets[1], grefs, 44, true), PAGES_THERE);
	assert_int_equal(pages_get(p, &sets[2], grefs, 1, true), PAGES_SHORT);
	/* A list of segments is always read. */
	assert_true(pages_read(p, 9, &found, sizeof(found)));
	assert_int_equal(found, 9);
	assert_false(gntdev.last_writable);
	pages_put(p, &sets[0]);
	pages_put(p, &sets[0]);
	assert_int_equal(gntdev.mapped, 44);
	assert_int_equal(pages_get(p, &sets[0], grefs, 256, true), PAGES_THERE);
	pages_put(p, &sets[0]);
	pages_put(p, &sets[1]);
	assert_int_equal(gntdev.mapped, 0);
	assert_int_equal(xpv_counter_get(&stats.mapped), 0); /* which says what is kept */
	assert_int_equal(xpv_counter_get(&stats.lent), 256 + 44 + 256);
}

/* What a frontend has us write to its disk it grants read-only. */
static void
lending_what_is_read_only(void **state)
{
	uint32_t grefs[3] = {1, 2, 3};
	struct page_set set;

	make_lending(0, 256);
	gntdev.read_only[2] = true;
	assert_int_equal(pages_get(p, &set, grefs, 3, true), PAGES_NOT_GRANTED);
	assert_int_equal(pages_get(p, &set, grefs, 3, false), PAGES_THERE);
	pages_put(p, &set);
	gntdev.revoked[3] = true;
	assert_int_equal(pages_get(p, &set, grefs, 3, false), PAGES_NOT_GRANTED);
	assert_false(pages_read(p, 3, grefs, sizeof(grefs[0])));
	assert_int_equal(gntdev.mapped, 0);
	/* Nothing was taken for those. */
	for (unsigned i = 0; i < 256; i++) {
		assert_int_equal(pages_get(p, &set, grefs, 1, false), PAGES_THERE);
		pages_put(p, &set);
	}
}

/* Of a frontend whose pages may be kept, when there is no room for more. */
static void
lending_beside_what_is_kept(void **state)
{
	uint32_t grefs[9];
	struct page_set set;

	make_lending(8, 256);
	touch(0, 8);
	assert_int_equal(gntdev.calls, 1);
	consecutive(grefs, 0, 9);
	assert_int_equal(pages_get(p, &set, grefs, 9, true), PAGES_THERE);
	assert_int_equal(gntdev.calls, 2);
	assert_int_equal(gntdev.mapped, 17);
	pages_put(p, &set);
	assert_int_equal(gntdev.mapped, 8);
	touch(0, 8);
	assert_int_equal(gntdev.calls, 2);
}

static void
sizes(void **state)
{
	struct pages_config config = {.stats = &stats, .buffer_pages = VBD_MAX_SEGMENTS - 1};

	p = NULL;
	assert_null(pages_new(&config));
	assert_int_equal(errno, EINVAL);
	config.buffer_pages = 70000;
	assert_null(pages_new(&config));
	config.buffer_pages = VBD_MAX_SEGMENTS;
	config.cache_pages = 65535;
	assert_null(pages_new(&config));
	gntdev = (struct xpv_gntdev){0};
	pages_free(NULL);
}

/* Against a plain list of what is in use. */
static void
at_random(void **state)
{
	static struct page_set sets[24];
	static uint32_t grefs[24][VBD_MAX_SEGMENTS];
	unsigned count[24] = {0};

	make(97, 1000);
	srand(4);
	for (unsigned turn = 0; turn < 20000; turn++) {
		unsigned i = (unsigned)rand() % 24;

		gntdev.revoked[rand() % 400] = rand() % 8 == 0;
		if (rand() % 200 == 0)
			pages_age(p);
		if (count[i] > 0) {
			if (sets[i].mapped)
				assert_pages(&sets[i], grefs[i], count[i]);
			pages_put(p, &sets[i]);
			count[i] = 0;
			continue;
		}
		count[i] = 1 + (unsigned)rand() % 40;
		for (unsigned n = 0; n < count[i]; n++)
			grefs[i][n] = (uint32_t)rand() % 400;
		assert_int_equal(pages_get(p, &sets[i], grefs[i], count[i], true), PAGES_THERE);
		if (sets[i].mapped)
			assert_pages(&sets[i], grefs[i], count[i]);
		assert_in_range(gntdev.mapped, 0, 97);
	}
	for (unsigned i = 0; i < 24; i++)
		pages_put(p, &sets[i]);
	while (pages_age(p))
		;
	assert_int_equal(gntdev.mapped, 0);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(are_kept),
	    TEST(the_same_grant_often),
	    TEST(collisions),
	    TEST(the_longest_unused_goes),
	    TEST(what_is_in_use_stays),
	    TEST(room_for_the_same_request),
	    TEST(larger_than_the_cache),
	    TEST(what_cannot_be_mapped_is_buffered),
	    TEST(buffers_run_out),
	    TEST(ageing),
	    TEST(reading),
	    TEST(lending),
	    TEST(lending_what_is_read_only),
	    TEST(lending_beside_what_is_kept),
	    TEST(sizes),
	    TEST(at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
