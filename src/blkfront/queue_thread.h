/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_QUEUE_THREAD_H
#define BLKFRONT_QUEUE_THREAD_H

#include "attach.h"

/*
 * One queue, one thread, one event loop. The worker's main thread starts the threads, tells them to
 * stop and hears from them through a pipe; nothing else is shared.
 */
struct queue_thread;

enum queue_thread_report {
	QUEUE_THREAD_STARTED = 'S', /* takes requests */
	QUEUE_THREAD_FAILED = 'F',  /* could not start; logged */
	QUEUE_THREAD_ENDED = 'E', /* quiesced: all its requests are answered; the thread is gone */
};

/* "queue" listens to nothing yet; the thread takes it over until it has ended. Reports are single
 * bytes on "report_fd". NULL after logging. */
struct queue_thread *queue_thread_start(struct blk_queue *queue, const struct attach_io_ops *io,
    const struct attach_grant *grant, unsigned index, unsigned threads, int report_fd);

/* Has the thread call the attachment's command(). False if it takes none any more. */
bool queue_thread_command(struct queue_thread *t, const struct attach_command *command);

/* Asks the thread to take no more requests and to end when its last answer has left. */
void queue_thread_quiesce(struct queue_thread *t);

/* After QUEUE_THREAD_ENDED or _FAILED. */
void queue_thread_join(struct queue_thread *t);

#endif
