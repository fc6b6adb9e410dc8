/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_ATTACH_H
#define BLKFRONT_ATTACH_H

#include "blkfront.h"
#include "queue.h"

struct event_base;
struct xpv_shared;
struct xpv_worker;

/*
 * An attachment makes a disk a block device of the host's OS: ublk, NBD, ggate; or an export of an
 * NBD server, which programs use without a block device (nbd-unix). Each has two
 * halves: the supervisor's (attach_*.c) owns the device, which outlives workers; the worker's
 * (io_*.c) moves requests between the device and the rings.
 *
 * A disk's life:
 *   open     before the first worker: look for a device that an earlier supervisor left, allocate
 *            what outlives workers
 *   serve    a worker has connected to the backend: create the device, or prepare the existing one
 *            for the new worker; send the worker its BLK_MSG_ATTACH (see messages.h)
 *   serving  the worker takes requests: let I/O flow (again); callback ready
 *   gone     the worker died: I/O waits, nothing is lost
 *   remove   the device goes: callback removed
 *   close    free; a device that was not removed stays for the next supervisor
 * All calls return at once; what takes time ends in a callback from the event loop.
 *
 * Every device and export has a volatile cache, as far as the host is told: it outlives the
 * connection, and the next one may be to a backend with a cache. Where the backend has none, a
 * flush costs a turn to the worker, which answers it at once.
 */

struct attachment; /* each kind has its own */

struct attach_events {
	/* The host can use the device "node" ("/dev/ublkb0", or a URI where there is no device).
	 * Called after each "serving". */
	void (*ready)(void *arg, const char *node);
	/* Creating or recovering failed for good. */
	void (*failed)(void *arg, const char *why);
	/* The device is gone from the host. */
	void (*removed)(void *arg);
};

struct attach_params {
	struct event_base *base;
	uint32_t vdev;
	const char *name; /* "xvda" */
	const struct blk_config *config;
	unsigned queues, depth; /* the most we will ask for */
	unsigned max_io_bytes;
	struct xpv_shared *shared;
	const struct attach_events *events;
	void *arg;
};

struct attach_ops {
	const char *name;    /* "ublk" */
	unsigned max_queues; /* of a disk; 0: any number */
	/* Can this host do it? If not, "why" says what is missing and what to do. May load the
	 * kernel module. */
	bool (*usable)(char *why, size_t size);
	/* NULL: yes. Usable, but does this host's kernel stand the death of a worker? */
	bool (*sound)(char *why, size_t size);
	/* Once, before the first disk, and after the last; NULL: nothing to do. EX_OK,
	 * or the daemon's exit status after a log line. */
	int (*start)(struct event_base *base, const struct blk_config *config);
	void (*end)(void);
	struct attachment *(*open)(const struct attach_params *params); /* NULL: logged */
	/* A device exists (ours, or left by an earlier supervisor): its fixed properties. */
	bool (*existing)(
	    const struct attachment *a, unsigned *queues, unsigned *depth, unsigned *max_io_bytes);
	void (*serve)(struct attachment *a, const struct blk_geometry *g, struct xpv_worker *w);
	void (*serving)(struct attachment *a, pid_t worker);
	void (*gone)(struct attachment *a);
	/* 0; or -1 with "why" when the device cannot change its size while it exists. */
	int (*resize)(struct attachment *a, uint64_t sectors, char *why, size_t size);
	const char *(*node)(const struct attachment *a); /* NULL: no device */
	/* A message from the worker that is the attachment's; may be NULL. */
	void (*message)(struct attachment *a, uint32_t type, const void *data, size_t length);
	/* What still uses the device loses it now: "remove" follows, and does not wait for it.
	 * NULL: "remove" never waits. */
	void (*cut)(struct attachment *a);
	void (*remove)(struct attachment *a);
	void (*close)(struct attachment *a);
	const struct attach_io_ops *io; /* the worker's half */
};

extern const struct attach_ops attach_ublk, attach_nbd, attach_ggate, attach_nbd_unix;

/* The attachment that the configuration asks for, or the best usable one; NULL after a log line
 * that says what is missing for each. */
const struct attach_ops *attach_choose(int choice);

/*
 * True if something has the device open: a mount, swap, another block device or a program. "by"
 * names what holds it. See inuse_linux.c.
 */
bool attach_in_use(const char *node, char *by, size_t size);

/*
 * ---- The worker's half. ----
 *
 * The queue threads are numbered 0..threads-1; thread t serves the host queues h with
 * h % threads == t. All functions but open and close run in the queue's thread.
 */
#define ATTACH_MAX_FDS (2 * BLK_MAX_QUEUES)

/* What the supervisor sent (BLK_MSG_ATTACH and its descriptors). */
struct attach_grant {
	uint32_t host_queues, depth, max_io_bytes;
	uint32_t dev_id;
	uint64_t sectors;
	int fds[ATTACH_MAX_FDS]; /* owned by the worker */
	unsigned nfds;
	int channel; /* to the supervisor; messages are sent whole from any thread */
	struct attachment *attachment; /* as inherited by fork: pointers to shared memory in it are
					  good; it is not changed */
};

/* What the main thread tells a queue's thread while it serves. */
struct attach_command {
	enum { ATTACH_CONNECT, ATTACH_LEAVE } what;
	uint32_t slot; /* ATTACH_CONNECT: of the connection */
	int fds[3];    /* owned by whom it is told */
};

struct attach_io_ops {
	struct blk_host_ops host;
	bool io_uring; /* the sandbox has to let it through */
	/* Calls blk_queue_attach() with its "host" and begins to take requests. Returns the "host",
	 * or NULL after logging. */
	void *(*start)(const struct attach_grant *grant, struct blk_queue *q,
	    struct event_base *base, unsigned thread, unsigned threads);
	/* May be NULL if the supervisor's half asks for none. */
	void (*command)(void *host, const struct attach_command *command);
	/* Takes no more requests; answers to accepted ones still go out. */
	void (*quiesce)(void *host);
	/* Everything answered has left this process. */
	bool (*idle)(const void *host);
	void (*stop)(void *host); /* frees */
};

extern const struct attach_io_ops io_ublk, io_nbd, io_nbd_unix;

#endif
