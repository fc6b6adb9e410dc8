/* SPDX-License-Identifier: BSD-2-Clause */
/* Real processes: each test forks workers and sees what the supervisor makes of their ends. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "build_config.h"
#include "xenpv/shared.h"
#include "xenpv/supervisor.h"

#define PATIENCE_S 20

/* --- functions of the system that fail when told to --- */

static bool no_close_range;
static unsigned failing_forks;

int __real_close_range(unsigned first, unsigned last, int flags);
int __wrap_close_range(unsigned first, unsigned last, int flags);
pid_t __real_fork(void);
pid_t __wrap_fork(void);

int
__wrap_close_range(unsigned first, unsigned last, int flags)
{
	if (!no_close_range)
		return __real_close_range(first, last, flags);
	errno = ENOSYS;
	return -1;
}

pid_t
__wrap_fork(void)
{
	if (failing_forks == 0)
		return __real_fork();
	failing_forks--;
	errno = EAGAIN;
	return -1;
}

/* --- one supervised worker and what was seen of it --- */

struct scene {
	struct event_base *base;
	struct xpv_worker *w;
	int (*child)(struct scene *s, int channel, struct event_base *base);

	unsigned prepared;
	uint64_t prepared_at[64];
	unsigned refuse_at; /* this call of prepare fails */

	unsigned exits, restarts_told;
	enum xpv_worker_exit code;
	bool crashed, restarting;
	char reason[64];

	unsigned messages, messages_at_exit;
	uint32_t type;
	char data[XPV_MESSAGE_MAX];
	size_t length;
	int fd;

	/* what a callback does */
	bool free_in_prepare, free_in_message, free_in_exited, stop_in_exited, start_in_exited;

	int fds[100]; /* for the child */
	pid_t supervisor;
	unsigned *shared;
};

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int
run_main(struct event_base *base, int channel, void *arg)
{
	struct scene *s = arg;

	alarm(2 * PATIENCE_S); /* a failed test leaves no process */
	return s->child(s, channel, base);
}

static int
on_prepare(void *arg)
{
	struct scene *s = arg;

	s->prepared_at[s->prepared++ % 64] = now_ms();
	if (s->free_in_prepare) {
		xpv_worker_free(s->w);
		s->w = NULL;
	}
	return s->prepared == s->refuse_at ? -1 : 0;
}

static void
on_message(uint32_t type, const void *data, size_t length, int fd, void *arg)
{
	struct scene *s = arg;

	s->messages++;
	s->type = type;
	memcpy(s->data, data, length);
	s->length = length;
	if (s->fd != -1)
		close(s->fd);
	s->fd = fd;
	if (s->free_in_message) {
		xpv_worker_free(s->w);
		s->w = NULL;
	}
}

static void
on_exited(enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason, void *arg)
{
	struct scene *s = arg;

	s->exits++;
	s->restarts_told += restarting;
	s->code = code;
	s->crashed = crashed;
	s->restarting = restarting;
	s->messages_at_exit = s->messages;
	snprintf(s->reason, sizeof(s->reason), "%s", reason);
	if (s->free_in_exited) {
		xpv_worker_free(s->w);
		s->w = NULL;
	}
	if (s->stop_in_exited)
		xpv_worker_stop(s->w, 1000);
	if (s->start_in_exited) {
		s->start_in_exited = false;
		assert_int_equal(xpv_worker_start(s->w), 0);
	}
}

static const struct xpv_worker_ops ops = {
    .main = run_main,
    .prepare = on_prepare,
    .message = on_message,
    .exited = on_exited,
};

static const struct xpv_worker_policy once = {.max_crashes = 1, .window_s = 60};

static void
begin(struct scene *s, const struct xpv_worker_policy *policy,
    int (*child)(struct scene *, int, struct event_base *))
{
	struct event_base *base = s->base;

	*s = (struct scene){.base = base, .child = child, .fd = -1, .supervisor = getpid()};
	s->w = xpv_worker_new(s->base, "test", &ops, policy, NULL, s);
	assert_non_null(s->w);
}

static void
end(struct scene *s)
{
	xpv_worker_free(s->w);
	s->w = NULL;
	if (s->fd != -1)
		close(s->fd);
	s->fd = -1;
}

