/* SPDX-License-Identifier: BSD-2-Clause */
#include "disks.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <jansson.h>
#include <xenpv/log.h>
#include <xenpv/shared.h>
#include <xenpv/store.h>
#include <xenpv/supervisor.h>
#include <xenpv/xenbus.h>

#include "device.h"
#include "messages.h"

#define SETTLE_TIMEOUT_S 20
#define STOP_GRACE_MS	 10000
#define DETACH_RETRY_S	 1

enum disk_state {
	DISK_CLAIMED,	 /* a driver of the kernel has it */
	DISK_CONNECTING, /* no host device yet */
	DISK_READY,	 /* the host can use it */
	DISK_DETACHING,	 /* the host device is going, then the vbd closes */
	DISK_CLOSED,	 /* closed as the toolstack asked */
	DISK_FAILED,	 /* closed because something is wrong; logged */
};

static const char *const state_names[] = {
    [DISK_CLAIMED] = "claimed by the kernel",
    [DISK_CONNECTING] = "connecting",
    [DISK_READY] = "ready",
    [DISK_DETACHING] = "detaching",
    [DISK_CLOSED] = "closed",
    [DISK_FAILED] = "failed",
};

#define RESIZE_LOG_S 1

struct disk {
	TAILQ_ENTRY(disk) entry;
	struct disks *all;
	uint32_t vdev;
	char name[32];
	char dir[64];
	enum disk_state state;
	bool initial;	    /* was there at the start */
	bool lost;	    /* the toolstack removed the directory */
	bool offered_again; /* and made it again, while we are not done with the old one */
	bool removing;	    /* attach->remove() is under way */

	struct xpv_shared *shared;
	struct blk_link *link;
	struct blk_stats *stats;
	struct blk_queue_grants grants[BLK_MAX_QUEUES];
	uint32_t domid; /* ours when they were made: a resume changes it, mostly */
	struct attachment *attachment;
	struct xpv_worker *worker;
	struct blk_device_args args;
	struct event *detach_retry, *claim_retry, *ending;
	bool refusal_reported;
	time_t resize_logged;
};

struct disks {
	struct event_base *base;
	struct xpv_store *store;
	const struct blk_config *config;
	const struct attach_ops *attach;
	struct xpv_discovery *discovery;
	TAILQ_HEAD(, disk) list;
	unsigned max_queues;

	void (*settled)(void *arg);
	void *settled_arg;
	unsigned initial; /* expected at the start */
	struct event *settle_timeout;

	bool stopping;
	void (*stopped)(void *arg);
	void *stopped_arg;
};

static const struct xpv_worker_policy policy = {
    .max_crashes = 8,
    .window_s = 60,
    .delay_min_ms = 100,
    .delay_max_ms = 5000,
};

static void disk_end(struct disk *disk);
static void detach(struct disk *disk);
static void on_found(const char *dir, uint32_t id, void *arg);
static void retry_claim(evutil_socket_t fd, short events, void *arg);

/* ---- names in /dev/xenpv ---- */

static void
link_path(const struct disk *disk, char *path, size_t size)
{
	snprintf(path, size, "%s/%s", disk->all->config->devdir, disk->name);
}

static void
make_link(const struct disk *disk, const char *node)
{
	char path[256], fresh[272];

	link_path(disk, path, sizeof(path));
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	unlink(fresh);
	if (symlink(node, fresh) != 0 || rename(fresh, path) != 0)
		xpv_warning("%s: cannot link %s: %s", path, node, strerror(errno));
}

static void
remove_link(const struct disk *disk)
{
	char path[256];

	link_path(disk, path, sizeof(path));
	unlink(path);
}

/* ---- all disks ---- */

static bool
busy(const struct disk *disk)
{
	return (disk->worker != NULL && xpv_worker_running(disk->worker)) || disk->removing;
}

static void
settle_if_done(struct disks *all)
{
	struct disk *disk;
	unsigned done = 0;

	if (all->settled == NULL)
		return;
	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->initial && disk->state != DISK_CONNECTING)
			done++;
	}
	if (done < all->initial)
		return;
	event_del(all->settle_timeout);
	all->settled(all->settled_arg);
	all->settled = NULL;
}

