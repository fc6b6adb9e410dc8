/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_LOOP_H
#define XENPV_LOOP_H

struct event_base;

/*
 * Event loops and the threads that run them. Threading: any thread; a base is used by one.
 */

/* An event loop that can wait for Xen's nodes: no kqueue, which they do not have on FreeBSD. The
 * clock is read only when a timer is set, not at each turn. NULL: no memory. The caller frees it.
 */
struct event_base *xpv_loop_new(void);

/* Names the calling thread for ps(1) and debuggers; at most 15 characters. */
void xpv_thread_name(const char *name);

#endif
