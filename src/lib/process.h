/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_LIB_PROCESS_H
#define XENPV_LIB_PROCESS_H

/*
 * What supervisor.c, shared.c and evtchn.c need of the operating system beyond POSIX. In
 * sandbox_linux.c and sandbox_freebsd.c. Not exported.
 */

/* Names the calling process for ps(1). */
void xpv_process_name(const char *name) __attribute__((visibility("hidden")));

#endif
