/* SPDX-License-Identifier: BSD-2-Clause */
/* What xen-blkbackd offers, and what it makes of what a frontend publishes, in a store in memory.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_store.h"
#include "offer.h"
#include "xenpv/log.h"
#include "xenpv/store.h"

#define DIR	 "backend/vbd/3/51712"
#define FRONT	 "/local/domain/3/device/vbd/51712"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

static struct event_base *base;
static struct xpv_store *store;
static struct vbd_config config;
static struct vbd_medium medium;
static struct vbd_connection connection;
static char why[VBD_WHY_MAX];

static int
setup(void **state)
{
	fake_store_reset();
	base = event_base_new();
	store = xpv_store_open(base);
	config = (struct vbd_config){
	    .queues = 3,
	    .ring_page_order = 4,
	    .max_indirect = 256,
	    .persistent = true,
	    .discard = true,
	};
	medium = (struct vbd_medium){
	    .image = {.bytes = 1 << 20,
		.max_queues = VBD_MAX_QUEUES,
		.sector_size = 512,
		.physical_sector_size = 4096,
		.discard_granularity = 4096,
		.discard_alignment = 512,
		.flush = true},
	};
	memset(&connection, 0xff, sizeof(connection));
	fake_store_set(DIR "/state", "1");
	fake_store_set(FRONT "/state", "1");
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

/* ---- images ---- */

#define VALID(member, value)                                                                       \
	({                                                                                         \
		struct vbd_image_info i_ = medium.image;                                           \
		const char *w_ = NULL;                                                             \
		i_.member = (value);                                                               \
		bool v_ = vbd_image_valid(&i_, &w_);                                               \
		assert_int_equal(v_, w_ == NULL);                                                  \
		v_;                                                                                \
	})

static void
images(void **state)
{
	medium.image.discard_alignment = 0;
	assert_true(VALID(bytes, 0)); /* no medium */
	assert_false(VALID(max_queues, 0));
	assert_false(VALID(max_queues, VBD_MAX_QUEUES + 1));
	assert_true(VALID(bytes, 512));
	assert_false(VALID(bytes, 513));
	assert_false(VALID(bytes, UINT64_MAX - 511));
	assert_true(VALID(sector_size, 4096));
	assert_false(VALID(sector_size, 0));
	assert_false(VALID(sector_size, 256));
	assert_false(VALID(sector_size, 1536));
	assert_false(VALID(sector_size, 8192));
	assert_true(VALID(physical_sector_size, 512));
	assert_false(VALID(physical_sector_size, 256));
	assert_false(VALID(physical_sector_size, 0));
	assert_false(VALID(physical_sector_size, 2u << 20));
	assert_true(VALID(discard_granularity, 0));
	assert_false(VALID(discard_granularity, 100));
	assert_false(VALID(discard_alignment, 1));
}

/* ---- the offer ---- */

static void
is(const char *node, const char *value)
{
	char path[128];
	const char *there;

	snprintf(path, sizeof(path), DIR "/%s", node);
	there = fake_store_get(path);
	if (value == NULL)
		assert_null(there);
	else
		assert_string_equal(there != NULL ? there : "(none)", value);
}

static void
offers_all(void **state)
{
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	is("feature-flush-cache", "1");
	is("feature-barrier", "1");
	is("feature-persistent", "1");
	is("feature-max-indirect-segments", "256");
	is("multi-queue-max-queues", "3");
	is("max-ring-page-order", "4");
	is("feature-discard", "1");
	is("discard-granularity", "4096");
	is("discard-alignment", "512");
	is("discard-secure", "0");
	is("state", "1"); /* not ours */
}

/* Of an NBD server that has one connection, say. */
static void
offers_no_more_queues_than_the_image_has(void **state)
{
	medium.image.max_queues = 2;
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	is("multi-queue-max-queues", "2");
}

