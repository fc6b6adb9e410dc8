/* SPDX-License-Identifier: BSD-2-Clause */
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
#include "xenpv/log.h"
#include "xenpv/store.h"

/* --- what is logged --- */

static unsigned lines;
static char last_line[512];

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	lines++;
}

struct scene {
	struct event_base *base;
	struct xpv_store *s;
	struct xpv_watch *w[3];
	unsigned fired[3];
	char changed[128];
	unsigned runs; /* of a transaction's function */
	unsigned interfere;
	int result;
};

static int
setup(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));

	fake_store_reset();
	lines = 0;
	scene->base = event_base_new();
	scene->s = xpv_store_open(scene->base);
	*state = scene;
	return scene->s == NULL;
}

static int
teardown(void **state)
{
	struct scene *scene = *state;

	xpv_store_close(scene->s);
	event_base_free(scene->base);
	free(scene);
	fake_store_reset();
	return 0;
}

/* --- opening --- */

static void
open_says_what_to_do(void **state)
{
	struct event_base *base = event_base_new();

	fake_store_reset();
	lines = 0;
	fake_store_refuse_open(ENOENT);
	assert_null(xpv_store_open(base));
	assert_int_equal(errno, ENOENT);
	assert_non_null(strstr(last_line, "is this a Xen guest?"));
	fake_store_refuse_open(EACCES);
	assert_null(xpv_store_open(base));
	assert_int_equal(errno, EACCES);
	assert_non_null(strstr(last_line, "root"));
	assert_int_equal(lines, 2);
	xpv_store_close(NULL);
	event_base_free(base);
}

/* --- reading --- */

static void
reads_strings(void **state)
{
	struct scene *scene = *state;
	char *big = malloc(5000);
	char *value;

	fake_store_set("device/vbd/51712/backend", "/local/domain/0/backend/vbd/7/51712");
	fake_store_set("/vm/uuid", "text\n");
	fake_store_set("/vm/empty", "");
	fake_store_set("/vm/newline", "\n");
	fake_store_set_bytes("/vm/nul", "a\0b", 3);
	memset(big, 'x', 5000);
	fake_store_set_bytes("/vm/full", big, 4096);
	fake_store_set_bytes("/vm/big", big, 4097);

	value = xpv_store_read(scene->s, "device/%s/%u/backend", "vbd", 51712);
	assert_string_equal(value, "/local/domain/0/backend/vbd/7/51712");
	free(value);
	value = xpv_store_read(scene->s, "/vm/uuid");
	assert_string_equal(value, "text");
	free(value);
	value = xpv_store_read(scene->s, "/vm/empty");
	assert_string_equal(value, "");
	free(value);
	value = xpv_store_read(scene->s, "/vm/newline");
	assert_string_equal(value, "");
	free(value);
	value = xpv_store_read(scene->s, "/vm/full");
	assert_int_equal(strlen(value), 4096);
	free(value);
	assert_int_equal(lines, 0);

	assert_null(xpv_store_read(scene->s, "/vm/none"));
	assert_int_equal(errno, ENOENT);
	assert_int_equal(lines, 0);
	assert_null(xpv_store_read(scene->s, "/vm/nul"));
	assert_int_equal(errno, EINVAL);
	assert_null(xpv_store_read(scene->s, "/vm/big"));
	assert_int_equal(errno, E2BIG);
	fake_store_deny("/vm/uuid", EACCES);
	assert_null(xpv_store_read(scene->s, "/vm/uuid"));
	assert_int_equal(errno, EACCES);
	fake_store_deny("/vm/uuid", EINVAL); /* not a sign of a lost connection by itself */
	assert_null(xpv_store_read(scene->s, "/vm/uuid"));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(lines, 4);
	assert_true(xpv_store_exists(scene->s, "/vm"));
	free(big);
}

static void
bounds_paths(void **state)
{
	struct scene *scene = *state;
	char path[XPV_STORE_PATH + 1];

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[XPV_STORE_PATH - 1] = '\0';
	assert_int_equal(xpv_store_write(scene->s, path, "%d", 1), 0);
	assert_true(xpv_store_exists(scene->s, path));
	path[XPV_STORE_PATH - 1] = 'x';
	path[XPV_STORE_PATH] = '\0';
	assert_int_equal(xpv_store_write(scene->s, path, "%d", 1), -1);
	assert_int_equal(errno, ENAMETOOLONG);
	assert_null(xpv_store_read(scene->s, "%s", path));
	assert_int_equal(errno, ENAMETOOLONG);
	assert_null(xpv_store_list(scene->s, path));
	assert_int_equal(xpv_store_remove(scene->s, path), -1);
	assert_false(xpv_store_exists(scene->s, path));
	assert_null(xpv_store_watch(scene->s, NULL, NULL, "%s", path));
	assert_null(xpv_store_read(scene->s, "%s", ""));
	assert_int_equal(errno, EINVAL);
}

