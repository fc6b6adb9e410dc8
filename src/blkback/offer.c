/* SPDX-License-Identifier: BSD-2-Clause */
#include "offer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/store.h>
#include <xenpv/xenbus.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

#define MAX_PHYSICAL_SECTOR (1u << 20)
#define MAX_OFFERED_QUEUES  4u /* without configuration */

static bool
power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

bool
vbd_image_valid(const struct vbd_image_info *i, const char **why)
{
	if (!power_of_two(i->sector_size) || i->sector_size < VBD_SECTOR_SIZE ||
	    i->sector_size > XPV_PAGE_SIZE)
		*why = "its sector size is not a power of two from 512 to 4096";
	else if (!power_of_two(i->physical_sector_size) ||
		 i->physical_sector_size < i->sector_size ||
		 i->physical_sector_size > MAX_PHYSICAL_SECTOR)
		*why = "its physical sector size makes no sense";
	else if (i->bytes % i->sector_size != 0 || i->bytes > INT64_MAX)
		*why = "its size makes no sense";
	else if (i->discard_granularity % i->sector_size != 0 ||
		 i->discard_alignment % i->sector_size != 0)
		*why = "its discard granularity or alignment makes no sense";
	else if (i->max_queues < 1 || i->max_queues > VBD_MAX_QUEUES)
		*why = "its number of queues makes no sense";
	else
		return true;
	return false;
}

unsigned
vbd_queues(const struct vbd_config *config)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (config->queues > 0)
		return (unsigned)config->queues;
	return cpus < 1 ? 1 : cpus > (long)MAX_OFFERED_QUEUES ? MAX_OFFERED_QUEUES : (unsigned)cpus;
}

/* ---- the offer ---- */

struct node {
	const char *name;
	bool there;
	uint32_t value;
};

struct nodes {
	const char *dir;
	const struct node *list;
	unsigned count;
};

/* A blind write would make the directory anew that the toolstack has just removed. */
static bool
still_there(struct xpv_store *store, const char *dir)
{
	char path[XPV_STORE_PATH];

	snprintf(path, sizeof(path), "%s/state", dir);
	return xpv_store_exists(store, path);
}

static int
write_nodes(struct xpv_store *store, void *arg)
{
	const struct nodes *nodes = arg;
	char path[XPV_STORE_PATH];

	if (!still_there(store, nodes->dir))
		return -1;
	for (unsigned i = 0; i < nodes->count; i++) {
		const struct node *n = &nodes->list[i];

		snprintf(path, sizeof(path), "%s/%s", nodes->dir, n->name);
		if ((n->there ? xpv_store_write(store, path, "%u", n->value)
			      : xpv_store_remove(store, path)) != 0)
			return -1;
	}
	return 0;
}

/* The toolstack's word, "discard" or "no-discard" in a disk's configuration. */
static bool
discard_wanted(struct xpv_store *store, const char *dir)
{
	uint32_t value;

	return xpv_store_read_u32(store, &value, "%s/discard-enable", dir) != 0 || value != 0;
}

int
vbd_offer(struct xpv_store *store, const char *dir, const struct vbd_config *config,
    const struct vbd_medium *medium)
{
	const struct vbd_image_info *image = &medium->image;
	bool discard = config->discard && image->discard_granularity > 0 && !medium->read_only &&
		       discard_wanted(store, dir);
	unsigned queues = vbd_queues(config);
	const struct node list[] = {
	    {"feature-flush-cache", true, image->flush},
	    /* A barrier is a flush, a write and a flush to us. */
	    {"feature-barrier", true, image->flush},
	    {"feature-persistent", true, config->persistent},
	    {"feature-max-indirect-segments", config->max_indirect > 0,
		(uint32_t)config->max_indirect},
	    {"multi-queue-max-queues", true,
		queues < image->max_queues ? queues : image->max_queues},
	    {"max-ring-page-order", true, (uint32_t)config->ring_page_order},
	    {"feature-discard", discard, 1},
	    {"discard-granularity", discard, image->discard_granularity},
	    {"discard-alignment", discard, image->discard_alignment},
	    {"discard-secure", discard, image->secure_discard},
	    /* Other backends' ways to say things. */
	    {"max-ring-pages", false, 0},
	    {"feature-large-sector-size", false, 0},
	};
	struct nodes nodes = {dir, list, sizeof(list) / sizeof(list[0])};

	return xpv_store_transaction(store, write_nodes, &nodes);
}

