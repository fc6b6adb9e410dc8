/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/supervisor.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "build_config.h"
#include "process.h"
#include "xenpv/log.h"
#include "xenpv/loop.h"
#include "xenpv/shared.h"

#if HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define KEEP_MAX	64
#define MESSAGES_A_TURN 16 /* of one worker, before others have their turn */
#define CRASHES_KNOWN	32 /* without max_crashes: more than it takes to reach the longest delay */
#define AGAIN_MAX	20 /* XPV_EXIT_AGAIN more often than this ... */
#define AGAIN_WINDOW_MS 10000 /* ... in this time is a loop */

enum worker_state {
	IDLE,	 /* not started, or given up */
	RUNNING, /* there is a process */
	ENDING,	 /* the process is dead, its last messages are being delivered */
	WAITING, /* for the timer, to start or to report that it was stopped */
};

/* When something happened lately: a ring of times, the oldest forgotten. */
struct history {
	uint64_t *ms;
	unsigned size, used, next;
};

struct xpv_worker {
	struct event_base *base;
	char *name;
	const struct xpv_worker_ops *ops;
	void *arg;
	struct xpv_worker_policy policy;
	struct xpv_shared *shared;

	int keep[KEEP_MAX + 1]; /* ascending; one more for the child's channel */
	unsigned nkeep;

	enum worker_state state;
	bool stopping;
	bool condemned; /* killed by us for what it did */
	pid_t pid;
	int channel;		/* -1: none, or the worker is not listened to any more */
	struct event *readable; /* on channel */
	struct event *sigchld;
	struct event *timer; /* RUNNING: end of grace; WAITING: next start */

	struct history crashes, agains;
	unsigned restarts;

	unsigned busy; /* depth of callbacks we are in */
	bool freed;    /* by such a callback */
};

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int
history_init(struct history *h, unsigned size)
{
	h->ms = calloc(size, sizeof(*h->ms));
	h->size = size;
	return h->ms == NULL ? -1 : 0;
}

static void
history_clear(struct history *h)
{
	h->used = h->next = 0;
}

/* Adds now and counts what is within the window (0: all that is known). */
static unsigned
history_add(struct history *h, uint64_t window_ms)
{
	uint64_t now = now_ms();
	unsigned count = 0;

	h->ms[h->next] = now;
	h->next = (h->next + 1) % h->size;
	if (h->used < h->size)
		h->used++;
	for (unsigned i = 0; i < h->used; i++)
		if (window_ms == 0 || now - h->ms[i] <= window_ms)
			count++;
	return count;
}

/* A callback may free the worker: the memory stays until the outermost callback returned. */
static void
enter(struct xpv_worker *w)
{
	w->busy++;
}

/* False: the worker is no more. */
static bool
leave(struct xpv_worker *w)
{
	bool freed = w->freed;

	if (--w->busy == 0 && freed)
		free(w);
	return !freed;
}

static void
arm_timer(struct xpv_worker *w, unsigned ms)
{
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};

	event_add(w->timer, &t);
}

static void
close_channel(struct xpv_worker *w)
{
	if (w->readable != NULL)
		event_free(w->readable);
	w->readable = NULL;
	if (w->channel != -1)
		close(w->channel);
	w->channel = -1;
}

/* --- the child --- */

static void
keep(struct xpv_worker *w, int fd)
{
	unsigned at = w->nkeep++;

	for (; at > 0 && w->keep[at - 1] > fd; at--)
		w->keep[at] = w->keep[at - 1];
	w->keep[at] = fd;
}

static void
close_all_but_kept(const struct xpv_worker *w)
{
	int first = 3;

	for (unsigned i = 0; i < w->nkeep; i++) {
		xpv_process_close(first, w->keep[i] - 1);
		first = w->keep[i] + 1;
	}
	xpv_process_close(first, INT32_MAX);
}

