/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/shared.h>
#include <xenpv/store.h>

#include "messages.h"

/*
 * How a disk is driven: everything that happens (a state in xenstore, a worker's message or end, a
 * timer) is only noted down, and disk_step() is run soon after. It looks at all that is known and
 * does the next thing. So it makes no difference which of several events is seen first, or whether
 * one was missed, as xenstore's watches allow.
 */

#define STOP_GRACE_MS 8000 /* for what was taken; toolstacks wait 10 s for Closed */
#define IMAGE_RETRY_S 5
#define START_INTERVAL_NS                                                                          \
	100000000u /* a frontend may reconnect as often as it likes, we need not */
#define PEER_LOG_NS	 1000000000u /* nor is the log its to fill */
#define MAX_FRESH_STARTS 8	     /* after offers that could not be served */

/* What a disk needs next. */
enum wish {
	WISH_REST,  /* no worker */
	WISH_STAY,  /* whatever it does */
	WISH_OFFER, /* an open image, and the frontend invited */
	WISH_SERVE,
	WISH_CLOSING, /* no worker, then Closing */
	WISH_CLOSED,  /* no worker, then Closed */
};

static const struct xpv_worker_policy policy = {
    .max_crashes = 8,
    .window_s = 60,
    .delay_min_ms = 100,
    .delay_max_ms = 5000,
};

void
disk_look_again(struct disk *disk)
{
	event_active(disk->step, EV_TIMEOUT, 0);
}

static enum xpv_state
own_state(const struct disk *disk)
{
	return disk->backend != NULL ? xpv_backend_state(disk->backend) : XPV_STATE_UNKNOWN;
}

static enum xpv_state
front_state(const struct disk *disk)
{
	return disk->backend != NULL ? xpv_backend_frontend_state(disk->backend)
				     : XPV_STATE_UNKNOWN;
}

/* Connected, or asked to close and not closed yet. */
static bool
in_use(enum xpv_state own)
{
	return own == XPV_STATE_CONNECTED || own == XPV_STATE_CLOSING;
}

/* ---- saying things ---- */

static const char *
target_name(const struct vbd_settings *settings)
{
	return settings->target[0] != '\0' ? settings->target : "an empty drive";
}

/* About what a frontend can bring about at will. */
static void __attribute__((format(printf, 2, 3)))
peer_notice(struct disk *disk, const char *fmt, ...)
{
	uint64_t now = xpv_now_ns();
	bool often = now - disk->peer_logged_ns < PEER_LOG_NS;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	xpv_log(often ? XPV_LOG_DEBUG : XPV_LOG_NOTICE, "%s: %s", disk->name, text);
	if (!often)
		disk->peer_logged_ns = now;
}

/* ---- the end of a disk, or of all hope for it ---- */

static void __attribute__((format(printf, 4, 5)))
fail(struct disk *disk, enum failure failure, int error, const char *fmt, ...)
{
	char text[384];
	va_list args;

	if (disk->failure != NOT_FAILED)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	disk->failure = failure;
	if (disk->backend != NULL)
		xpv_backend_error(disk->backend, error, "%s (%s)", text, disk->name);
	else
		xpv_err("%s: %s", disk->name, text);
	disk_look_again(disk);
}

/*
 * libxl runs the hotplug script, which has the toolstack say what is wrong, when it has seen
 * InitWait, and waits 10 s for that: so we go there without an image.
 */
static void
fail_image(struct disk *disk, const char *why)
{
	if (disk->failure != NOT_FAILED)
		return;
	disk->failure = FAILED_IMAGE;
	xpv_err("%s: %s", disk->name, why);
	vbd_report_hotplug(disk->all->store, disk->dir, NULL, why);
	disk_look_again(disk);
}

void
disk_end_worker(struct disk *disk)
{
	if (disk->ending)
		return;
	disk->ending = true;
	xpv_worker_stop(disk->worker, STOP_GRACE_MS);
}

