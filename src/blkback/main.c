/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * xen-blkbackd(8): disks for guests, from files, block devices and NBD servers.
 *
 * This process is the supervisor. It finds the vbds that the toolstack gives to it (disks.c), does
 * their part in xenstore (offer.c, settings.c), and runs one sandboxed worker per disk (device.c),
 * which opens the image (image_*.c), maps the guest's rings and serves them with one thread per
 * queue (queue.c). It never touches what a guest has written into shared memory.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <event2/event.h>
#include <xenpv/control.h>
#include <xenpv/evtchn.h>
#include <xenpv/grant.h>
#include <xenpv/log.h>
#include <xenpv/loop.h>
#include <xenpv/options.h>
#include <xenpv/store.h>
#include <xenpv/supervisor.h>

#include "build_config.h"
#include "disks.h"

static struct vbd_config config = {
    .ring_page_order = VBD_MAX_RING_ORDER,
    .max_indirect = VBD_MAX_SEGMENTS,
    .persistent = true,
    .cache_pages = 1056,
    .buffer_pages = 1024,
    .direct = true,
    .discard = true,
    .burst_ms = 1000,
    .sandbox = true,
};

static const char *const take_names[] = {
    [VBD_TAKE_SCRIPT] = "script",
    [VBD_TAKE_ALL] = "all",
    NULL,
};

static const char *const transfer_names[] = {
    [VBD_TRANSFER_COPY] = "copy",
    [VBD_TRANSFER_MAP] = "map",
    NULL,
};

static const char *const io_names[] = {
    [VBD_IO_AUTO] = "auto",
    [VBD_IO_KERNEL] = "kernel",
    [VBD_IO_THREADS] = "threads",
    NULL,
};

#define LIMIT_MAX (1L << 40)

static const struct xpv_option options[] = {
    {"classes", 0, XPV_OPTION_STRING, &config.classes, .at_start = true, .arg = "NAMES",
	.help = "directories below \"backend\" in xenstore, with commas"},
    {"take", 0, XPV_OPTION_CHOICE, &config.take, .at_start = true, .choices = take_names,
	.arg = "WHICH", .help = "script: disks with script=block-xenpv; all"},
    {"queues", 0, XPV_OPTION_INT, &config.queues, 0, VBD_MAX_QUEUES, .arg = "N",
	.help = "rings offered per disk; 0: one per CPU, at most 4"},
    {"ring-page-order", 0, XPV_OPTION_INT, &config.ring_page_order, 0, VBD_MAX_RING_ORDER,
	.arg = "N", .help = "rings of up to 2^N pages are offered"},
    {"max-indirect", 0, XPV_OPTION_INT, &config.max_indirect, 0, VBD_MAX_SEGMENTS, .arg = "N",
	.help = "segments per indirect request; 0: none"},
    {"persistent", 0, XPV_OPTION_BOOL, &config.persistent,
	.help = "offer to keep the guest's pages mapped"},
    {"cache-pages", 0, XPV_OPTION_INT, &config.cache_pages, 0, 32768, .arg = "N",
	.help = "pages of the guest kept mapped, per queue"},
    {"transfer", 0, XPV_OPTION_CHOICE, &config.transfer, .choices = transfer_names, .arg = "HOW",
	.help = "of pages that are not kept mapped; copy: where the kernel can; map"},
    {"buffer-pages", 0, XPV_OPTION_INT, &config.buffer_pages, VBD_MAX_SEGMENTS, 32768, .arg = "N",
	.help = "4 KiB pages of data that is copied, or mapped for a request, per queue"},
    {"poll-us", 0, XPV_OPTION_INT, &config.poll_us, 0, 10000, .arg = "US",
	.help = "spin this long for requests before sleeping"},
    {"direct", 0, XPV_OPTION_BOOL, &config.direct, .help = "bypass the host's page cache"},
    {"io", 0, XPV_OPTION_CHOICE, &config.io, .choices = io_names, .arg = "WHO",
	.help = "kernel: io_uring, or FreeBSD's AIO; threads; auto: what can be"},
    {"discard", 0, XPV_OPTION_BOOL, &config.discard, .help = "offer discard where images can"},
    {"nbd-connections", 0, XPV_OPTION_INT, &config.nbd_connections, 0, VBD_MAX_QUEUES, .arg = "N",
	.help = "to an NBD server, per disk; 0: one per queue"},
    {"iops", 0, XPV_OPTION_INT, &config.iops, 0, LIMIT_MAX, .arg = "N",
	.help = "requests per second of a disk; 0: no limit"},
    {"bytes-per-second", 0, XPV_OPTION_INT, &config.bytes_per_s, 0, LIMIT_MAX, .arg = "N",
	.help = "of a disk; 0: no limit"},
    {"burst-ms", 0, XPV_OPTION_INT, &config.burst_ms, 0, 60000, .arg = "MS",
	.help = "for how long unused allowance is saved up"},
    {"sandbox", 0, XPV_OPTION_BOOL, &config.sandbox, .help = "confine the workers"},
    {"user", 0, XPV_OPTION_STRING, &config.user, .arg = "NAME", .help = "workers run as this user"},
    {"rundir", 0, XPV_OPTION_STRING, &config.rundir, .at_start = true, .arg = "DIR",
	.help = "directory of the control socket and the journals"},
    {NULL},
};

