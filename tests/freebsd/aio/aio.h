/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_AIO_H
#define STUB_AIO_H

#include <signal.h>
#include <sys/types.h>

/*
 * FreeBSD's aio(4) as far as it is used, from the manual pages: for scripts/check-freebsd, and for
 * test_image_aio on Linux, which defines the functions.
 */

#ifndef sigev_notify_kqueue /* Linux' struct sigevent has room for both */
#define sigev_notify_kqueue	  sigev_signo
#define sigev_notify_kevent_flags _sigev_un._tid
#define SIGEV_KEVENT		  3
#endif

struct aiocb {
	int aio_fildes;
	off_t aio_offset;
	volatile void *aio_buf;
	size_t aio_nbytes;
	struct sigevent aio_sigevent;
};
#define aio_iov	   aio_buf
#define aio_iovcnt aio_nbytes

int aio_readv(struct aiocb *cb);
int aio_writev(struct aiocb *cb);
int aio_fsync(int op, struct aiocb *cb);
int aio_error(const struct aiocb *cb);
ssize_t aio_return(struct aiocb *cb);

#endif
