/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/grant.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xengnttab.h>
#include <xentoollog.h>

#include "grant_os.h"
#include "xenpv/log.h"

static void
library_message(struct xentoollog_logger *logger, xentoollog_level level, int error,
    const char *context, const char *format, va_list args)
{
	int saved = errno;
	char text[256];

	vsnprintf(text, sizeof(text), format, args);
	xpv_debug("%s: %s%s%s", context != NULL ? context : "libxengnttab", text,
	    error > 0 ? ": " : "", error > 0 ? strerror(error) : "");
	errno = saved;
}

static void
library_logger_destroy(struct xentoollog_logger *logger)
{
}

struct xentoollog_logger grant_logger = {
    .vmessage = library_message,
    .destroy = library_logger_destroy,
};

static void
log_failure(const char *node, const char *what)
{
	int error = errno;

	switch (error) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		xpv_err("%s: %s is missing: is this a Xen guest? (Linux: modprobe xen-%s)", what,
		    node, strrchr(node, '/') + 1);
		break;
	case EACCES:
	case EPERM:
		xpv_err("%s: %s: %s: must run as root", what, node, strerror(error));
		break;
	case ENOSPC:
		xpv_err("%s: none left: the kernel's limit (see above) or the grant table of this "
			"domain (gnttab_max_frames, max_grant_frames of xl.cfg) is too small",
		    what);
		break;
	default:
		xpv_err("%s: %s: %s", what, node, strerror(error));
		break;
	}
	errno = error;
}

/* ---- own pages ---- */

int
xpv_pool_share(struct xpv_pool *pool, uint32_t domid, unsigned pages)
{
	char what[64];

	*pool = (struct xpv_pool){0};
	if (pages == 0 || pages > INT_MAX / XPV_PAGE_SIZE || domid >= DOMID_FIRST_RESERVED) {
		errno = EINVAL;
		return -1;
	}
	pool->grefs = calloc(pages, sizeof(*pool->grefs));
	if (pool->grefs == NULL)
		return -1;
	pool->handle = grant_os_share(domid, pages, &pool->base, pool->grefs);
	if (pool->handle == NULL) {
		snprintf(what, sizeof(what), "granting %u pages to domain %u", pages, domid);
		log_failure(grant_os_share_node, what);
		free(pool->grefs);
		*pool = (struct xpv_pool){0};
		return -1;
	}
	pool->pages = pages;
	memset(pool->base, 0, (size_t)pages * XPV_PAGE_SIZE);
	return 0;
}

void
xpv_pool_unshare(struct xpv_pool *pool)
{
	if (pool->handle != NULL)
		grant_os_unshare(pool->handle, pool->base, pool->pages);
	free(pool->grefs);
	*pool = (struct xpv_pool){0};
}

/* ---- foreign pages ---- */

struct xpv_gntdev {
	xengnttab_handle *xgt;
	xengnttab_grant_copy_segment_t *segments; /* kept between copies: no allocation per call */
	unsigned nsegments;
	bool copy_missing_logged;
};

struct xpv_gntdev *
xpv_gntdev_open(void)
{
	struct xpv_gntdev *g = calloc(1, sizeof(*g));

	if (g == NULL)
		return NULL;
	g->xgt = xengnttab_open(&grant_logger, 0);
	if (g->xgt == NULL) {
		log_failure("/dev/xen/gntdev", "opening the grant device");
		free(g);
		return NULL;
	}
	return g;
}

void
xpv_gntdev_close(struct xpv_gntdev *g)
{
	if (g == NULL)
		return;
	xengnttab_close(g->xgt);
	free(g->segments);
	free(g);
}

void *
xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable)
{
	if (count == 0 || domid >= DOMID_FIRST_RESERVED) {
		errno = EINVAL;
		return NULL;
	}
	/* The library only reads the references. */
	return xengnttab_map_domain_grant_refs(g->xgt, count, domid, (uint32_t *)(uintptr_t)grefs,
	    PROT_READ | (writable ? PROT_WRITE : 0));
}

int
xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count)
{
	return xengnttab_unmap(g->xgt, base, count);
}

bool
xpv_gntdev_can_copy(struct xpv_gntdev *g)
{
	xengnttab_grant_copy_segment_t none;

	/* Nothing is copied, and what cannot do that cannot copy anything. */
	return xengnttab_grant_copy(g->xgt, 0, &none) == 0;
}

static bool
copy_valid(const struct xpv_copy *c)
{
	return (uint32_t)c->offset + c->length <= XPV_PAGE_SIZE && c->domid < DOMID_FIRST_RESERVED;
}

static void
to_segment(const struct xpv_copy *c, xengnttab_grant_copy_segment_t *segment)
{
	union xengnttab_copy_ptr foreign = {
	    .foreign = {.ref = c->gref, .offset = c->offset, .domid = (uint16_t)c->domid}};
	union xengnttab_copy_ptr local = {.virt = c->local};

	*segment = (xengnttab_grant_copy_segment_t){
	    .source = c->to_foreign ? local : foreign,
	    .dest = c->to_foreign ? foreign : local,
	    .len = c->length,
	    .flags = c->to_foreign ? GNTCOPY_dest_gref : GNTCOPY_source_gref,
	};
}

static int
prepare_segments(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		copies[i].status = GNTST_general_error;
	if (count > g->nsegments) {
		void *more = reallocarray(g->segments, count, sizeof(*g->segments));

		if (more == NULL)
			return -1;
		g->segments = more;
		g->nsegments = count;
	}
	for (unsigned i = 0; i < count; i++) {
		if (!copy_valid(&copies[i])) {
			errno = EINVAL;
			return -1;
		}
		to_segment(&copies[i], &g->segments[i]);
	}
	return 0;
}

int
xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count)
{
	bool failed = false;

	if (count == 0)
		return 0;
	if (prepare_segments(g, copies, count) != 0)
		return -1;
	if (xengnttab_grant_copy(g->xgt, count, g->segments) != 0) {
		if (errno == ENOSYS && !g->copy_missing_logged) {
			g->copy_missing_logged = true;
			xpv_warning("this kernel has no grant copy: grants must be mapped");
			errno = ENOSYS;
		}
		return -1;
	}
	for (unsigned i = 0; i < count; i++) {
		copies[i].status = g->segments[i].status;
		failed |= copies[i].status != GNTST_okay;
	}
	if (failed)
		errno = EIO;
	return failed ? -1 : 0;
}
