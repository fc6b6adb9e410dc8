/* SPDX-License-Identifier: BSD-2-Clause */
#include "disks.h"

#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <jansson.h>
#include <xenpv/log.h>
#include <xenpv/store.h>

#include "disk.h"
#include "messages.h"

void
disks_tell_systemd(const struct disks *all)
{
	unsigned total = 0, connected = 0;
	const struct disk *disk;

	TAILQ_FOREACH (disk, &all->list, entry) {
		total++;
		connected += disk->live;
	}
	xpv_notify_status("%u of %u disks connected", connected, total);
}

void
disks_stop_if_done(struct disks *all)
{
	struct disk *disk;

	if (all->stopped == NULL)
		return;
	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->phase != WORKER_NONE)
			return;
	}
	all->stopped(all->stopped_arg);
	all->stopped = NULL;
}

/* ---- discovery ---- */

static struct disk *
find(struct disks *all, const char *dir)
{
	struct disk *disk;

	TAILQ_FOREACH (disk, &all->list, entry) {
		if (strcmp(disk->dir, dir) == 0)
			return disk;
	}
	return NULL;
}

static void
on_found(const char *dir, uint32_t id, void *arg)
{
	struct vbd_class *class = arg;
	struct disks *all = class->all;
	struct disk *disk = find(all, dir);
	uint32_t domid = (uint32_t)strtoul(strchr(strchr(dir, '/') + 1, '/') + 1, NULL, 10);

	if (all->stopping || !vbd_is_ours(all->store, dir, all->config))
		return;
	if (disk != NULL) { /* the old one is still ending */
		disk->lost = false;
		disk->made_anew = true;
		disk_look_again(disk);
		return;
	}
	disk = disk_new(class, dir, domid, id);
	if (disk == NULL) {
		xpv_err("%s: %s", dir, strerror(ENOMEM));
		return;
	}
	disk_begin(disk);
	disks_tell_systemd(all);
}

static void
on_changed(const char *dir, uint32_t id, void *arg)
{
	struct vbd_class *class = arg;
	struct disk *disk = find(class->all, dir);

	if (disk == NULL) {
		on_found(dir, id, arg); /* "script" was written late */
		return;
	}
	if (class->all->stopping || disk->lost || disk->made_anew)
		return;
	if (disk->backend == NULL) {
		disk_begin(disk);
		return;
	}
	disk_refresh_settings(disk);
	disk_refresh_limits(disk);
}

static void
on_lost(const char *dir, uint32_t id, void *arg)
{
	struct vbd_class *class = arg;
	struct disk *disk = find(class->all, dir);

	if (disk == NULL)
		return;
	xpv_info("%s: removed", disk->name);
	disk->lost = true;
	disk_look_again(disk);
}

static const struct xpv_discovery_ops discovery_ops = {
    .found = on_found,
    .changed = on_changed,
    .lost = on_lost,
};

/* ---- all disks ---- */

static int
discover(struct disks *all, const char *name, size_t length)
{
	struct vbd_class *class = &all->classes[all->nclasses];

	if (length == 0)
		return 0;
	if (all->nclasses == CLASSES_MAX || length >= sizeof(class->name) ||
	    memchr(name, '/', length) != NULL) {
		xpv_err("classes: \"%s\": at most %d names of directories below \"backend\", as "
			"\"vbd,vbd3\"",
		    all->config->classes, CLASSES_MAX);
		return -1;
	}
	class->all = all;
	memcpy(class->name, name, length);
	all->nclasses++;
	class->discovery =
	    xpv_backend_discovery_start(all->store, class->name, &discovery_ops, class);
	if (class->discovery == NULL)
		xpv_err("backend/%s: %s", class->name, strerror(errno));
	return class->discovery != NULL ? 0 : -1;
}

