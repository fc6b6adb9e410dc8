/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_PTHREAD_NP_H
#define STUB_PTHREAD_NP_H

#include <pthread.h>

int pthread_setname_np(pthread_t thread, const char *name);

#endif
