/* SPDX-License-Identifier: BSD-2-Clause */
/* What is made of a backend's offer, and what is published, in a store in memory. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_store.h"
#include "negotiate.h"
#include "xenpv/log.h"
#include "xenpv/store.h"

#define DIR	 "device/vbd/51712"
#define BACKEND	 "/local/domain/3/backend/vbd/7/51712"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static unsigned warnings;

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	warnings += level <= XPV_LOG_WARNING;
}

static struct event_base *base;
static struct xpv_store *store;
static struct blk_config config;
static struct blk_link link_;

static int
setup(void **state)
{
	fake_store_reset();
	base = event_base_new();
	store = xpv_store_open(base);
	config = (struct blk_config){
	    .depth = 64,
	    .ring_page_order = 2,
	    .max_io_kb = 128,
	    .max_indirect = 256,
	    .persistent = true,
	};
	memset(&link_, 0xff, sizeof(link_)); /* nothing may be left of a connection before */
	warnings = 0;
	fake_store_set(BACKEND "/state", "2");
	fake_store_set(DIR "/state", "1");
	return store != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	xpv_store_close(store);
	event_base_free(base);
	fake_store_reset();
	return 0;
}

static void
offers(const char *node, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), BACKEND "/%s", node);
	if (value != NULL)
		fake_store_set(path, value);
	else
		fake_store_remove(path);
}

static void
negotiate(unsigned max_queues)
{
	blk_negotiate(store, BACKEND, &config, max_queues, &link_);
}

static void
nothing_offered(void **state)
{
	negotiate(4);
	assert_int_equal(link_.queues, 1);
	assert_int_equal(link_.ring_order, 0);
	assert_int_equal(link_.max_indirect, 0);
	assert_true(link_.persistent);
}

static void
within_both_limits(void **state)
{
	static const struct {
		const char *node, *value;
		uint32_t queues, order, indirect;
	} all[] = {
	    {"multi-queue-max-queues", "2", 2, 0, 0},
	    {"multi-queue-max-queues", "16", 4, 0, 0},
	    {"multi-queue-max-queues", "1", 1, 0, 0},
	    {"multi-queue-max-queues", "0", 1, 0, 0},
	    {"multi-queue-max-queues", "4294967295", 4, 0, 0},
	    {"multi-queue-max-queues", "99999999999", 1, 0, 0},
	    {"multi-queue-max-queues", "-1", 1, 0, 0},
	    {"multi-queue-max-queues", "", 1, 0, 0},
	    {"max-ring-page-order", "1", 1, 1, 0},
	    {"max-ring-page-order", "4", 1, 2, 0},
	    {"max-ring-page-order", "0", 1, 0, 0},
	    {"max-ring-page-order", "4294967295", 1, 2, 0},
	    {"max-ring-page-order", "4294967296", 1, 0, 0},
	    {"max-ring-page-order", "two", 1, 0, 0},
	    {"max-ring-page-order", "-2", 1, 0, 0},
	    {"feature-max-indirect-segments", "32", 1, 0, 32},
	    {"feature-max-indirect-segments", "4096", 1, 0, 256},
	    {"feature-max-indirect-segments", "12", 1, 0, 12},
	    {"feature-max-indirect-segments", "11", 1, 0, 0}, /* a direct request has as many */
	    {"feature-max-indirect-segments", "1", 1, 0, 0},
	    {"feature-max-indirect-segments", "-5", 1, 0, 0},
	    {"feature-max-indirect-segments", "4294967295", 1, 0, 256},
	};

	for (unsigned i = 0; i < COUNT(all); i++) {
		offers(all[i].node, all[i].value);
		negotiate(4);
		assert_int_equal(link_.queues, all[i].queues);
		assert_int_equal(link_.ring_order, all[i].order);
		assert_int_equal(link_.max_indirect, all[i].indirect);
		offers(all[i].node, NULL);
	}
}