/* Turns the loop until *counter has reached the value. */
static void
await(struct scene *s, const unsigned *counter, unsigned value)
{
	uint64_t end_ms = now_ms() + PATIENCE_S * 1000;
	struct timeval tick = {.tv_usec = 100000};

	while (*counter < value) {
		assert_true(now_ms() < end_ms);
		event_base_loopexit(s->base, &tick);
		event_base_loop(s->base, EVLOOP_ONCE);
	}
}

static void
turn_for(struct scene *s, unsigned ms)
{
	uint64_t end_ms = now_ms() + ms;
	struct timeval tick = {.tv_usec = 10000};

	while (now_ms() < end_ms) {
		event_base_loopexit(s->base, &tick);
		event_base_loop(s->base, EVLOOP_ONCE);
	}
}

/* --- what children do --- */

/* Waits for a message. 1 or -1. */
static int
child_receive(int channel, uint32_t *type, void *data, size_t *length, int *fd)
{
	int rc;

	while ((rc = xpv_channel_receive(channel, type, data, length, fd)) == 0)
		usleep(1000);
	return rc;
}

static int
exit_done(struct scene *s, int channel, struct event_base *base)
{
	return XPV_EXIT_DONE;
}

static int
exit_again(struct scene *s, int channel, struct event_base *base)
{
	return XPV_EXIT_AGAIN;
}

static int
exit_refused(struct scene *s, int channel, struct event_base *base)
{
	return XPV_EXIT_REFUSED;
}

static int
crash(struct scene *s, int channel, struct event_base *base)
{
	kill(getpid(), SIGUSR1);
	return 0;
}

static int
exit_strange(struct scene *s, int channel, struct event_base *base)
{
	return 3;
}

static int
live(struct scene *s, int channel, struct event_base *base)
{
	xpv_channel_send(channel, 1, "up", 2, -1);
	while (pause() == -1)
		continue;
	return 1;
}

static void
break_loop(evutil_socket_t fd, short what, void *arg)
{
	event_base_loopbreak(arg);
}

static bool libevent_complained;

static void
note_complaint(int severity, const char *message)
{
	libevent_complained = true;
}

/* As drivers do: a signal event in its own base. */
static int
obey_sigterm(struct scene *s, int channel, struct event_base *base)
{
	event_set_log_callback(note_complaint);
	event_add(evsignal_new(base, SIGTERM, break_loop, base), NULL);
	xpv_channel_send(channel, 1, "up", 2, -1);
	event_base_dispatch(base);
	return libevent_complained ? 1 : XPV_EXIT_DONE;
}

static int
ignore_sigterm(struct scene *s, int channel, struct event_base *base)
{
	signal(SIGTERM, SIG_IGN);
	return live(s, channel, base);
}

static int
echo(struct scene *s, int channel, struct event_base *base)
{
	char data[XPV_MESSAGE_MAX];
	uint32_t type;
	size_t length;
	int fd;

	for (;;) {
		length = sizeof(data);
		if (child_receive(channel, &type, data, &length, &fd) == -1)
			return errno == EPIPE ? XPV_EXIT_DONE : 1;
		if (xpv_channel_send(channel, type + 1, data, length, fd) != 0)
			return 2;
		if (fd != -1)
			close(fd);
	}
}

/* --- ends --- */

static void
test_exit_codes(void **state)
{
	static const struct {
		int (*child)(struct scene *, int, struct event_base *);
		enum xpv_worker_exit code;
		bool crashed;
		const char *reason;
	} ends[] = {
	    {exit_done, XPV_EXIT_DONE, false, "exit 0"},
	    {exit_refused, XPV_EXIT_REFUSED, false, "exit 76"},
	    {exit_strange, 3, true, "exit 3"},
	    {crash, 0, true, "killed by signal 10"},
	};
	struct scene *s = *state;

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		begin(s, &once, ends[i].child);
		assert_false(xpv_worker_running(s->w));
		assert_int_equal(xpv_worker_start(s->w), 0);
		assert_true(xpv_worker_running(s->w));
		assert_true(xpv_worker_pid(s->w) > 0);
		assert_int_equal(xpv_worker_start(s->w), -1);
		assert_int_equal(errno, EBUSY);
		await(s, &s->exits, 1);
		assert_false(xpv_worker_running(s->w));
		assert_int_equal(xpv_worker_pid(s->w), 0);
		assert_string_equal(s->reason, ends[i].reason);
		assert_int_equal(s->crashed, ends[i].crashed);
		if (!s->crashed)
			assert_int_equal(s->code, ends[i].code);
		assert_false(s->restarting);
		turn_for(s, 50);
		assert_int_equal(s->prepared, 1);
		end(s);
	}
}

