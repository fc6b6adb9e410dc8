/* SPDX-License-Identifier: BSD-2-Clause */
#include "negotiate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/log.h>
#include <xenpv/ring.h>
#include <xenpv/store.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

/* Segments whose descriptors fill the one page an indirect request of ours uses. */
#define SEGMENTS_PER_DESCRIPTOR_PAGE (XPV_PAGE_SIZE / sizeof(struct blkif_request_segment))

static uint32_t
offered(struct xpv_store *store, const char *dir, const char *node, uint32_t absent)
{
	uint32_t value;

	if (xpv_store_read_u32(store, &value, "%s/%s", dir, node) == 0)
		return value;
	if (errno != ENOENT)
		xpv_notice("%s/%s is not a number: ignored", dir, node);
	return absent;
}

static uint32_t
min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

void
blk_negotiate(struct xpv_store *store, const char *backend_dir, const struct blk_config *config,
    unsigned max_queues, struct blk_link *link)
{
	uint32_t queues = offered(store, backend_dir, "multi-queue-max-queues", 1);
	uint32_t order = offered(store, backend_dir, "max-ring-page-order", 0);
	uint32_t indirect = offered(store, backend_dir, "feature-max-indirect-segments", 0);

	if (queues == 0)
		queues = 1;
	link->queues = min_u32(queues, max_queues);
	link->ring_order = min_u32(order, config->ring_page_order);
	link->max_indirect = min_u32(indirect, config->max_indirect);
	link->max_indirect = min_u32(link->max_indirect, SEGMENTS_PER_DESCRIPTOR_PAGE);
	/* Fewer than a direct request has: no use. */
	if (link->max_indirect <= BLKIF_MAX_SEGMENTS_PER_REQUEST)
		link->max_indirect = 0;
	link->persistent = config->persistent;
}

/* ---- publish ---- */

struct publication {
	const char *dir;
	const struct blk_link *link;
	const struct blk_queue_grants *grants;
};

static int
write_node(struct xpv_store *store, const char *dir, const char *node, unsigned long value)
{
	char path[XPV_STORE_PATH];

	snprintf(path, sizeof(path), "%s/%s", dir, node);
	return xpv_store_write(store, path, "%lu", value);
}

static int
remove_node(struct xpv_store *store, const char *dir, const char *node)
{
	char path[XPV_STORE_PATH];

	snprintf(path, sizeof(path), "%s/%s", dir, node);
	return xpv_store_remove(store, path);
}

static int
write_ring(struct xpv_store *store, const char *dir, const struct blk_link *link,
    const struct blk_queue_grants *grants)
{
	if (link->ring_order == 0) {
		if (write_node(store, dir, "ring-ref", grants->pool.grefs[0]) != 0)
			return -1;
	} else {
		for (unsigned i = 0; i < 1u << link->ring_order; i++) {
			char node[32];

			snprintf(node, sizeof(node), "ring-ref%u", i);
			if (write_node(store, dir, node, grants->pool.grefs[i]) != 0)
				return -1;
		}
	}
	return write_node(store, dir, "event-channel", grants->port);
}

static bool
describes_rings(const char *node)
{
	static const char *const names[] = {"ring-page-order", "num-ring-pages", "event-channel",
	    "multi-queue-num-queues", "feature-persistent"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(node, names[i]) == 0)
			return true;
	}
	return strncmp(node, "ring-ref", 8) == 0 || strncmp(node, "queue-", 6) == 0;
}

/* An earlier connection, the kernel's driver perhaps, may have had another layout. */
static int
remove_old_rings(struct xpv_store *store, const char *dir)
{
	char **nodes = xpv_store_list(store, dir);
	int result = nodes != NULL ? 0 : -1;

	for (char **node = nodes; result == 0 && *node != NULL; node++) {
		if (describes_rings(*node))
			result = remove_node(store, dir, *node);
	}
	free(nodes);
	return result;
}

