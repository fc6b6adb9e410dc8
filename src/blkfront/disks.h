/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_DISKS_H
#define BLKFRONT_DISKS_H

#include "attach.h"

struct event_base;
struct evbuffer;
struct xpv_store;

/*
 * The supervisor's view: every vbd that the toolstack offers this guest is a disk with a worker and
 * a host device. Everything runs in the main thread.
 */
struct disks;

/* Starts to serve what is offered and what comes. NULL after logging. "settled" is called once,
 * when each disk that was there at the start is usable or has failed. */
struct disks *disks_start(struct event_base *base, struct xpv_store *store,
    const struct blk_config *config, const struct attach_ops *attach, void (*settled)(void *arg),
    void *arg);

/*
 * Ends all workers. Host devices that nobody uses are removed and their vbds closed; those in use
 * stay, their I/O waiting for the next xen-blkfrontd. "done" is called when nothing runs any more.
 */
void disks_stop(struct disks *disks, void (*done)(void *arg), void *arg);
void disks_free(struct disks *disks);

/* How many are offered, and how many of them a driver of the kernel has taken. */
void disks_count(const struct disks *disks, unsigned *offered, unsigned *claimed);

/* Pages of the control socket. */
void disks_write_json(struct evbuffer *out, void *disks);
void disks_write_metrics(struct evbuffer *out, void *disks);

#endif