/* The frontend's rings are none of ours any more; the next may have what these could not. */
static void
forget_connection(struct disk *disk)
{
	bool refused = disk->refused.target != NULL;

	disk->live = disk->known = false;
	vbd_settings_free(&disk->served);
	vbd_settings_free(&disk->refused);
	if (refused)
		disk_refresh_settings(disk);
	disks_tell_systemd(disk->all);
}

/* ---- workers ---- */

static int
worker_main(struct event_base *base, int channel, void *arg)
{
	struct disk *disk = arg;

	return vbd_device_main(base, channel, &disk->args);
}

/* As many rings as we offer; but more, where the frontend has read another offer. */
static unsigned
most_queues(const struct disk *disk)
{
	unsigned offered = vbd_queues(disk->all->config), published;

	published = disk->known ? disk->connection.queues
				: vbd_frontend_queues(
				      disk->all->store, xpv_backend_frontend_dir(disk->backend));
	return offered > published ? offered : published;
}

/* Before each worker. */
static int
worker_prepare(void *arg)
{
	struct disk *disk = arg;

	disk->phase = WORKER_OPENING;
	disk->renew = false;
	disk->why[0] = '\0';
	disk->started_ns = xpv_now_ns();
	held_inherit(&disk->sockets, disk->worker);
	disk->args = (struct vbd_device_args){
	    .config = disk->all->config,
	    .name = disk->name,
	    .target = disk->settings.target,
	    .journal = disk->journal,
	    .read_only = disk->settings.read_only,
	    .limits = disk->limits,
	    .max_queues = most_queues(disk),
	    .stats = disk->stats,
	    .sockets = &disk->sockets,
	};
	return 0;
}

static void
hold_for(struct disk *disk, uint64_t ns)
{
	struct timeval t = {.tv_sec = (time_t)(ns / 1000000000u),
	    .tv_usec = (suseconds_t)(ns % 1000000000u / 1000)};

	disk->held = true;
	event_add(disk->hold, &t);
}

/* A frontend reads the sector size once, when it connects. Without a medium there is none. */
static bool
fits_frontend(const struct disk *disk, struct vbd_image_info *image)
{
	if (!disk->live || image->sector_size == disk->described_sector_size)
		return true;
	if (image->bytes != 0)
		return false;
	image->sector_size = disk->described_sector_size;
	if (image->physical_sector_size < image->sector_size)
		image->physical_sector_size = image->sector_size;
	return true;
}

/* Another sector size than the frontend knows: the image of before is gone on with if it is another
 * one, else the right one is waited for. */
static void
refuse_image(struct disk *disk, uint32_t sector_size)
{
	bool back =
	    disk->served.target != NULL && !vbd_settings_equal(&disk->served, &disk->settings);

	if (!disk->complained)
		xpv_err("%s: %s refused: its sectors have %u bytes, and the guest, which uses the "
			"disk, knows %u: %s%s; to change it, detach the disk and attach it again",
		    disk->name, disk->settings.target, sector_size, disk->described_sector_size,
		    back ? "staying with " : "waiting for one that has",
		    back ? target_name(&disk->served) : "");
	if (back) {
		vbd_settings_copy(&disk->refused, &disk->settings);
		vbd_settings_copy(&disk->settings, &disk->served);
		disk->renew = true;
	} else {
		disk->complained = true;
		hold_for(disk, UINT64_C(1000000000) * IMAGE_RETRY_S);
		disk_end_worker(disk);
	}
}

/* An NBD server that stands fewer connections than the frontend has rings, as it may after a
 * restart. */
static void
refuse_queues(struct disk *disk, unsigned max_queues)
{
	if (!disk->live) {
		fail(disk, FAILED_FRONTEND, EPROTO,
		    "the frontend cannot be served: it has %u queues, %s stands %u",
		    disk->connection.queues, target_name(&disk->settings), max_queues);
		return;
	}
	if (!disk->complained)
		xpv_err("%s: %s stands %u connections, and the guest uses %u queues: waiting until "
			"it stands as many",
		    disk->name, target_name(&disk->settings), max_queues, disk->connection.queues);
	disk->complained = true;
	hold_for(disk, UINT64_C(1000000000) * IMAGE_RETRY_S);
	disk_end_worker(disk);
}

