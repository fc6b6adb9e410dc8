/* SPDX-License-Identifier: BSD-2-Clause */
/* The balloon's daemon as a whole, with a mechanism that does nothing and a kernel that is files.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>

#include "balloon.h"
#include "fake_store.h"
#include "settings.h"
#include "xenpv/log.h"
#include "xenpv/store.h"

#define BOOT 1048576 /* KiB */

static struct event_base *base;
static struct xpv_store *store;
static struct settings *settings;
static struct balloon balloon;
static char folder[64], last_line[1024];

/* The mechanism. */
static struct {
	int64_t target, current, out;
	unsigned sets, works;
	int error; /* of set() */
	int64_t left;
	uint64_t late_ns; /* of the clock */
	int missing;	  /* error of opening it */
	int blind;	  /* of current() */
} fake;

/* The kernel's pressure. */
static struct {
	unsigned open, most;
	bool refused;
} triggers;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
struct mechanism *__wrap_mechanism_open(
    enum mechanism_choice choice, const struct mechanism_where *where);

struct pressure *__wrap_pressure_open(struct event_base *loop, const char *procfs, long stall_ms,
    long window_ms, pressure_handler *handler, void *arg);
void __wrap_pressure_close(struct pressure *p);
bool __wrap_pressure_works(const struct pressure *p);
int64_t __wrap_pressure_total_us(const struct pressure *p);
uint64_t __real_xpv_now_ns(void);
uint64_t __wrap_xpv_now_ns(void);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
}

static int
current(struct mechanism *m, int64_t *kib)
{
	*kib = fake.current;
	errno = fake.blind;
	return fake.blind != 0 ? -1 : 0;
}

static int
target(struct mechanism *m, int64_t *kib)
{
	*kib = fake.target;
	return 0;
}

static int
set(struct mechanism *m, int64_t kib)
{
	fake.sets++;
	errno = fake.error;
	if (fake.error != 0)
		return -1;
	fake.target = fake.current = kib;
	return 0;
}

static bool
work(struct mechanism *m)
{
	fake.works++;
	fake.current = fake.target;
	return false;
}

static int64_t
out(struct mechanism *m)
{
	return fake.out;
}

/* Each part of the way takes long. */
static int64_t
leave(struct mechanism *m, int64_t kib)
{
	assert_int_equal(kib, fake.target);
	fake.late_ns += 1000000000;
	return fake.left > 0 ? fake.left -= 2048 : 0;
}

static void
close_fake(struct mechanism *m)
{
}

struct mechanism *
__wrap_mechanism_open(enum mechanism_choice choice, const struct mechanism_where *where)
{
	static struct mechanism m = {.name = "fake",
	    .current = current,
	    .target = target,
	    .set = set,
	    .work = work,
	    .out = out,
	    .leave = leave,
	    .close = close_fake,
	    .step_kib = 4};

	errno = fake.missing;
	return fake.missing != 0 ? NULL : &m;
}

struct pressure *
__wrap_pressure_open(struct event_base *loop, const char *procfs, long stall_ms, long window_ms,
    pressure_handler *handler, void *arg)
{
	if (triggers.refused)
		return NULL;
	triggers.open++;
	if (triggers.open > triggers.most)
		triggers.most = triggers.open;
	return (struct pressure *)&triggers;
}

void
__wrap_pressure_close(struct pressure *p)
{
	triggers.open -= p != NULL;
}

bool
__wrap_pressure_works(const struct pressure *p)
{
	return p != NULL;
}

int64_t
__wrap_pressure_total_us(const struct pressure *p)
{
	return 0;
}

uint64_t
__wrap_xpv_now_ns(void)
{
	return __real_xpv_now_ns() + fake.late_ns;
}

static void
put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int
setup(void **state)
{
	struct xpv_program program = {.name = "test"};

	memset(&fake, 0, sizeof(fake));
	memset(&triggers, 0, sizeof(triggers));
	fake.target = fake.current = BOOT;
	last_line[0] = '\0';
	strcpy(folder, "/tmp/balloon.XXXXXX");
	assert_non_null(mkdtemp(folder));
	put("meminfo", "MemTotal: 1000000 kB\nMemFree: 700000 kB\nMemAvailable: 800000 kB\n");
	put("vmstat", "");
	put("zoneinfo", "Node 0, zone DMA32\n present 262144\n");
	fake_store_reset();
	fake_store_set("memory/target", "1048576");
	fake_store_set("memory/static-max", "1048576");
	settings_init(&settings, &program);
	free(settings->procfs);
	settings->procfs = strdup(folder);
	settings->interval_ms = 20;
	settings->publish = HOST_KEYS_DATA;
	base = event_base_new();
	store = xpv_store_open(base);
	assert_int_equal(balloon_start(&balloon, base, store, settings), 0);
	return 0;
}

