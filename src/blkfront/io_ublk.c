/* SPDX-License-Identifier: BSD-2-Clause */
#include "attach.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <event2/event.h>
#include <liburing.h>
#include <xenpv/log.h>

#include "ublk_abi.h"

/*
 * The worker's half of ublk: one io_uring per queue thread, for all host queues the thread serves.
 * Data is copied between the host's request and the granted pages by preadv(2) and pwritev(2) on
 * the character device: once per byte.
 */

struct host_queue {
	const struct ublk_io_desc *descriptors; /* the kernel's, one per tag */
	size_t mapped;
	uint16_t id;
};

struct tag {
	struct blk_request request; /* first: a request leads to its tag */
	const struct host_queue *queue;
	uint16_t tag;
};

struct ublk_io {
	struct io_uring ring;
	bool ring_made;
	int fd; /* /dev/ublkcN */
	struct blk_queue *q;
	struct event *readable;
	uint32_t max_io_bytes;
	unsigned depth, nqueues;
	struct host_queue *queues;
	struct tag *tags; /* [nqueues * depth] */
};

/* ---- commands ---- */

static struct io_uring_sqe *
next_sqe(struct ublk_io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

	if (sqe == NULL) { /* the ring has an entry per tag: only after a failed submit */
		io_uring_submit(&io->ring);
		sqe = io_uring_get_sqe(&io->ring);
	}
	return sqe;
}

static void
command(struct ublk_io *io, struct tag *t, uint32_t operation, int32_t result)
{
	struct io_uring_sqe *sqe = next_sqe(io);

	if (sqe == NULL) {
		xpv_err("ublk: the kernel takes no commands");
		return;
	}
	ublk_fill_io_command(sqe, io->fd, operation, t->queue->id, t->tag, result);
	io_uring_sqe_set_data(sqe, t);
}

static off_t
data_offset(const struct blk_request *r)
{
	const struct tag *t = (const struct tag *)r;

	return (off_t)UBLK_DATA_OFFSET(t->queue->id, t->tag);
}

/* ---- requests ---- */

/* False: refused, "error" says why. */
static bool
translate(const struct ublk_io *io, const struct ublk_io_desc *d, struct blk_request *r, int *error)
{
	r->sector = d->sector;
	r->sectors = d->sectors;
	*error = -EIO;
	switch (d->op_flags & 0xff) {
	case UBLK_OP_READ:
		r->op = BLK_READ;
		break;
	case UBLK_OP_WRITE:
		r->op = BLK_WRITE;
		break;
	case UBLK_OP_FLUSH:
		r->op = BLK_FLUSH;
		return true;
	case UBLK_OP_DISCARD:
		r->op = BLK_DISCARD;
		return d->sectors > 0;
	default:
		*error = -EOPNOTSUPP;
		return false;
	}
	return d->sectors > 0 && d->sectors <= io->max_io_bytes >> BLK_SECTOR_SHIFT;
}

static void
accept_request(struct ublk_io *io, struct tag *t)
{
	struct ublk_io_desc d = t->queue->descriptors[t->tag];
	int error;

	if (translate(io, &d, &t->request, &error))
		blk_queue_submit(io->q, &t->request);
	else
		command(io, t, UBLK_IO_COMMIT_AND_FETCH, error);
}

static void
on_readable(evutil_socket_t fd, short events, void *arg)
{
	struct ublk_io *io = arg;
	struct io_uring_cqe *cqe;
	unsigned head, seen = 0;

	io_uring_for_each_cqe(&io->ring, head, cqe)
	{
		seen++;
		if (cqe->res == 0)
			accept_request(io, io_uring_cqe_get_data(cqe));
		else if (cqe->res != UBLK_IO_RES_ABORT)
			xpv_warning("ublk: the kernel refuses an answer: %s", strerror(-cqe->res));
	}
	io_uring_cq_advance(&io->ring, seen);
	blk_queue_push(io->q);
	if (io_uring_sq_ready(&io->ring) > 0)
		io_uring_submit(&io->ring);
}

static int
ublk_pull(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt)
{
	struct ublk_io *io = host;
	ssize_t wanted = (ssize_t)r->sectors << BLK_SECTOR_SHIFT;

	return preadv(io->fd, iov, iovcnt, data_offset(r)) == wanted ? 0 : -EIO;
}

static void
ublk_done(void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt)
{
	struct ublk_io *io = host;
	int32_t result = 0;

	if (r->op == BLK_READ || r->op == BLK_WRITE)
		result = (int32_t)(r->sectors << BLK_SECTOR_SHIFT);
	if (status != 0)
		result = status;
	else if (r->op == BLK_READ && pwritev(io->fd, iov, iovcnt, data_offset(r)) != result)
		result = -EIO;
	blk_queue_release(io->q, r);
	command(io, (struct tag *)r, UBLK_IO_COMMIT_AND_FETCH, result);
}

static void
ublk_flush(void *host)
{
	struct ublk_io *io = host;

	io_uring_submit(&io->ring);
}

