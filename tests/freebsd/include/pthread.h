/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_PTHREAD_H
#define STUB_PTHREAD_H

#include <signal.h>

typedef struct pthread *pthread_t;
typedef struct pthread_mutex *pthread_mutex_t;
typedef struct pthread_cond *pthread_cond_t;
struct pthread_attr;
struct pthread_mutexattr;
struct pthread_condattr;

pthread_t pthread_self(void);
int pthread_create(
    pthread_t *thread, const struct pthread_attr *attr, void *(*start)(void *), void *arg);
int pthread_join(pthread_t thread, void **value);
int pthread_mutex_init(pthread_mutex_t *mutex, const struct pthread_mutexattr *attr);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);
int pthread_cond_init(pthread_cond_t *cond, const struct pthread_condattr *attr);
int pthread_cond_destroy(pthread_cond_t *cond);
int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int pthread_cond_signal(pthread_cond_t *cond);
int pthread_cond_broadcast(pthread_cond_t *cond);

#endif
