/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * xen-blkfrontd(8): every vbd offered to this guest becomes a block device of this guest's OS.
 *
 * This process is the supervisor. It finds the vbds (disks.c), owns the host's block devices
 * (attach_*.c), and runs one sandboxed worker per disk (device.c), which talks blkif to the backend
 * with one thread per queue (queue_thread.c, queue.c) and moves requests between the rings and the
 * host device (io_*.c).
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <event2/event.h>
#include <xenpv/control.h>
#include <xenpv/log.h>
#include <xenpv/loop.h>
#include <xenpv/options.h>
#include <xenpv/store.h>
#include <xenpv/supervisor.h>

#include "build_config.h"
#include "disks.h"

static struct blk_config config = {
    .attach = BLK_ATTACH_AUTO,
    .depth = 64,
    .pool_pages = 1056,
    .max_io_kb = 128,
    .max_indirect = 256,
    .persistent = true,
    .sandbox = true,
};

static const char *const attach_names[] = {"auto", "ublk", "nbd", "ggate", "nbd-unix:", NULL};

static const struct xpv_option options[] = {
    {"attach", 'a', XPV_OPTION_CHOICE, &config.attach, .choices = attach_names,
	.rest = &config.attach_path, .at_start = true, .arg = "KIND",
	.help = "how disks become block devices; nbd-unix:PATH"},
    {"nbd-group", 0, XPV_OPTION_STRING, &config.nbd_group, .at_start = true, .arg = "NAME",
	.help = "this group may connect to the socket of nbd-unix"},
    {"queues", 0, XPV_OPTION_INT, &config.queues, 0, BLK_MAX_QUEUES, .at_start = true, .arg = "N",
	.help = "rings per disk; 0: one per CPU, at most 4"},
    {"depth", 0, XPV_OPTION_INT, &config.depth, 1, 1024, .arg = "N",
	.help = "requests in flight per queue"},
    {"ring-page-order", 0, XPV_OPTION_INT, &config.ring_page_order, 0, BLK_MAX_RING_ORDER,
	.arg = "N", .help = "a ring has 2^N pages, if the backend can"},
    {"pool-pages", 0, XPV_OPTION_INT, &config.pool_pages, 2 * BLK_MAX_IO_PAGES, 32768, .arg = "N",
	.help = "granted 4 KiB data pages per queue"},
    {"max-io-kb", 0, XPV_OPTION_INT, &config.max_io_kb, 4, BLK_MAX_IO_BYTES / 1024,
	.multiple_of = 4, .arg = "KIB", .help = "largest request of the host, a multiple of 4"},
    {"max-indirect", 0, XPV_OPTION_INT, &config.max_indirect, 0, 512, .arg = "N",
	.help = "segments per indirect request; 0: none"},
    {"persistent", 0, XPV_OPTION_BOOL, &config.persistent,
	.help = "let the backend keep our pages mapped"},
    {"secure-discard", 0, XPV_OPTION_BOOL, &config.secure_discard,
	.help = "make every discard a secure one"},
    {"poll-us", 0, XPV_OPTION_INT, &config.poll_us, 0, 10000, .arg = "US",
	.help = "spin this long for answers before sleeping"},
    {"sandbox", 0, XPV_OPTION_BOOL, &config.sandbox, .help = "confine the workers"},
    {"user", 0, XPV_OPTION_STRING, &config.user, .arg = "NAME", .help = "workers run as this user"},
    {"rundir", 0, XPV_OPTION_STRING, &config.rundir, .at_start = true, .arg = "DIR",
	.help = "directory of the control socket"},
    {"devdir", 0, XPV_OPTION_STRING, &config.devdir, .at_start = true, .arg = "DIR",
	.help = "directory of the stable names"},
    {NULL},
};

static const struct xpv_program program = {
    .name = "xen-blkfrontd",
    .version = XENPV_VERSION,
    .summary = "makes Xen virtual disks block devices of this guest",
    .config_path = XENPV_SYSCONFDIR "/blkfront.conf",
    .options = options,
};

static struct xpv_common common;

struct daemon {
	struct event_base *base;
	struct disks *disks;
	struct xpv_signals *signals;
	int exit_code;
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
	if (xpv_options_reload(&program, &common) == 0)
		xpv_notice("configuration read again: it holds for connections made from now on");
}

/* Every disk that was there at the start is usable, or known not to be. */
static void
settled(void *arg)
{
	struct daemon *d = arg;
	unsigned offered, claimed;

	disks_count(d->disks, &offered, &claimed);
	if (offered > 0 && claimed == offered) {
		xpv_err("all %u disks are driven by the kernel: nothing to do", offered);
		d->exit_code = EX_UNAVAILABLE;
		disks_stop(d->disks, stopped, d);
		return;
	}
	xpv_notify_ready();
}

/* The run-time directory, and in it the empty one that workers are confined to. */
static void
make_rundir(void)
{
	xpv_rundir_make(config.rundir, "", 0755);
	xpv_rundir_make(config.rundir, "/empty", 0555);
}

/* What every disk will need: better said now than when the first one comes. */
static bool
xen_is_there(void)
{
	struct xpv_evtchn *evtchn = xpv_evtchn_open();
	struct xpv_pool page;

	if (evtchn == NULL)
		return false;
	xpv_evtchn_close(evtchn);
	if (xpv_pool_share(&page, 0, 1) != 0)
		return false;
	xpv_pool_unshare(&page);
	return true;
}

int
main(int argc, char **argv)
{
	struct daemon d = {.exit_code = EX_OK};
	const struct attach_ops *attach;
	struct xpv_control *control;
	struct xpv_store *store;
	char socket_path[108];

	config.user = strdup("nobody");
	config.rundir = strdup(XENPV_RUNDIR);
	config.devdir = strdup("/dev/xenpv");
	xpv_options_parse(&program, argc, argv, &common);

	attach = attach_choose(config.attach);
	if (attach == NULL)
		return EX_UNAVAILABLE;
	make_rundir();
	xpv_daemonize(&common);

	d.base = xpv_loop_new();
	if (d.base == NULL)
		xpv_die(EX_OSERR, "no event loop");
	store = xpv_store_open(d.base);
	if (store == NULL || !xen_is_there())
		return EX_UNAVAILABLE;
	snprintf(socket_path, sizeof(socket_path), "%s/xen-blkfrontd.sock", config.rundir);
	d.signals = xpv_signals_listen(d.base, on_stop, on_reload, &d);

	if (attach->start != NULL)
		d.exit_code = attach->start(d.base, &config);
	if (d.exit_code != EX_OK)
		return d.exit_code;
	d.disks = disks_start(d.base, store, &config, attach, settled, &d);
	if (d.disks == NULL)
		return EX_OSERR;
	control = xpv_control_open(d.base, socket_path, pages, d.disks);
	if (control == NULL)
		return EX_TEMPFAIL;
	event_base_dispatch(d.base);

	xpv_control_close(control);
	disks_free(d.disks);
	if (attach->end != NULL)
		attach->end();
	xpv_store_close(store);
	xpv_signals_free(d.signals);
	event_base_free(d.base);
	xpv_pidfile_remove(&common);
	xpv_options_free(&program, &common);
	return d.exit_code;
}
