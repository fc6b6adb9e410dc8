/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_TYPES_H
#define STUB_SYS_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef int64_t off_t, ssize_t, time_t;
typedef uint32_t uid_t, gid_t;
typedef int32_t pid_t;
typedef uint64_t dev_t, ino_t;
typedef uint16_t mode_t;
typedef unsigned u_int;
typedef int64_t suseconds_t;

#endif
