/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdlib.h>

#include <xenpv/log.h>

#include "image_file_io.h"

/*
 * I/O of one queue by threads that each do one operation at a time. Not the C library's POSIX AIO:
 * that of Linux, threads as well, has one operation in flight per descriptor, no scatter and
 * gather, and a new thread for each notification.
 *
 * When a process is killed its threads end after the system calls they are in; only then its
 * descriptors are closed, and the journal's lock goes.
 */

struct threads_queue {
	struct image_queue base;
	struct image_queue_config config;
	const struct file_image *image;
	struct image_later later;
	struct file_pool pool;
};

static void
threads_submit(struct image_queue *base, struct image_io *io)
{
	struct threads_queue *q = (struct threads_queue *)base;
	int status = file_refusal(q->image, io);

	io->done = 0;
	if (status != 0)
		image_later_add(&q->later, io, status);
	else
		file_pool_submit(&q->pool, io);
}

static bool
threads_push(struct image_queue *base)
{
	image_later_wake(&((struct threads_queue *)base)->later);
	return false;
}

static bool
threads_poll(struct image_queue *base)
{
	struct threads_queue *q = (struct threads_queue *)base;

	file_pool_poll(&q->pool);
	return image_later_deliver(&q->later);
}

static void
threads_stop(struct image_queue *base)
{
	struct threads_queue *q = (struct threads_queue *)base;

	file_pool_stop(&q->pool);
	image_later_free(&q->later);
	free(q);
}

static struct image_queue *
threads_start(struct image *image, const struct image_queue_config *config)
{
	struct threads_queue *q = calloc(1, sizeof(*q));

	if (q != NULL) {
		q->base.ops = &image_file_threads_ops;
		q->config = *config;
		q->image = (const struct file_image *)image;
		q->pool = (struct file_pool){.image = q->image, .later = &q->later};
		if (image_later_init(&q->later, &q->config) == 0 &&
		    file_pool_start(&q->pool, config->base, 1, IMAGE_POOL_MAX))
			return &q->base;
		threads_stop(&q->base);
	}
	xpv_err("queue %u: cannot do I/O by threads: no memory, or no thread", config->index);
	return NULL;
}

const struct image_ops image_file_threads_ops = {
    .size = file_size,
    .start = threads_start,
    .submit = threads_submit,
    .push = threads_push,
    .poll = threads_poll,
    .stop = threads_stop,
};
