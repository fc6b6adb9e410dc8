/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_EVENT_H
#define STUB_SYS_EVENT_H

#include <stdint.h>
#include <sys/types.h>
#include <time.h>

/* FreeBSD's kqueue(2) as far as it is used; see aio.h. */

struct kevent {
	uintptr_t ident;
	short filter;
	unsigned short flags;
	unsigned fflags;
	int64_t data;
	void *udata;
	uint64_t ext[4];
};
#define EV_ONESHOT 0x0010

int kqueue(void);
int kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
    const struct timespec *timeout);

#endif
