/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <event2/event.h>
#include <liburing.h>

#include "image_file_io.h"
#include "image_list.h"

/*
 * I/O of one queue through an io_uring of its own.
 *
 * Completions wake the thread through an eventfd that epoll(7) watches edge-triggered, so it is
 * never read. It is silent while the thread looks at completions anyway, and while it submits: what
 * is over by then (a RAM disk, the page cache) costs no wake-up.
 */

/* The ring's registered files. It keeps them open until its last I/O is over, even when the process
 * is gone by then: that is what keep_fd is there for. */
enum { FILE_BUFFERED, FILE_DIRECT, FILE_KEEP, FILES };

#define BATCH 32 /* completions looked at in one go */

struct file_queue {
	struct image_queue base;
	struct image_queue_config config;
	const struct file_image *image;
	struct io_uring ring;
	bool ring_made;
	int eventfd;
	struct event *woken, *retry;
	struct image_list waiting; /* for room in the ring */
	struct image_later later;
	struct file_pool slow; /* for block devices' discards, one after the other */
};

/* ---- into the ring ---- */

static void
fill(const struct file_queue *q, struct io_uring_sqe *sqe, struct image_io *io)
{
	uint64_t offset = io->offset + io->done;
	int file = FILE_BUFFERED;

	switch (io->op) {
	case IMAGE_READ:
	case IMAGE_WRITE:
		if (file_descriptor(q->image, io) == q->image->direct_fd)
			file = FILE_DIRECT;
		if (io->op == IMAGE_READ)
			io_uring_prep_readv(sqe, file, io->iov, (unsigned)io->iovcnt, offset);
		else
			io_uring_prep_writev(sqe, file, io->iov, (unsigned)io->iovcnt, offset);
		break;
	case IMAGE_FLUSH:
		/* Of the inode, through whichever descriptor it was written. */
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case IMAGE_DISCARD:
		io_uring_prep_fallocate(sqe, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		    (off_t)offset, (off_t)io->length);
		break;
	}
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, io);
}

/* The kernel may be short of memory; what it did not take stays in the ring. */
static void
submit_ring(struct file_queue *q)
{
	struct timeval soon = {.tv_usec = 1000};

	if (io_uring_sq_ready(&q->ring) > 0)
		io_uring_submit_and_get_events(&q->ring);
	if (io_uring_sq_ready(&q->ring) > 0 || q->waiting.first != NULL)
		event_add(q->retry, &soon);
}

static bool
put(struct file_queue *q, struct image_io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	if (sqe == NULL) { /* there is an entry for each of "depth": only after a failed submit */
		io_uring_submit_and_get_events(&q->ring);
		sqe = io_uring_get_sqe(&q->ring);
	}
	if (sqe == NULL)
		return false;
	fill(q, sqe, io);
	return true;
}

static void
begin(struct file_queue *q, struct image_io *io)
{
	if (q->waiting.first != NULL || !put(q, io))
		image_list_append(&q->waiting, io);
}

static void
go_on(struct file_queue *q)
{
	while (q->waiting.first != NULL && put(q, q->waiting.first))
		image_list_take(&q->waiting);
	submit_ring(q);
}