static void
stop_if_done(struct disks *all)
{
	struct disk *disk;

	if (!all->stopping || all->stopped == NULL)
		return;
	TAILQ_FOREACH (disk, &all->list, entry) {
		if (busy(disk))
			return;
	}
	all->stopped(all->stopped_arg);
	all->stopped = NULL;
}

static void
set_state(struct disk *disk, enum disk_state state)
{
	struct disks *all = disk->all;
	unsigned ready = 0, total = 0;
	struct disk *other;

	disk->state = state;
	TAILQ_FOREACH (other, &all->list, entry) {
		total++;
		ready += other->state == DISK_READY;
	}
	xpv_notify_status("%u of %u disks ready", ready, total);
	settle_if_done(all);
}

/* ---- grants and ports: made anew for each connection, kept while one is live ---- */

static void
release_grants(struct disk *disk)
{
	for (unsigned i = 0; i < BLK_MAX_QUEUES; i++) {
		struct blk_queue_grants *g = &disk->grants[i];

		if (g->pool.base != NULL)
			xpv_shared_remove(disk->shared, g->pool.base);
		xpv_pool_unshare(&g->pool);
		if (g->evtchn != NULL) {
			xpv_worker_drop_fd(disk->worker, xpv_evtchn_fd(g->evtchn));
			if (disk->link->resumed)
				xpv_evtchn_abandon(g->evtchn);
			else
				xpv_evtchn_close(g->evtchn);
		}
		*g = (struct blk_queue_grants){0};
	}
}

static bool
make_grants(struct disk *disk, struct blk_queue_grants *g, uint32_t backend)
{
	const struct blk_config *config = disk->all->config;
	unsigned pages = (1u << config->ring_page_order) + config->pool_pages;
	int port;

	g->evtchn = xpv_evtchn_open();
	if (g->evtchn == NULL)
		return false;
	xpv_worker_keep_fd(disk->worker, xpv_evtchn_fd(g->evtchn));
	port = xpv_evtchn_bind_unbound(g->evtchn, backend);
	if (port < 0)
		return false;
	g->port = port;
	return xpv_pool_share(&g->pool, backend, pages) == 0 &&
	       xpv_shared_add(disk->shared, g->pool.base, (size_t)pages * XPV_PAGE_SIZE) == 0;
}

static uint32_t
own_domid(const struct disks *all)
{
	uint32_t domid;

	return xpv_store_read_u32(all->store, &domid, "domid") == 0 ? domid : UINT32_MAX;
}

/* Before each worker. The grants of a dead connection may still be mapped by its backend, with I/O
 * on them under way, so a new connection never uses them again. */
static int
worker_prepare(void *arg)
{
	struct disk *disk = arg;
	uint32_t backend;

	if (disk->link->live)
		return 0;
	/* The worker has seen a resume, or was not there to see it. */
	if (own_domid(disk->all) != disk->domid)
		disk->link->resumed = true;
	release_grants(disk);
	disk->link->resumed = false;
	disk->domid = own_domid(disk->all);
	if (xpv_store_read_u32(disk->all->store, &backend, "%s/backend-id", disk->dir) != 0) {
		xpv_err("%s: %s/backend-id: %s", disk->name, disk->dir, strerror(errno));
		return -1;
	}
	for (unsigned i = 0; i < disk->all->max_queues; i++) {
		if (!make_grants(disk, &disk->grants[i], backend)) {
			xpv_err("%s: no grants or event channel for queue %u: see above",
			    disk->name, i);
			release_grants(disk);
			return -1;
		}
	}
	return 0;
}

/* ---- the host side ---- */

static void
host_ready(void *arg, const char *node)
{
	const struct blk_geometry *g;
	struct disk *disk = arg;
	char link[288] = "";

	if (disk->state == DISK_DETACHING)
		return;
	/* A URI has no place in the file system. */
	if (node[0] == '/') {
		make_link(disk, node);
		snprintf(link, sizeof(link), "%s/%s -> ", disk->all->config->devdir, disk->name);
	}
	if (disk->state == DISK_READY)
		return;
	g = &disk->link->geometry;
	xpv_notice("%s is %s%s: %.1f MiB%s%s", disk->name, link, node, g->sectors / 2048.0,
	    g->read_only ? ", read-only" : "", g->cdrom ? ", CD-ROM" : "");
	if (disk->state == DISK_CONNECTING)
		set_state(disk, DISK_READY);
}

