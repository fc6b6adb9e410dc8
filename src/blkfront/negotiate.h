/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NEGOTIATE_H
#define BLKFRONT_NEGOTIATE_H

#include "blkfront.h"

struct xpv_store;

/*
 * The xenstore half of blkif: what the backend offers, what we choose, what we publish, and the
 * disk it describes once connected. Source: xen/include/public/io/blkif.h.
 */

/* Reads the backend's offer and settles queues, ring order and indirect segments in "link", within
 * the configuration and "max_queues". Absent or malformed nodes mean that the feature is absent. */
void blk_negotiate(struct xpv_store *store, const char *backend_dir,
    const struct blk_config *config, unsigned max_queues, struct blk_link *link);

/* Writes rings, ports and features into our directory in one transaction, taking out what an
 * earlier connection left. 0 or -1. */
int blk_publish(struct xpv_store *store, const char *dir, const struct blk_link *link,
    const struct blk_queue_grants *grants);

/*
 * Reads the disk from a connected backend into link->geometry, and flush, barrier and discard into
 * "link". 0, or -1 with "why" when it describes no disk we can serve.
 */
int blk_read_geometry(struct xpv_store *store, const char *backend_dir,
    const struct blk_config *config, struct blk_link *link, const char **why);

#endif
