/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_out.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static bool
is_pipe(const struct nbd_out *out)
{
	return out->kernels_end < 0;
}

static int
open_pipe(struct nbd_out *out)
{
	struct nbd_piped *piped = &out->journal->piped;
	int held;

	if (ioctl(out->pipe[0], FIONREAD, &held) != 0)
		return -1;
	out->in_pipe = (size_t)held;
	/* Nothing leaves the pipe while it is filled: what it holds says how far that came. */
	if (piped->filling) {
		piped->put = piped->base + (uint64_t)held;
		piped->filling = false;
	}
	out->total = piped->put;
	return 0;
}

int
nbd_out_open(struct nbd_out *out, struct nbd_journal *j, int fd, int kernels_end, const int pipe[2])
{
	*out = (struct nbd_out){
	    .journal = j,
	    .fd = fd,
	    .kernels_end = kernels_end,
	    .pipe = {pipe[0], pipe[1]},
	};
	return is_pipe(out) ? open_pipe(out) : nbd_journal_sent(j, kernels_end, &out->total);
}

static ssize_t
fill(struct nbd_out *out, const struct iovec *iov, int count)
{
	struct nbd_piped *piped = &out->journal->piped;
	ssize_t n;

	/* In this order: "filling" makes the base count instead of "put". */
	piped->base = out->total - out->in_pipe;
	piped->filling = true;
	n = writev(out->pipe[1], iov, count);
	if (n > 0)
		out->in_pipe += (size_t)n;
	piped->put = piped->base + out->in_pipe;
	piped->filling = false;
	return n;
}

int
nbd_out_push(struct nbd_out *out)
{
	while (out->in_pipe > 0) {
		ssize_t n =
		    splice(out->pipe[0], NULL, out->fd, NULL, out->in_pipe, SPLICE_F_NONBLOCK);

		if (n > 0)
			out->in_pipe -= (size_t)n;
		else if (n == 0 || errno == EAGAIN)
			return 0;
		else if (errno != EINTR)
			return -1;
	}
	return 1;
}

static ssize_t
send_by_pipe(struct nbd_out *out, const struct iovec *iov, int count)
{
	ssize_t n = fill(out, iov, count);

	if (n < 0 && errno == EAGAIN) {
		size_t before = out->in_pipe;

		if (nbd_out_push(out) < 0)
			return -1;
		/* A pipe has slots, not bytes: moving some of one may not have made room. */
		errno = EAGAIN;
		n = out->in_pipe < before ? fill(out, iov, count) : -1;
	}
	return n;
}

ssize_t
nbd_out_send(struct nbd_out *out, const struct iovec *iov, int count)
{
	const struct msghdr message = {
	    .msg_iov = (struct iovec *)(uintptr_t)iov, /* sendmsg(2) only reads */
	    .msg_iovlen = (size_t)count,
	};
	ssize_t n;

	if (is_pipe(out))
		n = send_by_pipe(out, iov, count);
	else
		n = sendmsg(out->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0)
		out->total += (uint64_t)n;
	return n;
}

int
nbd_out_rearm(struct nbd_out *out)
{
	if (is_pipe(out))
		return 0;
	return nbd_counter_rearm(&out->journal->taken, out->kernels_end, out->total);
}
