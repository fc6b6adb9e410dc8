/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SIGNAL_H
#define STUB_SIGNAL_H

#include <sys/types.h>

#define SIGTERM 15

union sigval {
	int sival_int;
	void *sival_ptr;
};

struct sigevent {
	int sigev_notify;
	int sigev_signo;
	union sigval sigev_value;
	union {
		int _threadid;
		unsigned short _kevent_flags;
	} _sigev_un;
};
#define sigev_notify_kqueue	  sigev_signo
#define sigev_notify_kevent_flags _sigev_un._kevent_flags
#define SIGEV_KEVENT		  3

#endif
