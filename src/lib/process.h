/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_LIB_PROCESS_H
#define XENPV_LIB_PROCESS_H

/*
 * What supervisor.c, shared.c and evtchn.c need of the operating system beyond POSIX. Not exported.
 */

/* Names the calling process for ps(1). In sandbox_linux.c and sandbox_freebsd.c. */
void xpv_process_name(const char *name) __attribute__((visibility("hidden")));

/* Closes the descriptors from "first" to "last", both included, also where there is no
 * close_range(2). In process.c. */
void xpv_process_close(int first, int last) __attribute__((visibility("hidden")));

#endif
