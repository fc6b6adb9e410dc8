/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_PAGES_H
#define BLKBACK_PAGES_H

#include "blkback.h"

/*
 * Where a request's data is while it is served. Three ways:
 *
 *  kept     the frontend lets us keep its pages mapped (feature-persistent). They are mapped once,
 *           several in one call, found again by their grants, and I/O goes straight to them.
 *  buffered pages of our own; data is copied to or from the frontend's, as many pages in one call
 *           as there are in a batch.
 *  lent     in place of buffered, where the kernel cannot copy: the request's pages are mapped in
 *           one call for it alone, writable only if it is a read, as frontends grant them.
 *
 * All are bounded. What is kept and has not been used for a minute is given back; when there is no
 * room the longest unused goes. A request whose pages cannot be kept is buffered, or lent to.
 *
 * One object per queue, used in its thread.
 */
struct pages;

struct pages_config {
	struct xpv_gntdev *gntdev;
	uint32_t domid;
	unsigned cache_pages;  /* 0: nothing is kept */
	unsigned buffer_pages; /* at least VBD_MAX_SEGMENTS; as many are lent at most */
	bool lend;	       /* never copy */
	struct vbd_stats *stats;
};

struct pages *pages_new(const struct pages_config *config); /* NULL with errno */
void pages_free(struct pages *p);			    /* unmaps all; NULL is allowed */

/* What holds one request's pages; all of it is ours. */
struct page_set {
	unsigned count;
	bool mapped;   /* they are the frontend's own: nothing is to be copied */
	uint8_t *lent; /* or NULL */
	uint16_t index[VBD_MAX_SEGMENTS];
};

enum pages_result {
	PAGES_THERE,
	PAGES_SHORT,	   /* not enough now; pages_put() of others will free some */
	PAGES_NOT_GRANTED, /* lending only: copies tell later */
};

/*
 * Finds pages for "count" grants; "writable" if the frontend is to find something in them. "count"
 * is at most VBD_MAX_SEGMENTS, and there are always enough for one such request when no other has
 * any.
 */
enum pages_result pages_get(
    struct pages *p, struct page_set *set, const uint32_t *grefs, unsigned count, bool writable);
uint8_t *pages_address(const struct pages *p, const struct page_set *set, unsigned i);
void pages_put(struct pages *p, struct page_set *set);

/* Reads from a page of the frontend, at once. False if it cannot be. */
bool pages_read(struct pages *p, uint32_t gref, void *to, unsigned length);

/* Gives back what was not used since the last call. True if anything is still mapped. */
bool pages_age(struct pages *p);

#endif