static void
test_crashes_back_off_and_give_up(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .max_crashes = 5, .window_s = 60, .delay_min_ms = 100, .delay_max_ms = 150};
	struct scene *s = *state;
	const uint64_t *at = s->prepared_at;

	begin(s, &policy, crash);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 5);
	assert_false(s->restarting);
	assert_true(s->crashed);
	assert_int_equal(s->restarts_told, 4);
	assert_int_equal(s->prepared, 5);
	assert_int_equal(xpv_worker_restarts(s->w), 4);
	assert_true(at[2] - at[1] >= 95);
	assert_true(at[3] - at[2] >= 145);
	assert_true(at[4] - at[3] >= 145);
	turn_for(s, 300);
	assert_int_equal(s->prepared, 5);

	/* The operator tries again: a clean record. */
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 6);
	assert_true(s->restarting);
	end(s);
}

static void
test_first_restart_is_at_once(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .delay_min_ms = 60000, .delay_max_ms = 60000};
	struct scene *s = *state;

	begin(s, &policy, crash);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_int_equal(s->prepared, 2);
	assert_true(s->restarting);
	end(s);
}

/* Crashes once at once and then always after more than the window. */
static int
crash_slowly(struct scene *s, int channel, struct event_base *base)
{
	if (s->prepared > 1)
		usleep(1100000);
	abort();
}

static void
test_old_crashes_are_forgotten(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .max_crashes = 2, .window_s = 1, .delay_min_ms = 60000, .delay_max_ms = 60000};
	struct scene *s = *state;

	begin(s, &policy, crash_slowly);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 3);
	assert_true(s->restarting);
	assert_string_equal(s->reason, "killed by signal 6");
	end(s);
}

static void
test_again_restarts_at_once_within_reason(void **state)
{
	static const struct xpv_worker_policy long_delay = {
	    .max_crashes = 2, .window_s = 60, .delay_min_ms = 60000, .delay_max_ms = 60000};
	static const struct xpv_worker_policy policy = {
	    .max_crashes = 2, .window_s = 60, .delay_min_ms = 600, .delay_max_ms = 600};
	struct scene *s = *state;
	const uint64_t *at = s->prepared_at;

	/* 20 restarts at once: with a delay, none of them would come in time ... */
	begin(s, &long_delay, exit_again);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 21);
	assert_int_equal(s->prepared, 21);
	assert_true(s->restarting);
	turn_for(s, 500);
	assert_int_equal(s->prepared, 21);
	end(s);

	/* ... and the next one after the longest delay. */
	begin(s, &policy, exit_again);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->prepared, 22);
	assert_int_equal(s->restarts_told, 21);
	assert_int_equal(s->code, XPV_EXIT_AGAIN);
	assert_false(s->crashed);
	assert_true(at[21] - at[20] >= 595);
	end(s);
}

static void
test_prepare_refuses(void **state)
{
	static const struct xpv_worker_policy policy = {0};
	struct scene *s = *state;

	begin(s, &policy, crash);
	s->refuse_at = 1;
	assert_int_equal(xpv_worker_start(s->w), -1);
	turn_for(s, 20);
	assert_int_equal(s->exits, 0);
	assert_false(xpv_worker_running(s->w));

	s->refuse_at = 3;
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_int_equal(s->prepared, 3);
	assert_false(s->restarting);
	assert_true(s->crashed);
	turn_for(s, 20);
	assert_int_equal(s->exits, 2);
	end(s);
}

static int
killed_from_outside(struct scene *s, int channel, struct event_base *base)
{
	kill(getpid(), SIGKILL);
	return 0;
}

/* The OOM killer's or an administrator's SIGKILL says nothing about the worker. */
static void
test_sigkill_is_not_counted(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .max_crashes = 2, .window_s = 60, .delay_min_ms = 1000, .delay_max_ms = 5000};
	struct scene *s = *state;

	begin(s, &policy, killed_from_outside);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 10);
	assert_true(s->crashed);
	assert_true(s->restarting);
	end(s);
}

