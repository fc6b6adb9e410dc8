/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_DISKS_H
#define BLKBACK_DISKS_H

#include "blkback.h"

struct event_base;
struct evbuffer;
struct xpv_store;

/*
 * The supervisor's view: every vbd that the toolstack wants served by us is a disk with a worker.
 * Everything runs in the main thread.
 */
struct disks;

/* Starts to serve what is there and what comes. "config" stays the caller's; what is changed in it
 * holds for workers started from then on. NULL after logging. */
struct disks *disks_start(
    struct event_base *base, struct xpv_store *store, const struct vbd_config *config);

/* The configuration was read again: limits take effect, and each image is asked for its size. */
void disks_reload(struct disks *disks);

/*
 * Ends all workers. Nothing is said about it in xenstore: to their frontends the disks are there
 * and slow, until the next xen-blkbackd goes on with them. "done" is called when nothing runs any
 * more.
 */
void disks_stop(struct disks *disks, void (*done)(void *arg), void *arg);
void disks_free(struct disks *disks); /* NULL is allowed */

/* Pages of the control socket. */
void disks_write_json(struct evbuffer *out, void *disks);
void disks_write_metrics(struct evbuffer *out, void *disks);

#endif