static void
worker_opened(struct disk *disk, const void *data, size_t length)
{
	const char *why = "its description has another length";
	struct vbd_medium medium = {
	    .cdrom = disk->settings.cdrom,
	    .removable = disk->settings.removable,
	};

	if (disk->phase != WORKER_OPENING)
		return;
	if (length == sizeof(medium.image))
		memcpy(&medium.image, data, sizeof(medium.image));
	if (length != sizeof(medium.image) || !vbd_image_valid(&medium.image, &why)) {
		fail(disk, FAILED, EPROTO, "its worker describes an impossible image: %s", why);
		return;
	}
	if (!fits_frontend(disk, &medium.image)) {
		refuse_image(disk, medium.image.sector_size);
		return;
	}
	if (disk->known && disk->connection.queues > medium.image.max_queues) {
		refuse_queues(disk, medium.image.max_queues);
		return;
	}
	disk->complained = false;
	medium.read_only = disk->settings.read_only || medium.image.read_only;
	held_are_over(&disk->sockets, disk->worker);
	disk->medium = medium;
	disk->phase = WORKER_OPEN;
}

static void
announce(struct disk *disk)
{
	if (own_state(disk) != XPV_STATE_CONNECTED ||
	    vbd_describe(disk->all->store, disk->dir, &disk->medium, true) != 0)
		return;
	disk->described_bytes = disk->medium.image.bytes;
}

static void
worker_resized(struct disk *disk, const void *data, size_t length)
{
	struct vbd_medium medium = disk->medium;
	const char *why;

	if (length != sizeof(medium.image.bytes) || disk->phase < WORKER_OPEN)
		return;
	memcpy(&medium.image.bytes, data, sizeof(medium.image.bytes));
	if (!vbd_image_valid(&medium.image, &why))
		return;
	disk->medium = medium;
	if (disk->phase != WORKER_SERVING)
		return;
	announce(disk);
	peer_notice(disk, "new size %.1f MiB", (double)medium.image.bytes / 1048576);
}

static void
worker_message(uint32_t type, const void *data, size_t length, int fd, void *arg)
{
	struct disk *disk = arg;

	if (type == VBD_MSG_SOCKET && disk->phase == WORKER_OPENING) {
		held_add(&disk->sockets, fd);
		return;
	}
	if (fd >= 0)
		close(fd); /* workers have no others to give */
	if (disk->failure != NOT_FAILED)
		return;
	switch (type) {
	case VBD_MSG_IMAGE:
		worker_opened(disk, data, length);
		break;
	case VBD_MSG_CONNECTED:
		if (disk->phase == WORKER_CONNECTING)
			disk->phase = WORKER_SERVING;
		break;
	case VBD_MSG_RESIZED:
		worker_resized(disk, data, length);
		break;
	case VBD_MSG_WHY:
		snprintf(disk->why, sizeof(disk->why), "%.*s", (int)length, (const char *)data);
		break;
	default:
		xpv_warning("%s: its worker sent a message of unknown type %u", disk->name, type);
		break;
	}
	disk_look_again(disk);
}

static void
hold_is_over(evutil_socket_t fd, short events, void *arg)
{
	struct disk *disk = arg;

	disk->held = false;
	disk_look_again(disk);
}

static void
image_is_away(struct disk *disk, bool restarting)
{
	char why[320];

	if (disk->proven) {
		/* After the policy's tries we have our own, without end. */
		if (!restarting)
			hold_for(disk, UINT64_C(1000000000) * IMAGE_RETRY_S);
		return;
	}
	if (disk->why[0] != '\0')
		snprintf(why, sizeof(why), "%s", disk->why);
	else
		snprintf(why, sizeof(why), "cannot open %.200s: the log of xen-blkbackd says why",
		    target_name(&disk->settings));
	fail_image(disk, why);
	if (restarting)
		disk_end_worker(disk);
}