/* Closes the vbd without a worker, where one cannot be trusted or cannot live. */
static void
close_frontend(struct disk *disk)
{
	char path[96];
	uint32_t state;

	snprintf(path, sizeof(path), "%s/state", disk->dir);
	/* Not what the toolstack has just made anew. */
	if (xpv_store_read_u32(disk->all->store, &state, "%s", path) != 0 ||
	    state == XPV_STATE_INITIALISING || state == XPV_STATE_CLOSED)
		return;
	xpv_store_write(disk->all->store, path, "%d", XPV_STATE_CLOSING);
	xpv_store_write(disk->all->store, path, "%d", XPV_STATE_CLOSED);
}

/* Whoever uses it, now. */
static void
cut_host_device(struct disk *disk)
{
	if (disk->attachment != NULL && disk->all->attach->cut != NULL)
		disk->all->attach->cut(disk->attachment);
}

static void
remove_host_device(struct disk *disk)
{
	if (disk->removing || disk->attachment == NULL)
		return;
	disk->removing = true;
	remove_link(disk);
	disk->all->attach->remove(disk->attachment);
}

/* The disk is beyond help: its I/O fails, the toolstack sees it closed. */
static void
give_up(struct disk *disk)
{
	disk->link->live = false;
	set_state(disk, DISK_FAILED);
	close_frontend(disk);
	cut_host_device(disk);
	remove_host_device(disk);
}

static void
host_failed(void *arg, const char *why)
{
	struct disk *disk = arg;

	xpv_err("%s: %s", disk->name, why);
	if (disk->state == DISK_FAILED)
		return;
	give_up(disk);
	xpv_worker_stop(disk->worker, STOP_GRACE_MS);
}

static void
host_removed(void *arg)
{
	struct disk *disk = arg;

	disk->removing = false;
	if (disk->state == DISK_DETACHING && xpv_worker_running(disk->worker)) {
		xpv_worker_send(disk->worker, BLK_MSG_CLOSE, NULL, 0, -1);
	} else if (disk->state == DISK_DETACHING) {
		/* It died meanwhile: nobody is needed to close what nobody uses. */
		close_frontend(disk);
		xpv_worker_stop(disk->worker, STOP_GRACE_MS);
		set_state(disk, DISK_CLOSED);
	}
	disk_end(disk);
}

static const struct attach_events attach_events = {
    .ready = host_ready,
    .failed = host_failed,
    .removed = host_removed,
};

/* ---- detach, as the toolstack asks: not while the device is in use ---- */

static void
report_refusal(struct disk *disk, const char *by)
{
	char path[128];

	if (disk->refusal_reported)
		return;
	disk->refusal_reported = true;
	xpv_warning(
	    "%s: the toolstack asks to detach it, but it is in use by %s: it goes when that "
	    "ends",
	    disk->name, by);
	snprintf(path, sizeof(path), "error/%s/error", disk->dir);
	xpv_store_write(disk->all->store, path, "%d in use by %s", EBUSY, by);
}

static void
retry_detach(evutil_socket_t fd, short events, void *arg)
{
	detach(arg);
}

static void
detach(struct disk *disk)
{
	char by[256];

	if (disk->state == DISK_DETACHING)
		return;
	if (attach_in_use(disk->all->attach->node(disk->attachment), by, sizeof(by))) {
		report_refusal(disk, by);
		event_add(disk->detach_retry, &(struct timeval){.tv_sec = DETACH_RETRY_S});
		return;
	}
	xpv_notice("%s: detaching", disk->name);
	set_state(disk, DISK_DETACHING);
	remove_host_device(disk);
}

/* ---- workers ---- */

static int
worker_main(struct event_base *base, int channel, void *arg)
{
	struct disk *disk = arg;

	return blk_device_main(base, channel, &disk->args);
}