static void
test_fork_fails(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .max_crashes = 3, .window_s = 60, .delay_min_ms = 10, .delay_max_ms = 10};
	struct scene *s = *state;

	begin(s, &policy, crash);
	failing_forks = 1;
	assert_int_equal(xpv_worker_start(s->w), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(xpv_worker_start(s->w), 0);
	failing_forks = 1;
	await(s, &s->exits, 2);
	assert_non_null(strstr(s->reason, "no new process"));
	assert_true(s->restarting);
	await(s, &s->exits, 3);
	assert_string_equal(s->reason, "killed by signal 10");
	assert_false(s->restarting);
	end(s);
}

/* --- stop and free --- */

static void
test_stop_by_sigterm(void **state)
{
	struct scene *s = *state;

	begin(s, &once, obey_sigterm);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->messages, 1);
	xpv_worker_stop(s->w, 500);
	assert_true(xpv_worker_running(s->w));
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "exit 0");
	assert_false(s->crashed);
	assert_false(s->restarting);
	xpv_worker_stop(s->w, 10);

	/* The grace of the first life does not end the second one. */
	assert_int_equal(xpv_worker_start(s->w), 0);
	turn_for(s, 600);
	assert_true(xpv_worker_running(s->w));
	assert_int_equal(s->exits, 1);
	end(s);
}

static void
test_stop_unresponsive(void **state)
{
	struct scene *s = *state;

	begin(s, &once, ignore_sigterm);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->messages, 1);
	xpv_worker_stop(s->w, 100);
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "killed by signal 9");
	assert_true(s->crashed);
	assert_false(s->restarting);
	assert_int_equal(s->prepared, 1);
	end(s);
}

static void
count_signal(evutil_socket_t fd, short what, void *arg)
{
	++*(unsigned *)arg;
}

/* A signal to a child that still has our handlers must not reach our event loop. */
static void
test_stop_in_the_first_moment(void **state)
{
	struct scene *s = *state;
	unsigned ours = 0;
	struct event *sigterm = evsignal_new(s->base, SIGTERM, count_signal, &ours);

	event_add(sigterm, NULL);
	for (unsigned i = 0; i < 50; i++) {
		begin(s, &once, live);
		assert_int_equal(xpv_worker_start(s->w), 0);
		xpv_worker_stop(s->w, 10000);
		await(s, &s->exits, 1);
		assert_string_equal(s->reason, "killed by signal 15");
		assert_false(s->restarting);
		end(s);
	}
	turn_for(s, 20);
	assert_int_equal(ours, 0);
	raise(SIGTERM);
	await(s, &ours, 1);
	event_free(sigterm);
}

static void
test_stop_while_waiting(void **state)
{
	static const struct xpv_worker_policy policy = {
	    .delay_min_ms = 60000, .delay_max_ms = 60000};
	struct scene *s = *state;

	begin(s, &policy, crash);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_true(s->restarting);
	assert_int_equal(xpv_worker_start(s->w), -1);
	xpv_worker_stop(s->w, 10000);
	assert_int_equal(s->exits, 2); /* never from within stop */
	await(s, &s->exits, 3);
	assert_false(s->restarting);
	assert_false(s->crashed);
	assert_int_equal(s->code, XPV_EXIT_DONE);
	assert_int_equal(s->prepared, 2);
	end(s);

	begin(s, &policy, crash);
	s->stop_in_exited = true;
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_false(s->restarting);
	assert_int_equal(s->prepared, 1);
	end(s);
}

static void
test_start_again_in_exited(void **state)
{
	struct scene *s = *state;

	begin(s, &once, exit_done);
	s->start_in_exited = true;
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_int_equal(s->prepared, 2);
	end(s);
}

static void
test_free_while_running(void **state)
{
	struct scene *s = *state;
	pid_t pid;

	begin(s, &once, ignore_sigterm);
	assert_int_equal(xpv_worker_start(s->w), 0);
	pid = xpv_worker_pid(s->w);
	end(s);
	assert_int_equal(kill(pid, 0), -1);
	turn_for(s, 20);
	assert_int_equal(s->exits, 0);
	xpv_worker_free(NULL);
}

/* Two messages and the end come in one turn of the loop. */
static int
send_two(struct scene *s, int channel, struct event_base *base)
{
	xpv_channel_send(channel, 1, "a", 1, -1);
	xpv_channel_send(channel, 2, "b", 1, -1);
	return XPV_EXIT_DONE;
}