static void
worker_exited(
    enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason, void *arg)
{
	bool ending, no_image = crashed && (int)code == EX_NOINPUT, connecting;
	struct disk *disk = arg;

	held_shut(&disk->sockets);
	ending = disk->ending;
	connecting = disk->phase == WORKER_CONNECTING;
	disk->phase = restarting ? WORKER_OPENING : WORKER_NONE;
	disk->ending = false;
	disk_look_again(disk);
	if (ending)
		return;
	if (no_image)
		image_is_away(disk, restarting);
	else if (restarting && crashed)
		xpv_warning("%s: worker %s: starting another", disk->name, reason);
	else if (crashed)
		fail(disk, FAILED, EIO, "given up: worker %s", reason);
	else if (code == XPV_EXIT_REFUSED && connecting)
		/* Also rings of before a resume, which an unlucky frontend published after it. */
		fail(disk, FAILED_FRONTEND, EPROTO,
		    "the frontend cannot be served: its rings are not there");
	else if (code == XPV_EXIT_REFUSED)
		fail(disk, FAILED, EPROTO, "the frontend broke the protocol: disk closed");
	else if (!restarting)
		/* Ended by hand: it answered all it had, another one goes on. */
		xpv_notice("%s: worker ended: starting another", disk->name);
}

static const struct xpv_worker_ops worker_ops = {
    .main = worker_main,
    .prepare = worker_prepare,
    .message = worker_message,
    .exited = worker_exited,
};

static void
start_worker(struct disk *disk)
{
	uint64_t since = xpv_now_ns() - disk->started_ns;

	if (disk->held || disk->settings.target == NULL)
		return;
	if (since < START_INTERVAL_NS) {
		hold_for(disk, START_INTERVAL_NS - since);
		return;
	}
	if (xpv_worker_start(disk->worker) == 0)
		return;
	disk->phase = WORKER_NONE;
	fail(disk, FAILED, errno, "no worker: %s", strerror(errno));
}

/* ---- steps ---- */

static void
set_state(struct disk *disk, enum xpv_state state)
{
	/* If it fails somebody else has written it: we are told, and look again. */
	if (own_state(disk) != state && xpv_backend_set_state(disk->backend, state) == 0)
		disk_look_again(disk);
}

static void
not_written(struct disk *disk, const char *what)
{
	/* Removed: we are told. */
	if (errno != ENOENT)
		fail(disk, FAILED, errno, "cannot write %s: %s", what, strerror(errno));
}

static void
offer(struct disk *disk)
{
	if (vbd_offer(disk->all->store, disk->dir, disk->all->config, &disk->medium) != 0) {
		not_written(disk, "the offer");
		return;
	}
	vbd_report_hotplug(disk->all->store, disk->dir, disk->settings.target, NULL);
	disk->offered = true;
	set_state(disk, XPV_STATE_INIT_WAIT);
	disk_look_again(disk); /* the frontend may be there already */
}

/* Sends the worker to the frontend's rings. */
static void
connect_worker(struct disk *disk)
{
	struct vbd_connection *c = &disk->connection;
	char why[VBD_WHY_MAX];

	if (!disk->known) {
		if (vbd_read_frontend(disk->all->store, xpv_backend_frontend_dir(disk->backend),
			disk->domid, c, why) != 0) {
			fail(disk, FAILED_FRONTEND, EPROTO, "the frontend cannot be served: %s",
			    why);
			return;
		}
		vbd_read_offer(disk->all->store, disk->dir, c);
	}
	disk->known = true;
	if (c->queues > disk->args.max_queues || c->queues > disk->medium.image.max_queues) {
		disk->renew = true; /* published after the worker was prepared */
		disk_look_again(disk);
		return;
	}
	c->live = disk->live;
	if (xpv_worker_send(disk->worker, VBD_MSG_CONNECT, c, sizeof(*c), -1) == 0)
		disk->phase = WORKER_CONNECTING;
	/* Else it is dying: we are told. */
}