static int
publish_in_transaction(struct xpv_store *store, void *arg)
{
	const struct publication *p = arg;
	const struct blk_link *link = p->link;
	char dir[XPV_STORE_PATH];

	if (remove_old_rings(store, p->dir) != 0)
		return -1;
	if (link->ring_order > 0 &&
	    write_node(store, p->dir, "ring-page-order", link->ring_order) != 0)
		return -1;
	if (link->queues == 1) {
		if (write_ring(store, p->dir, link, &p->grants[0]) != 0)
			return -1;
	} else {
		if (write_node(store, p->dir, "multi-queue-num-queues", link->queues) != 0)
			return -1;
		for (unsigned i = 0; i < link->queues; i++) {
			snprintf(dir, sizeof(dir), "%s/queue-%u", p->dir, i);
			if (write_ring(store, dir, link, &p->grants[i]) != 0)
				return -1;
		}
	}
	if (write_node(store, p->dir, "feature-persistent", link->persistent) != 0)
		return -1;
	snprintf(dir, sizeof(dir), "%s/protocol", p->dir);
	return xpv_store_write(store, dir, "%s", XEN_IO_PROTO_ABI_NATIVE);
}

int
blk_publish(struct xpv_store *store, const char *dir, const struct blk_link *link,
    const struct blk_queue_grants *grants)
{
	struct publication p = {.dir = dir, .link = link, .grants = grants};

	return xpv_store_transaction(store, publish_in_transaction, &p);
}

/* ---- geometry ---- */

static void
read_discard(struct xpv_store *store, const char *dir, const struct blk_config *config,
    struct blk_link *link)
{
	struct blk_geometry *g = &link->geometry;

	g->discard_granularity = 0;
	g->discard_alignment = 0;
	link->secure_discard = false;
	link->discard = xpv_store_read_flag(store, "%s/feature-discard", dir);
	if (!link->discard)
		return;
	g->discard_granularity = offered(store, dir, "discard-granularity", g->sector_size);
	g->discard_alignment = offered(store, dir, "discard-alignment", 0);
	if (g->discard_granularity == 0)
		g->discard_granularity = g->sector_size;
	if (g->discard_granularity % g->sector_size != 0 ||
	    g->discard_alignment % g->sector_size != 0) {
		xpv_notice(
		    "the backend's discard granularity %u or alignment %u is not a multiple of "
		    "the sector size %u: no discard",
		    g->discard_granularity, g->discard_alignment, g->sector_size);
		g->discard_granularity = g->discard_alignment = 0;
		link->discard = false;
		return;
	}
	g->discard_alignment %= g->discard_granularity;
	link->secure_discard =
	    config->secure_discard && xpv_store_read_flag(store, "%s/discard-secure", dir);
	if (config->secure_discard && !link->secure_discard)
		xpv_warning("secure-discard is asked for, but the backend has no secure discard: "
			    "discards are ordinary ones");
}

/* What must not be guessed wrong. False: it is there and no number. */
static bool
described(
    struct xpv_store *store, const char *dir, const char *node, uint32_t absent, uint32_t *value)
{
	*value = absent;
	return xpv_store_read_u32(store, value, "%s/%s", dir, node) == 0 || errno == ENOENT;
}

int
blk_read_geometry(struct xpv_store *store, const char *backend_dir, const struct blk_config *config,
    struct blk_link *link, const char **why)
{
	struct blk_geometry *g = &link->geometry;
	uint32_t info;

	memset(g, 0, sizeof(*g));
	if (xpv_store_read_u64(store, &g->sectors, "%s/sectors", backend_dir) != 0) {
		*why = "its \"sectors\" is missing or not a number";
		return -1;
	}
	if (!described(store, backend_dir, "sector-size", BLK_SECTOR_SIZE, &g->sector_size)) {
		*why = "its \"sector-size\" is not a number";
		return -1;
	}
	g->physical_sector_size =
	    offered(store, backend_dir, "physical-sector-size", g->sector_size);
	if (g->physical_sector_size < g->sector_size)
		g->physical_sector_size = g->sector_size;
	if (!described(store, backend_dir, "info", 0, &info)) {
		*why = "its \"info\" is not a number: it could be read-only";
		return -1;
	}
	g->cdrom = info & VDISK_CDROM;
	g->removable = info & VDISK_REMOVABLE;
	g->read_only = info & (VDISK_READONLY | VDISK_CDROM);
	g->queues = link->queues;
	g->depth = config->depth;
	g->max_io_bytes = config->max_io_kb * 1024;

	link->flush = xpv_store_read_flag(store, "%s/feature-flush-cache", backend_dir);
	link->barrier = xpv_store_read_flag(store, "%s/feature-barrier", backend_dir);
	if (!blk_geometry_valid(g, why))
		return -1;
	read_discard(store, backend_dir, config, link);
	return 0;
}
