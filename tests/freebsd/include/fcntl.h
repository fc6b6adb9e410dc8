/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_FCNTL_H
#define STUB_FCNTL_H

#include <sys/types.h>

#define O_RDONLY   0x0000
#define O_RDWR	   0x0002
#define O_NONBLOCK 0x0004
#define O_NOFOLLOW 0x0100
#define O_CREAT	   0x0200
#define O_EXCL	   0x0800
#define O_DIRECT   0x00010000
#define O_CLOEXEC  0x00100000
#define O_DSYNC	   0x01000000

#define F_GETFD	   1
#define F_SETFD	   2
#define F_GETFL	   3
#define F_SETFL	   4
#define FD_CLOEXEC 1

#define LOCK_SH 1
#define LOCK_EX 2
#define LOCK_NB 4

#define SPACECTL_DEALLOC 1
struct spacectl_range {
	off_t r_offset, r_len;
};

int open(const char *path, int flags, ...);
int fcntl(int fd, int command, ...);
int flock(int fd, int operation);
int posix_fallocate(int fd, off_t offset, off_t length);
int fspacectl(int fd, int command, const struct spacectl_range *wanted, int flags,
    struct spacectl_range *left);

#endif