/* The worker serves the rings: the frontend may know. */
static void
serving(struct disk *disk)
{
	const struct vbd_connection *c = &disk->connection;

	if (!vbd_settings_equal(&disk->served, &disk->settings))
		vbd_settings_copy(&disk->served, &disk->settings);
	if (disk->live && in_use(own_state(disk))) {
		if (disk->described_bytes != disk->medium.image.bytes)
			announce(disk);
		return;
	}
	/* A frontend that published new rings without closing the old ones waits for this too. */
	if (own_state(disk) == XPV_STATE_CONNECTED)
		announce(disk);
	else if (vbd_describe(disk->all->store, disk->dir, &disk->medium, false) != 0) {
		not_written(disk, "the disk's description");
		return;
	}
	set_state(disk, XPV_STATE_CONNECTED);
	if (own_state(disk) != XPV_STATE_CONNECTED)
		return;
	disk->described_bytes = disk->medium.image.bytes;
	disk->described_sector_size = disk->medium.image.sector_size;
	disk->live = disk->proven = true;
	xpv_backend_error(disk->backend, 0, " ");
	disks_tell_systemd(disk->all);
	peer_notice(disk, "connected: %s, %.1f MiB%s, %u queue%s of %u pages%s",
	    disk->settings.target[0] != '\0' ? disk->settings.target : "empty",
	    (double)disk->medium.image.bytes / 1048576, disk->medium.read_only ? ", read-only" : "",
	    c->queues, c->queues == 1 ? "" : "s", 1u << c->ring_order,
	    c->persistent ? ", persistent grants" : "");
}

static void
step_towards_service(struct disk *disk, bool connect)
{
	/* Where the frontend is connected, or was, nothing is offered. */
	bool offering = !disk->live && own_state(disk) != XPV_STATE_CONNECTED;

	switch (disk->phase) {
	case WORKER_NONE:
		start_worker(disk);
		break;
	case WORKER_OPENING:
		break;
	case WORKER_OPEN:
		if (offering && (!disk->offered || own_state(disk) != XPV_STATE_INIT_WAIT))
			offer(disk);
		else if (connect)
			connect_worker(disk);
		break;
	case WORKER_CONNECTING:
	case WORKER_SERVING:
		if (!connect) { /* the frontend changed its mind; a worker connects only once */
			forget_connection(disk);
			disk_end_worker(disk);
		} else if (disk->phase == WORKER_SERVING) {
			serving(disk);
		}
		break;
	}
}

static void
step_towards_end(struct disk *disk, enum xpv_state state)
{
	if (disk->phase != WORKER_NONE) {
		disk_end_worker(disk);
		return;
	}
	if (disk->live)
		peer_notice(disk, "disconnected");
	forget_connection(disk);
	disk->offered = false;
	set_state(disk, state);
}

static enum wish
wish_of_failed(const struct disk *disk)
{
	switch (own_state(disk)) {
	case XPV_STATE_UNKNOWN:
	case XPV_STATE_CLOSED:
		return WISH_REST;
	case XPV_STATE_CLOSING:
		return WISH_CLOSED;
	default:
		return disk->failure == FAILED_IMAGE ? WISH_REST : WISH_CLOSING;
	}
}

static enum wish
wish_of_connected(enum xpv_state front)
{
	switch (front) {
	case XPV_STATE_INITIALISED:
	case XPV_STATE_CONNECTED:
		return WISH_SERVE;
	case XPV_STATE_CLOSING:
		return WISH_CLOSING;
	case XPV_STATE_UNKNOWN:
	case XPV_STATE_INITIALISING:
	case XPV_STATE_CLOSED:
		return WISH_CLOSED;
	default:
		return WISH_STAY;
	}
}