static void
own_limits(void **state)
{
	offers("feature-max-indirect-segments", "1000");
	offers("max-ring-page-order", "4");
	config.max_indirect = 512;
	config.ring_page_order = 4;
	negotiate(1);
	assert_int_equal(link_.max_indirect, 512); /* what one page of descriptors holds */
	assert_int_equal(link_.ring_order, 4);
	config.max_indirect = 0;
	config.ring_page_order = 0;
	config.persistent = false;
	negotiate(1);
	assert_int_equal(link_.max_indirect, 0);
	assert_int_equal(link_.ring_order, 0);
	assert_false(link_.persistent);
}

/* ---- publishing ---- */

static uint32_t grefs[2][16];
static struct blk_queue_grants grants[2];

static void
publish(unsigned queues, unsigned order)
{
	for (unsigned q = 0; q < 2; q++) {
		for (unsigned i = 0; i < 16; i++)
			grefs[q][i] = 1000 * (q + 1) + i;
		grants[q].pool.grefs = grefs[q];
		grants[q].port = 40 + q;
	}
	link_.queues = queues;
	link_.ring_order = order;
	link_.persistent = true;
	assert_int_equal(blk_publish(store, DIR, &link_, grants), 0);
	assert_int_equal(fake_store_transactions(), 0);
	assert_string_equal(fake_store_get(DIR "/protocol"), "x86_64-abi");
	assert_string_equal(fake_store_get(DIR "/feature-persistent"), "1");
	assert_string_equal(fake_store_get(DIR "/state"), "1");
}

static void
publish_one_page(void **state)
{
	publish(1, 0);
	assert_string_equal(fake_store_get(DIR "/ring-ref"), "1000");
	assert_string_equal(fake_store_get(DIR "/event-channel"), "40");
	assert_null(fake_store_get(DIR "/ring-ref0"));
	assert_null(fake_store_get(DIR "/ring-page-order"));
	assert_null(fake_store_get(DIR "/multi-queue-num-queues"));
}

static void
publish_pages(void **state)
{
	publish(1, 2);
	assert_string_equal(fake_store_get(DIR "/ring-page-order"), "2");
	assert_string_equal(fake_store_get(DIR "/ring-ref0"), "1000");
	assert_string_equal(fake_store_get(DIR "/ring-ref3"), "1003");
	assert_null(fake_store_get(DIR "/ring-ref4"));
	assert_null(fake_store_get(DIR "/ring-ref"));
}

static void
publish_queues(void **state)
{
	publish(2, 1);
	assert_string_equal(fake_store_get(DIR "/multi-queue-num-queues"), "2");
	assert_string_equal(fake_store_get(DIR "/ring-page-order"), "1");
	assert_string_equal(fake_store_get(DIR "/queue-0/ring-ref1"), "1001");
	assert_string_equal(fake_store_get(DIR "/queue-1/ring-ref0"), "2000");
	assert_string_equal(fake_store_get(DIR "/queue-1/event-channel"), "41");
	assert_null(fake_store_get(DIR "/event-channel"));
	assert_null(fake_store_get(DIR "/ring-ref0"));
}

/* Each layout after each other: a backend would take what is left for what is meant. */
static void
publish_anew(void **state)
{
	fake_store_set(DIR "/num-ring-pages", "4"); /* another driver's dialect */
	fake_store_set(DIR "/virtual-device", "51712");
	publish(2, 2);
	publish(1, 1);
	assert_null(fake_store_get(DIR "/num-ring-pages"));
	assert_null(fake_store_get(DIR "/queue-0"));
	assert_null(fake_store_get(DIR "/queue-1/ring-ref0"));
	assert_null(fake_store_get(DIR "/multi-queue-num-queues"));
	assert_null(fake_store_get(DIR "/ring-ref2"));
	publish(1, 0);
	assert_null(fake_store_get(DIR "/ring-page-order"));
	assert_null(fake_store_get(DIR "/ring-ref0"));
	publish(2, 0);
	assert_null(fake_store_get(DIR "/ring-ref"));
	assert_null(fake_store_get(DIR "/event-channel"));
	assert_string_equal(fake_store_get(DIR "/queue-1/ring-ref"), "2000");
	assert_string_equal(fake_store_get(DIR "/virtual-device"), "51712");
}

