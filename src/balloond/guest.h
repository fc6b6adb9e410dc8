/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_GUEST_H
#define BALLOON_GUEST_H

#include <stdbool.h>

/* Whether the kernel runs without hardware's help for page tables ("PV"): such a guest names its
 * frames otherwise than Xen does, and counts its memory as the toolstack does. */
bool guest_is_pv(const char *sysfs);

#endif