/* What follows from the states of both sides; "Who writes what, and when" in docs/lifecycle.md has
 * the reasons. */
static enum wish
wish_of(const struct disk *disk)
{
	enum xpv_state front = front_state(disk);

	if (disk->failure != NOT_FAILED)
		return wish_of_failed(disk);
	switch (own_state(disk)) {
	case XPV_STATE_UNKNOWN:
		return WISH_REST;
	case XPV_STATE_CONNECTED:
		return wish_of_connected(front);
	case XPV_STATE_CLOSING:
		/* Ours, or the toolstack's: then the frontend is to close first. */
		if (front == XPV_STATE_CONNECTED && disk->live)
			return WISH_SERVE;
		return front == XPV_STATE_CLOSING ? WISH_CLOSING : WISH_CLOSED;
	case XPV_STATE_CLOSED:
		return front == XPV_STATE_INITIALISING && xpv_backend_online(disk->backend)
			   ? WISH_OFFER
			   : WISH_REST;
	default:
		if (!disk->offered && !disk->live)
			return WISH_OFFER;
		if (front == XPV_STATE_INITIALISED || front == XPV_STATE_CONNECTED)
			return WISH_SERVE;
		return front == XPV_STATE_CLOSING  ? WISH_CLOSING
		       : front == XPV_STATE_CLOSED ? WISH_CLOSED
						   : WISH_OFFER;
	}
}

static void
follow(struct disk *disk)
{
	if (disk->failure == FAILED_IMAGE && own_state(disk) == XPV_STATE_INITIALISING)
		set_state(disk, XPV_STATE_INIT_WAIT);
	if (disk->failure == FAILED_FRONTEND && own_state(disk) == XPV_STATE_CLOSED &&
	    front_state(disk) == XPV_STATE_INITIALISING && disk->fresh_starts < MAX_FRESH_STARTS) {
		disk->fresh_starts++;
		disk->failure = NOT_FAILED;
	}
	if (disk->renew && disk->phase != WORKER_NONE) {
		disk_end_worker(disk);
		return;
	}
	switch (wish_of(disk)) {
	case WISH_STAY:
		break;
	case WISH_REST:
		if (disk->phase != WORKER_NONE)
			disk_end_worker(disk);
		break;
	case WISH_OFFER:
		step_towards_service(disk, false);
		break;
	case WISH_SERVE:
		step_towards_service(disk, true);
		break;
	case WISH_CLOSING:
		step_towards_end(disk, XPV_STATE_CLOSING);
		break;
	case WISH_CLOSED:
		step_towards_end(disk, XPV_STATE_CLOSED);
		break;
	}
}

/* ---- what the toolstack and the frontend do ---- */

static void
on_frontend(enum xpv_state state, void *arg)
{
	struct disk *disk = arg;

	/* New rings, and the closing of the old ones was too quick for us. */
	if (state == XPV_STATE_INITIALISED && disk->live &&
	    own_state(disk) == XPV_STATE_CONNECTED) {
		forget_connection(disk);
		disk->renew = true;
	}
	disk_look_again(disk);
}

static void
on_own(enum xpv_state state, void *arg)
{
	struct disk *disk = arg;

	if (state == XPV_STATE_INITIALISING)
		disk->made_anew = true;
	else if (disk->ours)
		claim_check(disk->claim);
	else if (state == XPV_STATE_CLOSED)
		disk->ours = claim_begin(disk->claim, CLAIM_IDLE);
	disk_look_again(disk);
}

static const struct xpv_backend_ops backend_ops = {
    .frontend_changed = on_frontend,
    .own_changed = on_own,
};