static bool
has_more(struct file_queue *q)
{
	unsigned flags = __atomic_load_n(q->ring.sq.kflags, __ATOMIC_RELAXED);

	return io_uring_cq_ready(&q->ring) > 0 ||
	       (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/* Wake-ups are on again. True if there is something that has caused none. */
static bool
wake_again(struct file_queue *q)
{
	io_uring_cq_eventfd_toggle(&q->ring, true);
	/* The kernel adds a completion, then looks whether to tell. */
	atomic_thread_fence(memory_order_seq_cst);
	return has_more(q);
}

static bool
file_queue_push(struct image_queue *base)
{
	struct file_queue *q = (struct file_queue *)base;

	io_uring_cq_eventfd_toggle(&q->ring, false);
	go_on(q);
	image_later_wake(&q->later);
	return wake_again(q);
}

static void
on_retry(evutil_socket_t fd, short events, void *arg)
{
	struct file_queue *q = arg;

	go_on(q);
}

static void
file_queue_submit(struct image_queue *base, struct image_io *io)
{
	struct file_queue *q = (struct file_queue *)base;
	int status = file_refusal(q->image, io);

	io->done = 0;
	if (status != 0)
		image_later_add(&q->later, io, status);
	else if (io->op == IMAGE_DISCARD && q->image->device)
		file_pool_submit(&q->slow, io);
	else
		begin(q, io);
}

/* ---- out of the ring ---- */

static void
complete(struct file_queue *q, struct image_io *io, int result)
{
	if (file_is_over(io, result))
		image_later_add(&q->later, io, io->status);
	else
		begin(q, io);
}

static bool
reap(struct file_queue *q)
{
	struct io_uring_cqe *cqes[BATCH];
	unsigned count, seen = 0;

	/* At most so many, for others want to be served, too. */
	while (seen < q->config.depth &&
	       (count = io_uring_peek_batch_cqe(&q->ring, cqes, BATCH)) > 0) {
		for (unsigned i = 0; i < count; i++)
			complete(q, io_uring_cqe_get_data(cqes[i]), cqes[i]->res);
		io_uring_cq_advance(&q->ring, count);
		seen += count;
	}
	if (q->waiting.first != NULL || io_uring_sq_ready(&q->ring) > 0)
		go_on(q);
	return image_later_deliver(&q->later);
}

static bool
file_queue_poll(struct image_queue *base)
{
	struct file_queue *q = (struct file_queue *)base;
	bool any;

	io_uring_cq_eventfd_toggle(&q->ring, false);
	any = reap(q);
	if (wake_again(q))
		eventfd_write(q->eventfd, 1); /* not event_active(): others get their turn */
	return any;
}

static void
on_woken(evutil_socket_t fd, short events, void *arg)
{
	file_queue_poll(arg);
}

/* ---- start and stop ---- */

static void
file_queue_stop(struct image_queue *base)
{
	struct file_queue *q = (struct file_queue *)base;

	file_pool_stop(&q->slow);
	if (q->woken != NULL)
		event_free(q->woken);
	if (q->retry != NULL)
		event_free(q->retry);
	image_later_free(&q->later);
	if (q->ring_made)
		io_uring_queue_exit(&q->ring);
	if (q->eventfd != -1)
		close(q->eventfd);
	free(q);
}

/*
 * DEFER_TASKRUN: the end of an I/O does not interrupt the thread; it is brought in when the thread
 * asks. The eventfd is told first, which poll(2) of the ring itself would not always be, and
 * TASKRUN_FLAG tells somebody who polls. Linux 6.1; without these flags all else is the same.
 */
static int
make_ring(struct file_queue *q)
{
	static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					     IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
					     IORING_SETUP_CLAMP,
	    IORING_SETUP_CLAMP};
	int error = -EINVAL;

	for (unsigned i = 0; i < 2 && error == -EINVAL; i++) {
		struct io_uring_params params = {.flags = flags[i]};

		error = io_uring_queue_init_params(q->config.depth, &q->ring, &params);
	}
	q->ring_made = error == 0;
	return error;
}

static int
register_files(struct file_queue *q)
{
	const struct file_image *image = q->image;
	int fds[FILES] = {[FILE_BUFFERED] = image->buffered_fd,
	    [FILE_DIRECT] = image->direct_fd,
	    [FILE_KEEP] = image->keep_fd}; /* -1 is a free place */

	return io_uring_register_files(&q->ring, fds, FILES);
}

/* Negative errno. */
static int
set_up(struct file_queue *q)
{
	int error;

	if (image_later_init(&q->later, &q->config) != 0)
		return -ENOMEM;
	if ((event_base_get_features(q->config.base) & EV_FEATURE_ET) == 0)
		return -EOPNOTSUPP; /* not epoll */
	q->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->eventfd == -1)
		return -errno;
	if ((error = make_ring(q)) != 0 || (error = register_files(q)) != 0 ||
	    (error = io_uring_register_eventfd(&q->ring, q->eventfd)) != 0)
		return error;
	q->woken = event_new(q->config.base, q->eventfd, EV_READ | EV_ET | EV_PERSIST, on_woken, q);
	q->retry = evtimer_new(q->config.base, on_retry, q);
	if (q->woken == NULL || q->retry == NULL || event_add(q->woken, NULL) != 0 ||
	    !file_pool_start(&q->slow, q->config.base, 0, 1))
		return -ENOMEM;
	return 0;
}

static struct image_queue *
file_queue_start(struct image *image, const struct image_queue_config *config)
{
	struct file_queue *q = calloc(1, sizeof(*q));
	int error = -ENOMEM;

	if (q != NULL) {
		q->base.ops = &image_file_uring_ops;
		q->config = *config;
		q->image = (const struct file_image *)image;
		q->slow = (struct file_pool){.image = q->image, .later = &q->later};
		q->eventfd = -1;
		image_list_clear(&q->waiting);
		error = set_up(q);
	}
	if (error == 0)
		return &q->base;
	if (q != NULL)
		file_queue_stop(&q->base);
	return file_fall_back(image, config, "io_uring", error,
	    error == -EPERM ? " (see the sysctl kernel.io_uring_disabled)" : "");
}

const struct image_ops image_file_uring_ops = {
    .size = file_size,
    .start = file_queue_start,
    .submit = file_queue_submit,
    .push = file_queue_push,
    .poll = file_queue_poll,
    .stop = file_queue_stop,
    .io_uring = true,
};
