/* SPDX-License-Identifier: BSD-2-Clause */
#include "image.h"

#include <string.h>

#include <xenpv/log.h>

#include "build_config.h"

static bool
begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static bool
is_uri(const char *target)
{
	return begins(target, "nbd:") || begins(target, "nbds:") || begins(target, "nbd+") ||
	       begins(target, "nbds+");
}

/* NULL after a log line. */
static const struct image_ops *
choose(const char *target)
{
	if (*target == '\0')
		return &image_empty_ops;
	if (*target == '/')
		return &image_file_ops;
	if (is_uri(target)) {
#if HAVE_LIBNBD
		return &image_nbd_ops;
#else
		xpv_err("%s: built without libnbd, NBD servers cannot be used", target);
#endif
	} else {
		xpv_err("\"%s\" is no image: give an absolute path or an NBD URI "
			"(nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH)",
		    target);
	}
	return NULL;
}

struct image *
image_open(const struct image_params *params, struct vbd_image_info *info)
{
	const struct image_ops *ops = choose(params->target);

	return ops != NULL ? ops->open(params, info) : NULL;
}

bool
image_uses_io_uring(const struct image *image)
{
	return image->ops->io_uring;
}

unsigned
image_sockets(const struct image *image, int *fds, unsigned max)
{
	return image->ops->sockets != NULL ? image->ops->sockets(image, fds, max) : 0;
}

uint64_t
image_size(struct image *image)
{
	return image->ops->size(image);
}

struct image_queue *
image_queue_start(struct image *image, const struct image_queue_config *config)
{
	return image->ops->start(image, config);
}

void
image_submit(struct image_queue *q, struct image_io *io)
{
	q->ops->submit(q, io);
}

bool
image_push(struct image_queue *q)
{
	return q->ops->push(q);
}

bool
image_poll(struct image_queue *q)
{
	return q->ops->poll(q);
}

void
image_queue_stop(struct image_queue *q)
{
	q->ops->stop(q);
}
