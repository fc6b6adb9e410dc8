/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "command.h"
#include "hooks.h"

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
int __real_kill(pid_t pid, int signal);
int __wrap_kill(pid_t pid, int signal);
void __wrap_xpv_notify_extend(unsigned ms);
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);

static struct event_base *base;
static unsigned strdup_fails_in = UINT_MAX;
static bool immortal; /* as what sleeps in the kernel */
static pid_t killed;
static unsigned extended;
static char dir[] = "/tmp/xenpv-hooks-XXXXXX";
static char logged[65536];
static unsigned lines;
static char *const env[] = {"PATH=/usr/bin:/bin", "XENPV_REQUEST=poweroff", NULL};

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	size_t length = strlen(logged);
	va_list args;

	lines++;
	va_start(args, fmt);
	vsnprintf(logged + length, sizeof(logged) - length, fmt, args);
	va_end(args);
	strncat(logged, "\n", sizeof(logged) - strlen(logged) - 1);
}

void
__wrap_xpv_notify_extend(unsigned ms)
{
	extended = ms;
}

int
__wrap_kill(pid_t pid, int signal)
{
	killed = pid;
	return immortal ? 0 : __real_kill(pid, signal);
}

char *
__wrap_strdup(const char *text)
{
	if (strdup_fails_in != UINT_MAX && strdup_fails_in-- == 0)
		return NULL;
	return __real_strdup(text);
}

static void
put(const char *name, mode_t mode, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

static int
empty(void **state)
{
	char command[256];

	immortal = false;
	logged[0] = '\0';
	lines = 0;
	snprintf(command, sizeof(command), "rm -rf %s; mkdir -m 755 %s", dir, dir);
	return system(command);
}

/* ---- commands ---- */

struct ended {
	bool called;
	enum command_end end;
	char text[64];
};

static void
on_ended(enum command_end end, const char *text, void *arg)
{
	struct ended *e = arg;

	assert_false(e->called);
	e->called = true;
	e->end = end;
	snprintf(e->text, sizeof(e->text), "%s", text);
	event_base_loopbreak(base);
}

static struct ended
run(const char *script, unsigned timeout_ms)
{
	char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)script, NULL};
	struct ended e = {0};

	assert_non_null(command_start(base, "it", argv, env, timeout_ms, on_ended, &e));
	event_base_dispatch(base);
	assert_true(e.called);
	return e;
}

static void
test_command(void **state)
{
	struct ended e = run("echo one; echo two >&2; printf three; cat", 60000);

	assert_int_equal(e.end, COMMAND_OK);
	assert_string_equal(logged, "it: one\nit: two\nit: three\n");
	assert_true(extended > 60000); /* the limit, and what it takes to end it */
	e = run("exit 3", 60000);
	assert_int_equal(e.end, COMMAND_FAILED);
	assert_string_equal(e.text, "status 3");
	e = run("kill -9 $$", 60000);
	assert_int_equal(e.end, COMMAND_FAILED);
	assert_string_equal(e.text, "killed by signal 9");
}

static void
test_command_says_much(void **state)
{
	struct ended e = run("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i + 1)); done", 60000);

	assert_int_equal(e.end, COMMAND_OK);
	assert_int_equal(lines, 101);
	assert_non_null(strstr(logged, "is not shown"));
	logged[0] = '\0';
	lines = 0;
	e = run("head -c 2000 /dev/zero | tr '\\0' x", 60000);
	assert_int_equal(lines, 4); /* of 512 bytes at most */
}

static void
test_command_is_missing(void **state)
{
	char *argv[] = {"/nonexistent/program", NULL};
	struct ended e = {0};
	struct command *c = command_start(base, "it", argv, env, 1000, on_ended, &e);

	/* Some systems tell by the status only. */
	if (c != NULL) {
		event_base_dispatch(base);
		assert_int_equal(e.end, COMMAND_FAILED);
	} else {
		assert_non_null(strstr(logged, "/nonexistent/program"));
	}
}

static bool
is_gone(const char *name)
{
	char path[256], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	/* It may not have been waited for yet by whoever adopted it. */
	for (unsigned i = 0; i < 3000; i++) {
		char state[512] = "";

		snprintf(path, sizeof(path), "/proc/%d/stat", atoi(text));
		f = fopen(path, "r");
		if (f == NULL || fgets(state, sizeof(state), f) == NULL ||
		    strstr(state, ") Z ") != NULL) {
			if (f != NULL)
				fclose(f);
			return true;
		}
		fclose(f);
		usleep(10000);
	}
	return false;
}