static void
reset_signals(void)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		sigaction(number, &standard, NULL); /* fails for SIGKILL and its like */
	signal(SIGPIPE, SIG_IGN); /* or a log whose reader has gone would end worker after worker */
	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/* Signals are blocked: libevent's handlers, still installed, would tell them to the supervisor. */
static void __attribute__((noreturn)) run_child(struct xpv_worker *w, int channel)
{
	struct event_base *base;

	/* Closing descriptors is not enough to be rid of the supervisor's base: libevent's signal
	 * globals point to it. Freeing it as it is would take descriptors out of the epoll set we
	 * share with the supervisor, thus reinit first, which makes a set of our own. */
	if (event_reinit(w->base) == 0)
		event_base_free_nofinalize(w->base);
	closelog(); /* else syslog(3) later writes to whatever then has its descriptor's number */
	keep(w, channel);
	close_all_but_kept(w);
	if (xpv_shared_keep_only(w->shared) != 0)
		_exit(EXIT_FAILURE);
	reset_signals();
	setsid();
	xpv_process_name(w->name);
	xpv_log_device(w->name);

	base = xpv_loop_new();
	if (base == NULL) {
		xpv_err("can not make an event base: %s", strerror(errno));
		_exit(1);
	}
	_exit(w->ops->main(base, channel, w->arg));
}

/* --- start --- */

static void on_readable(evutil_socket_t fd, short what, void *arg);

static int
spawn(struct xpv_worker *w)
{
	sigset_t all, before;
	int pair[2], failed;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
		return -1;
	w->channel = pair[0];
	/* All that can fail comes before the fork. */
	w->readable = event_new(w->base, pair[0], EV_READ | EV_PERSIST, on_readable, w);
	if (w->readable == NULL || event_add(w->readable, NULL) != 0 ||
	    event_add(w->sigchld, NULL) != 0) {
		errno = ENOMEM;
		goto fail;
	}

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	w->pid = fork();
	if (w->pid == 0)
		run_child(w, pair[1]);
	failed = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = failed;
	if (w->pid == -1)
		goto fail;

	close(pair[1]);
	w->state = RUNNING;
	return 0;

fail:
	failed = errno;
	w->pid = 0;
	event_del(w->sigchld);
	close_channel(w);
	close(pair[1]);
	errno = failed;
	return -1;
}

enum started {
	STARTED, /* or stopped by "prepare", which the timer reports */
	REFUSED, /* by "prepare" */
	FAILED,	 /* no process; errno */
	FREED,	 /* by "prepare" */
};

static enum started
prepare_and_spawn(struct xpv_worker *w)
{
	int rc = 0, failed;

	w->state = WAITING;
	if (w->ops->prepare != NULL) {
		enter(w);
		errno = 0;
		rc = w->ops->prepare(w->arg);
		failed = errno;
		if (!leave(w))
			return FREED;
		errno = failed;
	}
	if (rc != 0)
		return REFUSED;
	if (w->stopping)
		return STARTED;
	return spawn(w) == 0 ? STARTED : FAILED;
}

int
xpv_worker_start(struct xpv_worker *w)
{
	enum started started;

	if (w->state != IDLE) {
		errno = EBUSY;
		return -1;
	}
	history_clear(&w->crashes);
	history_clear(&w->agains);
	w->stopping = false;
	started = prepare_and_spawn(w);
	if (started == STARTED)
		return 0;
	if (started != FREED) {
		event_del(w->timer);
		w->state = IDLE;
	}
	return -1;
}

/* --- end --- */

static void
report(struct xpv_worker *w, enum xpv_worker_exit code, bool crashed, const char *reason)
{
	if (w->ops->exited == NULL)
		return;
	enter(w);
	w->ops->exited(code, crashed, w->state == WAITING, reason, w->arg);
	leave(w);
}

static unsigned
backoff_ms(const struct xpv_worker_policy *policy, unsigned crashes)
{
	uint64_t delay = policy->delay_min_ms;

	if (crashes < 2)
		return 0;
	for (unsigned i = 2; i < crashes && delay < policy->delay_max_ms; i++)
		delay *= 2;
	return delay < policy->delay_max_ms ? (unsigned)delay : policy->delay_max_ms;
}