/* All that is left of a detach is to close the vbd. */
static bool
host_is_gone(const struct disk *disk)
{
	return disk->state == DISK_DETACHING && !disk->removing;
}

static void
worker_connected(struct disk *disk, const void *data, size_t length)
{
	struct blk_geometry g;
	const char *why;

	/* BLK_MSG_CLOSE is on its way to the worker. */
	if (length != sizeof(g) || host_is_gone(disk))
		return;
	memcpy(&g, data, sizeof(g));
	if (!blk_geometry_valid(&g, &why) || g.queues > disk->all->max_queues) {
		host_failed(disk, "its worker describes an impossible disk");
		return;
	}
	disk->all->attach->serve(disk->attachment, &g, disk->worker);
}

static void
worker_resized(struct disk *disk, const void *data, size_t length)
{
	enum xpv_log_level level = XPV_LOG_INFO;
	struct timespec now = {0};
	uint64_t sectors;
	char why[256];
	bool failed;

	if (length != sizeof(sectors))
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	memcpy(&sectors, data, sizeof(sectors));
	if (sectors == 0 || sectors > UINT64_MAX >> (BLK_SECTOR_SHIFT + 1))
		return;
	failed = disk->all->attach->resize(disk->attachment, sectors, why, sizeof(why)) != 0;
	/* A backend may do this as often as it likes; the log is not its to fill. */
	if (now.tv_sec >= disk->resize_logged + RESIZE_LOG_S)
		level = failed ? XPV_LOG_WARNING : XPV_LOG_NOTICE;
	disk->resize_logged = now.tv_sec;
	xpv_log(level, "%s: new size %.1f MiB%s%s", disk->name, sectors / 2048.0,
	    failed ? " not taken over: " : "", failed ? why : "");
}

static void
worker_message(uint32_t type, const void *data, size_t length, int fd, void *arg)
{
	struct disk *disk = arg;

	if (fd >= 0)
		close(fd); /* workers have none to give */
	if (disk->state == DISK_FAILED)
		return;
	switch (type) {
	case BLK_MSG_CONNECTED:
		worker_connected(disk, data, length);
		break;
	case BLK_MSG_SERVING:
		disk->all->attach->serving(disk->attachment, xpv_worker_pid(disk->worker));
		break;
	case BLK_MSG_RESIZED:
		worker_resized(disk, data, length);
		break;
	case BLK_MSG_DETACH:
		detach(disk);
		break;
	case BLK_MSG_DISCONNECTED:
		if (disk->all->attach->message != NULL)
			disk->all->attach->message(disk->attachment, type, data, length);
		break;
	default:
		xpv_warning("%s: its worker sent a message of unknown type %u", disk->name, type);
		break;
	}
}

static void
worker_exited(
    enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason, void *arg)
{
	struct disk *disk = arg;

	disk->all->attach->gone(disk->attachment);
	if (restarting && host_is_gone(disk)) {
		close_frontend(disk);
		xpv_worker_stop(disk->worker, STOP_GRACE_MS);
		return;
	}
	if (restarting) {
		if (crashed)
			xpv_warning("%s: worker %s: starting another", disk->name, reason);
		return;
	}
	if (code == XPV_EXIT_DONE && !crashed &&
	    (disk->state == DISK_READY || disk->state == DISK_CONNECTING) && !disk->all->stopping &&
	    !disk->lost) {
		/* Ended by hand, not by us: it answered all it had, another one goes on. */
		xpv_notice("%s: worker ended: starting another", disk->name);
		if (xpv_worker_start(disk->worker) == 0)
			return;
		reason = "could not be started again";
		crashed = true;
	}
	if (crashed || code == XPV_EXIT_REFUSED) {
		if (crashed && !disk->lost)
			xpv_err("%s: given up: worker %s", disk->name, reason);
		if (disk->state != DISK_FAILED)
			give_up(disk);
	} else if (disk->state == DISK_DETACHING) {
		xpv_notice("%s: detached", disk->name);
		set_state(disk, DISK_CLOSED);
	}
	disk_end(disk);
}

static const struct xpv_worker_ops worker_ops = {
    .main = worker_main,
    .prepare = worker_prepare,
    .message = worker_message,
    .exited = worker_exited,
};

