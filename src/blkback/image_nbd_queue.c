/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_nbd.h"

#include <errno.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "image_later.h"
#include "image_list.h"

/*
 * I/O of one queue through its connections, which take commands in turn. libnbd sends what it can
 * at once, and calls back from within its functions: nothing is delivered there.
 *
 * An NBD command has one buffer and costs several system calls, so data that lies here and there is
 * copied: a command per page would take ten times as long.
 */

#define COMMANDS_PER_OPERATION 2
#define BUFFERS		       16u
#define BUFFER_SIZE	       (VBD_MAX_SEGMENTS * 4096u) /* touched only as far as needed */
#define NOT_COPIED	       65536u			  /* as much together is sent as it is */
#define LARGEST_TRIM	       (1u << 30)		  /* the protocol has 32 bits */

struct nbd_queue;

struct connection {
	struct nbd_handle *h;
	struct nbd_queue *q;
	struct event *readable, *writable;
	unsigned direction; /* what is waited for */
};

/* One that is in flight, or in the list of free ones. */
struct command {
	struct nbd_queue *q;
	struct image_io *io;
	uint64_t at, length; /* of the operation's */
	char *buffer;	     /* or NULL: the operation's own memory */
	struct command *next;
};

struct nbd_queue {
	struct image_queue base;
	struct image_queue_config config;
	const struct nbd_image *image;
	struct connection connections[NBD_MAX_CONNECTIONS];
	unsigned count, turn;
	struct command *commands, *free;
	char *buffers, *free_buffers[BUFFERS];
	unsigned nfree_buffers;
	struct image_list waiting; /* for a command or a buffer; part of the first may be sent */
	struct image_later later;
	struct event *gone;
	bool lost;
	char why[160];
};

/* ---- an operation's commands ---- */

/* The parts of an operation that are not over, and one for as long as not all are sent. */
static uintptr_t
parts(const struct image_io *io)
{
	return (uintptr_t)io->cookie;
}

static void
add_part(struct image_io *io)
{
	io->cookie = (void *)(parts(io) + 1);
}

static void
part_is_over(struct nbd_queue *q, struct image_io *io)
{
	io->cookie = (void *)(parts(io) - 1);
	if (parts(io) == 0)
		image_later_add(&q->later, io, io->status);
}

static void
lose(struct nbd_queue *q, const char *why)
{
	if (q->lost)
		return;
	q->lost = true;
	snprintf(q->why, sizeof(q->why), "%s", why);
	event_active(q->gone, EV_TIMEOUT, 0);
}

static void
free_command(struct command *c)
{
	struct nbd_queue *q = c->q;

	if (c->buffer != NULL)
		q->free_buffers[q->nfree_buffers++] = c->buffer;
	c->buffer = NULL;
	c->next = q->free;
	q->free = c;
}

/* Between a command's buffer and the operation's memory. */
static void
copy(const struct command *c)
{
	const struct iovec *iov = c->io->iov;
	uint64_t skip = c->at, left = c->length;
	char *buffer = c->buffer;

	for (; skip >= iov->iov_len; iov++)
		skip -= iov->iov_len;
	for (; left > 0; iov++, skip = 0) {
		size_t length = iov->iov_len - skip < left ? iov->iov_len - skip : left;
		char *data = (char *)iov->iov_base + skip;

		if (c->io->op == IMAGE_READ)
			memcpy(data, buffer, length);
		else
			memcpy(buffer, data, length);
		buffer += length;
		left -= length;
	}
}

/* libnbd's: also for all that are in flight when a connection ends. */
static int
on_command_over(void *arg, int *error)
{
	struct command *c = arg;
	struct nbd_queue *q = c->q;

	if (*error == ESHUTDOWN)
		lose(q, "the NBD server shuts down");
	if (*error != 0 && c->io->status == 0)
		c->io->status = -*error;
	if (*error == 0 && c->io->op == IMAGE_READ && c->buffer != NULL)
		copy(c);
	part_is_over(q, c->io);
	free_command(c);
	return 1; /* libnbd forgets it */
}

/* Where a command's data begins, and in "length" how much lies there together. */
static char *
find_data(const struct command *c, uint64_t *length)
{
	const struct iovec *iov = c->io->iov, *end = iov + c->io->iovcnt;
	uint64_t skip = c->at;
	char *data;

	for (; skip >= iov->iov_len; iov++)
		skip -= iov->iov_len;
	data = (char *)iov->iov_base + skip;
	*length = iov->iov_len - skip;
	for (iov++; iov < end && data + *length == (char *)iov->iov_base; iov++)
		*length += iov->iov_len;
	return data;
}