void
disk_refresh_limits(struct disk *disk)
{
	struct vbd_limits now = vbd_limits_read(disk->all->store, disk->dir, disk->all->config);

	if (now.iops == disk->limits.iops && now.bytes_per_s == disk->limits.bytes_per_s &&
	    now.burst_ms == disk->limits.burst_ms)
		return;
	disk->limits = now;
	if (disk->phase != WORKER_NONE)
		xpv_worker_send(disk->worker, VBD_MSG_LIMITS, &now, sizeof(now), -1);
	xpv_info("%s: limits: %llu requests/s, %llu bytes/s (0: none)", disk->name,
	    (unsigned long long)now.iops, (unsigned long long)now.bytes_per_s);
}

void
disk_refresh_settings(struct disk *disk)
{
	struct vbd_settings now;
	const char *why;

	if (vbd_settings_read(disk->all->store, disk->dir, &now, &why) != 0) {
		if (disk->settings.target == NULL && why != NULL)
			fail_image(disk, why);
		return;
	}
	if (disk->settings.target != NULL && vbd_settings_equal(&now, &disk->settings)) {
		vbd_settings_free(&now);
		vbd_settings_free(&disk->refused);
		return;
	}
	if (vbd_settings_equal(&now, &disk->refused)) {
		vbd_settings_free(&now);
		return;
	}
	vbd_settings_free(&disk->refused);
	disk->complained = disk->held = false;
	event_del(disk->hold);
	if (disk->settings.target != NULL && strcmp(disk->settings.target, now.target) != 0)
		xpv_notice("%s: changes from %s to %s", disk->name, target_name(&disk->settings),
		    target_name(&now));
	vbd_settings_free(&disk->settings);
	disk->settings = now;
	disk->renew = disk->phase != WORKER_NONE;
	disk->offered = false;
	if (disk->failure == FAILED_IMAGE)
		disk->failure = NOT_FAILED;
	disk_look_again(disk);
}

static void
claimed(void *arg)
{
	struct disk *disk = arg;

	disk->ours = true;
	disk_look_again(disk);
}

/* ---- one disk ---- */

/* Frontend and backend were Connected when we came: another xen-blkbackd served it, or this one
 * before it was killed. */
static void
go_on_with(struct disk *disk)
{
	disk->live = disk->proven = true;
	disk->described_bytes = 0;
	if (xpv_store_read_u64(disk->all->store, &disk->described_bytes, "%s/sectors", disk->dir) ==
	    0)
		disk->described_bytes <<= VBD_SECTOR_SHIFT;
	if (xpv_store_read_u32(
		disk->all->store, &disk->described_sector_size, "%s/sector-size", disk->dir) != 0)
		disk->described_sector_size = VBD_SECTOR_SIZE;
	xpv_notice("%s: going on with a connected frontend", disk->name);
}

static bool
is_connected(const struct disk *disk)
{
	switch (own_state(disk)) {
	case XPV_STATE_CONNECTED:
		return wish_of_connected(front_state(disk)) == WISH_SERVE;
	case XPV_STATE_CLOSING:
		return front_state(disk) == XPV_STATE_CONNECTED;
	default:
		return false;
	}
}

/* The directory is there, for the first time or made anew. */
void
disk_begin(struct disk *disk)
{
	enum xpv_state own;

	disk->made_anew = disk->ours = disk->offered = disk->known = disk->live = false;
	disk->proven = disk->renew = disk->held = disk->complained = false;
	event_del(disk->hold);
	disk->failure = NOT_FAILED;
	disk->fresh_starts = 0;
	vbd_settings_free(&disk->settings);
	vbd_settings_free(&disk->served);
	vbd_settings_free(&disk->refused);
	xpv_backend_close(disk->backend);
	disk->backend = xpv_backend_open(disk->all->store, disk->dir, &backend_ops, disk);
	if (disk->backend == NULL) {
		if (errno != ENOENT)
			xpv_err("%s: %s: what the toolstack wrote makes no sense: %s", disk->name,
			    disk->dir, strerror(errno));
		return;
	}
	own = own_state(disk);
	disk->limits = vbd_limits_read(disk->all->store, disk->dir, disk->all->config);
	disk_refresh_settings(disk);
	disk->ours = claim_begin(disk->claim, own == XPV_STATE_INITIALISING ? CLAIM_FRESH
					      : in_use(own)		    ? CLAIM_IN_USE
									    : CLAIM_IDLE);
	if (disk->ours && is_connected(disk))
		go_on_with(disk);
	disk_look_again(disk);
}