static void
reads_numbers(void **state)
{
	static const struct {
		const char *text;
		int error32, error64;
		uint64_t value;
	} cases[] = {
	    {"0", 0, 0, 0},
	    {"51712", 0, 0, 51712},
	    {"51712\n", 0, 0, 51712},
	    {"007", 0, 0, 7},
	    {"4294967295", 0, 0, UINT32_MAX},
	    {"4294967296", ERANGE, 0, 4294967296},
	    {"18446744073709551615", ERANGE, 0, UINT64_MAX},
	    {"18446744073709551616", ERANGE, ERANGE, 0},
	    {"99999999999999999999999999", ERANGE, ERANGE, 0},
	    {"", EINVAL, EINVAL, 0},
	    {"\n", EINVAL, EINVAL, 0},
	    {"-1", EINVAL, EINVAL, 0},
	    {"+1", EINVAL, EINVAL, 0},
	    {" 1", EINVAL, EINVAL, 0},
	    {"1 ", EINVAL, EINVAL, 0},
	    {"1\n\n", EINVAL, EINVAL, 0},
	    {"0x10", EINVAL, EINVAL, 0},
	    {"1e3", EINVAL, EINVAL, 0},
	    {"\xb2", EINVAL, EINVAL, 0},
	};
	struct scene *scene = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t n32 = 77;
		uint64_t n64 = 77;

		fake_store_set("number", cases[i].text);
		assert_int_equal(xpv_store_read_u32(scene->s, &n32, "%s", "number"),
		    cases[i].error32 == 0 ? 0 : -1);
		if (cases[i].error32 != 0)
			assert_int_equal(errno, cases[i].error32);
		assert_int_equal(n32, cases[i].error32 == 0 ? cases[i].value : 77);
		assert_int_equal(
		    xpv_store_read_u64(scene->s, &n64, "number"), cases[i].error64 == 0 ? 0 : -1);
		if (cases[i].error64 != 0)
			assert_int_equal(errno, cases[i].error64);
		assert_int_equal(n64, cases[i].error64 == 0 ? cases[i].value : 77);
	}
}

static void
reads_flags(void **state)
{
	struct scene *scene = *state;

	assert_false(xpv_store_read_flag(scene->s, "flag"));
	fake_store_set("flag", "0");
	assert_false(xpv_store_read_flag(scene->s, "flag"));
	fake_store_set("flag", "1");
	assert_true(xpv_store_read_flag(scene->s, "%s", "flag"));
	fake_store_set("flag", "2");
	assert_true(xpv_store_read_flag(scene->s, "flag"));
	fake_store_set("flag", "yes");
	assert_false(xpv_store_read_flag(scene->s, "flag"));
}

static void
a_peer_does_not_fill_the_log(void **state)
{
	struct scene *scene = *state;
	uint32_t value;

	fake_store_set("a", "x");
	fake_store_set("b", "y");
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(xpv_store_read_u32(scene->s, &value, "a"), -1);
		assert_int_equal(xpv_store_read_u32(scene->s, &value, "b"), -1);
	}
	assert_in_range(lines, 1, 40); /* a minute may have begun meanwhile */
}

/* --- writing, listing --- */

static void
writes_and_lists(void **state)
{
	struct scene *scene = *state;
	char *big = malloc(4098);
	char **names;

	memset(big, 'x', 4097);
	big[4097] = '\0';
	assert_int_equal(xpv_store_write(scene->s, "device/vbd/1/ring-ref", "%u", 8u), 0);
	assert_string_equal(fake_store_get("device/vbd/1/ring-ref"), "8");
	assert_int_equal(xpv_store_write(scene->s, "device/vbd/1/event-channel", "%s", "5"), 0);
	assert_int_equal(xpv_store_write(scene->s, "big", "%s", big), -1);
	assert_int_equal(errno, E2BIG);
	assert_int_equal(xpv_store_write(scene->s, "big", "%s", big + 1), 0);
	free(big);

	names = xpv_store_list(scene->s, "device/vbd/1");
	assert_string_equal(names[0], "ring-ref");
	assert_string_equal(names[1], "event-channel");
	assert_null(names[2]);
	free(names);
	names = xpv_store_list(scene->s, "device/vbd/1/ring-ref");
	assert_null(names[0]);
	free(names);
	assert_null(xpv_store_list(scene->s, "device/vif"));
	assert_int_equal(errno, ENOENT);

	assert_true(xpv_store_exists(scene->s, "device/vbd"));
	assert_int_equal(xpv_store_remove(scene->s, "device/vbd"), 0);
	assert_false(xpv_store_exists(scene->s, "device/vbd/1/ring-ref"));
	assert_int_equal(errno, ENOENT);
	assert_int_equal(xpv_store_remove(scene->s, "device/vbd"), 0);
}

