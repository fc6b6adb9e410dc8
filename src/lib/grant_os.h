/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_GRANT_OS_H
#define XENPV_GRANT_OS_H

#include <stdint.h>

#include "xenpv/grant.h"

struct xentoollog_logger;

/*
 * What sharing own pages needs from each OS; with xpv_grant_reserve() all of grant_<os>.c.
 * "pages" is not 0. share: NULL with errno; the common part logs why.
 */
struct xpv_pool_handle *grant_os_share(
    uint32_t domid, unsigned pages, uint8_t **base, uint32_t *grefs);
void grant_os_unshare(struct xpv_pool_handle *h, uint8_t *base, unsigned pages);

extern const char grant_os_share_node[]; /* "/dev/xen/gntalloc" */

/* Takes what libxengnttab prints as debug messages: our own lines say more. */
extern struct xentoollog_logger grant_logger;

#endif