static int
teardown(void **state)
{
	char command[128];

	balloon_free(&balloon);
	xpv_store_close(store);
	event_base_free(base);
	free(settings->rundir);
	free(settings->sysfs);
	free(settings->procfs);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

static void
run(unsigned ms)
{
	const struct timeval when = {.tv_usec = ms * 1000};

	event_base_loopexit(base, &when);
	event_base_dispatch(base);
}

/* A target that could not be set is nobody else's doing, and tried again. */
static void
test_set_fails(void **state)
{
	fake.error = EIO;
	fake_store_set("memory/target", "524288");
	for (unsigned i = 0; i < 100 && fake.sets < 2; i++)
		run(100);
	assert_true(fake.sets > 1);
	assert_int_equal(xpv_counter_get(&balloon.stats.failures), fake.sets);
	assert_int_equal(xpv_counter_get(&balloon.stats.overridden), 0);
	fake.error = 0;
	for (unsigned i = 0; i < 100 && fake.target != 524288; i++)
		run(100);
	assert_int_equal(fake.target, 524288);
	assert_int_equal(xpv_counter_get(&balloon.stats.down), 1);
	assert_int_equal(xpv_counter_get(&balloon.stats.overridden), 0);
}

/* The kernel's balloon may have moved by itself what our own has made up for, or the other way. */
static void
test_moved_by_the_kernel(void **state)
{
	run(100);
	fake.works = fake.sets = 0;
	run(300);
	assert_int_equal(fake.works, 0);
	fake.current -= 8192;
	for (unsigned i = 0; i < 100 && fake.works == 0; i++)
		run(100);
	run(300);
	assert_int_equal(fake.works, 1);
	assert_int_equal(fake.sets, 0);
	assert_int_equal(fake.current, fake.target);
}

/* Pages that are out are neither there nor in use. */
static void
test_out_is_not_used(void **state)
{
	assert_string_equal(fake_store_get("data/meminfo_total"), "1000000");
	balloon_free(&balloon);
	fake.out = 150000;
	settings->publish = HOST_KEYS_QUBES;
	assert_int_equal(balloon_start(&balloon, base, store, settings), 0);
	assert_string_equal(fake_store_get("memory/meminfo"), "50000");
}

/* There is a trigger all the time, also when the kernel does not want the new one. */
static void
test_reload_keeps_pressure(void **state)
{
	assert_int_equal(triggers.open, 1);
	settings->window_ms = 1000;
	balloon_reload(&balloon);
	assert_int_equal(triggers.open, 1);
	assert_int_equal(triggers.most, 2);
	settings->window_ms = 2000;
	triggers.refused = true;
	balloon_reload(&balloon);
	assert_int_equal(triggers.open, 1);
	assert_non_null(balloon.pressure);
	triggers.refused = false;
	triggers.most = 0;
	balloon_reload(&balloon);
	assert_int_equal(triggers.most, 2);
	settings->window_ms = 500;
}

static void
test_stop(void **state)
{
	fake.left = 8 * 2048;
	balloon_stop(&balloon);
	assert_int_equal(fake.left, 0);
	assert_null(strstr(last_line, "stay out"));
	fake.left = 100 * 2048;
	balloon_stop(&balloon);
	assert_true(fake.left > 80 * 2048);
	assert_non_null(strstr(last_line, "MiB stay out"));
}

/* What service managers go by: 69 is for good. */
static void
test_start_fails(void **state)
{
	balloon_free(&balloon);
	fake.missing = ENODEV;
	assert_int_equal(balloon_start(&balloon, base, store, settings), EX_UNAVAILABLE);
	balloon_free(&balloon);
	fake.missing = ENOMEM;
	assert_int_equal(balloon_start(&balloon, base, store, settings), EX_TEMPFAIL);
	balloon_free(&balloon);
	fake.missing = 0;
	fake.blind = EIO;
	assert_int_equal(balloon_start(&balloon, base, store, settings), EX_TEMPFAIL);
	balloon_free(&balloon);
	fake.blind = 0;
	put("zoneinfo", "");
	assert_int_equal(balloon_start(&balloon, base, store, settings), EX_TEMPFAIL);
	balloon_free(&balloon);
	put("zoneinfo", "Node 0, zone DMA32\n present 262144\n");
	fake_store_lose(); /* no watch */
	assert_int_equal(balloon_start(&balloon, base, store, settings), EX_TEMPFAIL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_set_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_moved_by_the_kernel, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_out_is_not_used, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_reload_keeps_pressure, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_start_fails, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
