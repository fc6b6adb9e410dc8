/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/store.h>

#include "announce.h"
#include "fake_store.h"
#include "report.h"
#include "settings.h"
#include "sysrq.h"
#include "watch.h"

#define NODE FAKE_STORE_HOME "/control/shutdown"
#define KEY  FAKE_STORE_HOME "/control/sysrq"

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
int64_t __wrap_system_slept_ns(void);
bool __wrap_system_goes_first(enum request request);
bool __wrap_system_kernel_takes(enum request request);
uint64_t __wrap_xpv_now_ns(void);

static struct event_base *base;
static struct xpv_store *store;
static struct watch *watch;
static int64_t slept;
static uint64_t now;

/* What the watch told. */
static unsigned requests, refused, by_other, resumed, resumed_elsewhere;
static enum request last, last_taken;
static char last_refused[64];
static bool refuse_crash;
static unsigned conflicts; /* transactions in which another one writes */

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

int64_t
__wrap_system_slept_ns(void)
{
	return slept;
}

bool
__wrap_system_goes_first(enum request request)
{
	return request == REQUEST_SUSPEND;
}

bool
__wrap_system_kernel_takes(enum request request)
{
	return request < REQUEST_CRASH;
}

uint64_t
__wrap_xpv_now_ns(void)
{
	return now;
}

static const char *
on_refuse(enum request request, void *arg)
{
	if (conflicts > 0) {
		conflicts--;
		fake_store_set(FAKE_STORE_HOME "/data/other", "");
	}
	if (request == REQUEST_CRASH)
		return refuse_crash ? "no" : NULL;
	return request == REQUEST_S3 || request == REQUEST_SUSPEND || request == REQUEST_HALT
		   ? "no"
		   : NULL;
}

static void
on_request(enum request request, void *arg)
{
	requests++;
	last = request;
}

static void
on_refused(const char *name, const char *why, void *arg)
{
	refused++;
	snprintf(last_refused, sizeof(last_refused), "%s", name);
}

static void
on_taken_by_other(enum request request, void *arg)
{
	by_other++;
	last_taken = request;
}

static void
on_resumed(bool other_domain, void *arg)
{
	resumed++;
	resumed_elsewhere += other_domain;
}

static const struct watch_ops ops = {
    on_refuse, on_request, on_refused, on_taken_by_other, on_resumed};

static int
setup(void **state)
{
	fake_store_reset();
	fake_store_set(FAKE_STORE_HOME "/domid", "7");
	fake_store_set(NODE, "");
	requests = refused = by_other = resumed = resumed_elsewhere = 0;
	last = REQUEST_NONE;
	conflicts = 0;
	refuse_crash = false;
	slept = 0;
	now = 100000000000u;
	base = event_base_new();
	store = xpv_store_open(base);
	return store != NULL ? 0 : -1;
}

static void
start(void)
{
	watch = watch_start(base, store, 10, &ops, NULL);
	assert_non_null(watch);
	fake_store_settle(base);
}

static int
teardown(void **state)
{
	watch_stop(watch);
	watch = NULL;
	xpv_store_close(store);
	event_base_free(base);
	return 0;
}

/* Lets the timers run out that wait for further signs. */
static void
wait_ms(long ms)
{
	const struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	event_base_loopexit(base, &limit);
	event_base_dispatch(base);
	fake_store_settle(base);
}

static void
ask(const char *request)
{
	fake_store_set(NODE, request);
	fake_store_settle(base);
}

static void
test_taken(void **state)
{
	fake_store_set(NODE, "crash");
	start();
	assert_int_equal(requests, 1); /* what was there already */
	assert_int_equal(last, REQUEST_CRASH);
	assert_string_equal(fake_store_get(NODE), "");
	ask("poweroff");
	assert_int_equal(requests, 2);
	assert_int_equal(last, REQUEST_POWEROFF);
	assert_string_equal(fake_store_get(NODE), "");
	ask("poweroff"); /* a new one, whatever it says */
	assert_int_equal(requests, 3);
	wait_ms(300);
	assert_int_equal(by_other, 0); /* our own answers are nobody else's */
	assert_int_equal(resumed, 0);
	assert_int_equal(fake_store_transactions(), 0);
}