/* ---- one disk ---- */

/* Frees what a disk that serves nothing any more holds. */
static void
disk_release(struct disk *disk)
{
	if (disk->shared == NULL)
		return;
	event_del(disk->detach_retry);
	release_grants(disk);
	xpv_worker_free(disk->worker);
	if (disk->attachment != NULL)
		disk->all->attach->close(disk->attachment);
	xpv_shared_free(disk->shared);
	disk->worker = NULL;
	disk->attachment = NULL;
	disk->shared = NULL;
	disk->link = NULL;
	disk->stats = NULL;
}

static void disk_end_later(evutil_socket_t fd, short events, void *arg);

static struct disk *
disk_new(struct disks *all)
{
	struct disk *disk = calloc(1, sizeof(*disk));

	if (disk == NULL)
		return NULL;
	disk->all = all;
	disk->detach_retry = evtimer_new(all->base, retry_detach, disk);
	disk->claim_retry = evtimer_new(all->base, retry_claim, disk);
	disk->ending = evtimer_new(all->base, disk_end_later, disk);
	if (disk->detach_retry == NULL || disk->claim_retry == NULL || disk->ending == NULL) {
		free(disk);
		return NULL;
	}
	return disk;
}

static void
disk_free(struct disk *disk)
{
	disk_release(disk);
	TAILQ_REMOVE(&disk->all->list, disk, entry);
	event_free(disk->detach_retry);
	event_free(disk->claim_retry);
	event_free(disk->ending);
	free(disk);
}

static void
disk_end_later(evutil_socket_t fd, short events, void *arg)
{
	struct disk *disk = arg;
	struct disks *all = disk->all;

	if (busy(disk))
		return;
	if (disk->lost) {
		bool again = disk->offered_again && !all->stopping;
		uint32_t vdev = disk->vdev;
		char dir[sizeof(disk->dir)];

		memcpy(dir, disk->dir, sizeof(dir));
		disk_free(disk);
		if (again)
			on_found(dir, vdev, all);
	} else if (disk->state == DISK_CLOSED || disk->state == DISK_FAILED)
		disk_release(disk);
	stop_if_done(all);
}

/* Something of the disk has ended: frees it when all has. Not at once, since the callbacks that
 * lead here come from what would be freed. */
static void
disk_end(struct disk *disk)
{
	event_active(disk->ending, EV_TIMEOUT, 0);
}

static bool
disk_start(struct disk *disk)
{
	struct disks *all = disk->all;
	const struct blk_config *config = all->config;
	struct attach_params params = {
	    .base = all->base,
	    .vdev = disk->vdev,
	    .name = disk->name,
	    .config = config,
	    .queues = all->max_queues,
	    .depth = config->depth,
	    .max_io_bytes = config->max_io_kb * 1024,
	    .events = &attach_events,
	    .arg = disk,
	};

	disk->refusal_reported = false;
	disk->shared = params.shared = xpv_shared_new();
	if (disk->shared == NULL)
		return false;
	disk->link = xpv_shared_alloc(disk->shared, sizeof(*disk->link));
	disk->stats = xpv_shared_alloc(disk->shared, all->max_queues * sizeof(*disk->stats));
	if (disk->link == NULL || disk->stats == NULL)
		return false;
	disk->attachment = all->attach->open(&params);
	if (disk->attachment == NULL)
		return false;
	disk->args = (struct blk_device_args){
	    .config = config,
	    .vdev = disk->vdev,
	    .name = disk->name,
	    .dir = disk->dir,
	    .link = disk->link,
	    .stats = disk->stats,
	    .grants = disk->grants,
	    .max_queues = all->max_queues,
	    .attach = all->attach,
	    .attachment = disk->attachment,
	};
	disk->worker =
	    xpv_worker_new(all->base, disk->name, &worker_ops, &policy, disk->shared, disk);
	return disk->worker != NULL && xpv_worker_start(disk->worker) == 0;
}

