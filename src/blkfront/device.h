/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_DEVICE_H
#define BLKFRONT_DEVICE_H

#include "attach.h"

struct event_base;

/*
 * One disk, as its worker process serves it from fork to exit. A worker connects once: whatever
 * asks for a new connection (resume, a backend's restart, a crash) is a new worker, so that there
 * is one way to recover and it is walked every time.
 */
struct blk_device_args {
	const struct blk_config *config;
	uint32_t vdev;
	const char *name;	 /* "xvda" */
	const char *dir;	 /* "device/vbd/51712" */
	struct blk_link *link;	 /* shared with the supervisor, as are grants' pages and stats */
	struct blk_stats *stats; /* [max_queues] */
	struct blk_queue_grants *grants; /* [max_queues] */
	unsigned max_queues;
	const struct attach_ops *attach;
	struct attachment *attachment;
};

/* The worker's main: see struct xpv_worker_ops. Returns an enum xpv_worker_exit. */
int blk_device_main(struct event_base *base, int channel, const struct blk_device_args *args);

#endif
