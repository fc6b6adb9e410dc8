/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>
#include <sys/ioccom.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "grant_os.h"

const char grant_os_share_node[] = "/dev/xen/gntdev";

/*
 * The two requests of gntdev that we need. libxengnttab is no help here: releasing an area of
 * several pages shared by one request panics the kernel (13 to 15), and single pages from the
 * library lie scattered. So: one request per page, each mapped at its place in one reserved range.
 */
struct alloc_gref {
	uint16_t domid;
	uint16_t flags;
	uint32_t count;
	uint64_t index;	    /* out: offset for mmap(2) */
	uint32_t *gref_ids; /* out: "count" of them */
};

struct dealloc_gref {
	uint64_t index;
	uint32_t count;
};

#define ALLOC_GREF     _IOWR('E', 1, struct alloc_gref)
#define DEALLOC_GREF   _IOW('E', 2, struct dealloc_gref)
#define ALLOC_WRITABLE 1

struct xpv_pool_handle {
	int fd;
	unsigned shared;
	uint64_t index[]; /* of each page */
};

static int
share_page(struct xpv_pool_handle *h, uint32_t domid, uint8_t *where, uint32_t *gref)
{
	struct alloc_gref alloc = {
	    .domid = (uint16_t)domid, .flags = ALLOC_WRITABLE, .count = 1, .gref_ids = gref};

	if (ioctl(h->fd, ALLOC_GREF, &alloc) != 0)
		return -1;
	h->index[h->shared++] = alloc.index;
	if (mmap(where, XPV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, h->fd,
		(off_t)alloc.index) == MAP_FAILED)
		return -1;
	return 0;
}

static int
share_pages(
    struct xpv_pool_handle *h, uint32_t domid, unsigned pages, uint8_t *base, uint32_t *grefs)
{
	for (unsigned i = 0; i < pages; i++) {
		if (share_page(h, domid, base + (size_t)i * XPV_PAGE_SIZE, &grefs[i]) != 0)
			return -1;
	}
	return 0;
}

struct xpv_pool_handle *
grant_os_share(uint32_t domid, unsigned pages, uint8_t **base, uint32_t *grefs)
{
	struct xpv_pool_handle *h = calloc(1, sizeof(*h) + pages * sizeof(h->index[0]));
	void *range;
	int error;

	if (h == NULL)
		return NULL;
	range = mmap(NULL, (size_t)pages * XPV_PAGE_SIZE, PROT_NONE, MAP_ANON | MAP_PRIVATE, -1, 0);
	if (range == MAP_FAILED) {
		free(h);
		return NULL;
	}
	h->fd = open(grant_os_share_node, O_RDWR | O_CLOEXEC);
	if (h->fd < 0 || share_pages(h, domid, pages, range, grefs) != 0) {
		error = errno;
		grant_os_unshare(h, range, pages);
		errno = error;
		return NULL;
	}
	*base = range;
	return h;
}

void
grant_os_unshare(struct xpv_pool_handle *h, uint8_t *base, unsigned pages)
{
	munmap(base, (size_t)pages * XPV_PAGE_SIZE);
	for (unsigned i = 0; i < h->shared; i++) {
		struct dealloc_gref dealloc = {.index = h->index[i], .count = 1};

		ioctl(h->fd, DEALLOC_GREF, &dealloc);
	}
	if (h->fd >= 0)
		close(h->fd);
	free(h);
}

/* This kernel has no limit of its own. */
int
xpv_grant_reserve(unsigned pages)
{
	return 0;
}
