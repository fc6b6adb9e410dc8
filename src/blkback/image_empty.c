/* SPDX-License-Identifier: BSD-2-Clause */
#include "image.h"

#include <errno.h>
#include <stdlib.h>

#include <xenpv/log.h>

#include "image_later.h"

/* A drive without a medium. */

struct empty_queue {
	struct image_queue base;
	struct image_queue_config config;
	struct image_later later;
};

static struct image *
empty_open(const struct image_params *params, struct vbd_image_info *info)
{
	static struct image image = {.ops = &image_empty_ops};

	*info = (struct vbd_image_info){
	    .sector_size = VBD_SECTOR_SIZE,
	    .physical_sector_size = VBD_SECTOR_SIZE,
	    .max_queues = VBD_MAX_QUEUES,
	    .read_only = params->read_only,
	};
	return &image;
}

static uint64_t
empty_size(struct image *image)
{
	return 0;
}

static void
empty_stop(struct image_queue *base)
{
	struct empty_queue *q = (struct empty_queue *)base;

	image_later_free(&q->later);
	free(q);
}

static struct image_queue *
empty_start(struct image *image, const struct image_queue_config *config)
{
	struct empty_queue *q = calloc(1, sizeof(*q));

	if (q == NULL)
		goto fail;
	q->base.ops = &image_empty_ops;
	q->config = *config;
	if (image_later_init(&q->later, &q->config) == 0)
		return &q->base;
	empty_stop(&q->base);
fail:
	xpv_err("queue %u: no memory", config->index);
	return NULL;
}

static void
empty_submit(struct image_queue *base, struct image_io *io)
{
	struct empty_queue *q = (struct empty_queue *)base;

	image_later_add(&q->later, io, io->op == IMAGE_FLUSH ? 0 : -ENXIO);
}

static bool
empty_push(struct image_queue *base)
{
	image_later_wake(&((struct empty_queue *)base)->later);
	return false;
}

static bool
empty_poll(struct image_queue *base)
{
	return image_later_deliver(&((struct empty_queue *)base)->later);
}

const struct image_ops image_empty_ops = {
    .open = empty_open,
    .size = empty_size,
    .start = empty_start,
    .submit = empty_submit,
    .push = empty_push,
    .poll = empty_poll,
    .stop = empty_stop,
};
