/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * xen-balloond(8): how much memory a guest has, by the host's word or by the guest's need.
 *
 * One process without workers: there is no ring here, and of the peer's words only two numbers
 * (host.c). balloon.c looks at the memory (meminfo_linux.c) when a timer or the kernel's pressure
 * (pressure_linux.c) says so, has the policy decide (policy.c), and tells the mechanism
 * (mechanism_kernel.c, mechanism_privcmd.c).
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>

#include <event2/event.h>
#include <xenpv/control.h>
#include <xenpv/log.h>
#include <xenpv/loop.h>
#include <xenpv/options.h>
#include <xenpv/store.h>
#include <xenpv/supervisor.h>

#include "balloon.h"
#include "build_config.h"
#include "settings.h"
#include "status.h"

static struct xpv_program program = {
    .name = "xen-balloond",
    .version = XENPV_VERSION,
    .summary = "gives a Xen guest's memory to the host, and takes it back",
    .config_path = XENPV_SYSCONFDIR "/balloond.conf",
};

static struct xpv_common common;
static int status = EX_OK;

static const struct xpv_control_page pages[] = {
    {"/devices", "application/json", status_write_json},
    {"/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8",
	status_write_metrics},
    {NULL},
};

static void
on_stop(void *arg)
{
	struct balloon *b = arg;

	xpv_notify_stopping();
	xpv_notice("stopping");
	event_base_loopbreak(b->base);
}

/* The host's word is not heard any more: the service manager starts anew. */
static void
on_lost(void *arg)
{
	status = EX_TEMPFAIL;
	on_stop(arg);
}

static void
on_reload(void *arg)
{
	if (xpv_options_reload(&program, &common) != 0)
		return;
	balloon_reload(arg);
	xpv_notice("configuration read again");
}

/* Whoever is to act when memory is short must not wait for some. */
static void
stay_in_memory(void)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		xpv_info("cannot lock this process into memory: %s", strerror(errno));
}

int
main(int argc, char **argv)
{
	struct xpv_control *control = NULL;
	struct xpv_signals *signals;
	struct settings *settings;
	struct event_base *base;
	struct xpv_store *store;
	struct balloon balloon;
	char socket_path[108];

	settings_init(&settings, &program);
	xpv_options_parse(&program, argc, argv, &common);
	if (!settings->dry_run)
		xpv_rundir_make(settings->rundir, "", 0755);
	xpv_daemonize(&common);

	base = xpv_loop_new();
	if (base == NULL)
		xpv_die(EX_OSERR, "no event loop");
	store = xpv_store_open(base);
	if (store == NULL)
		return EX_UNAVAILABLE;
	xpv_store_on_lost(store, on_lost, &balloon);
	snprintf(socket_path, sizeof(socket_path), "%.80s/xen-balloond.sock", settings->rundir);
	/* Also tells whether another one runs, before anything is changed; which a dry run does not
	 * do: it may run beside it. */
	if (!settings->dry_run) {
		control = xpv_control_open(base, socket_path, pages, &balloon);
		if (control == NULL)
			return EX_TEMPFAIL;
	}
	signals = xpv_signals_listen(base, on_stop, on_reload, &balloon);
	status = balloon_start(&balloon, base, store, settings);
	if (status != EX_OK) {
		xpv_control_close(control);
		balloon_free(&balloon);
		return status;
	}
	stay_in_memory();
	xpv_notify_ready();
	event_base_dispatch(base);

	balloon_stop(&balloon);
	xpv_control_close(control);
	balloon_free(&balloon);
	xpv_store_close(store);
	xpv_signals_free(signals);
	event_base_free(base);
	xpv_pidfile_remove(&common);
	xpv_options_free(&program, &common);
	return status;
}
