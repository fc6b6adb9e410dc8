/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_NBD_H
#define BLKBACK_IMAGE_NBD_H

#include "image.h"

/* Between the files of images that are exports of NBD servers. */

#define NBD_MAX_CONNECTIONS 64u

struct nbd_handle;

struct nbd_image {
	struct image base;
	/* Connection i is used by the thread of queue i modulo their number, and no other. */
	struct nbd_handle *connections[NBD_MAX_CONNECTIONS];
	unsigned count;
	unsigned queues; /* that may be started */
	uint64_t bytes;
	uint32_t sector_size;
	uint32_t max_payload; /* of a read or write; a multiple of the sector size */
	bool read_only, can_flush, can_trim;
	bool drained; /* the server was asked what it has left, and can be again */
};

/* image_ops.start and so on: image_nbd_queue.c */
struct image_queue *nbd_queue_start(struct image *image, const struct image_queue_config *config);
void nbd_queue_submit(struct image_queue *q, struct image_io *io);
bool nbd_queue_push(struct image_queue *q);
bool nbd_queue_poll(struct image_queue *q);
void nbd_queue_stop(struct image_queue *q);

#endif