static void
test_free_in_callbacks(void **state)
{
	static const struct xpv_worker_policy policy = {0};
	struct scene *s = *state;

	begin(s, &policy, crash);
	s->free_in_exited = true;
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 1);
	assert_null(s->w);

	begin(s, &policy, crash);
	s->free_in_prepare = true;
	assert_int_equal(xpv_worker_start(s->w), -1);
	assert_null(s->w);

	for (unsigned late = 0; late < 2; late++) {
		begin(s, &policy, send_two);
		s->free_in_message = true;
		assert_int_equal(xpv_worker_start(s->w), 0);
		if (late)
			usleep(50000);
		await(s, &s->messages, 1);
		turn_for(s, 20);
		assert_null(s->w);
		assert_int_equal(s->messages, 1);
		assert_int_equal(s->exits, 0);
	}
}

static void
test_other_children_are_left_alone(void **state)
{
	struct scene *s = *state, other = {.base = s->base};
	int status;
	pid_t pid;

	begin(s, &once, exit_refused);
	begin(&other, &once, exit_done);
	pid = fork();
	if (pid == 0)
		_exit(7);
	assert_int_equal(xpv_worker_start(s->w), 0);
	assert_int_equal(xpv_worker_start(other.w), 0);
	usleep(50000); /* one SIGCHLD for all */
	await(s, &s->exits, 1);
	await(s, &other.exits, 1);
	assert_string_equal(s->reason, "exit 76");
	assert_string_equal(other.reason, "exit 0");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	end(s);
	end(&other);
}

/* --- messages --- */

static void
test_messages(void **state)
{
	struct scene *s = *state;
	char data[XPV_MESSAGE_MAX + 1];

	memset(data, 'x', sizeof(data));
	begin(s, &once, echo);
	assert_int_equal(xpv_worker_send(s->w, 1, "a", 1, -1), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(xpv_worker_start(s->w), 0);

	assert_int_equal(xpv_worker_send(s->w, 10, "hello", 5, -1), 0);
	await(s, &s->messages, 1);
	assert_int_equal(s->type, 11);
	assert_int_equal(s->length, 5);
	assert_memory_equal(s->data, "hello", 5);
	assert_int_equal(s->fd, -1);

	assert_int_equal(xpv_worker_send(s->w, 20, NULL, 0, -1), 0);
	await(s, &s->messages, 2);
	assert_int_equal(s->type, 21);
	assert_int_equal(s->length, 0);

	assert_int_equal(xpv_worker_send(s->w, 30, data, XPV_MESSAGE_MAX, -1), 0);
	await(s, &s->messages, 3);
	assert_int_equal(s->length, XPV_MESSAGE_MAX);
	assert_memory_equal(s->data, data, XPV_MESSAGE_MAX);

	assert_int_equal(xpv_worker_send(s->w, 40, data, XPV_MESSAGE_MAX + 1, -1), -1);
	assert_int_equal(errno, EMSGSIZE);
	end(s);
}

static void
test_message_with_descriptor(void **state)
{
	struct scene *s = *state;
	int ends[2];
	char byte;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	begin(s, &once, echo);
	assert_int_equal(xpv_worker_start(s->w), 0);
	assert_int_equal(xpv_worker_send(s->w, 1, "fd", 2, ends[1]), 0);
	close(ends[1]); /* the message holds it */
	await(s, &s->messages, 1);
	assert_true(s->fd > 2);
	assert_int_equal(fcntl(s->fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(write(s->fd, "!", 1), 1);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	assert_int_equal(byte, '!');
	close(ends[0]);
	end(s);
}

static int
send_many(struct scene *s, int channel, struct event_base *base)
{
	struct pollfd unread = {.fd = channel, .events = POLLIN};

	for (uint32_t i = 1; i <= 50; i++)
		if (xpv_channel_send(channel, i, &i, sizeof(i), -1) != 0)
			return 1;
	return poll(&unread, 1, -1) == 1 ? XPV_EXIT_DONE : 2;
}

static void
test_last_messages_come_before_the_end(void **state)
{
	struct scene *s = *state;
	siginfo_t info;

	begin(s, &once, send_many);
	assert_int_equal(xpv_worker_start(s->w), 0);
	/* It dies with a message of ours unread, which resets the connection. */
	assert_int_equal(xpv_worker_send(s->w, 1, "unread", 6, -1), 0);
	assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "exit 0");
	assert_int_equal(s->messages_at_exit, 50);
	assert_int_equal(s->type, 50);
	end(s);
}

static void
test_send_does_not_block(void **state)
{
	struct scene *s = *state;
	char data[XPV_MESSAGE_MAX] = {0};
	unsigned sent = 0;

	begin(s, &once, live);
	assert_int_equal(xpv_worker_start(s->w), 0);
	while (xpv_worker_send(s->w, 1, data, sizeof(data), -1) == 0)
		assert_true(++sent < 100000);
	assert_int_equal(errno, EAGAIN);
	end(s);
}

/* --- a worker that was taken over --- */

static int
send_raw(int channel, size_t length, unsigned fds)
{
	static char data[XPV_MESSAGE_MAX + 100];
	struct iovec part = {data, length};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(3 * sizeof(int))];
	} control = {.space = {0}};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fds > 0) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fds * sizeof(int));
		memset(CMSG_DATA(&control.header), 0, fds * sizeof(int));
	}
	return sendmsg(channel, &message, 0) == -1 ? -1 : 0;
}

