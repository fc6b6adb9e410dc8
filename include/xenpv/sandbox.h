/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_SANDBOX_H
#define XENPV_SANDBOX_H

#include <stdbool.h>

/*
 * What a worker gives up before it reads the first byte a peer wrote: capabilities, user and
 * group, the filesystem (chroot to an empty directory), new privileges, and all system calls but
 * those below. Linux: seccomp, FreeBSD: Capsicum.
 *
 * Every worker may: read/write, sync and poll what it has open, ioctl(2) on it, map memory that is
 * not executable, make threads and pin them (sched_setaffinity(0, ...)), use futexes, clocks and
 * signals of its own, exit. It may not open, connect, execute, or touch other processes: such a
 * call fails with EPERM; execve, ptrace and others no worker calls by mistake kill the process.
 * Threads end by returning: pthread_exit(3) and pthread_cancel(3) would load a library.
 *
 * A process that is not root can not change root or user: it goes on without these. For root it is
 * an error. A build with a sanitizer has no system call filter.
 */
struct xpv_sandbox {
	const char *user;      /* user to become; NULL or unknown: stay, without capabilities */
	const char *empty_dir; /* chroot here; made (mode 0555) by the supervisor. NULL: do not */
	/* io_uring_enter(2), io_uring_setup(2), io_uring_register(2). The kernel does not filter
	 * what a ring is asked to do, openat and connect among it: only user and empty_dir hold
	 * then. */
	bool io_uring;
	bool accept;   /* accept4(2), on a socket that listens already */
	bool disabled; /* --sandbox=no: logged as a warning */
};

/*
 * 0, or -1 after logging: the process is then half inside and must exit. Applies to all threads of
 * the process, except that without a change of user threads made before keep capabilities.
 * Irrevocable.
 */
int xpv_sandbox_enter(const struct xpv_sandbox *sandbox);

#endif
