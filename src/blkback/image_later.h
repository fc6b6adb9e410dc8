/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_LATER_H
#define BLKBACK_IMAGE_LATER_H

#include "image_list.h"

/*
 * Operations of one queue that are over and not delivered yet: image_submit() and image_push() must
 * not call back. For the kinds of images; the queue's thread only.
 */
struct image_later {
	const struct image_queue_config *config; /* must stay */
	struct event *event;
	struct image_list over;
};

/* 0 or -1. image_later_free() is due in either case. */
int image_later_init(struct image_later *later, const struct image_queue_config *config);
void image_later_free(struct image_later *later);

/* Nothing is delivered until one of the other two is called. */
void image_later_add(struct image_later *later, struct image_io *io, int status);

/* Delivers from the event loop, if there is anything. */
void image_later_wake(struct image_later *later);

/* Delivers now. False if there was nothing. */
bool image_later_deliver(struct image_later *later);

#endif
