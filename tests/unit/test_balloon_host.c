/* SPDX-License-Identifier: BSD-2-Clause */
/* What the host says of memory, and is told. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>

#include "fake_store.h"
#include "host.h"
#include "meminfo.h"
#include "xenpv/log.h"
#include "xenpv/store.h"

static struct event_base *base;
static struct xpv_store *store;
static struct host *host;
static unsigned targets;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

static void
on_target(void *arg)
{
	targets++;
}

static int
setup(void **state)
{
	fake_store_reset();
	fake_store_set("memory/target", "200000");
	fake_store_set("memory/static-max", "262144");
	base = event_base_new();
	store = xpv_store_open(base);
	host = host_open(store, on_target, NULL);
	assert_non_null(host);
	fake_store_settle(base);
	targets = 0;
	return 0;
}

static int
teardown(void **state)
{
	host_close(host);
	xpv_store_close(store);
	event_base_free(base);
	return 0;
}

static int64_t
target_after(const char *text)
{
	fake_store_set("memory/target", text);
	fake_store_settle(base);
	return host_target(host);
}

static void
test_target(void **state)
{
	assert_int_equal(host_target(host), 200000);
	assert_int_equal(target_after("150000"), 150000);
	assert_int_equal(targets, 1);
	assert_int_equal(target_after("0"), 4);
	assert_int_equal(host_nonsense(host), 0);
	assert_int_equal(target_after("99999999999999999999999"), INT64_C(1) << 50);
	assert_int_equal(target_after("18446744073709551615"), INT64_C(1) << 50);
}

static void
test_garbage(void **state)
{
	static const char *const garbage[] = {
	    "", "-1", "12x", "x", " 5", "1e9", "0x100", "150000 150000", "\xff\xfe"};

	for (unsigned i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		assert_int_equal(target_after(garbage[i]), 200000);
		assert_int_equal(host_nonsense(host), i + 1);
	}
	fake_store_remove("memory/target");
	fake_store_settle(base);
	assert_int_equal(host_target(host), 200000);
	assert_int_equal(target_after("100000"), 100000);
	fake_store_lose();
	assert_int_equal(host_target(host), 100000);
}

static void
test_offset(void **state)
{
	assert_int_equal(host_offset(host, true, 250000), 0);
	assert_int_equal(host_offset(host, false, 250000), 12144);
	assert_int_equal(host_offset(host, false, 300000), 0); /* memory was added */
	fake_store_set("memory/static-max", "300000");
	target_after("200000");
	assert_int_equal(host_static_max(host), 300000);
	fake_store_set("memory/static-max", "-5");
	target_after("200000");
	assert_int_equal(host_static_max(host), 300000);
}

static void
test_publish(void **state)
{
	struct host_publish how = {HOST_KEYS_DATA, .interval_ms = 1000, .change_kib = 100};
	struct meminfo m = {.total = 1000, .available = 600, .swap_used = 5};

	assert_true(host_publish(host, &how, &m, 5000));
	assert_string_equal(fake_store_get("data/meminfo_total"), "1000");
	assert_string_equal(fake_store_get("data/meminfo_free"), "600");
	assert_null(fake_store_get("control/feature-balloon"));
	m.available = 400;
	assert_false(host_publish(host, &how, &m, 5999));
	assert_true(host_publish(host, &how, &m, 6000));
	m.available = 450;
	assert_false(host_publish(host, &how, &m, 9000));
	how.keys = HOST_KEYS_QUBES;
	m.available = 300;
	assert_true(host_publish(host, &how, &m, 9000));
	assert_string_equal(fake_store_get("memory/meminfo"), "705");
	how.keys = HOST_KEYS_NONE;
	m.available = 100;
	assert_false(host_publish(host, &how, &m, 90000));
}

static void
test_publish_xapi(void **state)
{
	const struct host_publish how = {HOST_KEYS_XAPI, .interval_ms = 0};
	const struct meminfo m = {.total = 1000, .available = 600};

	assert_true(host_publish(host, &how, &m, 1));
	assert_string_equal(fake_store_get("control/feature-balloon"), "1");
	assert_string_equal(fake_store_get("data/meminfo_free"), "600");
}

/* Other keys, another host: it is told anew. */
static void
test_publish_anew(void **state)
{
	struct host_publish how = {HOST_KEYS_DATA, .interval_ms = 1000000, .change_kib = 100};
	const struct meminfo m = {.total = 1000, .available = 600};

	fake_store_set("domid", "7");
	target_after("200000");
	assert_true(host_publish(host, &how, &m, 1));
	how.keys = HOST_KEYS_XAPI;
	host_forget(host);
	assert_true(host_publish(host, &how, &m, 2));
	assert_string_equal(fake_store_get("control/feature-balloon"), "1");
	target_after("200004"); /* nothing but a new target */
	assert_false(host_publish(host, &how, &m, 3));
	/* The number is the same, the nodes are gone; then it is another. */
	fake_store_remove("control/feature-balloon");
	target_after("200000");
	assert_true(host_publish(host, &how, &m, 4));
	assert_string_equal(fake_store_get("control/feature-balloon"), "1");
	fake_store_set("domid", "8");
	target_after("200004");
	assert_true(host_publish(host, &how, &m, 5));
	assert_false(host_publish(host, &how, &m, 6));
}

/* What it refuses is not tried again, until there are other keys or another host. */
static void
test_publish_refused(void **state)
{
	struct host_publish how = {HOST_KEYS_XAPI, .interval_ms = 0};
	const struct meminfo m = {.total = 1000, .available = 600};

	fake_store_deny("control/feature-balloon", EACCES);
	assert_false(host_publish(host, &how, &m, 1));
	fake_store_deny("nothing", EACCES);
	target_after("200004");
	assert_false(host_publish(host, &how, &m, 2));
	how.keys = HOST_KEYS_DATA;
	host_forget(host);
	assert_true(host_publish(host, &how, &m, 3));
	how.keys = HOST_KEYS_XAPI;
	host_forget(host);
	fake_store_deny("control/feature-balloon", EACCES);
	assert_false(host_publish(host, &how, &m, 4));
	fake_store_deny("nothing", EACCES);
	fake_store_set("domid", "9");
	target_after("200000");
	assert_true(host_publish(host, &how, &m, 5));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_target, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_offset, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_publish, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_publish_xapi, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_publish_anew, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_publish_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
