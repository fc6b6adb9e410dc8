/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_EVTCHN_H
#define XENPV_EVTCHN_H

#include <stdint.h>

struct event_base;
struct xpv_evtchn;

/*
 * Event channels as libevent events. One handle is one open /dev/xen/evtchn; a queue's thread has
 * its own handle with its own port, so that threads share nothing.
 *
 * Source: xen/include/public/event_channel.h and libxenevtchn.
 * Ownership: ports belong to the handle and are closed with it. To let a port outlive a worker,
 * the supervisor opens the handle and binds; the worker calls xpv_evtchn_inherit() after fork.
 * Errors: NULL or -1 with errno. Open, inherit, bind, restrict and listen log a line that says what
 * to do (node missing, no permission) unless memory is short; unbind and notify log nothing.
 * A port that is not bound on this handle is EINVAL, without a log line.
 * Threading: one thread per handle.
 */

/* Opens the device. */
struct xpv_evtchn *xpv_evtchn_open(void);

/* In a forked child: a handle over the descriptor the parent's handle holds. The parent's handle
 * itself is not used in the child. */
struct xpv_evtchn *xpv_evtchn_inherit(const struct xpv_evtchn *parents);

void xpv_evtchn_close(struct xpv_evtchn *e); /* NULL is allowed */

/*
 * Instead of close, for a handle whose ports died in a resume of this domain: Linux' evtchn driver
 * dies with a BUG() when such a descriptor is released (evtchn_unbind_from_user() finds no irq for
 * the port). A child process that does nothing else keeps it open for good. The handle is gone, as
 * after close.
 */
void xpv_evtchn_abandon(struct xpv_evtchn *e);

/* The handle's own: not to be read or closed. */
int xpv_evtchn_fd(const struct xpv_evtchn *e);

/* Both return the local port (> 0), which is the handle's, or -1 with errno. */
int xpv_evtchn_bind_unbound(struct xpv_evtchn *e, uint32_t remote_domid);
int xpv_evtchn_bind_interdomain(struct xpv_evtchn *e, uint32_t remote_domid, uint32_t remote_port);

/* 0 or -1. The port is not the handle's any more either way. */
int xpv_evtchn_unbind(struct xpv_evtchn *e, uint32_t port);

/* For a process that is to reach one domain only: from now on ports of no other can be bound on
 * this handle, where the kernel can see to it (Linux). 0 or -1. */
int xpv_evtchn_restrict(struct xpv_evtchn *e, uint32_t domid);

/* 0 or -1. */
int xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port);

/*
 * Called for each event. The port is masked while the handler runs and unmasked after it
 * returns: an event that arrives meanwhile comes again, none is lost, and a peer that floods the
 * port costs at most one handler run per loop turn. It may call any function here, also
 * xpv_evtchn_close().
 */
typedef void xpv_evtchn_handler(uint32_t port, void *arg);

/* Delivers events of all ports of the handle in "base". Unmasks "port" first (a dead worker may
 * have left it masked) when port is not 0. 0 or -1. */
int xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg);
void xpv_evtchn_unlisten(struct xpv_evtchn *e);

#endif
