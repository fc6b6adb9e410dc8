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
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "door.h"

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
int __real_shutdown(int fd, int how);
int __wrap_shutdown(int fd, int how);

static char dir[] = "/tmp/xenpv-door-XXXXXX";
static struct event_base *base;
static enum door_answer answer;
static unsigned taken;

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

/* As on FreeBSD: what has come and was not read is gone. */
int
__wrap_shutdown(int fd, int how)
{
	char text[64];

	while (recv(fd, text, sizeof(text), MSG_DONTWAIT) > 0)
		continue;
	return __real_shutdown(fd, how);
}

static enum door_answer
on_ask(enum request request, void *arg)
{
	return answer;
}

static void
on_take(enum request request, void *arg)
{
	assert_int_equal(request, REQUEST_POWEROFF);
	taken++;
}

static const struct door_ops ops = {.ask = on_ask, .take = on_take};

/* The status of a helper in a process of its own, beside the daemon's loop. */
static int
knock(const char *request, char *const instead[], bool daemon_is_there)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(door_knock(request, dir, instead));
	while (waitpid(pid, &status, daemon_is_there ? WNOHANG : 0) == 0) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		usleep(1000);
	}
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void
test_answers(void **state)
{
	char *const nothing[] = {NULL};
	char *const instead[] = {"/bin/sh", "-c", "exit 42", NULL};
	struct door *door = door_open(base, dir, &ops, NULL);

	assert_non_null(door);
	answer = DOOR_TAKEN;
	assert_int_equal(knock("poweroff", instead, true), EX_OK);
	assert_int_equal(taken, 1);
	answer = DOOR_REFUSED;
	assert_int_equal(knock("poweroff", instead, true), EX_NOPERM);
	assert_int_equal(knock("tea", instead, true), EX_NOPERM);
	assert_int_equal(taken, 1);
	/* One that does not answer, until it is too late. */
	answer = DOOR_TAKEN;
	assert_int_equal(knock("poweroff", instead, false), 42);
	event_base_loop(base, EVLOOP_NONBLOCK);
	event_base_loop(base, EVLOOP_NONBLOCK);
	assert_int_equal(taken, 1);
	door_close(door);
	assert_int_equal(knock("poweroff", instead, true), 42);
	assert_int_equal(knock("poweroff", nothing, true), EX_UNAVAILABLE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_answers),
	};
	int failed;

	base = event_base_new();
	if (base == NULL || mkdtemp(dir) == NULL)
		return EXIT_FAILURE;
	failed = cmocka_run_group_tests_name("control_door", tests, NULL, NULL);
	event_base_free(base);
	rmdir(dir);
	return failed;
}
