/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_THROTTLE_H
#define BLKBACK_THROTTLE_H

#include "blkback.h"

/*
 * Limits of one disk, which its queues share: requests and bytes per second. Each limit is a
 * bucket that fills at its rate and holds so much as is allowed in burst_ms; what a request takes
 * may make it negative, so that a request larger than a bucket passes, and the next ones wait the
 * longer.
 *
 * Threading: any; nobody blocks.
 */
struct throttle {
	_Atomic uint64_t iops, bytes_per_s, burst_ns;
	/* When each bucket would be full again, on the clock of xpv_now_ns(). */
	_Atomic uint64_t iops_full_ns, bytes_full_ns;
};

void throttle_set(struct throttle *t, const struct vbd_limits *limits);

/* True if a request may go on now; else "wait_ns" says how long it must wait before it asks again.
 */
bool throttle_allows(struct throttle *t, uint64_t now_ns, uint64_t *wait_ns);

/* A request goes on. */
void throttle_take(struct throttle *t, uint64_t now_ns, uint64_t bytes);

#endif
