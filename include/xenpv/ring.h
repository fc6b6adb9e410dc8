/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_RING_H
#define XENPV_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/*
 * Xen's rings (xen/include/public/io/ring.h) against a peer that may be hostile.
 *
 * The barriers that ring.h wants are C11 fences. Each pairs with the peer's:
 *  - xen_wmb() before an index is published pairs with the peer's xen_rmb() after it read that
 *    index: entries are visible before the index that covers them.
 *  - xen_mb() between publishing an index and reading the peer's *_event index (and, on the other
 *    side, between writing *_event and the final read of the index) makes sure that at least one
 *    side sees the other: no lost wakeup.
 */
#define xen_mb()  atomic_thread_fence(memory_order_seq_cst)
#define xen_rmb() atomic_thread_fence(memory_order_acquire)
#define xen_wmb() atomic_thread_fence(memory_order_release)

#include <xen/xen.h>
#include <xen/io/ring.h>

/*
 * Reads the producer index of the responses once. "pending" gets how many responses wait. False
 * when the peer claims more than were asked for: the ring is broken and must not be used again.
 */
#define xpv_ring_responses(front, pending)                                                         \
	xpv_ring_claimed(&(front)->sring->rsp_prod, (front)->rsp_cons,                             \
	    (front)->req_prod_pvt - (front)->rsp_cons, (pending))

/* The same for a backend: at most a ring's worth of requests that are not answered yet. */
#define xpv_ring_requests(back, pending)                                                           \
	xpv_ring_claimed(&(back)->sring->req_prod, (back)->req_cons,                               \
	    RING_SIZE(back) - ((back)->req_cons - (back)->rsp_prod_pvt), (pending))

/* Copies one entry out of shared memory; the entry is not read a second time. */
#define xpv_ring_copy_response(front, index, dest) RING_COPY_RESPONSE(front, index, dest)
#define xpv_ring_copy_request(back, index, dest)   RING_COPY_REQUEST(back, index, dest)

static inline bool
xpv_ring_claimed(
    const volatile RING_IDX *shared, RING_IDX consumed, RING_IDX limit, RING_IDX *pending)
{
	RING_IDX produced = *shared;

	xen_rmb(); /* entries are read after the index that covers them */
	*pending = produced - consumed;
	return *pending <= limit;
}

#endif
