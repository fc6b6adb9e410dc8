/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_GRP_H
#define STUB_GRP_H

#include <sys/types.h>

int setgroups(int count, const gid_t *groups);

#endif
