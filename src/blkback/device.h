/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_DEVICE_H
#define BLKBACK_DEVICE_H

#include "blkback.h"

struct event_base;
struct held;

/*
 * One disk, as its worker process serves it from fork to exit:
 *
 *   OPEN     with all rights: wait until the last worker's I/O is over (journal.h, drain.h); open
 *            the image, Xen's devices; enter the sandbox; tell the supervisor (IMAGE)
 *   WAIT     for a frontend (CONNECT)
 *   SERVE    rings are mapped, requests flow (CONNECTED)
 *   QUIESCE  on SIGTERM, or when the supervisor is gone: nothing more is taken from the rings; ends
 *            with XPV_EXIT_DONE when what was taken is answered
 *
 * A worker connects once. Disconnecting, reconnecting, another medium, a new configuration, an
 * upgrade: each is the end of one worker and the start of the next, which goes on where the journal
 * says. The worker has no connection to xenstore: all that is the supervisor's.
 *
 * Exits: XPV_EXIT_DONE; XPV_EXIT_AGAIN when the image must be opened anew (an NBD server has gone);
 * XPV_EXIT_REFUSED when the frontend broke the protocol; EX_NOINPUT when the image cannot be
 * opened, after logging why; anything else is a crash.
 */
struct vbd_device_args {
	const struct vbd_config *config;
	const char *name;    /* for the log: "3/xvda" */
	const char *target;  /* path or URI; "": an empty drive */
	const char *journal; /* path of its file */
	bool read_only;
	struct vbd_limits limits;
	unsigned max_queues;
	struct vbd_stats *stats; /* [max_queues], shared with the supervisor */
	struct held *sockets;	 /* what earlier workers have left */
};

/* The worker's main: see struct xpv_worker_ops. */
int vbd_device_main(struct event_base *base, int channel, const struct vbd_device_args *args);

#endif