void
vbd_read_offer(struct xpv_store *store, const char *dir, struct vbd_connection *c)
{
	uint32_t segments;

	if (xpv_store_read_u32(store, &segments, "%s/feature-max-indirect-segments", dir) != 0)
		segments = 0;
	c->max_indirect = (uint16_t)(segments < VBD_MAX_SEGMENTS ? segments : VBD_MAX_SEGMENTS);
	c->discard = xpv_store_read_flag(store, "%s/feature-discard", dir);
	c->secure_discard = c->discard && xpv_store_read_flag(store, "%s/discard-secure", dir);
	/* Linux publishes its half whatever it was offered. */
	c->persistent = c->persistent && xpv_store_read_flag(store, "%s/feature-persistent", dir);
}

/* ---- the frontend ---- */

/* Reading what a frontend has published. */
struct reading {
	struct xpv_store *store;
	const char *dir;
	char *why;
};

static int __attribute__((format(printf, 2, 3))) refuse(struct reading *r, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(r->why, VBD_WHY_MAX, fmt, args);
	va_end(args);
	return -1;
}

/* 1: read, 0: not there, -1: not a number. */
static int
read_number(struct reading *r, const char *node, uint32_t *value)
{
	if (xpv_store_read_u32(r->store, value, "%s/%s", r->dir, node) == 0)
		return 1;
	if (errno == ENOENT)
		return 0;
	return refuse(r, "its %s is not a number", node);
}

static int
need_number(struct reading *r, const char *node, uint32_t *value)
{
	int there = read_number(r, node, value);

	return there == 0 ? refuse(r, "it has no %s", node) : there;
}

static int
read_abi(struct reading *r, uint8_t *abi)
{
	char *protocol = xpv_store_read(r->store, "%s/protocol", r->dir);
	const char *name = protocol != NULL ? protocol : XEN_IO_PROTO_ABI_NATIVE;
	int result = 0;

	if (protocol == NULL && errno != ENOENT)
		result = refuse(r, "its protocol cannot be read");
	else if (strcmp(name, XEN_IO_PROTO_ABI_X86_64) == 0)
		*abi = VBD_ABI_X86_64;
	else if (strcmp(name, XEN_IO_PROTO_ABI_X86_32) == 0)
		*abi = VBD_ABI_X86_32;
	else
		result = refuse(r, "its protocol \"%.32s\" is none that we know", name);
	free(protocol);
	return result;
}

/* "ring-page-order", or "num-ring-pages" of an older dialect. */
static int
read_ring_order(struct reading *r, uint16_t *order)
{
	uint32_t value = 0, pages = 1;
	int there = read_number(r, "ring-page-order", &value);

	if (there == 0) {
		there = read_number(r, "num-ring-pages", &pages);
		if (there > 0 && !power_of_two(pages))
			return refuse(r, "its num-ring-pages %u is not a power of two", pages);
		while (pages > 1u << value && value < 31)
			value++;
	}
	if (there < 0)
		return -1;
	if (value > VBD_MAX_RING_ORDER)
		return refuse(r, "its rings have more than %u pages", VBD_MAX_RING_PAGES);
	*order = (uint16_t)value;
	return 0;
}

static int
read_queues(struct reading *r, uint16_t *queues)
{
	uint32_t value = 1;

	if (read_number(r, "multi-queue-num-queues", &value) < 0)
		return -1;
	if (value == 0 || value > VBD_MAX_QUEUES)
		return refuse(r, "it has %u queues: from 1 to %u can be", value, VBD_MAX_QUEUES);
	*queues = (uint16_t)value;
	return 0;
}

/* The nodes of one ring: in the frontend's directory itself if there is but one. */
static int
read_ring(struct reading *r, unsigned queue, struct vbd_connection *c)
{
	char prefix[16] = "", node[48];
	int there;

	if (c->queues > 1)
		snprintf(prefix, sizeof(prefix), "queue-%u/", queue);
	snprintf(node, sizeof(node), "%sevent-channel", prefix);
	if (need_number(r, node, &c->queue[queue].port) < 0)
		return -1;
	if (c->ring_order == 0) {
		snprintf(node, sizeof(node), "%sring-ref", prefix);
		there = read_number(r, node, &c->queue[queue].grefs[0]);
		if (there != 0)
			return there < 0 ? -1 : 0;
	}
	for (unsigned i = 0; i < 1u << c->ring_order; i++) {
		snprintf(node, sizeof(node), "%sring-ref%u", prefix, i);
		if (need_number(r, node, &c->queue[queue].grefs[i]) < 0)
			return -1;
	}
	return 0;
}

