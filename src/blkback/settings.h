/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_SETTINGS_H
#define BLKBACK_SETTINGS_H

#include "blkback.h"

struct xpv_store;

/* What the toolstack says about one disk, in the backend's directory. */
struct vbd_settings {
	char *target; /* path or URI; "": an empty drive */
	bool read_only, cdrom, removable;
};

/* True if the toolstack wants this disk served by us. */
bool vbd_is_ours(struct xpv_store *store, const char *dir, const struct vbd_config *config);

/* 0, or -1 if that is no disk we can serve, with "why", or NULL if it is not there (yet, or any
 * more). Then there is nothing to free. */
int vbd_settings_read(
    struct xpv_store *store, const char *dir, struct vbd_settings *settings, const char **why);
void vbd_settings_free(struct vbd_settings *settings);
/* In place of what "to" has. Without memory "to" is one with no target. */
void vbd_settings_copy(struct vbd_settings *to, const struct vbd_settings *from);
/* Those without a target are equal to each other. */
bool vbd_settings_equal(const struct vbd_settings *a, const struct vbd_settings *b);

/* The nodes xenpv-iops and xenpv-bytes-per-second; what is not there is as configured. */
struct vbd_limits vbd_limits_read(
    struct xpv_store *store, const char *dir, const struct vbd_config *config);

#endif