static void
test_command_hangs(void **state)
{
	char script[1024];
	struct ended e;

	snprintf(script, sizeof(script), "sleep 600 & echo $! >%s/child; wait", dir);
	e = run(script, 300);
	assert_int_equal(e.end, COMMAND_TIMED_OUT);
	assert_true(is_gone("child"));
	/* Also one that does not want to end. */
	snprintf(script, sizeof(script),
	    "trap '' TERM; echo $$ >%s/child; while :; do sleep 0.1; done", dir);
	e = run(script, 300);
	assert_int_equal(e.end, COMMAND_TIMED_OUT);
	assert_true(is_gone("child"));
}

/* Lives on until there is "go", and then says something. */
#define SPEAKS_LATER "while [ ! -e %s/go ]; do sleep 0.02; done; echo lost; echo >%s/spoke"

static void
await_speech(void)
{
	char path[256];

	put("go", 0644, "");
	snprintf(path, sizeof(path), "%s/spoke", dir);
	for (unsigned i = 0; i < 3000 && access(path, F_OK) != 0; i++)
		usleep(10000);
	assert_int_equal(access(path, F_OK), 0);
}

/* A daemon that a hook starts lives on, also when it speaks, and nobody waits for the end of its
 * output. */
static void
test_command_leaves_a_child(void **state)
{
	char script[1024];
	struct ended e;

	snprintf(script, sizeof(script), "{ " SPEAKS_LATER "; } &", dir, dir);
	e = run(script, 60000);
	assert_int_equal(e.end, COMMAND_OK);
	await_speech();
}

/* ... and so does an action when the daemon ends. */
static void
test_command_is_left(void **state)
{
	char script[1024];
	char *argv[] = {"/bin/sh", "-c", script, NULL};
	struct ended e = {0};
	struct command *c;

	snprintf(script, sizeof(script), SPEAKS_LATER, dir, dir);
	c = command_start(base, "it", argv, env, 60000, on_ended, &e);
	assert_non_null(c);
	command_leave(c);
	await_speech();
	assert_false(e.called);
}

static void
test_command_is_killed(void **state)
{
	char script[1024];
	char *argv[] = {"/bin/sh", "-c", script, NULL};
	struct ended e = {0};
	struct command *c;
	char path[256];

	snprintf(path, sizeof(path), "%s/child", dir);
	snprintf(script, sizeof(script), "sleep 600 & echo $! >%s.new; mv %s.new %s; wait", path,
	    path, path);
	c = command_start(base, "it", argv, env, 60000, on_ended, &e);
	assert_non_null(c);
	while (access(path, F_OK) != 0)
		usleep(10000);
	command_kill(c);
	assert_true(is_gone("child"));
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_false(e.called);
}

/* Runs the loop until what was only to be reaped has been. */
static bool
is_reaped(pid_t pid)
{
	for (unsigned i = 0; i < 3000; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		if (__real_kill(pid, 0) != 0 && errno == ESRCH)
			return true;
		usleep(10000);
	}
	return false;
}

static void
test_command_does_not_die(void **state)
{
	char *argv[] = {"/bin/sleep", "600", NULL};
	struct ended e;
	struct command *c;

	immortal = true;
	e = run("exec sleep 600", 100);
	assert_int_equal(e.end, COMMAND_TIMED_OUT);
	assert_string_equal(e.text, "does not end");
	assert_int_equal(__real_kill(-killed, SIGKILL), 0);
	assert_true(is_reaped(-killed));

	/* It is not waited for. */
	e = (struct ended){0};
	c = command_start(base, "it", argv, env, 60000, on_ended, &e);
	assert_non_null(c);
	command_kill(c);
	assert_int_equal(__real_kill(-killed, SIGKILL), 0);
	assert_true(is_reaped(-killed));
	assert_false(e.called);
}

/* ---- hooks ---- */

static void
test_which_are_hooks(void **state)
{
	char **names;

	put("20-b", 0755, "");
	put("10-a", 0755, "");
	put("9", 0700, "");
	put("B", 0755, "");
	put("a.sh", 0755, "");
	put(".hidden", 0755, "");
	put("backup~", 0755, "");
	put("with space", 0755, "");
	put("x.dpkg-old", 0755, "");
	put("x.rpmsave", 0755, "");
	put("x.sample", 0755, "");
	put("README", 0644, "");
	put("writable", 0777, "");
	put("group", 0775, "");
	put("folder", 0755, "");
	names = hooks_list(dir);
	assert_string_equal(names[0], "10-a");
	assert_string_equal(names[1], "20-b");
	assert_string_equal(names[2], "9");
	assert_string_equal(names[3], "B");
	assert_string_equal(names[4], "a.sh");
	assert_string_equal(names[5], "folder");
	assert_null(names[6]);
	hooks_list_free(names);
	assert_non_null(strstr(logged, "/writable: is not run"));
	assert_non_null(strstr(logged, "/group: is not run"));

	chmod(dir, 0777);
	names = hooks_list(dir);
	assert_null(names[0]);
	hooks_list_free(names);
	chmod(dir, 0755);
	names = hooks_list("/nonexistent/folder");
	assert_null(names[0]);
	hooks_list_free(names);
}

