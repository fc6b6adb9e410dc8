/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_FILE_IO_H
#define BLKBACK_IMAGE_FILE_IO_H

#include <sys/types.h>

#include "image_file.h"
#include "image_later.h"
#include "image_pool.h"

/* What the ways to do I/O on files have in common. */

/* 0, or the status of an operation that this image does not have. */
int file_refusal(const struct file_image *image, const struct image_io *io);

/* The descriptor that what is left of a read or write is to go through. */
int file_descriptor(const struct file_image *image, const struct image_io *io);

/* So many bytes were moved, or it failed with a negative errno. True: it is over, with "status";
 * else it goes on with what is left. */
bool file_is_over(struct image_io *io, ssize_t result);

/* Threads for what the kernel does only while somebody waits. What is over goes to "later". */
struct file_pool {
	const struct file_image *image;
	struct image_later *later; /* both are set before it is started */
	struct image_pool *pool;   /* NULL: it is not */
};

/* False: no memory, or no thread. It is stopped in either case. */
bool file_pool_start(struct file_pool *p, struct event_base *base, unsigned least, unsigned most);
void file_pool_submit(struct file_pool *p, struct image_io *io);
/* Moves to "later" what is over by now. */
void file_pool_poll(struct file_pool *p);
void file_pool_stop(struct file_pool *p);

#endif