/* --- transactions --- */

static int
count_up(struct xpv_store *s, void *arg)
{
	struct scene *scene = arg;
	uint32_t n;

	scene->runs++;
	if (xpv_store_read_u32(s, &n, "counter") != 0)
		return -1;
	assert_int_equal(xpv_store_write(s, "counter", "%u", n + 1), 0);
	assert_int_equal(xpv_store_write(s, "seen", "%u", n), 0);
	if (scene->interfere > 0) {
		scene->interfere--;
		fake_store_set("counter", "100");
	}
	errno = EXDEV;
	return scene->result;
}

static int
count_up_twice(struct xpv_store *s, void *arg)
{
	if (xpv_store_transaction(s, count_up, arg) != 0)
		return -1;
	assert_int_equal(fake_store_transactions(), 1);
	return xpv_store_transaction(s, count_up, arg);
}

static void
transaction_commits(void **state)
{
	struct scene *scene = *state;

	fake_store_set("counter", "1");
	assert_int_equal(xpv_store_transaction(scene->s, count_up, scene), 0);
	assert_string_equal(fake_store_get("counter"), "2");
	assert_int_equal(scene->runs, 1);
	assert_int_equal(fake_store_transactions(), 0);
}

static void
transaction_aborts(void **state)
{
	struct scene *scene = *state;

	fake_store_set("counter", "1");
	scene->result = -1;
	assert_int_equal(xpv_store_transaction(scene->s, count_up, scene), -1);
	assert_int_equal(errno, EXDEV);
	assert_string_equal(fake_store_get("counter"), "1");
	assert_null(fake_store_get("seen"));
	assert_int_equal(fake_store_transactions(), 0);
	/* What comes after is outside of it. */
	assert_int_equal(xpv_store_write(scene->s, "counter", "5"), 0);
	assert_string_equal(fake_store_get("counter"), "5");
}

static void
transaction_runs_again(void **state)
{
	struct scene *scene = *state;

	fake_store_set("counter", "1");
	scene->interfere = 3;
	assert_int_equal(xpv_store_transaction(scene->s, count_up, scene), 0);
	assert_int_equal(scene->runs, 4);
	assert_string_equal(fake_store_get("counter"), "101");
	assert_string_equal(fake_store_get("seen"), "100");
}

static void
transaction_gives_up(void **state)
{
	struct scene *scene = *state;

	fake_store_set("counter", "1");
	scene->interfere = UINT32_MAX;
	assert_int_equal(xpv_store_transaction(scene->s, count_up, scene), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(scene->runs, 32);
	assert_int_equal(fake_store_transactions(), 0);
	assert_int_equal(lines, 1);
}

static void
transaction_in_a_transaction(void **state)
{
	struct scene *scene = *state;

	fake_store_set("counter", "1");
	assert_int_equal(xpv_store_transaction(scene->s, count_up_twice, scene), 0);
	assert_string_equal(fake_store_get("counter"), "3");
	scene->result = -1;
	assert_int_equal(xpv_store_transaction(scene->s, count_up_twice, scene), -1);
	assert_string_equal(fake_store_get("counter"), "3");
}

/* --- watches --- */

static void
count_event(struct xpv_watch *w, const char *changed, void *arg)
{
	struct scene *scene = arg;

	for (unsigned i = 0; i < 3; i++)
		scene->fired[i] += scene->w[i] == w;
	snprintf(scene->changed, sizeof(scene->changed), "%s", changed);
}

static void
drop_all(struct xpv_watch *w, const char *changed, void *arg)
{
	struct scene *scene = arg;

	count_event(w, changed, arg);
	for (unsigned i = 0; i < 3; i++) {
		xpv_store_unwatch(scene->w[i]);
		scene->w[i] = NULL;
	}
}

static void
watches_fire(void **state)
{
	struct scene *scene = *state;

	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device/%s", "vbd");
	scene->w[1] = xpv_store_watch(scene->s, count_event, scene, "device/vbd");
	scene->w[2] = xpv_store_watch(scene->s, count_event, scene, "/local/domain/0/backend");
	assert_int_equal(scene->fired[0], 0); /* not from inside xpv_store_watch() */
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0], 1);
	assert_int_equal(scene->fired[1], 1);
	assert_int_equal(scene->fired[2], 1);

	fake_store_set("device/vbd/51712/state", "1");
	fake_store_set("device/vif/0/state", "1");
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0], 2);
	assert_int_equal(scene->fired[1], 2);
	assert_int_equal(scene->fired[2], 1);
	assert_string_equal(scene->changed, "device/vbd/51712/state");

	xpv_store_unwatch(scene->w[0]);
	scene->w[0] = NULL;
	fake_store_set("device/vbd/51712/state", "2");
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0], 2);
	assert_int_equal(scene->fired[1], 3);
	assert_int_equal(fake_store_watches(), 2);
	xpv_store_unwatch(NULL);
}

