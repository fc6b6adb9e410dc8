/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_CAPSICUM_H
#define STUB_SYS_CAPSICUM_H

int cap_enter(void);

#endif
