/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_file_io.h"

#include <errno.h>

int
file_refusal(const struct file_image *image, const struct image_io *io)
{
	if ((io->op == IMAGE_WRITE || io->op == IMAGE_DISCARD) && image->read_only)
		return -EROFS;
	if (io->op == IMAGE_DISCARD && !(io->secure ? image->secure_discard : image->discard))
		return -EOPNOTSUPP;
	return 0;
}

static bool
is_aligned(const struct file_alignment *align, const struct image_io *io)
{
	uint64_t bits = 0;

	if (((io->offset + io->done) | (io->length - io->done)) % align->offset != 0)
		return false;
	for (int i = 0; i < io->iovcnt; i++)
		bits |= (uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len;
	return bits % align->memory == 0;
}

int
file_descriptor(const struct file_image *image, const struct image_io *io)
{
	return is_aligned(&image->align, io) ? image->direct_fd : image->buffered_fd;
}

/* The next "bytes" of a read or write are dealt with. */
static void
move_on(struct image_io *io, size_t bytes)
{
	io->done += bytes;
	while (io->iovcnt > 0 && bytes >= io->iov->iov_len) {
		bytes -= io->iov->iov_len;
		io->iov++;
		io->iovcnt--;
	}
	if (bytes > 0) {
		io->iov->iov_base = (char *)io->iov->iov_base + bytes;
		io->iov->iov_len -= bytes;
	}
}

bool
file_is_over(struct image_io *io, ssize_t result)
{
	bool data = io->op == IMAGE_READ || io->op == IMAGE_WRITE;

	if (result == -EAGAIN || result == -EINTR)
		return false;
	if (result < 0 || !data) {
		io->status = (int)result;
	} else if (io->done + (uint64_t)result >= io->length) {
		io->status = 0;
	} else if (result == 0) { /* the file has become shorter */
		io->status = -EIO;
	} else {
		move_on(io, (size_t)result);
		return false;
	}
	return true;
}

static int
transfer(const struct file_image *image, struct image_io *io)
{
	ssize_t result;

	do {
		int fd = file_descriptor(image, io);
		off_t offset = (off_t)(io->offset + io->done);

		result = io->op == IMAGE_READ ? preadv(fd, io->iov, io->iovcnt, offset)
					      : pwritev(fd, io->iov, io->iovcnt, offset);
		if (result < 0)
			result = -errno;
	} while (!file_is_over(io, result));
	return io->status;
}

/* ---- threads ---- */

static int
pool_work(void *arg, struct image_io *io)
{
	const struct file_image *image = ((const struct file_pool *)arg)->image;

	switch (io->op) {
	case IMAGE_READ:
	case IMAGE_WRITE:
		return transfer(image, io);
	case IMAGE_FLUSH:
		return file_os_flush(image);
	case IMAGE_DISCARD:
		return file_os_discard(image, io);
	}
	return -EOPNOTSUPP;
}

static void
pool_over(void *arg, struct image_io *io)
{
	image_later_add(((struct file_pool *)arg)->later, io, io->status);
}

static void
pool_batch_over(void *arg)
{
	image_later_deliver(((struct file_pool *)arg)->later);
}

static const struct image_pool_ops pool_ops = {
    .work = pool_work, .over = pool_over, .batch_over = pool_batch_over};

bool
file_pool_start(struct file_pool *p, struct event_base *base, unsigned least, unsigned most)
{
	p->pool = image_pool_start(base, least, most, &pool_ops, p);
	return p->pool != NULL;
}

void
file_pool_submit(struct file_pool *p, struct image_io *io)
{
	if (!image_pool_submit(p->pool, io))
		image_later_add(p->later, io, -errno);
}

void
file_pool_poll(struct file_pool *p)
{
	image_pool_poll(p->pool);
}

void
file_pool_stop(struct file_pool *p)
{
	if (p->pool != NULL)
		image_pool_stop(p->pool);
}