/* Journals of disks that went while no xen-blkbackd was there to see it. */
static void
sweep_journals(struct disks *all)
{
	char path[512], class[32], backend_dir[96], *dot;
	unsigned domid, id;
	struct dirent *file;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/blkback", all->config->rundir);
	dir = opendir(path);
	while (dir != NULL && (file = readdir(dir)) != NULL) {
		dot = strrchr(file->d_name, '.');
		if (dot == NULL || strcmp(dot, ".journal") != 0 ||
		    sscanf(file->d_name, "%31[^-]-%u-%u", class, &domid, &id) != 3)
			continue;
		snprintf(backend_dir, sizeof(backend_dir), "backend/%s/%u/%u", class, domid, id);
		if (!xpv_store_exists(all->store, backend_dir) && errno == ENOENT)
			unlinkat(dirfd(dir), file->d_name, 0);
	}
	if (dir != NULL)
		closedir(dir);
}

struct disks *
disks_start(struct event_base *base, struct xpv_store *store, const struct vbd_config *config)
{
	struct disks *all = calloc(1, sizeof(*all));
	const char *name = config->classes;

	if (all == NULL)
		return NULL;
	*all = (struct disks){
	    .base = base,
	    .store = store,
	    .config = config,
	};
	TAILQ_INIT(&all->list);
	sweep_journals(all);
	for (size_t length; *name != '\0'; name += length + (name[length] == ',')) {
		length = strcspn(name, ",");
		if (discover(all, name, length) != 0) {
			disks_free(all);
			return NULL;
		}
	}
	return all;
}

void
disks_reload(struct disks *all)
{
	struct disk *disk;

	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->backend != NULL)
			disk_refresh_limits(disk);
		if (disk->phase >= WORKER_OPEN)
			xpv_worker_send(disk->worker, VBD_MSG_LOOK, NULL, 0, -1);
	}
}

void
disks_stop(struct disks *all, void (*done)(void *arg), void *arg)
{
	unsigned connected = 0;
	struct disk *disk;

	all->stopping = true;
	all->stopped = done;
	all->stopped_arg = arg;
	TAILQ_FOREACH (disk, &all->list, entry) {
		connected += disk->live;
		if (disk->phase != WORKER_NONE)
			disk_end_worker(disk);
	}
	if (connected > 0)
		xpv_notice("%u connected disk%s wait%s for the next xen-blkbackd", connected,
		    connected == 1 ? "" : "s", connected == 1 ? "s" : "");
	disks_stop_if_done(all);
}

void
disks_free(struct disks *all)
{
	if (all == NULL)
		return;
	for (unsigned i = 0; i < all->nclasses; i++)
		xpv_discovery_stop(all->classes[i].discovery);
	while (!TAILQ_EMPTY(&all->list))
		disk_free(TAILQ_FIRST(&all->list));
	free(all);
}

/* ---- control socket ---- */

static void
add_connection(json_t *json, const struct vbd_connection *c)
{
	static const char *const abis[] = {
	    [VBD_ABI_X86_64] = "x86_64",
	    [VBD_ABI_X86_32] = "x86_32",
	};

	json_object_set_new(json, "queues", json_integer(c->queues));
	json_object_set_new(json, "ring_pages", json_integer(1 << c->ring_order));
	json_object_set_new(json, "persistent", json_boolean(c->persistent));
	json_object_set_new(json, "abi", json_string(abis[c->abi]));
}

static json_t *
disk_json(const struct disk *disk)
{
	const struct vbd_image_info *image = &disk->medium.image;
	json_t *json = json_pack("{s:s, s:i, s:i, s:s, s:s, s:i, s:i, s:{s:I, s:I, s:i}}", "name",
	    disk->name, "domid", (int)disk->domid, "vdev", (int)disk->vdev, "state",
	    disk_state(disk), "target", disk->settings.target != NULL ? disk->settings.target : "",
	    "worker", (int)xpv_worker_pid(disk->worker), "restarts",
	    (int)xpv_worker_restarts(disk->worker), "limits", "iops", (json_int_t)disk->limits.iops,
	    "bytes_per_second", (json_int_t)disk->limits.bytes_per_s, "burst_ms",
	    (int)disk->limits.burst_ms);

	if (json == NULL)
		return NULL;
	if (image->sector_size != 0) {
		json_object_set_new(json, "bytes", json_integer((json_int_t)image->bytes));
		json_object_set_new(json, "sector_size", json_integer(image->sector_size));
		json_object_set_new(
		    json, "physical_sector_size", json_integer(image->physical_sector_size));
		json_object_set_new(json, "read_only", json_boolean(disk->medium.read_only));
	}
	if (disk->live && disk->known)
		add_connection(json, &disk->connection);
	return json;
}

