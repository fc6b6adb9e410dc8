/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_GRANT_H
#define XENPV_GRANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Grant tables. A frontend grants a pool of its own pages once and keeps it (xpv_pool); a backend
 * maps the peer's pages or copies between them and its own (xpv_gntdev).
 *
 * Source: xen/include/public/grant_table.h, libxengnttab.
 * Units: pages are XPV_PAGE_SIZE bytes whatever the CPU's page size is.
 * Threading: one thread per object.
 */

#define XPV_PAGE_SIZE  4096u
#define XPV_PAGE_SHIFT 12

/*
 * A pool of granted pages, contiguous in this process's address space. Made by the supervisor so
 * that it outlives workers; a forked worker uses page addresses and grefs, never the handle.
 */
struct xpv_pool {
	uint8_t *base;
	uint32_t *grefs; /* one per page */
	unsigned pages;
	struct xpv_pool_handle *handle; /* private */
};

/*
 * Shares "pages" zeroed pages read-write with "domid". 0, or -1 with errno and a log line: ENOENT
 * when /dev/xen/gntalloc is missing, ENOSPC when its limit is too small (after trying to raise it).
 */
int xpv_pool_share(struct xpv_pool *pool, uint32_t domid, unsigned pages);

/* Ends the sharing. Pages the peer still maps stay with the kernel until it lets go; they are never
 * reused by us (XSA-396). Safe on a zeroed pool. */
void xpv_pool_unshare(struct xpv_pool *pool);

/* Raises the kernel's limit on granted pages so that "pages" more fit; 0, or -1 with a log line.
 * xpv_pool_share() does it by itself: this is for a process that gives up root before. */
int xpv_grant_reserve(unsigned pages);

static inline void *
xpv_pool_page(const struct xpv_pool *pool, unsigned index)
{
	return pool->base + ((size_t)index << XPV_PAGE_SHIFT);
}

/* Backend side: foreign pages. */
struct xpv_gntdev;

/* NULL with errno, and a log line that says what to do unless memory is short. */
struct xpv_gntdev *xpv_gntdev_open(void);
/* What is mapped is to be unmapped before. NULL is allowed. */
void xpv_gntdev_close(struct xpv_gntdev *g);

/* Maps "count" grants of one domain contiguously; the mapping is the caller's. NULL with errno and
 * without a log line: EINVAL if there can be no such grants, else what the kernel says; never
 * partially mapped. */
void *xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable);
/* A whole mapping, and only once. 0 or -1 with errno, without a log line. */
int xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count);

/* Whether xpv_gntdev_copy() can do anything: FreeBSD and Linux before 4.9 have no grant copy. */
bool xpv_gntdev_can_copy(struct xpv_gntdev *g);

struct xpv_copy {
	void *local;
	uint32_t domid, gref;
	uint16_t offset, length; /* inside the foreign page; offset + length <= XPV_PAGE_SIZE */
	bool to_foreign;
	int16_t status; /* out: 0 or a negative GNTST_* */
};

/* Copies all segments in one call. 0 when every status is 0; -1 with errno otherwise: look at each
 * status. ENOSYS where the kernel has no grant copy (FreeBSD; logged once): map instead. */
int xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count);

#endif
