/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_SHARED_H
#define XENPV_SHARED_H

#include <stddef.h>

/*
 * Memory that a supervisor shares with one of its workers and that outlives the worker: journals,
 * statistics, granted pages. A worker is made by fork(2), inherits them all, and gives up those of
 * other devices before it does anything else. (MADV_DONTFORK would be the other way, but Linux
 * never shows a VM_IO mapping again that was hidden once, and granted pages are such.)
 *
 * Threading: supervisor's main thread only.
 */

struct xpv_shared; /* a set of regions, one set per device */

struct xpv_shared *xpv_shared_new(void);

/* Unmaps what xpv_shared_alloc() made, in this process only; added regions stay their owner's.
 * NULL is allowed. */
void xpv_shared_free(struct xpv_shared *set);

/* A zeroed page-aligned region, or NULL with errno. */
void *xpv_shared_alloc(struct xpv_shared *set, size_t bytes);

/*
 * Puts a whole foreign mapping (own granted pages: gntalloc) into the set or takes it out, before
 * it is unmapped. 0 or -1 with errno. Not for pages mapped from another domain (gntdev): the kernel
 * can not copy such a mapping on fork.
 */
int xpv_shared_add(struct xpv_shared *set, void *base, size_t bytes);
void xpv_shared_remove(struct xpv_shared *set, void *base);

/* In a forked child: unmaps all sets but "kept" (NULL: all). 0, or -1 after a log line: then the
 * child must not go on. */
int xpv_shared_keep_only(const struct xpv_shared *kept);

#endif