static void
test_refused(void **state)
{
	start();
	ask("tea");
	assert_int_equal(refused, 1);
	assert_string_equal(last_refused, "tea");
	assert_string_equal(fake_store_get(NODE), "tea");
	ask("tea");
	assert_int_equal(refused, 1);
	ask("s3");
	assert_int_equal(refused, 2);
	ask("");
	ask("s3");
	assert_int_equal(refused, 3);
	fake_store_set_bytes(NODE, "po\0ff", 5);
	fake_store_settle(base);
	fake_store_set(NODE, "");
	fake_store_settle(base);
	ask("tea");
	fake_store_remove(NODE);
	fake_store_settle(base);
	wait_ms(300);
	assert_int_equal(by_other, 0); /* that was all the toolstack's */
	ask("reboot");
	assert_int_equal(requests, 1);
	assert_int_equal(refused, 4);
}

/* There was no node, and one appears for a request that the kernel takes before it is seen. */
static void
test_taken_from_a_new_node(void **state)
{
	fake_store_remove(NODE);
	start();
	ask("");
	wait_ms(300);
	assert_int_equal(by_other, 1);
}

/* What the kernel takes at once is never seen. */
static void
test_taken_by_other(void **state)
{
	start();
	ask("");
	wait_ms(300);
	assert_int_equal(by_other, 1);
	assert_int_equal(last_taken, REQUEST_NONE);
	ask("tea");
	ask("");
	wait_ms(300);
	assert_int_equal(by_other, 1);
	ask("halt"); /* refused here is not refused by the kernel */
	assert_int_equal(refused, 2);
	ask("");
	wait_ms(300);
	assert_int_equal(by_other, 2);
	refuse_crash = true;
	ask("crash"); /* the kernel leaves that, too */
	assert_int_equal(refused, 3);
	ask("");
	wait_ms(300);
	assert_int_equal(by_other, 2);
}

static void
test_the_kernel_goes_first(void **state)
{
	start();
	ask("suspend");
	assert_int_equal(refused, 0);
	ask(""); /* there it is */
	wait_ms(300);
	assert_int_equal(refused, 0);
	assert_int_equal(by_other, 1);
	assert_int_equal(last_taken, REQUEST_SUSPEND);
	ask("suspend");
	wait_ms(300);
	assert_int_equal(refused, 1);
	assert_string_equal(fake_store_get(NODE), "suspend");
	ask(""); /* the toolstack takes it back */
	wait_ms(300);
	assert_int_equal(by_other, 1);
}

static void
test_not_readable(void **state)
{
	start();
	fake_store_deny("control/shutdown", EACCES);
	ask("poweroff");
	assert_int_equal(requests, 0);
	assert_string_equal(fake_store_get(NODE), "poweroff");
	assert_int_equal(fake_store_transactions(), 0);
	wait_ms(300);
	assert_int_equal(by_other, 0);
}

/* A look that has failed has seen nothing: neither that the node is gone, nor that it is empty. */
static void
test_look_fails(void **state)
{
	fake_store_set(NODE, "poweroff");
	fake_store_refuse_transactions(1, EBUSY);
	start();
	assert_int_equal(requests, 0);
	wait_ms(1300);
	assert_int_equal(requests, 1);
	assert_string_equal(fake_store_get(NODE), "");
	ask("tea");
	fake_store_refuse_transactions(1, EBUSY);
	ask("tea");
	ask("tea");
	assert_int_equal(refused, 1); /* as it is still there */
	conflicts = 32;
	ask("reboot");
	assert_int_equal(requests, 1);
	wait_ms(1300);
	assert_int_equal(requests, 2);
	/* Our own answer, seen late. */
	fake_store_set(NODE, "poweroff");
	fake_store_settle(base);
	assert_int_equal(requests, 3);
	now += 900000000u;
	fake_store_refuse_transactions(1, EBUSY);
	ask("");
	now += 900000000u;
	wait_ms(1300);
	assert_int_equal(by_other, 0);
}

/* ... and a first one that failed is not the first one. */
static void
test_first_look_fails(void **state)
{
	fake_store_refuse_transactions(1, EBUSY);
	start();
	wait_ms(1600);
	assert_int_equal(by_other, 0);
}

