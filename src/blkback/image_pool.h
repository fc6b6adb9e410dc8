/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_POOL_H
#define BLKBACK_IMAGE_POOL_H

#include "image.h"

/*
 * Threads for operations that are done while somebody waits. They belong to one queue, whose thread
 * makes the calls here and gets the callbacks. "least" of them are started at once, so that none of
 * its operations can fail for want of a thread; others as they are needed.
 */

#define IMAGE_POOL_MAX 16u

struct image_pool;

struct image_pool_ops {
	/* In a thread of the pool: the operation's status. */
	int (*work)(void *arg, struct image_io *io);
	/* In the queue's thread; "status" is set. */
	void (*over)(void *arg, struct image_io *io);
	/* A batch of them is over. */
	void (*batch_over)(void *arg);
};

/* NULL with errno. "ops" must stay; at most IMAGE_POOL_MAX threads. */
struct image_pool *image_pool_start(struct event_base *base, unsigned least, unsigned most,
    const struct image_pool_ops *ops, void *arg);
/* False with errno: there is no thread to do it, and it stays the caller's. */
bool image_pool_submit(struct image_pool *pool, struct image_io *io);
/* What is over, without waiting for the event loop. */
void image_pool_poll(struct image_pool *pool);
/* Nothing is in flight. */
void image_pool_stop(struct image_pool *pool);

#endif
