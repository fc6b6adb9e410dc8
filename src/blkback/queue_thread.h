/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_QUEUE_THREAD_H
#define BLKBACK_QUEUE_THREAD_H

#include "queue.h"

/* The thread of one queue: its event base, its part of the image, its ring. */
struct queue_thread;

/* What a thread tells the main thread, as a byte on "report_fd"; at most one of the last four. */
enum queue_report {
	QUEUE_STARTED = 's',
	QUEUE_LOOK = 'l', /* has the image another size? */
	QUEUE_ENDED = 'e',
	QUEUE_FAILED = 'f', /* it could not start; logged */
	QUEUE_BROKEN = 'b', /* by the frontend; queue_thread_why() tells how */
	QUEUE_LOST = 'i',   /* the image; queue_thread_why() */
};

/* "config" without what is the thread's: callbacks. NULL after a log line. */
struct queue_thread *queue_thread_start(
    const struct vbd_queue_config *config, struct image *image, int report_fd);

/* It ends when all that was taken from the ring is answered. */
void queue_thread_quiesce(struct queue_thread *t);

const char *queue_thread_why(const struct queue_thread *t);

#endif