static void
publish_where_nothing_is(void **state)
{
	fake_store_remove(DIR);
	link_.queues = 1;
	assert_int_equal(blk_publish(store, DIR, &link_, grants), -1);
	assert_null(fake_store_get(DIR)); /* not made anew */
	assert_int_equal(fake_store_transactions(), 0);
}

/* ---- the disk ---- */

static const char *why;

static int
read_disk(void)
{
	why = NULL;
	link_.queues = 1;
	return blk_read_geometry(store, BACKEND, &config, &link_, &why);
}

static void
plain_disk(void **state)
{
	const struct blk_geometry *g = &link_.geometry;

	offers("sectors", "2048");
	assert_int_equal(read_disk(), 0);
	assert_int_equal(g->sectors, 2048);
	assert_int_equal(g->sector_size, 512);
	assert_int_equal(g->physical_sector_size, 512);
	assert_int_equal(g->queues, 1);
	assert_int_equal(g->depth, 64);
	assert_int_equal(g->max_io_bytes, 128 * 1024);
	assert_int_equal(g->discard_granularity, 0);
	assert_false(g->read_only || g->cdrom || g->removable);
	assert_false(link_.flush || link_.barrier || link_.discard || link_.secure_discard);
	assert_int_equal(warnings, 0);
}

static void
sector_sizes(void **state)
{
	const struct blk_geometry *g = &link_.geometry;

	offers("sectors", "2048");
	offers("sector-size", "4096");
	assert_int_equal(read_disk(), 0);
	assert_int_equal(g->sectors, 2048);
	assert_int_equal(g->sector_size, 4096);
	assert_int_equal(g->physical_sector_size, 4096);
	offers("physical-sector-size", "512"); /* smaller than the logical one */
	assert_int_equal(read_disk(), 0);
	assert_int_equal(g->physical_sector_size, 4096);
	offers("sector-size", "512");
	offers("physical-sector-size", "4096");
	assert_int_equal(read_disk(), 0);
	assert_int_equal(g->sector_size, 512);
	assert_int_equal(g->physical_sector_size, 4096);
}

static void
kinds_of_disks(void **state)
{
	const struct blk_geometry *g = &link_.geometry;

	offers("sectors", "8");
	offers("info", "4");
	assert_int_equal(read_disk(), 0);
	assert_true(g->read_only && !g->cdrom && !g->removable);
	offers("info", "2");
	assert_int_equal(read_disk(), 0);
	assert_true(!g->read_only && !g->cdrom && g->removable);
	offers("info", "1");
	assert_int_equal(read_disk(), 0);
	assert_true(g->read_only && g->cdrom && !g->removable);
}

/* A guess could make a read-only disk writable, or the sectors of another size. */
static void
described_badly(void **state)
{
	static const char *const nodes[] = {"info", "sector-size"};
	static const char *const values[] = {"x", "", "-1", "4294967296"};

	offers("sectors", "8");
	for (unsigned i = 0; i < COUNT(nodes); i++) {
		for (unsigned j = 0; j < COUNT(values); j++) {
			offers(nodes[i], values[j]);
			assert_int_equal(read_disk(), -1);
			assert_non_null(strstr(why, nodes[i]));
		}
		offers(nodes[i], NULL);
		assert_int_equal(read_disk(), 0);
	}
}

static void
flush_and_barrier(void **state)
{
	offers("sectors", "8");
	offers("feature-flush-cache", "1");
	assert_int_equal(read_disk(), 0);
	assert_true(link_.flush && !link_.barrier);
	offers("feature-flush-cache", "yes");
	offers("feature-barrier", "1");
	assert_int_equal(read_disk(), 0);
	assert_true(!link_.flush && link_.barrier);
	offers("feature-barrier", "0");
	assert_int_equal(read_disk(), 0);
	assert_false(link_.flush || link_.barrier);
}

