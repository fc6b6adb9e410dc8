/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>
#include <sys/event.h>

#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <event2/event.h>

#include "image_file_io.h"
#include "image_list.h"

/*
 * I/O of one queue through POSIX AIO, whose ends a kqueue tells: FreeBSD's, which does scatter and
 * gather since 13.0. libevent polls the kqueue's descriptor.
 *
 * Discards, and flushes of devices, are ioctls, and for a pool; so is all that the kernel will not
 * do for a file of this kind (EOPNOTSUPP: see vfs.aio.enable_unsafe in aio(4)).
 *
 * When a process ends the kernel waits for its AIO before it closes its files: the journal's lock
 * goes after the last I/O.
 */

#define BATCH 32 /* ends looked at in one go */

/* One that is in flight, or in the list of free ones. */
struct command {
	struct aiocb cb;
	struct image_io *io;
	struct command *next;
};

struct aio_queue {
	struct image_queue base;
	struct image_queue_config config;
	const struct file_image *image;
	int kq;
	struct event *readable, *retry;
	struct command *commands, *free;
	struct image_list waiting; /* for a command, or for the kernel to take more */
	struct image_later later;
	struct file_pool pool;
};

/* ---- into the kernel ---- */

static int
start_command(struct aio_queue *q, struct command *c)
{
	struct image_io *io = c->io;

	c->cb = (struct aiocb){.aio_offset = (off_t)(io->offset + io->done)};
	c->cb.aio_sigevent.sigev_notify = SIGEV_KEVENT;
	c->cb.aio_sigevent.sigev_notify_kqueue = q->kq;
	c->cb.aio_sigevent.sigev_notify_kevent_flags = EV_ONESHOT;
	c->cb.aio_sigevent.sigev_value.sival_ptr = c;
	if (io->op == IMAGE_FLUSH) {
		c->cb.aio_fildes = q->image->buffered_fd;
		return aio_fsync(O_DSYNC, &c->cb);
	}
	c->cb.aio_fildes = file_descriptor(q->image, io);
	c->cb.aio_iov = io->iov;
	c->cb.aio_iovcnt = (size_t)io->iovcnt;
	return io->op == IMAGE_READ ? aio_readv(&c->cb) : aio_writev(&c->cb);
}

/* False: it must wait. */
static bool
put(struct aio_queue *q, struct image_io *io)
{
	struct command *c = q->free;

	if (c == NULL)
		return false;
	c->io = io;
	if (start_command(q, c) == 0)
		q->free = c->next;
	else if (errno == EAGAIN) /* vfs.aio.max_aio_queue_per_proc and its like */
		return false;
	else if (errno == EOPNOTSUPP || errno == ENOSYS)
		file_pool_submit(&q->pool, io);
	else
		image_later_add(&q->later, io, -errno);
	return true;
}

static void
begin(struct aio_queue *q, struct image_io *io)
{
	if (q->waiting.first != NULL || !put(q, io))
		image_list_append(&q->waiting, io);
}

static void
aio_submit(struct image_queue *base, struct image_io *io)
{
	struct aio_queue *q = (struct aio_queue *)base;
	int status = file_refusal(q->image, io);

	io->done = 0;
	if (status != 0)
		image_later_add(&q->later, io, status);
	else if (io->op == IMAGE_DISCARD || (io->op == IMAGE_FLUSH && q->image->device))
		file_pool_submit(&q->pool, io);
	else
		begin(q, io);
}

static bool
aio_push(struct image_queue *base)
{
	struct aio_queue *q = (struct aio_queue *)base;
	struct timeval soon = {.tv_usec = 1000};

	while (q->waiting.first != NULL && put(q, q->waiting.first))
		image_list_take(&q->waiting);
	/* Others may have taken all there is of AIO: then no end of ours will come. */
	if (q->waiting.first != NULL)
		event_add(q->retry, &soon);
	image_later_wake(&q->later);
	return false;
}

static void
on_retry(evutil_socket_t fd, short events, void *arg)
{
	aio_push(arg);
}

/* ---- out of it ---- */

static void
complete(struct aio_queue *q, struct command *c)
{
	int error = aio_error(&c->cb);
	ssize_t result = aio_return(&c->cb);
	struct image_io *io = c->io;

	c->next = q->free;
	q->free = c;
	if (file_is_over(io, error != 0 ? -error : result))
		image_later_add(&q->later, io, io->status);
	else
		begin(q, io);
}

static bool
reap(struct aio_queue *q)
{
	const struct timespec at_once = {0};
	struct kevent ends[BATCH];
	unsigned seen = 0;
	int count;

	/* At most so many, for others want to be served, too. */
	while (
	    seen < q->config.depth && (count = kevent(q->kq, NULL, 0, ends, BATCH, &at_once)) > 0) {
		for (int i = 0; i < count; i++)
			complete(q, ends[i].udata);
		seen += (unsigned)count;
	}
	if (q->waiting.first != NULL)
		aio_push(&q->base);
	return image_later_deliver(&q->later);
}

static void
on_readable(evutil_socket_t fd, short events, void *arg)
{
	reap(arg);
}

static bool
aio_poll(struct image_queue *base)
{
	struct aio_queue *q = (struct aio_queue *)base;

	file_pool_poll(&q->pool);
	return reap(q);
}

/* ---- start and stop ---- */

static void
aio_stop(struct image_queue *base)
{
	struct aio_queue *q = (struct aio_queue *)base;

	file_pool_stop(&q->pool);
	if (q->readable != NULL)
		event_free(q->readable);
	if (q->retry != NULL)
		event_free(q->retry);
	image_later_free(&q->later);
	if (q->kq != -1)
		close(q->kq);
	free(q->commands);
	free(q);
}

static bool
make_commands(struct aio_queue *q)
{
	q->commands = calloc(q->config.depth, sizeof(*q->commands));
	if (q->commands == NULL)
		return false;
	for (unsigned i = 0; i < q->config.depth; i++) {
		q->commands[i].next = q->free;
		q->free = &q->commands[i];
	}
	return true;
}

/* Negative errno. */
static int
set_up(struct aio_queue *q)
{
	if (image_later_init(&q->later, &q->config) != 0 || !make_commands(q))
		return -ENOMEM;
	q->kq = kqueue();
	if (q->kq == -1)
		return -errno;
	q->readable = event_new(q->config.base, q->kq, EV_READ | EV_PERSIST, on_readable, q);
	q->retry = evtimer_new(q->config.base, on_retry, q);
	if (!file_pool_start(&q->pool, q->config.base, 1, IMAGE_POOL_MAX) || q->readable == NULL ||
	    q->retry == NULL || event_add(q->readable, NULL) != 0)
		return -ENOMEM;
	return 0;
}

static struct image_queue *
aio_start(struct image *image, const struct image_queue_config *config)
{
	struct aio_queue *q = calloc(1, sizeof(*q));
	int error = -ENOMEM;

	if (q != NULL) {
		q->base.ops = &image_file_aio_ops;
		q->config = *config;
		q->image = (const struct file_image *)image;
		q->pool = (struct file_pool){.image = q->image, .later = &q->later};
		q->kq = -1;
		image_list_clear(&q->waiting);
		error = set_up(q);
	}
	if (error == 0)
		return &q->base;
	if (q != NULL)
		aio_stop(&q->base);
	return file_fall_back(image, config, "POSIX AIO", error, "");
}

const struct image_ops image_file_aio_ops = {
    .size = file_size,
    .start = aio_start,
    .submit = aio_submit,
    .push = aio_push,
    .poll = aio_poll,
    .stop = aio_stop,
};