static void
test_resumed(void **state)
{
	start();
	/* The kernel has set all watches anew. */
	fake_store_set(FAKE_STORE_HOME "/domid", "9");
	fake_store_set(NODE, "");
	fake_store_settle(base);
	slept += 5000000000;
	wait_ms(300);
	assert_int_equal(resumed, 1);
	assert_int_equal(resumed_elsewhere, 1);
	assert_int_equal(by_other, 0);
	/* A sign that comes late is none of its own. */
	fake_store_set(FAKE_STORE_HOME "/domid", "9");
	wait_ms(300);
	assert_int_equal(resumed, 1);
	/* Much later it is, even if the number is the same by chance. */
	now += 60000000000u;
	fake_store_set(FAKE_STORE_HOME "/domid", "9");
	wait_ms(300);
	assert_int_equal(resumed, 2);
	assert_int_equal(resumed_elsewhere, 2);
}

static void
test_continued(void **state)
{
	start();
	ask("suspend");
	slept += 3000000;
	ask("");
	wait_ms(300);
	assert_int_equal(resumed, 1);
	assert_int_equal(resumed_elsewhere, 0);
	ask("suspend");
	slept += 1000; /* the clocks are not that good */
	ask("");
	wait_ms(300);
	assert_int_equal(resumed, 1);
	assert_int_equal(by_other, 1);
}

/* ... also right after our own answer. */
static void
test_continued_after_an_answer(void **state)
{
	start();
	ask("poweroff");
	assert_int_equal(requests, 1);
	slept += 3000000;
	ask("");
	wait_ms(300);
	assert_int_equal(resumed, 1);
	assert_int_equal(by_other, 0);
}

/* The clocks also tell of a sleep that was no suspend of the domain. */
static void
test_slept(void **state)
{
	start();
	slept += 5000000000;
	watch_slept(watch); /* by an action of ours */
	ask("");
	wait_ms(300);
	assert_int_equal(resumed, 0);
	assert_int_equal(by_other, 1);
	slept += 5000000000; /* by somebody else */
	ask("");
	wait_ms(300);
	assert_int_equal(resumed, 1);
	assert_int_equal(by_other, 2);
	/* At the same time as the domain's. */
	ask("suspend");
	ask("");
	slept += 5000000000;
	watch_slept(watch);
	wait_ms(300);
	assert_int_equal(resumed, 2);
	assert_int_equal(by_other, 2);
}

/* ---- announce ---- */

#define FEATURE(name) fake_store_get(FAKE_STORE_HOME "/control/feature-" name)

static void
test_announce(void **state)
{
	struct control_config config = {0};
	struct announced announced = {0};

	announce(&announced, store, &config);
	assert_string_equal(FEATURE("poweroff"), "1");
	assert_string_equal(FEATURE("reboot"), "1");
	assert_null(FEATURE("suspend"));
	assert_null(FEATURE("s3"));

	fake_store_set(FAKE_STORE_HOME "/control/feature-suspend", "1");
	fake_store_set(FAKE_STORE_HOME "/control/feature-s3", "");
	announce(&announced, store, &config);
	assert_string_equal(FEATURE("s3"), "0");
	/* Another domain, where the kernel has not said so. */
	fake_store_set(FAKE_STORE_HOME "/control/feature-suspend", "");
	announce(&announced, store, &config);
	assert_string_equal(FEATURE("suspend"), "1");

	config.action[REQUEST_REBOOT] = CONTROL_REFUSE;
	config.action[REQUEST_S3] = "sleep";
	announce(&announced, store, &config);
	assert_string_equal(FEATURE("reboot"), "0");
	assert_string_equal(FEATURE("s3"), "1");
	announce_end(&announced, store);
	assert_null(FEATURE("reboot"));
	assert_string_equal(FEATURE("s3"), "");
	assert_string_equal(FEATURE("suspend"), "1"); /* as the kernel had it */
}

static void
test_announce_end(void **state)
{
	struct control_config config = {.action[REQUEST_REBOOT] = CONTROL_REFUSE,
	    .action[REQUEST_S3] = "sleep",
	    .action[REQUEST_SUSPEND] = "sleep"};
	struct announced announced = {0};

	fake_store_set(FAKE_STORE_HOME "/control/feature-poweroff", "1");
	fake_store_set(FAKE_STORE_HOME "/control/feature-reboot", "1");
	fake_store_set(FAKE_STORE_HOME "/control/feature-suspend", "");
	announce(&announced, store, &config);
	assert_string_equal(FEATURE("reboot"), "0");
	assert_string_equal(FEATURE("suspend"), "1");
	announce(&announced, store, &config);
	fake_store_set(FAKE_STORE_HOME "/control/feature-s3", "2"); /* somebody else's */
	announce_end(&announced, store);
	assert_string_equal(FEATURE("poweroff"), "1");
	assert_string_equal(FEATURE("reboot"), "1");
	assert_string_equal(FEATURE("suspend"), "");
	assert_string_equal(FEATURE("s3"), "2");
}

