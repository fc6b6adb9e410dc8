/* SPDX-License-Identifier: BSD-2-Clause */
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/supervisor.h>

#define KILL_AFTER_S 3	/* from "end" to the end */
#define GIVE_UP_S    2	/* ... and from there on, for one that sleeps in the kernel */
#define AFTERWARDS_S 10 /* for the daemon to end when it was the last one */
#define LINE_BYTES   512
#define LINES_MAX    100 /* of one command in the log */

struct command {
	char name[64];
	pid_t pid; /* its group's number too */
	int output;
	bool late, killed;
	command_ended *ended; /* NULL: nobody waits, it only has to be reaped */
	void *arg;
	struct event *readable, *child, *timer;
	char line[LINE_BYTES];
	size_t length;
	unsigned lines;
	LIST_ENTRY(command) entry; /* of those that nobody waits for */
};

static LIST_HEAD(, command) dying = LIST_HEAD_INITIALIZER(dying);

/* ---- output ---- */

static void
flush_line(struct command *c)
{
	if (c->length == 0)
		return;
	if (c->lines++ < LINES_MAX)
		xpv_notice("%s: %.*s", c->name, (int)c->length, c->line);
	else if (c->lines == LINES_MAX + 1)
		xpv_notice("%s: (what it says from now on is not shown)", c->name);
	c->length = 0;
}

static void
take_output(struct command *c, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '\n')
			c->line[c->length++] = bytes[i];
		if (bytes[i] == '\n' || c->length == sizeof(c->line))
			flush_line(c);
	}
}

/* False when there is no more, for now or for good. */
static bool
read_output(struct command *c)
{
	char bytes[4096];
	ssize_t n = read(c->output, bytes, sizeof(bytes));

	if (n > 0)
		take_output(c, bytes, (size_t)n);
	else if (n == 0)
		event_del(c->readable);
	return n > 0;
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	read_output(arg);
}

/* ---- the end ---- */

/* No more of its output, and no limit. */
static void
let_go(struct command *c)
{
	if (c->readable != NULL)
		event_free(c->readable);
	if (c->timer != NULL)
		event_free(c->timer);
	if (c->output >= 0)
		close(c->output);
	c->readable = c->timer = NULL;
	c->output = -1;
}

static void
forget(struct command *c)
{
	let_go(c);
	if (c->child != NULL)
		event_free(c->child);
	free(c);
}

/* What sleeps in the kernel, on a dead disk say, dies when it wakes up: nobody is to wait for that.
 */
static void
leave_dying(struct command *c)
{
	let_go(c);
	c->ended = NULL;
	LIST_INSERT_HEAD(&dying, c, entry);
}

static bool
has_ended(const struct command *c)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == c->pid;
}

/* As long as it is not reaped, the number of its group is nobody else's. */
static int
reap(const struct command *c)
{
	int status = 0;

	if (c->late)
		kill(-c->pid, SIGKILL);
	while (waitpid(c->pid, &status, 0) == -1 && errno == EINTR)
		continue;
	return status;
}

static enum command_end
how_it_ended(const struct command *c, int status, char *text, size_t size)
{
	if (c->late)
		snprintf(text, size, "ended because it took too long");
	else if (WIFSIGNALED(status))
		snprintf(text, size, "killed by signal %d", WTERMSIG(status));
	else
		snprintf(text, size, "status %d", WEXITSTATUS(status));
	if (c->late)
		return COMMAND_TIMED_OUT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? COMMAND_OK : COMMAND_FAILED;
}

static void
on_child(evutil_socket_t fd, short what, void *arg)
{
	struct command *c = arg;
	command_ended *ended = c->ended;
	void *ended_arg = c->arg;
	enum command_end end;
	char text[64];
	int status;

	if (!has_ended(c))
		return;
	status = reap(c);
	if (ended == NULL) {
		LIST_REMOVE(c, entry);
		forget(c);
		return;
	}
	/* A bounded part of what is left: others may go on writing. */
	for (unsigned i = 0; i < LINES_MAX && read_output(c); i++)
		continue;
	flush_line(c);
	end = how_it_ended(c, status, text, sizeof(text));
	forget(c);
	ended(end, text, ended_arg);
}

