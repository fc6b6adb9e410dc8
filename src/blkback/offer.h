/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_OFFER_H
#define BLKBACK_OFFER_H

#include "blkback.h"

struct xpv_store;

/*
 * The xenstore half of blkif as the backend does it: what is offered, what the frontend has
 * published, and the disk as it is described to it. Source: xen/include/public/io/blkif.h.
 */

#define VBD_WHY_MAX 160

/* A disk for its frontend. */
struct vbd_medium {
	struct vbd_image_info image;
	bool cdrom, removable, read_only;
};

/* False, and why, if a worker describes an image that cannot be. */
bool vbd_image_valid(const struct vbd_image_info *image, const char **why);

/* Rings that are offered for each disk. */
unsigned vbd_queues(const struct vbd_config *config);

/* Writes into the backend's directory, in one transaction, what we can, and takes out what another
 * backend has left there that we cannot. 0 or -1. */
int vbd_offer(struct xpv_store *store, const char *dir, const struct vbd_config *config,
    const struct vbd_medium *medium);

/* What "dir" says that was offered, by whomever: this is what a frontend has read there, whatever
 * the configuration says today. After vbd_read_frontend(), as some features need both sides. */
void vbd_read_offer(struct xpv_store *store, const char *dir, struct vbd_connection *connection);

/*
 * What the frontend has published in its directory. Anything within the limits of blkback.h is
 * taken, offered or not: the frontend may have read the offer of another backend, or of one with
 * another configuration. 0, or -1 with "why"; "live" is left to the caller, and what was offered
 * to vbd_read_offer().
 */
int vbd_read_frontend(struct xpv_store *store, const char *frontend_dir, uint32_t domid,
    struct vbd_connection *connection, char why[VBD_WHY_MAX]);

/* How many rings it wants, for a first idea; 1 if that makes no sense. */
unsigned vbd_frontend_queues(struct xpv_store *store, const char *frontend_dir);

/* Describes the disk, in one transaction. "announce": to a frontend that is connected, which looks
 * again when the state is written again. 0 or -1; ESTALE: not Connected any more. */
int vbd_describe(
    struct xpv_store *store, const char *dir, const struct vbd_medium *medium, bool announce);

/* Tells the hotplug script, and by it the toolstack, that the disk can be served ("error" NULL), or
 * why not. "target" is for those who look for the file behind a disk, if it is a path. */
void vbd_report_hotplug(
    struct xpv_store *store, const char *dir, const char *target, const char *error);

#endif
