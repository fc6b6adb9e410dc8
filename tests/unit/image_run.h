/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef IMAGE_RUN_H
#define IMAGE_RUN_H

#include "image.h"

/* One queue of an image in this thread, for tests of images. Nothing here asserts, as it is also
 * used in child processes. */

struct image_run {
	struct image *image;
	struct vbd_image_info info;
	struct event_base *base;
	struct image_queue *q;
	unsigned inflight, batches, lost;
	struct image_io *over; /* linked by "next" */
	bool timeout;
	char why[160];
};

/* What tests usually want; NULL for "params" in run_open(). */
extern const struct image_params run_params;

/* Of images opened from now on, if their params leave it open. */
extern enum vbd_io run_io;

/* False if the image could not be opened. */
bool run_open(struct image_run *run, const char *target, const struct image_params *params);
/* True if it cannot be opened and the log says these words. */
bool run_refuses(const char *target, const struct image_params *params, const char *words);
bool run_start(struct image_run *run, unsigned depth);
void run_stop(struct image_run *run);

void run_submit(struct image_run *run, struct image_io *io);
/* Until nothing is in flight, or the image is lost; at most a minute. */
void run_wait(struct image_run *run);
/* Until not more than this many are in flight. */
void run_wait_below(struct image_run *run, unsigned inflight);

/* One operation; its status, or 1 if it did not end. */
int run_iov(
    struct image_run *run, enum image_op op, uint64_t offset, struct iovec *iov, int iovcnt);
int run_read(struct image_run *run, uint64_t offset, void *data, size_t length);
int run_write(struct image_run *run, uint64_t offset, const void *data, size_t length);
int run_flush(struct image_run *run);
/* A read that only image_poll() is asked about. */
int run_polling(struct image_run *run, void *data, size_t length);
int run_discard(struct image_run *run, uint64_t offset, uint64_t length);

/*
 * Writes, reads and discards of all sizes at all places, many at a time, on the first "bytes" of
 * the image, which is compared with what should be there. 0, or the line that found a difference.
 */
int run_storm(struct image_run *run, size_t bytes, unsigned operations, unsigned sector);

/* They cannot be closed, and are no leaks. */
extern struct image *run_opened[64];

/* The text of the last log line. For tests with --wrap=xpv_log and --wrap=nanosleep. */
extern char run_log[1024];
/* Instead of sleeping. */
extern void (*run_sleeping)(void);
extern unsigned run_slept;

#endif