static void
offers_less(void **state)
{
	/* Another backend was here. */
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	fake_store_set(DIR "/feature-large-sector-size", "1");
	fake_store_set(DIR "/max-ring-pages", "16");

	config.persistent = false;
	config.max_indirect = 0;
	config.queues = 1;
	config.ring_page_order = 0;
	medium.image.flush = false;
	medium.image.discard_granularity = 0;
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	is("feature-flush-cache", "0");
	is("feature-barrier", "0");
	is("feature-persistent", "0");
	is("feature-max-indirect-segments", NULL);
	is("multi-queue-max-queues", "1");
	is("max-ring-page-order", "0");
	is("feature-discard", NULL);
	is("discard-granularity", NULL);
	is("discard-alignment", NULL);
	is("discard-secure", NULL);
	is("feature-large-sector-size", NULL);
	is("max-ring-pages", NULL);
}

static void
offers_discard(void **state)
{
	medium.image.secure_discard = true;
	vbd_offer(store, DIR, &config, &medium);
	is("discard-secure", "1");
	fake_store_set(DIR "/discard-enable", "0");
	vbd_offer(store, DIR, &config, &medium);
	is("feature-discard", NULL);
	fake_store_set(DIR "/discard-enable", "1");
	vbd_offer(store, DIR, &config, &medium);
	is("feature-discard", "1");
	medium.read_only = true;
	vbd_offer(store, DIR, &config, &medium);
	is("feature-discard", NULL);
	medium.read_only = false;
	config.discard = false;
	vbd_offer(store, DIR, &config, &medium);
	is("feature-discard", NULL);
}

/* What counts is what the directory says, whoever wrote it. */
static void
what_was_offered(void **state)
{
	memset(&connection, 0, sizeof(connection));
	medium.image.secure_discard = true;
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	vbd_read_offer(store, DIR, &connection);
	assert_int_equal(connection.max_indirect, 256);
	assert_true(connection.discard && connection.secure_discard);
	config.max_indirect = 0;
	medium.image.secure_discard = false;
	assert_int_equal(vbd_offer(store, DIR, &config, &medium), 0);
	vbd_read_offer(store, DIR, &connection);
	assert_int_equal(connection.max_indirect, 0);
	assert_true(connection.discard);
	assert_false(connection.secure_discard);
	/* More than we can have, and a secure discard without discard. */
	fake_store_set(DIR "/feature-max-indirect-segments", "100000");
	fake_store_set(DIR "/discard-secure", "1");
	fake_store_remove(DIR "/feature-discard");
	vbd_read_offer(store, DIR, &connection);
	assert_int_equal(connection.max_indirect, 256);
	assert_false(connection.discard || connection.secure_discard);
}

static void
offers_a_ring_per_cpu(void **state)
{
	config.queues = 0;
	assert_in_range(vbd_queues(&config), 1, 4);
	config.queues = 16;
	assert_int_equal(vbd_queues(&config), 16);
}

/* ---- the frontend ---- */

static void
publish(const char *node, const char *value)
{
	char path[160];

	snprintf(path, sizeof(path), FRONT "/%s", node);
	if (value != NULL)
		fake_store_set(path, value);
	else
		fake_store_remove(path);
}

static int
read_frontend(void)
{
	why[0] = '\0';
	return vbd_read_frontend(store, FRONT, 3, &connection, why);
}

static void
expect_refusal(const char *because)
{
	assert_int_equal(read_frontend(), -1);
	if (strstr(why, because) == NULL)
		assert_string_equal(why, because);
}

static void
publish_simple(void)
{
	publish("event-channel", "9");
	publish("ring-ref", "8");
}

static void
publish_ring(const char *prefix, unsigned pages, unsigned first)
{
	char node[64], value[16];

	for (unsigned i = 0; i < pages; i++) {
		snprintf(node, sizeof(node), "%sring-ref%u", prefix, i);
		snprintf(value, sizeof(value), "%u", first + i);
		publish(node, value);
	}
	snprintf(node, sizeof(node), "%sevent-channel", prefix);
	snprintf(value, sizeof(value), "%u", first + 100);
	publish(node, value);
}

