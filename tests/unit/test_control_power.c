/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "power.h"
#include "settings.h"
#include "system.h"

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
const char *__wrap_system_stopping_check(void);
void __wrap_xpv_notify_extend(unsigned ms);
enum request __wrap_system_untold(bool diverted);

static struct event_base *base;
static struct power *power;
static struct control_config config;
static char dir[] = "/tmp/xenpv-power-XXXXXX";
static char hooks[64], action[256];
static char logged[65536];
static const char *check;
static bool stopped;
static unsigned extended;

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	size_t length = strlen(logged);
	va_list args;

	va_start(args, fmt);
	vsnprintf(logged + length, sizeof(logged) - length, fmt, args);
	va_end(args);
	strncat(logged, "\n", sizeof(logged) - strlen(logged) - 1);
}

const char *
__wrap_system_stopping_check(void)
{
	return check;
}

void
__wrap_xpv_notify_extend(unsigned ms)
{
	extended = ms;
}

enum request
__wrap_system_untold(bool diverted)
{
	return REQUEST_REBOOT;
}

static bool
shell(const char *fmt, ...)
{
	char command[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	return system(command) == 0;
}

/* Hooks and actions say a line each; with a file "wait" a hook goes on until that is gone. */
static int
setup(void **state)
{
	logged[0] = '\0';
	stopped = false;
	check = NULL;
	snprintf(hooks, sizeof(hooks), "%s/hooks", dir);
	snprintf(action, sizeof(action), "echo act $XENPV_REQUEST $XENPV_FROM >>%s/lines", dir);
	if (!shell("rm -rf %s && mkdir -m 755 %s %s && : >%s/lines", dir, dir, hooks, dir) ||
	    !shell(
		"printf '#!/bin/sh\n"
		"echo \"$* $XENPV_REQUEST $XENPV_FROM\" >>%s/lines\n"
		"while [ -e %s/wait ]; do sleep 0.02; done\n' >%s/10-says && chmod 755 %s/10-says",
		dir, dir, hooks, hooks))
		return -1;
	config = (struct control_config){
	    .hooks = hooks, .hook_timeout_s = 60, .action_timeout_s = 60, .again_after_s = 60};
	for (unsigned i = 0; i < REQUEST_NAMED; i++)
		config.action[i] = action;
	base = event_base_new();
	power = power_new(base, &config, true);
	return power != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	power_free(power);
	event_base_free(base);
	return shell("rm -rf %s", dir) ? 0 : -1;
}

static const char *
lines(void)
{
	static char text[4096];
	char path[256];
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "%s/lines", dir);
	f = fopen(path, "r");
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	return text;
}

static void
turn(unsigned ms)
{
	for (; ms > 0; ms--) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
}

/* Runs the loop until that has been written, or said in the log. */
static void
await(const char *text)
{
	for (unsigned i = 0; i < 30000; i++) {
		if (strstr(lines(), text) != NULL || strstr(logged, text) != NULL)
			return;
		turn(1);
	}
	fail_msg("\"%s\" does not come; lines: %s log: %s", text, lines(), logged);
}

static void
on_stopped(void *arg)
{
	assert_false(stopped);
	stopped = true;
}

static void
stop(void)
{
	power_stop(power, on_stopped, NULL);
	for (unsigned i = 0; i < 30000 && !stopped; i++)
		turn(1);
	assert_true(stopped);
}

static void
test_request(void **state)
{
	power_request(power, REQUEST_S4, "toolstack");
	await("after s4 done s4 toolstack\n");
	assert_string_equal(lines(), "before s4 s4 toolstack\n"
				     "act s4 toolstack\n"
				     "after s4 done s4 toolstack\n");
	await("s4: action: status 0 after 0.");
	await("1 hooks in 0.");
}

/* ---- resumes ---- */

static void
hold(void)
{
	assert_true(shell("touch %s/wait", dir));
}

static void
release(void)
{
	assert_true(shell("rm %s/wait", dir));
}

static void
test_resumes_wait(void **state)
{
	hold();
	power_request(power, REQUEST_S4, "toolstack");
	await("before s4");
	power_resumed(power, true);
	power_resumed(power, false); /* a checkpoint, before hooks have run for the other */
	release();
	await("after suspend resumed suspend kernel\n");
	assert_string_equal(lines(), "before s4 s4 toolstack\n"
				     "act s4 toolstack\n"
				     "after s4 done s4 toolstack\n"
				     "after suspend resumed suspend kernel\n");
	power_resumed(power, false);
	await("after suspend continued suspend kernel\n");
}