static int
send_oversize(struct scene *s, int channel, struct event_base *base)
{
	send_raw(channel, sizeof(uint32_t) + XPV_MESSAGE_MAX + 1, 0);
	return live(s, channel, base);
}

static int
send_runt(struct scene *s, int channel, struct event_base *base)
{
	send_raw(channel, 2, 1);
	return live(s, channel, base);
}

static int
send_two_fds(struct scene *s, int channel, struct event_base *base)
{
	send_raw(channel, 8, 2);
	return live(s, channel, base);
}

static int
send_three_fds(struct scene *s, int channel, struct event_base *base)
{
	send_raw(channel, 8, 3);
	return live(s, channel, base);
}

/* Descriptors this process has open. */
static unsigned
count_fds(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) != -1;
	return count;
}

static void
test_bad_messages_kill(void **state)
{
	static int (*const children[])(struct scene *, int, struct event_base *) = {
	    send_oversize, send_runt, send_two_fds, send_three_fds};
	struct scene *s = *state;
	unsigned fds = count_fds();

	for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++) {
		begin(s, &once, children[i]);
		assert_int_equal(xpv_worker_start(s->w), 0);
		await(s, &s->exits, 1);
		assert_string_equal(s->reason, "killed by signal 9");
		assert_int_equal(s->messages, 0);
		end(s);
		assert_int_equal(count_fds(), fds);
	}
}

static int
send_nothing_then_data(struct scene *s, int channel, struct event_base *base)
{
	send_raw(channel, 0, 1);
	send_raw(channel, 8, 0);
	usleep(50000);
	return XPV_EXIT_DONE;
}

/* An empty packet looks like the end of the channel: it is taken for that, no descriptor leaks. */
static void
test_empty_packet(void **state)
{
	struct scene *s = *state;
	unsigned fds = count_fds();

	begin(s, &once, send_nothing_then_data);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "exit 0");
	assert_int_equal(s->messages, 0);
	end(s);
	assert_int_equal(count_fds(), fds);
}

static void
test_receive(void **state)
{
	char data[4];
	size_t length = sizeof(data);
	unsigned fds = count_fds();
	uint32_t type;
	int pair[2], fd;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(xpv_channel_receive(pair[0], &type, data, &length, &fd), 0);

	assert_int_equal(xpv_channel_send(pair[1], 7, "12345", 5, pair[1]), 0);
	assert_int_equal(xpv_channel_receive(pair[0], &type, data, &length, &fd), -1);
	assert_int_equal(errno, EMSGSIZE);

	/* No one asked for a descriptor. */
	assert_int_equal(xpv_channel_send(pair[1], 7, "1234", 4, pair[1]), 0);
	assert_int_equal(xpv_channel_receive(pair[0], &type, data, &length, NULL), 1);
	assert_int_equal(length, 4);
	assert_int_equal(type, 7);
	assert_int_equal(count_fds(), fds + 2);

	close(pair[1]);
	assert_int_equal(xpv_channel_receive(pair[0], &type, data, &length, &fd), -1);
	assert_int_equal(errno, EPIPE);
	assert_int_equal(xpv_channel_send(pair[0], 7, "1", 1, -1), -1);
	assert_int_equal(errno, EPIPE);
	close(pair[0]);
}

/* --- what the child inherits --- */