static void
reads_the_simplest(void **state)
{
	struct vbd_connection expected = {
	    .domid = 3, .abi = VBD_ABI_X86_64, .queues = 1, .queue[0] = {.port = 9, .grefs = {8}}};

	publish_simple();
	assert_int_equal(read_frontend(), 0);
	/* Every byte: the journal compares it. */
	assert_memory_equal(&connection, &expected, sizeof(expected));
	publish("multi-queue-num-queues", "1"); /* still not in queue-0 */
	publish("ring-page-order", "0");
	assert_int_equal(read_frontend(), 0);
	assert_memory_equal(&connection, &expected, sizeof(expected));
	publish("ring-ref", NULL);
	publish("ring-ref0", "8");
	assert_int_equal(read_frontend(), 0);
	assert_memory_equal(&connection, &expected, sizeof(expected));
}

static void
reads_protocols(void **state)
{
	publish_simple();
	publish("protocol", "x86_32-abi");
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.abi, VBD_ABI_X86_32);
	publish("protocol", "x86_64-abi");
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.abi, VBD_ABI_X86_64);
	publish("protocol", "x86_64");
	expect_refusal("protocol");
	publish("protocol", "");
	expect_refusal("protocol");
	publish("protocol", "arm-abi");
	expect_refusal("\"arm-abi\"");
}

static void
reads_large_rings(void **state)
{
	publish_ring("", 16, 100);
	publish("ring-page-order", "4");
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.ring_order, 4);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(connection.queue[0].grefs[i], 100 + i);
	assert_int_equal(connection.queue[0].port, 200);
	publish("ring-page-order", "2");
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.queue[0].grefs[3], 103);
	assert_int_equal(connection.queue[0].grefs[4], 0);

	publish("ring-ref3", NULL);
	expect_refusal("no ring-ref3");
	publish("ring-ref3", "-1");
	expect_refusal("ring-ref3 is not a number");
	publish("ring-page-order", "5");
	expect_refusal("more than 16 pages");
	publish("ring-page-order", "4294967295");
	expect_refusal("more than 16 pages");
	publish("ring-page-order", "x");
	expect_refusal("ring-page-order is not a number");
}

static void
reads_the_older_dialect(void **state)
{
	static const struct {
		const char *pages;
		uint16_t order;
	} good[] = {{"1", 0}, {"2", 1}, {"4", 2}, {"8", 3}, {"16", 4}};

	publish_ring("", 16, 100);
	for (unsigned i = 0; i < COUNT(good); i++) {
		publish("num-ring-pages", good[i].pages);
		assert_int_equal(read_frontend(), 0);
		assert_int_equal(connection.ring_order, good[i].order);
	}
	publish("num-ring-pages", "3");
	expect_refusal("power of two");
	publish("num-ring-pages", "0");
	expect_refusal("power of two");
	publish("num-ring-pages", "32");
	expect_refusal("more than 16 pages");
	publish("num-ring-pages", "2147483648");
	expect_refusal("more than 16 pages");
	publish("ring-page-order", "1"); /* the newer one wins */
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.ring_order, 1);
}

static void
reads_many_rings(void **state)
{
	char prefix[16];

	publish("multi-queue-num-queues", "16");
	publish("ring-page-order", "1");
	for (unsigned i = 0; i < 16; i++) {
		snprintf(prefix, sizeof(prefix), "queue-%u/", i);
		publish_ring(prefix, 2, 1000 * i);
	}
	/* Whatever was offered. */
	config.queues = 1;
	config.ring_page_order = 0;
	assert_int_equal(read_frontend(), 0);
	assert_int_equal(connection.queues, 16);
	assert_int_equal(connection.queue[15].grefs[1], 15001);
	assert_int_equal(connection.queue[15].port, 15100);
	assert_int_equal(vbd_frontend_queues(store, FRONT), 16);

	publish("queue-7/event-channel", NULL);
	expect_refusal("no queue-7/event-channel");
	publish("multi-queue-num-queues", "17");
	expect_refusal("17 queues");
	assert_int_equal(vbd_frontend_queues(store, FRONT), 1);
	publish("multi-queue-num-queues", "0");
	expect_refusal("0 queues");
	publish("multi-queue-num-queues", "");
	expect_refusal("not a number");
}

