/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_SUPERVISOR_H
#define XENPV_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct event_base;
struct xpv_shared;

/*
 * One worker process per device, made by fork(2) without exec so that it inherits the mappings and
 * descriptors meant for it, watched and restarted.
 *
 * The two talk over a SOCK_SEQPACKET pair in messages of at most XPV_MESSAGE_MAX bytes, each with a
 * type of the driver's and optionally one descriptor. Both ends are the same binary: no versions.
 * The supervisor checks lengths and values of what a worker says, since a worker may have been
 * taken over by its peer. A worker whose message does not even parse is killed.
 *
 * A worker is not killed with its supervisor: it learns of the supervisor's death by -1 from
 * xpv_channel_receive(), finishes what is in flight and exits. So every worker's main() must watch
 * the channel, and bound the time it then takes; one that does not lives for ever.
 *
 * Threading: main thread of either process. All workers of a process share one event base, the one
 * that also has the process' other signal events (libevent serves signals in one base only).
 */

#define XPV_MESSAGE_MAX 2048

/* How a worker ends; anything else is a crash, and so is every signal, xpv_worker_stop()'s too. */
enum xpv_worker_exit {
	XPV_EXIT_DONE = 0,   /* told to stop, or the device is closed: not restarted */
	XPV_EXIT_AGAIN = 75, /* EX_TEMPFAIL: start a new one at once (resume, backend restart) */
	XPV_EXIT_REFUSED =
	    76, /* EX_PROTOCOL: the peer broke the protocol: device closed for good */
};

struct xpv_worker;

/* All but main may be NULL. Callbacks may call any function here, also xpv_worker_free(). */
struct xpv_worker_ops {
	/*
	 * Runs in the child, alone in its event base. "channel" talks to the supervisor. Returns
	 * the exit code; the child ends by _exit(2), the supervisor's atexit(3) handlers do not
	 * run. All descriptors but those kept, the channel and stdio are closed; signals are at
	 * their defaults, but SIGPIPE is ignored, and none is blocked; the session is its own, so
	 * that Ctrl-C reaches only the supervisor. The supervisor's event base, and so every event
	 * in it, is gone: its events are not even deleted here.
	 */
	int (*main)(struct event_base *base, int channel, void *arg);
	/* In the supervisor, before each fork: make the device ready for a new worker. -1: do not
	 * start; the device is given up. */
	int (*prepare)(void *arg);
	/* In the supervisor: a message came; "data" is aligned for any type. "fd" is -1 or owned by
	 * the callee. What a worker sent before its end comes before "exited". */
	void (*message)(uint32_t type, const void *data, size_t length, int fd, void *arg);
	/* In the supervisor, from the event loop: the worker is gone; "restarting" says whether
	 * another one follows. "code" of a crash is the exit status, 0 if there is none. "reason"
	 * is for the log: "killed by signal 9", "exit 76". */
	void (*exited)(enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason,
	    void *arg);
};

struct xpv_worker_policy {
	/* A SIGKILL that is not ours is nobody's crash: restarted at once, not counted. */
	unsigned max_crashes; /* so many within "window_s": then give up; 0: never give up */
	unsigned window_s;    /* 0: since xpv_worker_start() */
	unsigned delay_min_ms, delay_max_ms; /* first restart at once, then doubling delays */
};

/* Not yet running. "name" is copied: process title and log prefix. "shared" (may be NULL) is what
 * the child inherits and must outlive the worker. */
struct xpv_worker *xpv_worker_new(struct event_base *base, const char *name,
    const struct xpv_worker_ops *ops, const struct xpv_worker_policy *policy,
    struct xpv_shared *shared, void *arg);

/* Descriptors the child keeps; up to 64. They stay the caller's, and "prepare" may change them. */
void xpv_worker_keep_fd(struct xpv_worker *w, int fd);
void xpv_worker_drop_fd(struct xpv_worker *w, int fd);

/* Starts with a clean crash record. 0, or -1 with errno: EBUSY while it runs or is restarting; what
 * "prepare" left, or fork(2). There is no callback for a failed start. */
int xpv_worker_start(struct xpv_worker *w);

/* Asks the worker to end (SIGTERM), kills it after grace_ms; "exited" is called, no restart. That
 * also holds for one that waits for its restart. Nothing happens if there is none. */
void xpv_worker_stop(struct xpv_worker *w, unsigned grace_ms);

/* Kills what runs, waits until it is dead (so that its memory can be used again), without a
 * callback, and frees. NULL is allowed. */
void xpv_worker_free(struct xpv_worker *w);

bool xpv_worker_running(const struct xpv_worker *w);
pid_t xpv_worker_pid(const struct xpv_worker *w); /* 0: not running */
unsigned xpv_worker_restarts(const struct xpv_worker *w);

/* Send a message; the descriptor stays the caller's. 0 or -1 with errno (EPIPE: the peer is gone,
 * EAGAIN: it does not read, EMSGSIZE: too long). Channel writes never block. */
int xpv_worker_send(struct xpv_worker *w, uint32_t type, const void *data, size_t length, int fd);

/*
 * The child's side of the channel. receive: 1 a message, 0 nothing now, -1 with errno: the
 * supervisor is gone (EPIPE), or the message was longer than the buffer (EMSGSIZE) or is not one
 * (EBADMSG) and is lost. "length" is the buffer's size, then the message's. "fd" becomes a
 * descriptor that the caller owns, or -1; without "fd" one that came is closed.
 */
int xpv_channel_send(int channel, uint32_t type, const void *data, size_t length, int fd);
int xpv_channel_receive(int channel, uint32_t *type, void *data, size_t *length, int *fd);

/*
 * The signals of a daemon, in the event base that also has its workers: SIGTERM and SIGINT call
 * "stop", SIGHUP "reload"; SIGPIPE is ignored. Exits with EX_OSERR when that cannot be.
 */
struct xpv_signals;

struct xpv_signals *xpv_signals_listen(
    struct event_base *base, void (*stop)(void *arg), void (*reload)(void *arg), void *arg);
void xpv_signals_free(struct xpv_signals *s); /* NULL is allowed */

/* sd_notify(3) where there is systemd; nothing elsewhere. */
void xpv_notify_ready(void);
void xpv_notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void xpv_notify_stopping(void);
/* What is begun may take so long: a start or stop under way is given that from now on, if it has
 * less (EXTEND_TIMEOUT_USEC). */
void xpv_notify_extend(unsigned ms);

#endif