static bool
kernel_has(
    const struct disk *disk, char *driver, size_t driver_size, char *release, size_t release_size)
{
	char bus_id[32];

	snprintf(bus_id, sizeof(bus_id), "vbd-%u", disk->vdev);
	return xpv_kernel_driver(bus_id, driver, driver_size, release, release_size);
}

static void
disk_begin(struct disk *disk)
{
	char driver[64], release[160];

	if (kernel_has(disk, driver, sizeof(driver), release, sizeof(release))) {
		xpv_err("%s (vbd-%u) is driven by the kernel's %s; to free it: %s; to keep the "
			"kernel away for good: blacklist xen-blkfront (see xen-blkfrontd(8))",
		    disk->name, disk->vdev, driver, release);
		set_state(disk, DISK_CLAIMED);
		return;
	}
	set_state(disk, DISK_CONNECTING);
	if (!disk_start(disk)) {
		xpv_err("%s: cannot be served: %s", disk->name, strerror(errno));
		set_state(disk, DISK_FAILED);
		disk_end(disk);
	}
}

/* The kernel's driver lets go a moment after the state it wrote last woke us. */
static void
retry_claim(evutil_socket_t fd, short events, void *arg)
{
	char driver[64], release[160];
	struct disk *disk = arg;

	if (disk->state == DISK_CLAIMED &&
	    !kernel_has(disk, driver, sizeof(driver), release, sizeof(release)))
		disk_begin(disk);
}

/* ---- discovery ---- */

static struct disk *
find(struct disks *all, uint32_t vdev)
{
	struct disk *disk;

	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->vdev == vdev)
			return disk;
	}
	return NULL;
}

static void
on_found(const char *dir, uint32_t id, void *arg)
{
	struct disks *all = arg;
	struct disk *disk = find(all, id);

	if (disk != NULL)
		disk->offered_again =
		    true; /* an old one is still ending: disk_end_later() looks again */
	if (all->stopping || disk != NULL)
		return;
	disk = disk_new(all);
	if (disk == NULL) {
		xpv_err("%s: %s", dir, strerror(ENOMEM));
		return;
	}
	disk->vdev = id;
	disk->initial = all->settled != NULL;
	xpv_vbd_name(id, disk->name, sizeof(disk->name));
	snprintf(disk->dir, sizeof(disk->dir), "%s", dir);
	TAILQ_INSERT_TAIL(&all->list, disk, entry);
	disk_begin(disk);
}

static bool
offered_anew(struct disk *disk)
{
	uint32_t state;

	return xpv_store_read_u32(disk->all->store, &state, "%s/state", disk->dir) == 0 &&
	       state == XPV_STATE_INITIALISING;
}

static void
on_changed(const char *dir, uint32_t id, void *arg)
{
	struct disks *all = arg;
	struct disk *disk = find(all, id);

	if (disk == NULL || all->stopping || busy(disk))
		return;
	if (disk->state == DISK_CLAIMED)
		event_add(disk->claim_retry, &(struct timeval){.tv_sec = 1});
	if (disk->state != DISK_CLOSED && disk->state != DISK_FAILED)
		return;
	if (offered_anew(disk)) {
		disk_release(disk);
		disk_begin(disk);
	}
}

static void
on_lost(const char *dir, uint32_t id, void *arg)
{
	struct disks *all = arg;
	struct disk *disk = find(all, id);

	if (disk == NULL || all->stopping)
		return;
	disk->lost = true;
	if (disk->worker != NULL && disk->state == DISK_READY) {
		char by[256];

		if (attach_in_use(all->attach->node(disk->attachment), by, sizeof(by)))
			xpv_err("%s: removed by force while in use by %s: its I/O fails",
			    disk->name, by);
		else
			xpv_notice("%s: removed", disk->name);
		set_state(disk, DISK_DETACHING);
	}
	cut_host_device(disk);
	remove_host_device(disk);
	if (disk->worker != NULL)
		xpv_worker_stop(disk->worker, 1000);
	disk_end(disk);
}

static const struct xpv_discovery_ops discovery_ops = {
    .found = on_found,
    .changed = on_changed,
    .lost = on_lost,
};