void
disk_free(struct disk *disk)
{
	TAILQ_REMOVE(&disk->all->list, disk, entry);
	xpv_worker_free(disk->worker);
	held_close(&disk->sockets);
	xpv_shared_free(disk->shared);
	xpv_backend_close(disk->backend);
	claim_free(disk->claim);
	vbd_settings_free(&disk->settings);
	vbd_settings_free(&disk->served);
	vbd_settings_free(&disk->refused);
	if (disk->step != NULL)
		event_free(disk->step);
	if (disk->hold != NULL)
		event_free(disk->hold);
	free(disk);
}

static void
disk_step(evutil_socket_t fd, short events, void *arg)
{
	struct disk *disk = arg;
	struct disks *all = disk->all;
	bool over = all->stopping || disk->lost || disk->made_anew;

	if (over && disk->phase != WORKER_NONE) {
		disk_end_worker(disk);
	} else if (all->stopping) {
		disks_stop_if_done(all);
	} else if (disk->lost) {
		unlink(disk->journal);
		disk_free(disk);
		disks_tell_systemd(all);
	} else if (disk->made_anew) {
		unlink(disk->journal);
		disk_begin(disk);
	} else if (disk->ours) {
		follow(disk);
	}
}

struct disk *
disk_new(const struct vbd_class *class, const char *dir, uint32_t domid, uint32_t vdev)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	struct disks *all = class->all;
	char vbd_name[32];

	if (disk == NULL)
		return NULL;
	disk->all = all;
	disk->class = class;
	disk->domid = domid;
	disk->vdev = vdev;
	TAILQ_INSERT_TAIL(&all->list, disk, entry);
	xpv_vbd_name(vdev, vbd_name, sizeof(vbd_name));
	snprintf(disk->name, sizeof(disk->name), "%u/%s", domid, vbd_name);
	snprintf(disk->dir, sizeof(disk->dir), "%s", dir);
	snprintf(disk->journal, sizeof(disk->journal), "%s/blkback/%s-%u-%u.journal",
	    all->config->rundir, class->name, domid, vdev);
	disk->step = event_new(all->base, -1, 0, disk_step, disk);
	disk->hold = evtimer_new(all->base, hold_is_over, disk);
	disk->claim = claim_new(all->base, disk->name, class->name, domid, vdev, claimed, disk);
	disk->shared = xpv_shared_new();
	if (disk->shared != NULL)
		disk->stats = xpv_shared_alloc(disk->shared, VBD_MAX_QUEUES * sizeof(*disk->stats));
	if (disk->step != NULL && disk->hold != NULL && disk->claim != NULL && disk->stats != NULL)
		disk->worker =
		    xpv_worker_new(all->base, disk->name, &worker_ops, &policy, disk->shared, disk);
	if (disk->worker == NULL) {
		disk_free(disk);
		return NULL;
	}
	return disk;
}

const char *
disk_state(const struct disk *disk)
{
	if (disk->failure != NOT_FAILED)
		return "failed";
	if (!disk->ours)
		return disk->backend == NULL ? "makes no sense" : "claimed by the kernel";
	switch (own_state(disk)) {
	case XPV_STATE_INIT_WAIT:
		return disk->offered ? "offered" : "opening";
	case XPV_STATE_CONNECTED:
		return disk->phase == WORKER_SERVING ? "connected" : "recovering";
	case XPV_STATE_CLOSING:
		return "closing";
	case XPV_STATE_CLOSED:
		return disk->phase == WORKER_NONE ? "closed" : "opening";
	default:
		return "opening";
	}
}
