/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_OUT_H
#define BLKFRONT_NBD_OUT_H

#include <sys/types.h>
#include <sys/uio.h>

#include "nbd_journal.h"

/*
 * What we send on an NBD connection, counted: a worker that is killed in the middle of a system
 * call leaves it to the next one to find out how many bytes have left. Two ways:
 *
 *   pair   The peer is the kernel's nbd driver, its end of the socket pair is open here too, and is
 *          asked what was taken from it (nbd_journal.h).
 *   pipe   The peer is a program, and nobody can ask its end. Bytes go into a pipe and are moved
 *          from there to the socket by splice(2), which moves references and copies nothing. The
 *          supervisor keeps the pipe open, so it survives the worker with all that is in it, and
 *          says how much that is (FIONREAD). What is in the pipe counts as sent.
 */
struct nbd_out {
	struct nbd_journal *journal;
	int fd;		 /* our end; not blocking, with a pipe */
	int kernels_end; /* of a pair; else -1 */
	int pipe[2];	 /* not blocking; or -1 */
	uint64_t total;	 /* bytes sent since the journal was made */
	size_t in_pipe;
};

/* Fills "total" from the journal, finishing what a killed worker had begun. 0 or -1 with errno. */
int nbd_out_open(
    struct nbd_out *out, struct nbd_journal *j, int fd, int kernels_end, const int pipe[2]);

/* Bytes sent, or -1 with errno: EAGAIN when the peer has to read first. */
ssize_t nbd_out_send(struct nbd_out *out, const struct iovec *iov, int count);

/* After a batch. 1: nothing is left to be moved, 0: the peer has to read first, -1 with errno. */
int nbd_out_push(struct nbd_out *out);

/* Now and then, when all that was sent was noted: makes room in the counter. 0 or -1. */
int nbd_out_rearm(struct nbd_out *out);

#endif
