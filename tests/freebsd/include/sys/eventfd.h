/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_EVENTFD_H
#define STUB_SYS_EVENTFD_H

#include <stdint.h>

#define EFD_NONBLOCK 0x00000004
#define EFD_CLOEXEC  0x00100000

typedef uint64_t eventfd_t;

int eventfd(unsigned value, int flags);
int eventfd_read(int fd, eventfd_t *value);
int eventfd_write(int fd, eventfd_t value);

#endif
