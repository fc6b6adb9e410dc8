/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_TIME_H
#define STUB_TIME_H

#include <sys/types.h>

struct timespec {
	time_t tv_sec;
	long tv_nsec;
};
int nanosleep(const struct timespec *wanted, struct timespec *rest);

#endif