static void
unwatch_drops_waiting_events(void **state)
{
	struct scene *scene = *state;

	for (unsigned i = 0; i < 3; i++)
		scene->w[i] = xpv_store_watch(scene->s, drop_all, scene, "device");
	fake_store_set("device/vbd/1/state", "1");
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0] + scene->fired[1] + scene->fired[2], 1);
	assert_int_equal(fake_store_watches(), 0);

	/* A new watch does not get what waited for an old one of the same path. */
	memset(scene->fired, 0, sizeof(scene->fired));
	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device");
	fake_store_settle(scene->base);
	fake_store_set("device/vbd/1/state", "2");
	xpv_store_unwatch(scene->w[0]);
	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device");
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0], 2);
}

static void
a_flood_does_not_hold_the_loop(void **state)
{
	struct scene *scene = *state;

	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device");
	for (unsigned i = 0; i < 1000; i++)
		fake_store_set("device/vbd/1/state", "4");
	event_base_loop(scene->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_in_range(scene->fired[0], 1, 200);
	fake_store_settle(scene->base);
	assert_int_equal(scene->fired[0], 1001);
}

/* --- the connection goes --- */

static void
lost_connection(void **state)
{
	struct scene *scene = *state;
	uint32_t value;

	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device");
	fake_store_settle(scene->base);
	fake_store_lose();
	assert_null(xpv_store_read(scene->s, "domid"));
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(lines, 1);
	assert_non_null(strstr(last_line, "lost"));
	assert_int_equal(xpv_store_read_u32(scene->s, &value, "domid"), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(xpv_store_write(scene->s, "domid", "1"), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(xpv_store_remove(scene->s, "domid"), -1);
	assert_false(xpv_store_exists(scene->s, "domid"));
	assert_int_equal(errno, ENOTCONN);
	assert_null(xpv_store_list(scene->s, "device"));
	assert_int_equal(xpv_store_transaction(scene->s, count_up, scene), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(scene->runs, 0);
	assert_null(xpv_store_watch(scene->s, count_event, scene, "device"));
	xpv_store_unwatch(scene->w[0]);
	assert_int_equal(lines, 1);
}

static int
lose_inside(struct xpv_store *s, void *arg)
{
	fake_store_lose();
	return 0;
}

static void
lost_in_a_transaction(void **state)
{
	struct scene *scene = *state;

	assert_int_equal(xpv_store_transaction(scene->s, lose_inside, NULL), -1);
	assert_int_equal(errno, ENOTCONN);
	assert_int_equal(lines, 1);
}

static void
lost_while_waiting(void **state)
{
	struct scene *scene = *state;

	scene->w[0] = xpv_store_watch(scene->s, count_event, scene, "device");
	fake_store_lose();
	event_base_loop(scene->base, EVLOOP_NONBLOCK);
	assert_int_equal(scene->fired[0], 1); /* what had come before still counts */
	assert_int_equal(lines, 1);
	/* The loop has nothing left to wait for. */
	assert_int_equal(event_base_loop(scene->base, EVLOOP_NONBLOCK), 1);
}

static void
count_lost(void *arg)
{
	++*(unsigned *)arg;
}

static void
loss_is_told(void **state)
{
	struct scene *scene = *state;
	unsigned told = 0;

	xpv_store_on_lost(scene->s, count_lost, &told);
	fake_store_lose();
	assert_null(xpv_store_read(scene->s, "domid"));
	assert_int_equal(told, 0); /* not in the midst of a call */
	event_base_loop(scene->base, EVLOOP_NONBLOCK);
	assert_int_equal(told, 1);
	assert_int_equal(event_base_loop(scene->base, EVLOOP_NONBLOCK), 1);
	assert_int_equal(told, 1);
	assert_int_equal(lines, 1);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(open_says_what_to_do),
	    test(reads_strings),
	    test(bounds_paths),
	    test(reads_numbers),
	    test(reads_flags),
	    test(a_peer_does_not_fill_the_log),
	    test(writes_and_lists),
	    test(transaction_commits),
	    test(transaction_aborts),
	    test(transaction_runs_again),
	    test(transaction_gives_up),
	    test(transaction_in_a_transaction),
	    test(watches_fire),
	    test(unwatch_drops_waiting_events),
	    test(a_flood_does_not_hold_the_loop),
	    test(lost_connection),
	    test(lost_in_a_transaction),
	    test(lost_while_waiting),
	    test(loss_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