static void
settle_timeout(evutil_socket_t fd, short events, void *arg)
{
	struct disks *all = arg;

	xpv_warning("some disks are not ready after %d s: going on without them", SETTLE_TIMEOUT_S);
	all->initial = 0;
	settle_if_done(all);
}

static void
settle_without_disks(evutil_socket_t fd, short events, void *arg)
{
	settle_if_done(arg);
}

static unsigned
count_offered(struct xpv_store *store)
{
	char **dirs = xpv_store_list(store, "device/vbd");
	unsigned n = 0;

	while (dirs != NULL && dirs[n] != NULL)
		n++;
	free(dirs);
	return n;
}

static unsigned
queue_limit(const struct blk_config *config, const struct attach_ops *attach)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned queues = cpus < 1 ? 1 : cpus > 4 ? 4 : cpus;

	if (config->queues > 0)
		queues = config->queues;
	if (attach->max_queues > 0 && queues > attach->max_queues)
		queues = attach->max_queues;
	return queues;
}

struct disks *
disks_start(struct event_base *base, struct xpv_store *store, const struct blk_config *config,
    const struct attach_ops *attach, void (*settled)(void *arg), void *arg)
{
	struct disks *all = calloc(1, sizeof(*all));

	if (all == NULL)
		return NULL;
	*all = (struct disks){
	    .base = base,
	    .store = store,
	    .config = config,
	    .attach = attach,
	    .max_queues = queue_limit(config, attach),
	    .settled = settled,
	    .settled_arg = arg,
	    .initial = count_offered(store),
	};
	TAILQ_INIT(&all->list);
	if (mkdir(config->devdir, 0755) != 0 && errno != EEXIST)
		xpv_warning("%s: %s: no stable names", config->devdir, strerror(errno));
	all->settle_timeout = evtimer_new(base, settle_timeout, all);
	if (all->settle_timeout == NULL ||
	    event_add(all->settle_timeout, &(struct timeval){.tv_sec = SETTLE_TIMEOUT_S}) != 0)
		goto fail;
	all->discovery = xpv_discovery_start(store, "vbd", &discovery_ops, all);
	if (all->discovery == NULL)
		goto fail;
	/* Not from in here: the caller does not have "all" yet. */
	event_base_once(base, -1, EV_TIMEOUT, settle_without_disks, all, NULL);
	return all;
fail:
	disks_free(all);
	return NULL;
}

void
disks_stop(struct disks *all, void (*done)(void *arg), void *arg)
{
	struct disk *disk;
	char by[256];

	all->stopping = true;
	all->stopped = done;
	all->stopped_arg = arg;
	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->worker == NULL || disk->state == DISK_DETACHING)
			continue;
		if (disk->state == DISK_READY &&
		    attach_in_use(all->attach->node(disk->attachment), by, sizeof(by))) {
			xpv_notice(
			    "%s stays for the next xen-blkfrontd: in use by %s", disk->name, by);
			xpv_worker_stop(disk->worker, STOP_GRACE_MS);
		} else if (disk->state == DISK_READY) {
			detach(disk);
		} else {
			xpv_worker_stop(disk->worker, STOP_GRACE_MS);
		}
	}
	stop_if_done(all);
}

void
disks_free(struct disks *all)
{
	if (all == NULL)
		return;
	xpv_discovery_stop(all->discovery);
	while (!TAILQ_EMPTY(&all->list))
		disk_free(TAILQ_FIRST(&all->list));
	if (all->settle_timeout != NULL)
		event_free(all->settle_timeout);
	free(all);
}

void
disks_count(const struct disks *all, unsigned *offered, unsigned *claimed)
{
	struct disk *disk;

	*offered = *claimed = 0;
	TAILQ_FOREACH (disk, &all->list, entry) {
		++*offered;
		*claimed += disk->state == DISK_CLAIMED;
	}
}

/* ---- control socket ---- */

