/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_QUEUE_H
#define BLKBACK_QUEUE_H

#include "blkback.h"
#include "image.h"
#include "journal.h"
#include "throttle.h"

struct event_base;
struct vbd_queue;
struct xpv_evtchn;
struct xpv_gntdev;

/*
 * One blkif ring and its thread's data path: requests out of the ring, checked, to the image, and
 * answers back. Nothing here allocates, logs or blocks per request, except that the first request
 * that makes no sense is logged. All runs in the queue's thread.
 *
 * Source: xen/include/public/io/blkif.h.
 */

struct vbd_queue_config {
	unsigned index;
	const struct vbd_config *config;
	const struct vbd_connection *connection;
	const struct vbd_image_info *info;
	const _Atomic uint64_t *bytes; /* of the image, now */
	struct xpv_gntdev *gntdev;     /* this queue's own, like the rest */
	struct xpv_evtchn *evtchn;
	uint32_t port; /* local */
	void *ring;    /* mapped */
	struct journal_queue *journal;
	bool journal_matches; /* go on where it says */
	struct throttle *throttle;
	struct vbd_stats *stats;
	atomic_bool *complained; /* about nonsense, on this disk */

	/* The frontend broke the protocol: called once, then the queue is dead. */
	void (*broken)(void *arg, const char *why);
	/* A good moment to see whether the image has grown; once a second at most. */
	void (*look)(void *arg);
	/* Nothing is in flight any more, after vbd_queue_quiesce(). */
	void (*drained)(void *arg);
	void *arg;
};

/* NULL with errno: ENOMEM, or EINVAL for a ring that cannot be. Calls nothing of "config". */
struct vbd_queue *vbd_queue_new(const struct vbd_queue_config *config);
/* How many operations of the image can be in flight at once. */
unsigned vbd_queue_depth(const struct vbd_queue *q);

/* What the image calls; "arg" is the queue. */
void vbd_queue_image_done(struct image_io *io, void *arg);
void vbd_queue_image_batch_done(void *arg);

/* Does what the journal holds, then what is in the ring, and listens for more. 0 or -1; broken(),
 * look() and drained() may be called from here on, also before it returns. */
int vbd_queue_start(struct vbd_queue *q, struct image_queue *image, struct event_base *base);

/* Takes nothing more; what was taken is answered. */
void vbd_queue_quiesce(struct vbd_queue *q);

void vbd_queue_free(struct vbd_queue *q);

#endif
