/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_LIMITS_H
#define STUB_LIMITS_H

#define INT_MAX 0x7fffffff

#endif