static void
give_up(struct command *c)
{
	command_ended *ended = c->ended;

	flush_line(c);
	leave_dying(c);
	ended(COMMAND_TIMED_OUT, "does not end", c->arg);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval grace = {.tv_sec = KILL_AFTER_S}, last = {.tv_sec = GIVE_UP_S};
	struct command *c = arg;

	if (c->killed) {
		give_up(c);
	} else if (c->late) {
		c->killed = true;
		kill(-c->pid, SIGKILL);
		event_add(c->timer, &last);
	} else {
		xpv_warning("%s: takes too long: ended", c->name);
		c->late = true;
		kill(-c->pid, SIGTERM);
		event_add(c->timer, &grace);
	}
}

void
command_kill(struct command *c)
{
	c->late = true;
	kill(-c->pid, SIGKILL);
	leave_dying(c);
}

void
command_leave(struct command *c)
{
	forget(c);
}

/* ---- the start ---- */

static bool
prepare_events(struct command *c, struct event_base *base, unsigned timeout_ms)
{
	struct timeval timeout = {
	    .tv_sec = timeout_ms / 1000, .tv_usec = (long)(timeout_ms % 1000) * 1000};

	c->readable = event_new(base, c->output, EV_READ | EV_PERSIST, on_readable, c);
	c->child = evsignal_new(base, SIGCHLD, on_child, c);
	c->timer = evtimer_new(base, on_timer, c);
	return c->readable != NULL && c->child != NULL && c->timer != NULL &&
	       event_add(c->readable, NULL) == 0 && event_add(c->child, NULL) == 0 &&
	       event_add(c->timer, &timeout) == 0;
}

static int
spawn(struct command *c, char *const argv[], char *const env[], int output)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t all, none;
	int error;

	sigfillset(&all);
	sigdelset(&all, SIGKILL); /* FreeBSD takes these two for a mistake */
	sigdelset(&all, SIGSTOP);
	/* Ignored, as by us: what outlives this daemon is to survive its next line, too. */
	sigdelset(&all, SIGPIPE);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, output, STDERR_FILENO);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(
	    &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	error = posix_spawn(&c->pid, argv[0], &files, &attributes, argv, env);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&files);
	return error;
}

/* The end that the command gets is not one of the first three, which a daemon may have closed: what
 * posix_spawn() puts there would not be passed on. */
static int
make_pipe(int fds[2])
{
	int writer;

	if (pipe2(fds, O_CLOEXEC) != 0)
		return -1;
	writer = fcntl(fds[1], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fds[1]);
	fds[1] = writer;
	if (writer >= 0 && fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0)
		return 0;
	close(fds[0]);
	return -1;
}

void
command_announce(unsigned timeout_ms)
{
	xpv_notify_extend(timeout_ms + 1000 * (KILL_AFTER_S + GIVE_UP_S + AFTERWARDS_S));
}

struct command *
command_start(struct event_base *base, const char *name, char *const argv[], char *const env[],
    unsigned timeout_ms, command_ended *ended, void *arg)
{
	struct command *c = calloc(1, sizeof(*c));
	int fds[2], error;

	if (c == NULL || make_pipe(fds) != 0) {
		xpv_err("%s: cannot run: %s", name, strerror(errno));
		free(c);
		return NULL;
	}
	c->output = fds[0];
	c->ended = ended;
	c->arg = arg;
	snprintf(c->name, sizeof(c->name), "%s", name);
	/* Before the process: it may end at once. */
	error = prepare_events(c, base, timeout_ms) ? spawn(c, argv, env, fds[1]) : ENOMEM;
	close(fds[1]);
	if (error == 0) {
		command_announce(timeout_ms);
		return c;
	}
	xpv_err("%s: cannot run %s: %s", name, argv[0], strerror(error));
	forget(c);
	return NULL;
}
