/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_LOCK_H
#define BLKBACK_LOCK_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Locks that belong to an open file, not to a process: they go when the last descriptor is closed
 * and the last I/O through it is over, and forked or duplicated descriptors share them. Linux:
 * locks of open file descriptions. FreeBSD: flock(2). lock_linux.c, lock_freebsd.c.
 */

/* Does not wait. 0, or -1 with errno: EAGAIN if another one has it. */
int open_file_lock(int fd, bool exclusive);

/* The process that has it, as far as can be told; 0. */
pid_t open_file_lock_holder(int fd, bool exclusive);

#endif