static json_t *
disk_json(const struct disk *disk)
{
	const struct disks *all = disk->all;
	json_t *json = json_pack("{s:s, s:i, s:s}", "name", disk->name, "vdev",
	    (json_int_t)disk->vdev, "state", state_names[disk->state]);

	if (disk->worker == NULL || json == NULL)
		return json;
	json_object_set_new(json, "attach", json_string(all->attach->name));
	json_object_set_new(json, "worker", json_integer(xpv_worker_pid(disk->worker)));
	json_object_set_new(json, "restarts", json_integer(xpv_worker_restarts(disk->worker)));
	if (disk->link->live) {
		const struct blk_link *l = disk->link;
		const struct blk_geometry *g = &l->geometry;
		const char *node = all->attach->node(disk->attachment);

		if (node != NULL)
			json_object_set_new(json, "node", json_string(node));
		json_object_set_new(json, "backend",
		    json_stringn(l->backend_dir, strnlen(l->backend_dir, sizeof(l->backend_dir))));
		json_object_set_new(json, "sectors", json_integer(g->sectors));
		json_object_set_new(json, "sector_size", json_integer(g->sector_size));
		json_object_set_new(
		    json, "physical_sector_size", json_integer(g->physical_sector_size));
		json_object_set_new(json, "read_only", json_boolean(g->read_only));
		json_object_set_new(json, "removable", json_boolean(g->removable));
		json_object_set_new(json, "cdrom", json_boolean(g->cdrom));
		json_object_set_new(json, "queues", json_integer(l->queues));
		json_object_set_new(json, "ring_pages", json_integer(1 << (l->ring_order & 7)));
		json_object_set_new(json, "indirect_segments", json_integer(l->max_indirect));
		json_object_set_new(json, "flush", json_boolean(l->flush));
		json_object_set_new(json, "barrier", json_boolean(l->barrier));
		json_object_set_new(json, "discard", json_boolean(l->discard));
		json_object_set_new(json, "secure_discard", json_boolean(l->secure_discard));
		json_object_set_new(json, "granted_pages",
		    json_integer((json_int_t)disk->grants[0].pool.pages * all->max_queues));
	}
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

static const struct xpv_metric metrics[] = {
    {"xenpv_blkfront_requests", XPV_COUNTER, "Host requests answered", "op=\"read\"",
	offsetof(struct blk_stats, reads)},
    {"xenpv_blkfront_requests", XPV_COUNTER, "Host requests answered", "op=\"write\"",
	offsetof(struct blk_stats, writes)},
    {"xenpv_blkfront_requests", XPV_COUNTER, "Host requests answered", "op=\"flush\"",
	offsetof(struct blk_stats, flushes)},
    {"xenpv_blkfront_requests", XPV_COUNTER, "Host requests answered", "op=\"discard\"",
	offsetof(struct blk_stats, discards)},
    {"xenpv_blkfront_bytes", XPV_COUNTER, "Data moved", "op=\"read\"",
	offsetof(struct blk_stats, read_bytes)},
    {"xenpv_blkfront_bytes", XPV_COUNTER, "Data moved", "op=\"write\"",
	offsetof(struct blk_stats, write_bytes)},
    {"xenpv_blkfront_errors", XPV_COUNTER, "Host requests that ended with an error", NULL,
	offsetof(struct blk_stats, errors)},
    {"xenpv_blkfront_events", XPV_COUNTER, "Events received from the backend", NULL,
	offsetof(struct blk_stats, events)},
    {"xenpv_blkfront_notifies", XPV_COUNTER, "Events sent to the backend", NULL,
	offsetof(struct blk_stats, notifies)},
    {"xenpv_blkfront_inflight", XPV_GAUGE, "Ring requests without an answer", NULL,
	offsetof(struct blk_stats, inflight)},
    {"xenpv_blkfront_waiting", XPV_GAUGE, "Host requests waiting for the ring or for pages", NULL,
	offsetof(struct blk_stats, waiting)},
    {"xenpv_blkfront_latency", XPV_HISTOGRAM, "From a host request to its answer", NULL,
	offsetof(struct blk_stats, latency)},
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
	TAILQ_FOREACH (disk, &all->list, entry) {
		if (disk->stats != NULL)
			devices[n++] =
			    (struct xpv_metric_device){disk->name, disk->stats, all->max_queues};
	}
	xpv_metrics_write_devices(out, metrics, sizeof(metrics) / sizeof(metrics[0]),
	    sizeof(struct blk_stats), devices, n);
	free(devices);
}