/* ---- report ---- */

static void
test_report(void **state)
{
	struct control_config config = {.report_interval_s = 1000};
	struct report *report;

	fake_store_set(FAKE_STORE_HOME "/device/vif/0/mac", "00:00:00:00:00:00"); /* lo's */
	fake_store_set(FAKE_STORE_HOME "/device/vif/1/mac", "nonsense");
	fake_store_set(FAKE_STORE_HOME "/device/vif/bad name/mac", "00:00:00:00:00:00");
	report = report_start(base, store, &config);
	assert_non_null(report);
	assert_string_equal(fake_store_get(FAKE_STORE_HOME "/attr/PVAddons/Installed"), "1");
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/os_uname"));
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/meminfo_total"));
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/updated"));
	assert_null(fake_store_get(FAKE_STORE_HOME "/attr/vif/1/name"));
	assert_null(fake_store_get(FAKE_STORE_HOME "/attr/vif/bad name/name"));
	if (access("/sys/class/net/lo", F_OK) == 0)
		assert_string_equal(fake_store_get(FAKE_STORE_HOME "/attr/vif/0/name"), "lo");

	fake_store_remove(FAKE_STORE_HOME "/data/os_uname");
	report_again(report);
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/os_uname"));
	/* What is no longer so does not stay. */
	fake_store_remove(FAKE_STORE_HOME "/device/vif/0/mac");
	report_again(report);
	assert_null(fake_store_get(FAKE_STORE_HOME "/attr/vif/0/name"));
	fake_store_set(FAKE_STORE_HOME "/data/meminfo_free", "1"); /* xen-balloond's */
	report_stop(report);
	assert_null(fake_store_get(FAKE_STORE_HOME "/attr/PVAddons/Installed"));
	assert_null(fake_store_get(FAKE_STORE_HOME "/data/meminfo_total"));
	assert_string_equal(fake_store_get(FAKE_STORE_HOME "/data/meminfo_free"), "1");
	assert_null(fake_store_get(FAKE_STORE_HOME "/data/updated"));
	report_stop(NULL);
}

/* ---- keys ---- */

static void
test_sysrq_fails(void **state)
{
	struct control_config config = {.sysrq = "exit 0", .grace_ms = 10, .action_timeout_s = 60};
	struct sysrq *sysrq = sysrq_start(base, store, &config);

	assert_non_null(sysrq);
	fake_store_settle(base);
	fake_store_refuse_transactions(1, EBUSY);
	fake_store_set(KEY, "h");
	wait_ms(100);
	assert_string_equal(fake_store_get(KEY), "h");
	wait_ms(1300);
	assert_string_equal(fake_store_get(KEY), "");
	sysrq_stop(sysrq);
}

/* What could not be written is not said. */
static void
test_report_again(void **state)
{
	struct control_config config = {.report_interval_s = 1};
	struct report *report;

	fake_store_deny("data/os_uname", EBUSY);
	report = report_start(base, store, &config);
	assert_non_null(report);
	assert_null(fake_store_get(FAKE_STORE_HOME "/data/os_uname"));
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/os_name"));
	fake_store_deny("nothing", 0);
	wait_ms(1500);
	assert_non_null(fake_store_get(FAKE_STORE_HOME "/data/os_uname"));
	report_stop(report);
	assert_null(fake_store_get(FAKE_STORE_HOME "/data/os_uname"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_taken, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_taken_by_other, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_taken_from_a_new_node, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_kernel_goes_first, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_not_readable, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_look_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_first_look_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_resumed, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_continued, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_continued_after_an_answer, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slept, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_announce, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_announce_end, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_sysrq_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_report, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_report_again, setup, teardown),
	};

	return cmocka_run_group_tests_name("control_store", tests, NULL, NULL);
}