static const struct xpv_program program = {
    .name = "xen-blkbackd",
    .version = XENPV_VERSION,
    .summary = "serves Xen virtual disks from files, block devices and NBD servers",
    .config_path = XENPV_SYSCONFDIR "/blkback.conf",
    .options = options,
};

static struct xpv_common common;

struct daemon {
	struct event_base *base;
	struct disks *disks;
	struct xpv_signals *signals;
};

static const struct xpv_control_page pages[] = {
    {"/devices", "application/json", disks_write_json},
    {"/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8", disks_write_metrics},
    {NULL},
};

static void
stopped(void *arg)
{
	struct daemon *d = arg;

	event_base_loopbreak(d->base);
}

static void
on_stop(void *arg)
{
	struct daemon *d = arg;

	xpv_notify_stopping();
	xpv_notice("stopping");
	disks_stop(d->disks, stopped, d);
}

static void
on_reload(void *arg)
{
	struct daemon *d = arg;

	if (xpv_options_reload(&program, &common) != 0)
		return;
	disks_reload(d->disks);
	xpv_notice("configuration read again: limits hold from now on, all else for disks that "
		   "connect from now on");
}

/* The run-time directory; in it the empty one that workers are confined to, and the journals, which
 * hold guests' requests. */
static void
make_rundir(void)
{
	xpv_rundir_make(config.rundir, "", 0755);
	xpv_rundir_make(config.rundir, "/empty", 0555);
	xpv_rundir_make(config.rundir, "/blkback", 0700);
}

/* What every disk will need: better said now than when the first one comes. */
static bool
xen_is_there(void)
{
	struct xpv_evtchn *evtchn = xpv_evtchn_open();
	struct xpv_gntdev *gntdev = evtchn != NULL ? xpv_gntdev_open() : NULL;
	bool there = gntdev != NULL;

	xpv_gntdev_close(gntdev);
	xpv_evtchn_close(evtchn);
	return there;
}

int
main(int argc, char **argv)
{
	struct xpv_control *control;
	struct xpv_store *store;
	struct daemon d = {0};
	char socket_path[108];

	config.classes = strdup("vbd");
	config.rundir = strdup(XENPV_RUNDIR);
	config.user = strdup("nobody");
	xpv_options_parse(&program, argc, argv, &common);
	make_rundir();
	xpv_daemonize(&common);

	d.base = xpv_loop_new();
	if (d.base == NULL)
		xpv_die(EX_OSERR, "no event loop");
	store = xpv_store_open(d.base);
	if (store == NULL || !xen_is_there())
		return EX_UNAVAILABLE;
	snprintf(socket_path, sizeof(socket_path), "%.80s/xen-blkbackd.sock", config.rundir);
	d.signals = xpv_signals_listen(d.base, on_stop, on_reload, &d);

	d.disks = disks_start(d.base, store, &config);
	if (d.disks == NULL)
		return EX_CONFIG;
	/* Also tells whether another xen-blkbackd runs, before any disk is looked at. */
	control = xpv_control_open(d.base, socket_path, pages, d.disks);
	if (control == NULL)
		return EX_TEMPFAIL;
	xpv_notify_ready();
	event_base_dispatch(d.base);

	xpv_control_close(control);
	disks_free(d.disks);
	xpv_store_close(store);
	xpv_signals_free(d.signals);
	event_base_free(d.base);
	xpv_pidfile_remove(&common);
	xpv_options_free(&program, &common);
	return EX_OK;
}