static uint64_t
smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* NULL: there is no buffer, and one is needed. */
static char *
prepare_data(struct nbd_queue *q, struct command *c)
{
	uint64_t left = c->io->length - c->at, together;
	char *data = find_data(c, &together);

	if (together >= NOT_COPIED)
		together -= together % q->image->sector_size;
	if (together == left || together >= NOT_COPIED) {
		c->length = smaller(together, q->image->max_payload);
		return data;
	}
	if (q->nfree_buffers == 0)
		return NULL;
	c->buffer = q->free_buffers[--q->nfree_buffers];
	c->length = smaller(left, smaller(BUFFER_SIZE, q->image->max_payload));
	if (c->io->op == IMAGE_WRITE)
		copy(c);
	return c->buffer;
}

static bool
all_sent(const struct image_io *io)
{
	return io->op == IMAGE_FLUSH ? io->done != 0 : io->done >= io->length;
}

static int64_t
send_command(struct nbd_handle *h, struct command *c, char *data)
{
	nbd_completion_callback over = {.callback = on_command_over, .user_data = c};
	uint64_t offset = c->io->offset + c->at;

	switch (c->io->op) {
	case IMAGE_READ:
		return nbd_aio_pread(h, data, c->length, offset, over, 0);
	case IMAGE_WRITE:
		return nbd_aio_pwrite(h, data, c->length, offset, over, 0);
	case IMAGE_FLUSH:
		return nbd_aio_flush(h, over, 0);
	case IMAGE_DISCARD:
		return nbd_aio_trim(h, c->length, offset, over, 0);
	}
	return -1;
}

/* The next part of an operation. False: a command or a buffer must come free first. */
static bool
send_part(struct nbd_queue *q, struct image_io *io)
{
	struct connection *connection = &q->connections[q->turn];
	struct command *c = q->free;
	char *data = NULL;

	if (c == NULL)
		return false;
	c->io = io;
	c->at = io->done;
	if (io->op == IMAGE_FLUSH)
		c->length = 1; /* "done" */
	else if (io->op == IMAGE_DISCARD)
		c->length = smaller(io->length - io->done, LARGEST_TRIM);
	else if ((data = prepare_data(q, c)) == NULL)
		return false;
	q->free = c->next;
	q->turn = (q->turn + 1) % q->count;
	io->done += c->length;
	add_part(io);
	if (send_command(connection->h, c, data) == -1) {
		int error = nbd_get_errno() != 0 ? nbd_get_errno() : EIO;

		on_command_over(c, &error);
	}
	return true;
}

/* False if not all could be sent. */
static bool
send_parts(struct nbd_queue *q, struct image_io *io)
{
	while (io->status == 0 && !all_sent(io)) {
		if (!send_part(q, io))
			return false;
	}
	return true;
}

static void
send_waiting(struct nbd_queue *q)
{
	while (q->waiting.first != NULL && send_parts(q, q->waiting.first))
		part_is_over(q, image_list_take(&q->waiting));
}

static int
refusal(const struct nbd_image *image, const struct image_io *io)
{
	if (image->read_only && (io->op == IMAGE_WRITE || io->op == IMAGE_DISCARD))
		return -EROFS;
	if (io->op == IMAGE_DISCARD && (!image->can_trim || io->secure))
		return -EOPNOTSUPP;
	return 0;
}

void
nbd_queue_submit(struct image_queue *base, struct image_io *io)
{
	struct nbd_queue *q = (struct nbd_queue *)base;

	io->status = refusal(q->image, io);
	io->done = io->op == IMAGE_FLUSH && !q->image->can_flush; /* nothing to be sent */
	io->cookie = NULL;
	add_part(io);
	image_list_append(&q->waiting, io);
}

/* ---- the event loop ---- */

static void
wait_for(struct event *event, bool now, bool before)
{
	if (now == before)
		return;
	if (now)
		event_add(event, NULL);
	else
		event_del(event);
}

static void
update_direction(struct connection *c)
{
	unsigned now = nbd_aio_get_direction(c->h), before = c->direction;

	c->direction = now;
	wait_for(c->readable, now & LIBNBD_AIO_DIRECTION_READ, before & LIBNBD_AIO_DIRECTION_READ);
	wait_for(
	    c->writable, now & LIBNBD_AIO_DIRECTION_WRITE, before & LIBNBD_AIO_DIRECTION_WRITE);
}

static void
give_up(struct nbd_queue *q)
{
	for (unsigned i = 0; i < q->count; i++) {
		event_del(q->connections[i].readable);
		event_del(q->connections[i].writable);
	}
	/* What failed since, and what was over before: the next worker repeats all of it. */
	image_list_take_all(&q->later.over);
	image_list_take_all(&q->waiting);
}

/* After calls of libnbd. */
static void
go_on(struct nbd_queue *q)
{
	if (!q->lost)
		send_waiting(q);
	for (unsigned i = 0; i < q->count; i++) {
		struct connection *c = &q->connections[i];

		if (nbd_aio_is_dead(c->h) || nbd_aio_is_closed(c->h))
			lose(q, "the NBD server has ended the connection");
		else
			update_direction(c);
	}
	if (q->lost)
		give_up(q);
}