/* The process is gone, or could not be made: is there another one? */
static void
decide(struct xpv_worker *w, enum xpv_worker_exit code, bool crashed, bool own_fault,
    const char *reason)
{
	const struct xpv_worker_policy *policy = &w->policy;
	unsigned count, delay = 0;
	bool restart = false;

	if (w->stopping) {
		w->stopping = false;
	} else if (crashed && !own_fault) {
		restart = true;
	} else if (crashed) {
		count = history_add(&w->crashes, (uint64_t)policy->window_s * 1000);
		restart = policy->max_crashes == 0 || count < policy->max_crashes;
		delay = backoff_ms(policy, count);
		if (!restart)
			xpv_err("%s: given up after crash %u in %u s: %s", w->name, count,
			    policy->window_s, reason);
	} else if (code == XPV_EXIT_AGAIN) {
		restart = true;
		if (history_add(&w->agains, AGAIN_WINDOW_MS) > AGAIN_MAX)
			delay = policy->delay_max_ms;
	}

	w->state = restart ? WAITING : IDLE;
	if (restart) {
		xpv_debug("%s: %s, next start in %u ms", w->name, reason, delay);
		arm_timer(w, delay);
	}
	report(w, code, crashed, reason);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct xpv_worker *w = arg;
	char reason[64];

	if (w->state == RUNNING) {
		xpv_warning("%s: did not stop in time, killed", w->name);
		kill(w->pid, SIGKILL);
		return;
	}
	if (w->stopping) {
		w->stopping = false;
		w->state = IDLE;
		report(w, XPV_EXIT_DONE, false, "stopped");
		return;
	}
	w->restarts++;
	switch (prepare_and_spawn(w)) {
	case STARTED:
	case FREED:
		break;
	case REFUSED:
		event_del(w->timer);
		w->state = IDLE;
		w->stopping = false;
		report(w, XPV_EXIT_DONE, true, "the device could not be prepared");
		break;
	case FAILED:
		snprintf(reason, sizeof(reason), "no new process: %s", strerror(errno));
		decide(w, XPV_EXIT_DONE, true, true, reason);
		break;
	}
}

/* One message to the driver. 1: go on, 0: no more now, -1: the worker is no more, or not to be
 * listened to any more. */
static int
deliver(struct xpv_worker *w)
{
	_Alignas(max_align_t) char data[XPV_MESSAGE_MAX];
	size_t length = sizeof(data);
	uint32_t type;
	int fd, rc;

	rc = xpv_channel_receive(w->channel, &type, data, &length, &fd);
	if (rc == 0)
		return 0;
	if (rc == -1) {
		if (errno != EPIPE) {
			xpv_err("%s: bad message to the supervisor: %s", w->name, strerror(errno));
			w->condemned = true;
			if (w->pid != 0)
				kill(w->pid, SIGKILL);
		}
		close_channel(w);
		return -1;
	}
	if (w->ops->message == NULL) {
		if (fd != -1)
			close(fd);
		return 1;
	}
	enter(w);
	w->ops->message(type, data, length, fd, w->arg);
	return leave(w) ? 1 : -1;
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	for (unsigned i = 0; i < MESSAGES_A_TURN; i++)
		if (deliver(arg) != 1)
			return;
}

