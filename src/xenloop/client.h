/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_CLIENT_H
#define XENLOOP_CLIENT_H

/*
 * A process of a session: its connection to the broker, and descriptors the program must not see.
 * In libxenloop.so, which xenloop(1) preloads; the libraries with the names of Xen's stand on it.
 * All functions may be called by any thread, and set errno.
 */

#include <stddef.h>

#include "hv.h"

#define HV_PUBLIC __attribute__((visibility("default")))

/* The tables. NULL: no session here, or no such domain. */
HV_PUBLIC struct hv *loop_hv(void);
/* This process' domain: never NULL once loop_hv() was not. */
HV_PUBLIC struct hv_domain *loop_domain(void);
HV_PUBLIC unsigned loop_slot(const struct hv_domain *domain);

/* Sends a request and waits for the reply, which has room for max_list numbers; fds that come
 * with it go to fds[0 .. nfds), visible to the program. 0 or -1. */
HV_PUBLIC int loop_call(
    struct hv_request *request, struct hv_reply *reply, size_t max_list, int *fds, unsigned nfds);

/* A request without a list, and the reply's value. -1: errno. */
HV_PUBLIC int64_t loop_simple(struct hv_request request);

/* Opens a handle; *fd is its pipe, O_CLOEXEC unless asked for otherwise. Returns its number, or -1.
 */
HV_PUBLIC int64_t loop_open(enum hv_kind kind, int *fd, bool cloexec);

/* Hides a descriptor: the program cannot close it. Returns its new number, or -1. */
HV_PUBLIC int loop_hide(int fd);
HV_PUBLIC void loop_reveal(int fd); /* and close it */

/* The memory of a domain, mapped as a whole. NULL: errno. Never unmapped: what a copy reads must
 * not vanish under it. */
HV_PUBLIC uint8_t *loop_ram(struct hv_domain *domain);
/* A descriptor for mmap(2) of single pages, hidden. -1: errno. */
HV_PUBLIC int loop_ram_fd(struct hv_domain *domain, bool writable);

HV_PUBLIC void loop_deliver(void *unused, uint32_t handle, uint32_t port);

#endif