static void
reads_no_nonsense(void **state)
{
	static const char *const numbers[] = {
	    "", " 8", "0x8", "-8", "4294967296", "99999999999999999999", "8x"};

	for (unsigned i = 0; i < COUNT(numbers); i++) {
		publish_simple();
		publish("ring-ref", numbers[i]);
		expect_refusal("ring-ref is not a number");
		publish_simple();
		publish("event-channel", numbers[i]);
		expect_refusal("event-channel is not a number");
	}
	publish("event-channel", NULL);
	expect_refusal("no event-channel");
	publish_simple();
	publish("ring-ref", NULL);
	expect_refusal("no ring-ref");
}

static void
persistence_needs_both(void **state)
{
	static const char *const values[] = {NULL, "0", "1"};

	publish_simple();
	for (unsigned i = 0; i < 9; i++) {
		const char *ours = values[i / 3], *its = values[i % 3];

		fake_store_remove(DIR "/feature-persistent");
		if (ours != NULL)
			fake_store_set(DIR "/feature-persistent", ours);
		publish("feature-persistent", its);
		config.persistent = i % 2 != 0; /* what it is now does not count */
		assert_int_equal(read_frontend(), 0);
		vbd_read_offer(store, DIR, &connection);
		assert_int_equal(connection.persistent, i == 8);
	}
}

/* ---- the description ---- */

static void
describes(void **state)
{
	assert_int_equal(vbd_describe(store, DIR, &medium, false), 0);
	is("sectors", "2048");
	is("sector-size", "512");
	is("physical-sector-size", "4096");
	is("info", "0");
	is("state", "1");
	medium.cdrom = true;
	vbd_describe(store, DIR, &medium, false);
	is("info", "1");
	medium.removable = medium.read_only = true;
	medium.image.sector_size = 4096;
	medium.image.bytes = UINT64_C(1) << 50;
	vbd_describe(store, DIR, &medium, false);
	is("info", "7");
	is("sectors", "2199023255552"); /* in 512 B, whatever the sector size */
	is("sector-size", "4096");
}

static unsigned announcements;

static void
count_announcement(struct xpv_watch *w, const char *changed, void *arg)
{
	announcements++;
}

static void
announces_a_new_size(void **state)
{
	assert_int_equal(vbd_describe(store, DIR, &medium, true), -1);
	assert_int_equal(errno, ESTALE);
	is("sectors", NULL);
	fake_store_set(DIR "/state", "4");
	xpv_store_watch(store, count_announcement, NULL, DIR "/state");
	fake_store_settle(base);
	announcements = 0;
	medium.image.bytes = 2 << 20;
	assert_int_equal(vbd_describe(store, DIR, &medium, true), 0);
	fake_store_settle(base);
	is("sectors", "4096");
	is("state", "4");
	assert_int_equal(announcements, 1);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(images),
	    test(offers_all),
	    test(offers_no_more_queues_than_the_image_has),
	    test(offers_less),
	    test(offers_discard),
	    test(what_was_offered),
	    test(offers_a_ring_per_cpu),
	    test(reads_the_simplest),
	    test(reads_protocols),
	    test(reads_large_rings),
	    test(reads_the_older_dialect),
	    test(reads_many_rings),
	    test(reads_no_nonsense),
	    test(persistence_needs_both),
	    test(describes),
	    test(announces_a_new_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