static void
notify(struct connection *c, bool readable, bool writable)
{
	int rc = 0;

	if (readable && (nbd_aio_get_direction(c->h) & LIBNBD_AIO_DIRECTION_READ) != 0)
		rc = nbd_aio_notify_read(c->h);
	if (rc == 0 && writable && (nbd_aio_get_direction(c->h) & LIBNBD_AIO_DIRECTION_WRITE) != 0)
		rc = nbd_aio_notify_write(c->h);
	if (rc != 0)
		lose(c->q, nbd_get_error());
}

static void
on_socket(evutil_socket_t fd, short events, void *arg)
{
	struct connection *c = arg;

	notify(c, events & EV_READ, events & EV_WRITE);
	go_on(c->q);
	image_later_deliver(&c->q->later);
}

static void
on_gone(evutil_socket_t fd, short events, void *arg)
{
	struct nbd_queue *q = arg;

	q->config.lost(q->config.lost_arg, q->why);
}

bool
nbd_queue_push(struct image_queue *base)
{
	struct nbd_queue *q = (struct nbd_queue *)base;

	if (q->lost)
		return false;
	go_on(q);
	image_later_wake(&q->later);
	return false;
}

bool
nbd_queue_poll(struct image_queue *base)
{
	struct nbd_queue *q = (struct nbd_queue *)base;

	if (q->lost)
		return false;
	for (unsigned i = 0; i < q->count; i++)
		notify(&q->connections[i], true, false);
	go_on(q);
	return image_later_deliver(&q->later);
}

/* ---- start and stop ---- */

/* The connections stay with the image. */
void
nbd_queue_stop(struct image_queue *base)
{
	struct nbd_queue *q = (struct nbd_queue *)base;

	for (unsigned i = 0; i < q->count; i++) {
		if (q->connections[i].readable != NULL)
			event_free(q->connections[i].readable);
		if (q->connections[i].writable != NULL)
			event_free(q->connections[i].writable);
	}
	if (q->gone != NULL)
		event_free(q->gone);
	image_later_free(&q->later);
	free(q->buffers);
	free(q->commands);
	free(q);
}

static bool
take_connection(struct nbd_queue *q, struct nbd_handle *h)
{
	struct connection *c = &q->connections[q->count++];
	int fd = nbd_aio_get_fd(h);

	c->h = h;
	c->q = q;
	if (fd == -1)
		return false;
	c->readable = event_new(q->config.base, fd, EV_READ | EV_PERSIST, on_socket, c);
	c->writable = event_new(q->config.base, fd, EV_WRITE | EV_PERSIST, on_socket, c);
	return c->readable != NULL && c->writable != NULL;
}

static bool
make_commands(struct nbd_queue *q)
{
	unsigned count = q->config.depth * COMMANDS_PER_OPERATION;

	q->commands = calloc(count, sizeof(*q->commands));
	if (q->commands == NULL)
		return false;
	for (unsigned i = 0; i < count; i++) {
		q->commands[i].q = q;
		free_command(&q->commands[i]);
	}
	return true;
}

static bool
make_buffers(struct nbd_queue *q)
{
	q->buffers = malloc((size_t)BUFFERS * BUFFER_SIZE);
	if (q->buffers == NULL)
		return false;
	while (q->nfree_buffers < BUFFERS) {
		q->free_buffers[q->nfree_buffers] =
		    q->buffers + (size_t)q->nfree_buffers * BUFFER_SIZE;
		q->nfree_buffers++;
	}
	return true;
}

static bool
set_up(struct nbd_queue *q)
{
	unsigned queues = q->config.queues != 0 ? q->config.queues : q->image->queues;

	q->gone = event_new(q->config.base, -1, 0, on_gone, q);
	if (image_later_init(&q->later, &q->config) != 0 || q->gone == NULL || !make_commands(q) ||
	    !make_buffers(q))
		return false;
	for (unsigned i = q->config.index; i < q->image->count; i += queues) {
		if (!take_connection(q, q->image->connections[i]))
			return false;
	}
	if (q->count == 0)
		return false;
	go_on(q);
	return true;
}

struct image_queue *
nbd_queue_start(struct image *image, const struct image_queue_config *config)
{
	struct nbd_queue *q = calloc(1, sizeof(*q));

	if (q != NULL) {
		q->base.ops = &image_nbd_ops;
		q->config = *config;
		q->image = (const struct nbd_image *)image;
		image_list_clear(&q->waiting);
		if (set_up(q))
			return &q->base;
		nbd_queue_stop(&q->base);
	}
	xpv_err("queue %u: no connection to the NBD server is left, or no memory", config->index);
	return NULL;
}