/* ---- start and stop ---- */

static void
ublk_stop(void *host)
{
	struct ublk_io *io = host;

	if (io->readable != NULL)
		event_free(io->readable);
	for (unsigned i = 0; io->queues != NULL && i < io->nqueues; i++) {
		if (io->queues[i].descriptors != NULL)
			munmap((void *)(uintptr_t)io->queues[i].descriptors, io->queues[i].mapped);
	}
	if (io->ring_made)
		io_uring_queue_exit(&io->ring);
	free(io->queues);
	free(io->tags);
	free(io);
}

static bool
map_queue(struct ublk_io *io, struct host_queue *queue, uint16_t id)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t bytes = io->depth * sizeof(struct ublk_io_desc);
	size_t apart = UBLK_MAX_DEPTH * sizeof(struct ublk_io_desc);
	void *map;

	queue->id = id;
	queue->mapped = (bytes + page - 1) & ~(page - 1);
	map = mmap(NULL, queue->mapped, PROT_READ, MAP_SHARED | MAP_POPULATE, io->fd,
	    (off_t)(id * ((apart + page - 1) & ~(page - 1))));
	if (map == MAP_FAILED)
		return false;
	queue->descriptors = map;
	return true;
}

static bool
make_ring(struct ublk_io *io)
{
	/* Not DEFER_TASKRUN: such a ring does not wake poll(2) when a request comes. */
	struct io_uring_params params = {
	    .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CLAMP};
	int error = io_uring_queue_init_params(io->nqueues * io->depth, &io->ring, &params);

	if (error != 0) {
		errno = -error;
		return false;
	}
	io->ring_made = true;
	return true;
}

/*
 * When all servers of a device are privileged, Linux 6.12 reads the partition table within
 * START_DEV and with the device's lock held: if we died then, nothing could free the device. A
 * sandboxed worker has no capabilities in the first place; this is for one that is not.
 */
static void
renounce_admin(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) == 0) {
		data[0].effective &= ~(1u << CAP_SYS_ADMIN);
		syscall(SYS_capset, &header, data);
	}
}

static bool
fetch_all(struct ublk_io *io)
{
	struct io_uring_cqe *cqe;

	for (unsigned i = 0; i < io->nqueues * io->depth; i++)
		command(io, &io->tags[i], UBLK_IO_FETCH, 0);
	io_uring_submit(&io->ring);
	/* Nothing comes before the device is started: what is answered now was refused. */
	if (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		errno = -cqe->res;
		return false;
	}
	errno = EAGAIN;
	return io_uring_sq_ready(&io->ring) == 0;
}

static void *
ublk_start(const struct attach_grant *grant, struct blk_queue *q, struct event_base *base,
    unsigned thread, unsigned threads)
{
	struct ublk_io *io = calloc(1, sizeof(*io));

	if (io == NULL)
		return NULL;
	io->fd = grant->fds[0];
	io->q = q;
	io->depth = grant->depth;
	io->max_io_bytes = grant->max_io_bytes;
	io->nqueues = (grant->host_queues - thread + threads - 1) / threads;
	io->queues = calloc(io->nqueues, sizeof(*io->queues));
	io->tags = calloc((size_t)io->nqueues * io->depth, sizeof(*io->tags));
	if (io->queues == NULL || io->tags == NULL || !make_ring(io))
		goto fail;
	blk_queue_attach(q, &io_ublk.host, io);
	for (unsigned i = 0; i < io->nqueues; i++) {
		struct host_queue *queue = &io->queues[i];

		if (!map_queue(io, queue, (uint16_t)(thread + i * threads)))
			goto fail;
		for (unsigned tag = 0; tag < io->depth; tag++) {
			struct tag *t = &io->tags[i * io->depth + tag];

			t->queue = queue;
			t->tag = (uint16_t)tag;
		}
	}
	io->readable = event_new(base, io->ring.ring_fd, EV_READ | EV_PERSIST, on_readable, io);
	if (io->readable == NULL || event_add(io->readable, NULL) != 0)
		goto fail;
	renounce_admin();
	if (!fetch_all(io))
		goto fail;
	return io;
fail:
	xpv_err("queue %u: cannot take requests from ublk: %s", thread, strerror(errno));
	ublk_stop(io);
	return NULL;
}

/* What is fetched and not accepted goes to the next worker: the kernel knows it as ours. */
static void
ublk_quiesce(void *host)
{
	struct ublk_io *io = host;

	event_del(io->readable);
}

static bool
ublk_idle(const void *host)
{
	const struct ublk_io *io = host;

	return io_uring_sq_ready(&io->ring) == 0;
}

const struct attach_io_ops io_ublk = {
    .host = {.pull = ublk_pull, .done = ublk_done, .flush = ublk_flush},
    .io_uring = true,
    .start = ublk_start,
    .quiesce = ublk_quiesce,
    .idle = ublk_idle,
    .stop = ublk_stop,
};
