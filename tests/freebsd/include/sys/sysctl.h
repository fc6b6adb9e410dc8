/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_SYSCTL_H
#define STUB_SYS_SYSCTL_H

#include <sys/types.h>

int sysctlbyname(const char *name, void *old, size_t *old_size, const void *new, size_t new_size);

#endif