/* Every third one was kept. */
static int
check_fds(struct scene *s, int channel, struct event_base *base)
{
	struct event_base *none;

	for (unsigned i = 0; i < 100; i++)
		if ((fcntl(s->fds[i], F_GETFD) != -1) != (i % 3 == 0 && i > 0))
			return 10;
	if (fcntl(channel, F_GETFD) == -1 || fcntl(2, F_GETFD) == -1)
		return 11;
	/* Nothing else is left: 3 + 33 + channel, and what a new base has. */
	event_base_free(base);
	if (count_fds() != 3 + 33 + 1)
		return 12;
	none = event_base_new();
	return none == NULL ? 13 : XPV_EXIT_DONE;
}

static void
test_descriptors(void **state)
{
	struct scene *s = *state;

	for (unsigned fallback = 0; fallback < 2; fallback++) {
		begin(s, &once, check_fds);
		for (unsigned i = 0; i < 100; i++) {
			s->fds[i] = open("/dev/null", O_RDONLY);
			assert_true(s->fds[i] > 2);
		}
		for (int i = 99; i >= 0; i--) /* any order */
			if (i % 3 == 0)
				xpv_worker_keep_fd(s->w, s->fds[i]);
		xpv_worker_keep_fd(s->w, s->fds[3]);
		xpv_worker_keep_fd(s->w, -1);
		xpv_worker_drop_fd(s->w, s->fds[0]);
		xpv_worker_drop_fd(s->w, s->fds[1]);
		no_close_range = fallback;
		assert_int_equal(xpv_worker_start(s->w), 0);
		no_close_range = false;
		await(s, &s->exits, 1);
		assert_string_equal(s->reason, "exit 0");
		for (unsigned i = 0; i < 100; i++)
			close(s->fds[i]);
		end(s);
	}
}

static int
check_signals(struct scene *s, int channel, struct event_base *base)
{
	struct sigaction action;
	sigset_t mask;

	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int number = 1; number < 32; number++) {
		if (sigismember(&mask, number))
			return 10;
		if (sigaction(number, NULL, &action) != 0 ||
		    action.sa_handler != (number == SIGPIPE ? SIG_IGN : SIG_DFL))
			return 11;
	}
	if (getsid(0) != getpid() || getppid() != s->supervisor)
		return 12;
	return XPV_EXIT_DONE;
}

static void
test_signals_and_session(void **state)
{
	struct scene *s = *state;
	sigset_t usr1, before, after;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, &before);
	signal(SIGUSR2, SIG_IGN);
	begin(s, &once, check_signals);
	assert_int_equal(xpv_worker_start(s->w), 0);
	sigprocmask(SIG_SETMASK, NULL, &after);
	assert_true(sigismember(&after, SIGUSR1));
	assert_false(sigismember(&after, SIGTERM));
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "exit 0");
	signal(SIGUSR2, SIG_DFL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	end(s);
}

static void
count_byte(evutil_socket_t fd, short what, void *arg)
{
	char byte;

	if (read(fd, &byte, 1) == 1)
		++*(unsigned *)arg;
}

/* The child throws the supervisor's base away: of that nothing may show here. */
static void
test_supervisors_events_stay(void **state)
{
	struct scene *s = *state;
	unsigned bytes = 0;
	struct event *readable;
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	readable = event_new(s->base, ends[0], EV_READ | EV_PERSIST, count_byte, &bytes);
	event_add(readable, NULL);
	begin(s, &once, live);
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->messages, 1);
	assert_int_equal(write(ends[1], "x", 1), 1);
	await(s, &bytes, 1);
	end(s);
	event_free(readable);
	close(ends[0]);
	close(ends[1]);
}

/* The first life writes and crashes, the second one finds it. */
static int
remember(struct scene *s, int channel, struct event_base *base)
{
	if (++*s->shared == 1)
		abort();
	return XPV_EXIT_DONE;
}

static int
look_at_strangers(struct scene *s, int channel, struct event_base *base)
{
	++*s->shared;
	return 1;
}

static void
test_shared_memory(void **state)
{
	static const struct xpv_worker_policy policy = {.max_crashes = 3, .window_s = 60};
	struct xpv_shared *set = xpv_shared_new(), *strange = xpv_shared_new();
	struct scene *s = *state;
	unsigned *memory = xpv_shared_alloc(set, sizeof(*memory));

	begin(s, &policy, remember);
	xpv_worker_free(s->w);
	s->w = xpv_worker_new(s->base, "test", &ops, &policy, set, s);
	s->shared = memory;
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 2);
	assert_string_equal(s->reason, "exit 0");
	assert_int_equal(*memory, 2);
	end(s);

	/* And the worker of another device does not, though it was exposed before. */
	begin(s, &once, look_at_strangers);
	xpv_worker_free(s->w);
	s->w = xpv_worker_new(s->base, "test", &ops, &once, strange, s);
	s->shared = memory;
	assert_non_null(xpv_shared_alloc(strange, sizeof(*memory)));
	assert_int_equal(xpv_worker_start(s->w), 0);
	await(s, &s->exits, 1);
	assert_string_equal(s->reason, "killed by signal 11");
	assert_int_equal(*memory, 2);
	end(s);
	xpv_shared_free(set);
	xpv_shared_free(strange);
}