static void
test_resumed_while_going(void **state)
{
	power_request(power, REQUEST_POWEROFF, "toolstack");
	await("1 hooks in");
	await("after poweroff done");
	turn(50);
	power_resumed(power, true);
	await("after suspend resumed suspend kernel\n");
	turn(50);
	power_request(power, REQUEST_POWEROFF, "toolstack");
	await("poweroff asked for again");
}

/* A configured action is one thing, the sign of a resume another. */
static void
test_suspend_action(void **state)
{
	power_resumed(power, true);
	await("after suspend resumed");
	turn(50);
	power_request(power, REQUEST_SUSPEND, "toolstack");
	await("after suspend done suspend toolstack\n");
	turn(50);
	power_resumed(power, false);
	await("after suspend continued suspend kernel\n");
}

/* ---- what the kernel takes and does not tell of ---- */

static void
test_untold(void **state)
{
	power_taken_by_kernel(power, REQUEST_NONE);
	stop();
	assert_string_equal(lines(), "before reboot reboot kernel\n");
}

static void
test_untold_but_not_stopping(void **state)
{
	check = "exit 1";
	power_taken_by_kernel(power, REQUEST_NONE);
	stop();
	assert_string_equal(lines(), "");
}

static void
test_untold_and_stopping(void **state)
{
	check = "exit 0";
	power_taken_by_kernel(power, REQUEST_NONE);
	stop();
	assert_string_equal(lines(), "before reboot reboot kernel\n");
}

static void
test_told(void **state)
{
	power_taken_by_kernel(power, REQUEST_NONE);
	power_told(power); /* it may have been refused */
	stop();
	assert_string_equal(lines(), "");
}

static void
test_told_before(void **state)
{
	power_told(power);
	power_taken_by_kernel(power, REQUEST_NONE);
	stop();
	assert_string_equal(lines(), "");
}

static void
test_no_suspend(void **state)
{
	power_taken_by_kernel(power, REQUEST_SUSPEND); /* and does not */
	stop();
	assert_string_equal(lines(), "");
}

static void
test_stopped_with_one_that_waits(void **state)
{
	snprintf(action, sizeof(action), "sleep 1");
	power_request(power, REQUEST_S4, "toolstack");
	await("before s4");
	power_request(power, REQUEST_REBOOT, "toolstack");
	stop();
	await("reboot: was taken and is lost");
	assert_null(strstr(lines(), "before reboot"));
}

/* The hooks for a resume that may have been none are no reason to leave those out. */
static void
test_untold_during_hooks(void **state)
{
	power_resumed(power, false);
	power_taken_by_kernel(power, REQUEST_NONE);
	stop();
	assert_string_equal(lines(), "after suspend continued suspend kernel\n"
				     "before reboot reboot kernel\n");
}

static void
on_slept(void *arg)
{
	++*(unsigned *)arg;
}

static void
test_slept(void **state)
{
	unsigned slept = 0;

	power_on_slept(power, on_slept, &slept);
	power_request(power, REQUEST_S3, "toolstack");
	await("after s3 done");
	assert_int_equal(slept, 1);
	turn(50);
	power_request(power, REQUEST_REBOOT, "toolstack");
	await("after reboot done");
	assert_int_equal(slept, 1);
}

/* The hook that runs may need all of its limit after the stop has begun. */
static void
test_stopped_during_a_hook(void **state)
{
	hold();
	power_request(power, REQUEST_S4, "toolstack");
	await("before s4");
	extended = 0;
	power_stop(power, on_stopped, NULL);
	assert_true(extended > 60000);
	extended = 0;
	release();
	await("act s4");
	assert_true(extended > 60000);
}

static int
group_setup(void **state)
{
	return mkdtemp(dir) != NULL ? 0 : -1;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_request, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_resumes_wait, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_resumed_while_going, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_suspend_action, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_untold, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_untold_but_not_stopping, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_untold_and_stopping, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_told, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_told_before, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_no_suspend, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stopped_with_one_that_waits, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_stopped_during_a_hook, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_untold_during_hooks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slept, setup, teardown),
	};

	return cmocka_run_group_tests_name("control_power", tests, group_setup, NULL);
}