static void
on_sigchld(evutil_socket_t fd, short what, void *arg)
{
	struct xpv_worker *w = arg;
	enum xpv_worker_exit code = XPV_EXIT_DONE;
	bool crashed = true, own_fault = true;
	char reason[64];
	int status, rc;
	pid_t pid;

	if (w->pid == 0)
		return;
	/* Never -1: other children are other people's. */
	pid = waitpid(w->pid, &status, WNOHANG);
	if (pid == 0)
		return;

	/* The number is free now and may name a stranger: forget it before any callback. */
	w->pid = 0;
	w->state = ENDING;
	event_del(w->sigchld);
	event_del(w->timer);
	enter(w);
	do
		rc = w->channel != -1 ? deliver(w) : 0;
	while (rc == 1);
	if (!leave(w))
		return;
	close_channel(w);

	if (pid == -1) {
		snprintf(reason, sizeof(reason), "lost: %s", strerror(errno));
	} else if (WIFEXITED(status)) {
		code = (enum xpv_worker_exit)WEXITSTATUS(status);
		crashed =
		    code != XPV_EXIT_DONE && code != XPV_EXIT_AGAIN && code != XPV_EXIT_REFUSED;
		snprintf(reason, sizeof(reason), "exit %d", WEXITSTATUS(status));
	} else {
		snprintf(reason, sizeof(reason), "killed by signal %d", WTERMSIG(status));
		/* Somebody's hand, or the system short of memory. */
		own_fault = WTERMSIG(status) != SIGKILL || w->condemned;
	}
	w->condemned = false;
	decide(w, code, crashed, own_fault, reason);
}

void
xpv_worker_stop(struct xpv_worker *w, unsigned grace_ms)
{
	if (w->state == IDLE)
		return;
	w->stopping = true;
	if (w->state == RUNNING) {
		kill(w->pid, SIGTERM);
		arm_timer(w, grace_ms);
	} else if (w->state == WAITING) {
		arm_timer(w, 0);
	}
}

/* --- making and freeing --- */

struct xpv_worker *
xpv_worker_new(struct event_base *base, const char *name, const struct xpv_worker_ops *ops,
    const struct xpv_worker_policy *policy, struct xpv_shared *shared, void *arg)
{
	struct xpv_worker *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->base = base;
	w->ops = ops;
	w->arg = arg;
	w->policy = *policy;
	w->shared = shared;
	w->channel = -1;
	w->name = strdup(name);
	/* libevent has any number of events for one signal: each worker looks after its own. */
	w->sigchld = evsignal_new(base, SIGCHLD, on_sigchld, w);
	w->timer = evtimer_new(base, on_timer, w);
	if (w->name == NULL || w->sigchld == NULL || w->timer == NULL ||
	    history_init(
		&w->crashes, policy->max_crashes != 0 ? policy->max_crashes : CRASHES_KNOWN) != 0 ||
	    history_init(&w->agains, AGAIN_MAX + 1) != 0) {
		xpv_worker_free(w);
		return NULL;
	}
	return w;
}

void
xpv_worker_free(struct xpv_worker *w)
{
	if (w == NULL)
		return;
	if (w->pid != 0) {
		kill(w->pid, SIGKILL);
		while (waitpid(w->pid, NULL, 0) == -1 && errno == EINTR)
			continue;
	}
	close_channel(w);
	if (w->timer != NULL)
		event_free(w->timer);
	if (w->sigchld != NULL)
		event_free(w->sigchld);
	free(w->crashes.ms);
	free(w->agains.ms);
	free(w->name);
	w->freed = true;
	if (w->busy == 0)
		free(w);
}

void
xpv_worker_keep_fd(struct xpv_worker *w, int fd)
{
	if (fd < 3)
		return;
	for (unsigned i = 0; i < w->nkeep; i++)
		if (w->keep[i] == fd)
			return;
	if (w->nkeep == KEEP_MAX) {
		xpv_err("%s: more than %d descriptors to keep", w->name, KEEP_MAX);
		return;
	}
	keep(w, fd);
}

void
xpv_worker_drop_fd(struct xpv_worker *w, int fd)
{
	for (unsigned i = 0; i < w->nkeep; i++) {
		if (w->keep[i] != fd)
			continue;
		w->nkeep--;
		memmove(&w->keep[i], &w->keep[i + 1], (w->nkeep - i) * sizeof(w->keep[0]));
		return;
	}
}