/* --- the supervisor's own death --- */

static int
outlive(struct scene *s, int channel, struct event_base *base)
{
	char data[16];
	size_t length = sizeof(data);
	uint32_t type;

	xpv_channel_send(channel, 1, "up", 2, -1);
	if (child_receive(channel, &type, data, &length, NULL) == -1 && errno == EPIPE &&
	    write(s->fds[0], "drained", 7) == 7)
		return XPV_EXIT_DONE;
	return 1;
}

static void
test_supervisor_dies(void **state)
{
	struct scene *s = *state;
	char word[8] = "";
	int ends[2];
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		s->base = event_base_new();
		begin(s, &once, outlive);
		s->fds[0] = ends[1];
		xpv_worker_keep_fd(s->w, ends[1]);
		if (xpv_worker_start(s->w) != 0)
			_exit(1);
		while (s->messages == 0)
			event_base_loop(s->base, EVLOOP_ONCE);
		kill(getpid(), SIGKILL);
	}
	close(ends[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(read(ends[0], word, sizeof(word)), 7);
	assert_string_equal(word, "drained");
	assert_int_equal(read(ends[0], word, sizeof(word)), 0); /* and is gone */
	close(ends[0]);
}

/* --- the service manager --- */

static void
test_notify(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char data[600];
	ssize_t got;
	int fd;

	if (!HAVE_SYSTEMD)
		skip();
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/xenpv-notify-%d", getpid());
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);

	xpv_notify_ready();
	got = recv(fd, data, sizeof(data), 0);
	assert_memory_equal(data, "READY=1", 7);
	assert_int_equal(got, 7);

	xpv_notify_status("%d devices\nMAINPID=1", 3);
	got = recv(fd, data, sizeof(data), 0);
	assert_int_equal(got, strlen("STATUS=3 devices MAINPID=1"));
	assert_memory_equal(data, "STATUS=3 devices MAINPID=1", (size_t)got);

	xpv_notify_stopping();
	got = recv(fd, data, sizeof(data), 0);
	assert_memory_equal(data, "STOPPING=1", 10);
	assert_int_equal(got, 10);

	unsetenv("NOTIFY_SOCKET");
	xpv_notify_ready();
	unlink(address.sun_path);
	close(fd);
}

static int
setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	s->base = event_base_new();
	s->fd = -1;
	*state = s;
	return 0;
}

static int
teardown(void **state)
{
	struct scene *s = *state;

	xpv_worker_free(s->w);
	event_base_free(s->base);
	free(s);
	return 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_exit_codes),
	    TEST(test_crashes_back_off_and_give_up),
	    TEST(test_first_restart_is_at_once),
	    TEST(test_old_crashes_are_forgotten),
	    TEST(test_again_restarts_at_once_within_reason),
	    TEST(test_prepare_refuses),
	    TEST(test_fork_fails),
	    TEST(test_sigkill_is_not_counted),
	    TEST(test_stop_by_sigterm),
	    TEST(test_stop_unresponsive),
	    TEST(test_stop_in_the_first_moment),
	    TEST(test_stop_while_waiting),
	    TEST(test_start_again_in_exited),
	    TEST(test_free_while_running),
	    TEST(test_free_in_callbacks),
	    TEST(test_other_children_are_left_alone),
	    TEST(test_messages),
	    TEST(test_message_with_descriptor),
	    TEST(test_last_messages_come_before_the_end),
	    TEST(test_send_does_not_block),
	    TEST(test_bad_messages_kill),
	    TEST(test_empty_packet),
	    TEST(test_receive),
	    TEST(test_descriptors),
	    TEST(test_signals_and_session),
	    TEST(test_supervisors_events_stay),
	    TEST(test_shared_memory),
	    TEST(test_supervisor_dies),
	    TEST(test_notify),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