int
vbd_read_frontend(struct xpv_store *store, const char *frontend_dir, uint32_t domid,
    struct vbd_connection *c, char why[VBD_WHY_MAX])
{
	struct reading r = {.store = store, .dir = frontend_dir, .why = why};

	memset(c, 0, sizeof(*c));
	c->domid = domid;
	if (read_abi(&r, &c->abi) != 0 || read_ring_order(&r, &c->ring_order) != 0 ||
	    read_queues(&r, &c->queues) != 0)
		return -1;
	for (unsigned i = 0; i < c->queues; i++) {
		if (read_ring(&r, i, c) != 0)
			return -1;
	}
	c->persistent = xpv_store_read_flag(store, "%s/feature-persistent", frontend_dir);
	return 0;
}

unsigned
vbd_frontend_queues(struct xpv_store *store, const char *frontend_dir)
{
	char why[VBD_WHY_MAX];
	struct reading r = {.store = store, .dir = frontend_dir, .why = why};
	uint16_t queues = 1;

	return read_queues(&r, &queues) == 0 ? queues : 1;
}

/* ---- the description ---- */

struct describing {
	struct nodes nodes;
	const char *dir;
	uint64_t sectors;
	bool announce;
};

static int
describe(struct xpv_store *store, void *arg)
{
	struct describing *d = arg;
	char sectors[XPV_STORE_PATH], state[XPV_STORE_PATH];
	uint32_t now;

	snprintf(sectors, sizeof(sectors), "%s/sectors", d->dir);
	snprintf(state, sizeof(state), "%s/state", d->dir);
	if (d->announce) {
		if (xpv_store_read_u32(store, &now, "%s", state) != 0)
			return -1;
		if (now != XPV_STATE_CONNECTED) {
			errno = ESTALE;
			return -1;
		}
	}
	if (xpv_store_write(store, sectors, "%llu", (unsigned long long)d->sectors) != 0 ||
	    write_nodes(store, &d->nodes) != 0)
		return -1;
	return d->announce ? xpv_store_write(store, state, "%d", XPV_STATE_CONNECTED) : 0;
}

int
vbd_describe(
    struct xpv_store *store, const char *dir, const struct vbd_medium *medium, bool announce)
{
	const struct node list[] = {
	    {"sector-size", true, medium->image.sector_size},
	    {"physical-sector-size", true, medium->image.physical_sector_size},
	    {"info", true,
		(medium->cdrom ? VDISK_CDROM : 0u) | (medium->removable ? VDISK_REMOVABLE : 0u) |
		    (medium->read_only ? VDISK_READONLY : 0u)},
	};
	struct describing d = {
	    .nodes = {dir, list, sizeof(list) / sizeof(list[0])},
	    .dir = dir,
	    .sectors = medium->image.bytes >> VBD_SECTOR_SHIFT,
	    .announce = announce,
	};

	return xpv_store_transaction(store, describe, &d);
}

/* ---- the hotplug script ---- */

struct report {
	const char *dir, *target, *error;
};

static int
write_text(struct xpv_store *store, const char *dir, const char *node, const char *text)
{
	char path[XPV_STORE_PATH];

	snprintf(path, sizeof(path), "%s/%s", dir, node);
	return text != NULL ? xpv_store_write(store, path, "%s", text)
			    : xpv_store_remove(store, path);
}

static int
write_report(struct xpv_store *store, void *arg)
{
	const struct report *r = arg;

	if (!still_there(store, r->dir) ||
	    write_text(store, r->dir, "hotplug-error", r->error) != 0)
		return -1;
	if (r->target != NULL && r->target[0] == '/' &&
	    write_text(store, r->dir, "physical-device-path", r->target) != 0)
		return -1;
	return write_text(
	    store, r->dir, "hotplug-status", r->error != NULL ? "error" : "connected");
}

void
vbd_report_hotplug(struct xpv_store *store, const char *dir, const char *target, const char *error)
{
	struct report r = {.dir = dir, .target = target, .error = error};

	xpv_store_transaction(store, write_report, &r);
}