void
disks_write_json(struct evbuffer *out, void *arg)
{
	struct disks *all = arg;
	json_t *list = json_array();
	struct disk *disk;
	char *text;

	TAILQ_FOREACH (disk, &all->list, entry)
		json_array_append_new(list, disk_json(disk));
	text = json_dumps(list, JSON_INDENT(2));
	json_decref(list);
	if (text != NULL)
		evbuffer_add_printf(out, "%s\n", text);
	free(text);
}

#define REQUESTS(op, member)                                                                       \
	{                                                                                          \
		"xenpv_blkback_requests", XPV_COUNTER, "Requests answered", "op=\"" op "\"",       \
		    offsetof(struct vbd_stats, member)                                             \
	}

static const struct xpv_metric metrics[] = {
    REQUESTS("read", reads),
    REQUESTS("write", writes),
    REQUESTS("flush", flushes),
    REQUESTS("barrier", barriers),
    REQUESTS("discard", discards),
    {"xenpv_blkback_bytes", XPV_COUNTER, "Data moved", "op=\"read\"",
	offsetof(struct vbd_stats, read_bytes)},
    {"xenpv_blkback_bytes", XPV_COUNTER, "Data moved", "op=\"write\"",
	offsetof(struct vbd_stats, write_bytes)},
    {"xenpv_blkback_errors", XPV_COUNTER, "Requests that the image failed", NULL,
	offsetof(struct vbd_stats, errors)},
    {"xenpv_blkback_refused", XPV_COUNTER, "Requests that make no sense", NULL,
	offsetof(struct vbd_stats, refused)},
    {"xenpv_blkback_inflight", XPV_GAUGE, "Requests taken and not answered", NULL,
	offsetof(struct vbd_stats, inflight)},
    {"xenpv_blkback_events", XPV_COUNTER, "Events received from the frontend", NULL,
	offsetof(struct vbd_stats, events)},
    {"xenpv_blkback_notifies", XPV_COUNTER, "Events sent to the frontend", NULL,
	offsetof(struct vbd_stats, notifies)},
    {"xenpv_blkback_mapped_pages", XPV_GAUGE, "Pages of the frontend that are kept mapped", NULL,
	offsetof(struct vbd_stats, mapped)},
    {"xenpv_blkback_copied_pages", XPV_COUNTER, "Pages copied to or from the frontend", NULL,
	offsetof(struct vbd_stats, copied)},
    {"xenpv_blkback_lent_pages", XPV_COUNTER, "Pages of the frontend mapped for one request", NULL,
	offsetof(struct vbd_stats, lent)},
    {"xenpv_blkback_throttled", XPV_COUNTER, "Times a limit made requests wait", NULL,
	offsetof(struct vbd_stats, throttled)},
    {"xenpv_blkback_latency", XPV_HISTOGRAM, "From the ring to the answer", NULL,
	offsetof(struct vbd_stats, latency)},
};

void
disks_write_metrics(struct evbuffer *out, void *arg)
{
	struct xpv_metric_device *devices;
	struct disks *all = arg;
	struct disk *disk;
	size_t n = 0;

	TAILQ_FOREACH (disk, &all->list, entry)
		n++;
	devices = calloc(n + 1, sizeof(*devices));
	if (devices == NULL)
		return;
	n = 0;
	TAILQ_FOREACH (disk, &all->list, entry)
		devices[n++] =
		    (struct xpv_metric_device){disk->name, disk->stats, disk->args.max_queues};
	xpv_metrics_write_devices(out, metrics, sizeof(metrics) / sizeof(metrics[0]),
	    sizeof(struct vbd_stats), devices, n);
	free(devices);
}