bool
xpv_worker_running(const struct xpv_worker *w)
{
	return w->pid != 0;
}

pid_t
xpv_worker_pid(const struct xpv_worker *w)
{
	return w->pid;
}

unsigned
xpv_worker_restarts(const struct xpv_worker *w)
{
	return w->restarts;
}

/* --- the channel --- */

int
xpv_worker_send(struct xpv_worker *w, uint32_t type, const void *data, size_t length, int fd)
{
	if (w->channel == -1) {
		errno = EPIPE;
		return -1;
	}
	return xpv_channel_send(w->channel, type, data, length, fd);
}

/* A message is its type, then its data. */
int
xpv_channel_send(int channel, uint32_t type, const void *data, size_t length, int fd)
{
	struct iovec parts[2] = {
	    {&type, sizeof(type)}, {(void *)(uintptr_t)data, length}}; /* sendmsg(2) only reads */
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.space = {0}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	ssize_t sent;

	if (length > XPV_MESSAGE_MAX) {
		errno = EMSGSIZE;
		return -1;
	}
	if (fd != -1) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control.space);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	do
		sent = sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent == -1 && errno == EINTR);
	if (sent != -1)
		return 0;
	if (errno == ECONNRESET || errno == ENOTCONN)
		errno = EPIPE;
	return -1;
}

/* The first descriptor that came, or -1; closes all others and says so. */
static int
take_fd(struct msghdr *message, bool *more)
{
	int fd = -1, next;
	size_t count;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			memcpy(&next, CMSG_DATA(c) + i * sizeof(int), sizeof(next));
			if (fd == -1) {
				fd = next;
			} else {
				close(next);
				*more = true;
			}
		}
	}
	return fd;
}

int
xpv_channel_receive(int channel, uint32_t *type, void *data, size_t *length, int *fd)
{
	struct iovec parts[2] = {{type, sizeof(*type)}, {data, *length}};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = parts,
	    .msg_iovlen = 2,
	    .msg_control = &control,
	    .msg_controllen = sizeof(control.space)};
	bool more = false, reset = false;
	ssize_t got;
	int came;

	for (;;) {
		got = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (got != -1)
			break;
		if (errno == EINTR)
			continue;
		/* The peer died with messages of ours unread; what it sent comes after this. */
		if (errno == ECONNRESET && !reset) {
			reset = true;
			continue;
		}
		if (errno == EAGAIN)
			return 0;
		if (errno == ECONNRESET || errno == ENOTCONN)
			errno = EPIPE;
		return -1;
	}

	came = take_fd(&message, &more); /* also from a message that is refused below */
	if (got >= (ssize_t)sizeof(*type) && !more &&
	    (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) {
		*length = (size_t)got - sizeof(*type);
		if (fd != NULL)
			*fd = came;
		else if (came != -1)
			close(came);
		return 1;
	}
	if (came != -1)
		close(came);
	errno = got == 0 ? EPIPE : message.msg_flags & MSG_TRUNC ? EMSGSIZE : EBADMSG;
	return -1;
}

/* --- the service manager --- */

#if HAVE_SYSTEMD

void
xpv_notify_ready(void)
{
	sd_notify(0, "READY=1");
}

void
xpv_notify_status(const char *fmt, ...)
{
	char status[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(status, sizeof(status), fmt, args);
	va_end(args);
	/* A line is an assignment, and a peer's words may be in the text. */
	for (char *c = status; *c != '\0'; c++)
		if (*c == '\n' || *c == '\r')
			*c = ' ';
	sd_notifyf(0, "STATUS=%s", status);
}

void
xpv_notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void
xpv_notify_extend(unsigned ms)
{
	sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu", 1000ull * ms);
}

#else

void
xpv_notify_ready(void)
{
}

void
xpv_notify_status(const char *fmt, ...)
{
}

void
xpv_notify_stopping(void)
{
}

void
xpv_notify_extend(unsigned ms)
{
}

#endif
