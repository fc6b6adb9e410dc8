/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_THREAD_NAME_H
#define BLKBACK_THREAD_NAME_H

#include <pthread.h>

#include "build_config.h"

#if HAVE_PTHREAD_NP_H
#include <pthread_np.h> /* where FreeBSD has the call */
#endif

/* Names the calling thread for ps(1) and debuggers; at most 15 characters. */
static inline void
thread_name(const char *name)
{
	pthread_setname_np(pthread_self(), name);
}

#endif
