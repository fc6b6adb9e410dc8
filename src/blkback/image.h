/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_H
#define BLKBACK_IMAGE_H

#include <sys/uio.h>

#include "blkback.h"

struct event_base;

/*
 * What a disk is made of. Kinds: a regular file or block device (image_file.c), an NBD export
 * (image_nbd.c), nothing (image_empty.c: a drive without a medium). One image per worker, opened
 * once and before the sandbox; one image_queue per queue's thread.
 *
 * The image is closed by the end of the process.
 */

struct image;
struct image_queue;

enum image_op { IMAGE_READ, IMAGE_WRITE, IMAGE_FLUSH, IMAGE_DISCARD };

/* One operation, within the image's bounds and aligned to its sectors. The caller owns the memory,
 * and that of the data, until it is done. */
struct image_io {
	enum image_op op;
	bool secure;	   /* IMAGE_DISCARD */
	uint64_t offset;   /* bytes */
	uint64_t length;   /* bytes: of a read or write the sum of "iov" */
	struct iovec *iov; /* the image may move this on, and change the array */
	int iovcnt;

	int status; /* out: 0 or a negative errno */

	/* The image's own. */
	uint64_t done;
	void *cookie;
	struct image_io *next;
};

struct image_params {
	const char *target;
	bool read_only;
	bool direct;
	enum vbd_io io;
	bool discard;
	unsigned queues;	  /* as many as may be started */
	unsigned nbd_connections; /* per image; at least one per queue in use */
	int keep_fd; /* held by all I/O in flight, see journal.h: the kernel closes it after the
			last one; -1: none */
};

/* Opens and locks the image; blocks until that is done. NULL after a log line that says what to do.
 * */
struct image *image_open(const struct image_params *params, struct vbd_image_info *info);

/* For the sandbox. */
bool image_uses_io_uring(const struct image *image);

/* The connections that are to be held, see held.h; how many. */
unsigned image_sockets(const struct image *image, int *fds, unsigned max);

/* The size now, in bytes; any thread. */
uint64_t image_size(struct image *image);

struct image_queue_config {
	unsigned index;
	unsigned queues; /* started in all, which share the connections; 0: image_params.queues */
	unsigned depth;	 /* operations in flight at most */
	struct event_base *base;
	/* Called, in the thread, for each operation that is over; never from image_submit(). */
	void (*done)(struct image_io *io, void *arg);
	/* A batch of done() calls is over. */
	void (*batch_done)(void *arg);
	void *arg; /* of both */
	/* The image cannot go on in this process, as its server is gone: operations in flight stay
	 * without an answer, and no more is called. */
	void (*lost)(void *arg, const char *why);
	void *lost_arg;
};

/* In the queue's thread. NULL after a log line. */
struct image_queue *image_queue_start(struct image *image, const struct image_queue_config *config);

/* Hands an operation in; it begins at the latest with image_push(). */
void image_submit(struct image_queue *q, struct image_io *io);
/* True if something is over by now: nobody is woken for it, image_poll() must be called. */
bool image_push(struct image_queue *q);

/* Delivers what is over without waiting (for polling). True if anything was. */
bool image_poll(struct image_queue *q);

/* Nothing is in flight. Not from a callback. */
void image_queue_stop(struct image_queue *q);

/* ---- between image.c and the kinds ---- */

struct image_ops {
	struct image *(*open)(const struct image_params *params, struct vbd_image_info *info);
	uint64_t (*size)(struct image *image);
	struct image_queue *(*start)(struct image *image, const struct image_queue_config *config);
	void (*submit)(struct image_queue *q, struct image_io *io);
	bool (*push)(struct image_queue *q);
	bool (*poll)(struct image_queue *q);
	void (*stop)(struct image_queue *q);
	unsigned (*sockets)(const struct image *image, int *fds, unsigned max); /* or NULL */
	bool io_uring;
};

/* Each kind's struct begins with these. */
struct image {
	const struct image_ops *ops;
};
struct image_queue {
	const struct image_ops *ops;
};

extern const struct image_ops image_file_ops, image_nbd_ops, image_empty_ops;

#endif
