/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_QUEUE_H
#define BLKFRONT_QUEUE_H

#include <sys/queue.h>
#include <sys/uio.h>

#include "blkfront.h"

struct event_base;
struct blk_queue;

/*
 * One blkif ring and its thread's data path: host requests in, ring requests out, answers back.
 * Nothing here allocates, logs or touches xenstore per request. Everything runs in the queue's
 * thread.
 *
 * Source: xen/include/public/io/blkif.h.
 */

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD };

/* One request of the host. The host side owns the memory (one per tag, made once). */
struct blk_request {
	/* Filled by the host side before blk_queue_submit(). */
	enum blk_op op;
	uint64_t sector; /* 512-byte units, like all of these */
	uint32_t sectors;

	/* The queue's. */
	uint64_t accepted_ns;
	uint32_t sectors_sent;
	uint16_t npages;
	uint16_t parts; /* ring requests without an answer */
	int status;
	STAILQ_ENTRY(blk_request) waiting;
	uint16_t pages[BLK_MAX_IO_PAGES]; /* data pages, in order */
};

/* The host side of one queue's thread, see attach.h. */
struct blk_host_ops {
	/*
	 * Copies the data of a write into the granted pages that "iov" names; it covers the whole
	 * request. 0 or a negative errno, which becomes the request's result.
	 */
	int (*pull)(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt);
	/*
	 * The request has its result, 0 or a negative errno. A read's data is in "iov". The host
	 * side calls blk_queue_release() when it needs the pages no longer, at once or later.
	 */
	void (*done)(
	    void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt);
	/* A batch of done() calls is over: push what was collected with one system call. */
	void (*flush)(void *host);
};

struct blk_queue_config {
	unsigned index;
	const struct blk_queue_grants *grants;
	struct blk_link *link; /* negotiated features; req_prod is updated here */
	struct blk_stats *stats;
	unsigned ring_pages;
	uint16_t vdev_handle; /* blkif "handle" */
	unsigned poll_us;
	/* The ring is broken: called once, then the queue is dead. "why" is for the log. */
	void (*broken)(void *arg, const char *why);
	void *arg;
};

/* Sets up a fresh ring in the granted pages, or goes on with a live one (link->live). NULL: errno.
 */
struct blk_queue *blk_queue_new(const struct blk_queue_config *config);

/* Delivers the event channel in the thread's loop. */
int blk_queue_listen(struct blk_queue *q, struct event_base *base);
void blk_queue_unlisten(struct blk_queue *q);

/* Gives the queue its host side. */
void blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host);

/* Accepts a request: it is sent, or waits for slots and pages. The caller calls blk_queue_push()
 * after a batch. A request out of the disk's bounds must not come here. */
void blk_queue_submit(struct blk_queue *q, struct blk_request *r);

/* Ends a batch: publishes what was sent since the last push, with one notification if the backend
 * wants one, and flushes the answers given meanwhile. */
void blk_queue_push(struct blk_queue *q);

/* Frees the pages of a request that is done and sends what waited for them. */
void blk_queue_release(struct blk_queue *q, struct blk_request *r);

/* Sends nothing more: requests that wait are forgotten (the host side has them still). */
void blk_queue_quiesce(struct blk_queue *q);

/* Ring requests without an answer. */
unsigned blk_queue_inflight(const struct blk_queue *q);

/* Called, in the thread, each time blk_queue_inflight() has become 0. */
void blk_queue_on_idle(struct blk_queue *q, void (*idle)(void *arg), void *arg);

void blk_queue_free(struct blk_queue *q);

#endif