static void
on_hooks(const struct hooks_result *result, void *arg)
{
	*(struct hooks_result *)arg = *result;
	event_base_loopbreak(base);
}

static void
test_hooks_run_in_order(void **state)
{
	struct hooks_result result = {0};

	put("10-says", 0755, "#!/bin/sh\necho \"$@ $XENPV_REQUEST\"\n");
	put("20-fails", 0755, "#!/bin/sh\nexit 1\n");
	put("30-hangs", 0755, "#!/bin/sh\nexec sleep 600\n");
	put("40-broken", 0755, "#!/nonexistent/shell\n");
	put("50-says", 0755, "#!/bin/sh\necho \"$#\"\n");
	assert_non_null(
	    hooks_start(base, dir, "after", "poweroff", "failed", env, 1000, on_hooks, &result));
	assert_int_equal(result.run, 0); /* not from here */
	event_base_dispatch(base);
	assert_int_equal(result.run, 5);
	assert_int_equal(result.failed, 2);
	assert_int_equal(result.timed_out, 1);
	assert_non_null(strstr(logged, "hook 10-says: after poweroff failed poweroff\n"));
	assert_non_null(strstr(logged, "hook 20-fails after poweroff: status 1\n"));
	assert_non_null(strstr(logged, "hook 30-hangs after poweroff: ended because"));
	assert_non_null(strstr(logged, "hook 50-says: 3\n"));
	assert_true(strstr(logged, "hook 50-says") > strstr(logged, "hook 30-hangs"));
}

static void
test_no_hooks(void **state)
{
	struct hooks_result result = {.run = 7};
	struct hooks *h;

	assert_non_null(hooks_start(
	    base, "/nonexistent/folder", "before", "halt", NULL, env, 1000, on_hooks, &result));
	event_base_dispatch(base);
	assert_int_equal(result.run, 0);

	put("10-hangs", 0755, "#!/bin/sh\nexec sleep 600\n");
	h = hooks_start(base, dir, "before", "halt", NULL, env, 60000, on_hooks, &result);
	assert_non_null(h);
	event_base_loop(base, EVLOOP_ONCE);
	hooks_kill(h);
}

/* Not half an environment. */
static void
test_out_of_memory(void **state)
{
	struct hooks_result result;
	struct hooks *h;
	unsigned n = 0;

	put("10-says", 0755, "#!/bin/sh\n");
	for (;; n++) {
		strdup_fails_in = n;
		h = hooks_start(base, dir, "before", "halt", NULL, env, 60000, on_hooks, &result);
		if (h != NULL && strdup_fails_in != UINT_MAX)
			break;
		/* Without memory for its name a hook is none; all else is needed. */
		assert_true(h == NULL || n == 0);
		if (h != NULL)
			hooks_kill(h);
	}
	strdup_fails_in = UINT_MAX;
	assert_int_equal(n, 6); /* hook, folder, phase, request, two of the environment */
	hooks_kill(h);
}

static int
group_setup(void **state)
{
	signal(SIGPIPE, SIG_IGN); /* as xpv_signals_listen() */
	base = event_base_new();
	return base != NULL && mkdtemp(dir) != NULL ? 0 : -1;
}

static int
group_teardown(void **state)
{
	char command[256];

	event_base_free(base);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_command, empty),
	    cmocka_unit_test_setup(test_command_says_much, empty),
	    cmocka_unit_test_setup(test_command_is_missing, empty),
	    cmocka_unit_test_setup(test_command_hangs, empty),
	    cmocka_unit_test_setup(test_command_leaves_a_child, empty),
	    cmocka_unit_test_setup(test_command_is_left, empty),
	    cmocka_unit_test_setup(test_command_is_killed, empty),
	    cmocka_unit_test_setup(test_command_does_not_die, empty),
	    cmocka_unit_test_setup(test_which_are_hooks, empty),
	    cmocka_unit_test_setup(test_hooks_run_in_order, empty),
	    cmocka_unit_test_setup(test_no_hooks, empty),
	    cmocka_unit_test_setup(test_out_of_memory, empty),
	};

	return cmocka_run_group_tests_name("control_hooks", tests, group_setup, group_teardown);
}
