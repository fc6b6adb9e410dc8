/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_UIO_H
#define STUB_SYS_UIO_H

#include <sys/types.h>

struct iovec {
	void *iov_base;
	size_t iov_len;
};
ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset);
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset);

#endif
