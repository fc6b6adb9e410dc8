/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_ERRNO_H
#define STUB_ERRNO_H

int *__error(void);
#define errno (*__error())

#define EPERM	   1
#define ENOENT	   2
#define EINTR	   4
#define EIO	   5
#define ENXIO	   6
#define EBADF	   9
#define ENOMEM	   12
#define EACCES	   13
#define EBUSY	   16
#define EEXIST	   17
#define ENODEV	   19
#define ENOTDIR	   20
#define EINVAL	   22
#define ENOSPC	   28
#define EROFS	   30
#define ERANGE	   34
#define EAGAIN	   35
#define EOPNOTSUPP 45
#define ENOTSUP	   EOPNOTSUPP
#define ESTALE	   70
#define ENOSYS	   78
#define EPROTO	   92

#endif