static void
discard(void **state)
{
	static const struct {
		const char *sector_size, *granularity, *alignment;
		uint32_t granted, aligned; /* granted 0: no discard */
	} all[] = {
	    {"512", NULL, NULL, 512, 0},
	    {"4096", NULL, NULL, 4096, 0},
	    {"512", "0", NULL, 512, 0},
	    {"512", "65536", "512", 65536, 512},
	    {"512", "4096", "8192", 4096, 0},
	    {"512", "4096", "8704", 4096, 512},
	    {"512", "7", NULL, 0, 0},
	    {"512", "4096", "13", 0, 0},
	    {"4096", "512", NULL, 0, 0},
	    {"512", "4096", "4294967295", 0, 0},
	    {"512", "4294967295", NULL, 0, 0},
	    {"512", "99999999999", "banana", 512, 0},
	};

	offers("sectors", "2048");
	offers("feature-discard", "1");
	for (unsigned i = 0; i < COUNT(all); i++) {
		offers("sector-size", all[i].sector_size);
		offers("discard-granularity", all[i].granularity);
		offers("discard-alignment", all[i].alignment);
		assert_int_equal(read_disk(), 0);
		assert_int_equal(link_.discard, all[i].granted != 0);
		assert_int_equal(link_.geometry.discard_granularity, all[i].granted);
		assert_int_equal(link_.geometry.discard_alignment, all[i].aligned);
		assert_true(blk_geometry_valid(&link_.geometry, &why));
	}
	offers("feature-discard", "0");
	assert_int_equal(read_disk(), 0);
	assert_false(link_.discard);
}

static void
secure_discard(void **state)
{
	offers("sectors", "2048");
	offers("feature-discard", "1");
	offers("discard-secure", "1");
	assert_int_equal(read_disk(), 0);
	assert_false(link_.secure_discard);
	config.secure_discard = true;
	assert_int_equal(read_disk(), 0);
	assert_true(link_.secure_discard);
	assert_int_equal(warnings, 0);
	offers("discard-secure", "banana");
	assert_int_equal(read_disk(), 0);
	assert_true(link_.discard && !link_.secure_discard);
	assert_true(warnings > 0);
	offers("discard-secure", "1");
	offers("discard-granularity", "7");
	assert_int_equal(read_disk(), 0);
	assert_false(link_.discard || link_.secure_discard);
}

static void
impossible_disks(void **state)
{
	static const char *const sectors[] = {NULL, "", "12abc", "-1", " 8", "8 ", "0x800",
	    "9223372036854775808", "18014398509481984", "99999999999999999999", "0", "8\n\n"};
	static const char *const sector_sizes[] = {"0", "3", "256", "8192", "1000000000"};
	static const char *const physical[] = {"768", "2097152", "4294967295"};
	char *nines = malloc(4000);

	for (unsigned i = 0; i < COUNT(sectors); i++) {
		offers("sectors", sectors[i]);
		assert_int_equal(read_disk(), -1);
		assert_non_null(why);
	}
	memset(nines, '9', 3999);
	nines[3999] = '\0';
	offers("sectors", nines);
	assert_int_equal(read_disk(), -1);
	free(nines);

	offers("sectors", "2048");
	for (unsigned i = 0; i < COUNT(sector_sizes); i++) {
		offers("sector-size", sector_sizes[i]);
		assert_int_equal(read_disk(), -1);
		assert_non_null(why);
	}
	offers("sector-size", "512");
	for (unsigned i = 0; i < COUNT(physical); i++) {
		offers("physical-sector-size", physical[i]);
		assert_int_equal(read_disk(), -1);
		assert_non_null(why);
	}
	offers("physical-sector-size", "512");
	assert_int_equal(read_disk(), 0);
	offers("sector-size", "4096");
	offers("sectors", "2049");
	assert_int_equal(read_disk(), -1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(nothing_offered),
	    TEST(within_both_limits),
	    TEST(own_limits),
	    TEST(publish_one_page),
	    TEST(publish_pages),
	    TEST(publish_queues),
	    TEST(publish_anew),
	    TEST(publish_where_nothing_is),
	    TEST(plain_disk),
	    TEST(sector_sizes),
	    TEST(kinds_of_disks),
	    TEST(described_badly),
	    TEST(flush_and_barrier),
	    TEST(discard),
	    TEST(secure_discard),
	    TEST(impossible_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
