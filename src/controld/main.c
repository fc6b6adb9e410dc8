/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * xen-controld(8): what the toolstack asks of this guest: to power off, to reboot, to halt, to
 * crash, and what there is to do around a suspend.
 *
 * A request is taken from xenstore (watch.c), or comes by way of the kernel, which watches the same
 * node and is made to tell us (door.c, system_*.c). It is then done, once, between hooks (power.c,
 * requests.c, hooks.c, command.c). Beside it: sysrq keys (sysrq.c), what we can do (announce.c),
 * and what hosts like to show of a guest (report.c). docs/control.md has the whole story.
 */

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

#include "announce.h"
#include "build_config.h"
#include "door.h"
#include "power.h"
#include "report.h"
#include "settings.h"
#include "sysrq.h"
#include "system.h"
#include "watch.h"

static struct control_config config = {
    .hook_timeout_s = 30,
    .action_timeout_s = 300,
    .again_after_s = 60,
    .grace_ms = 5000,
    .divert = true,
    .report_interval_s = 60,
};

#define ACTION(name, request, text)                                                                \
	{                                                                                          \
		name, 0, XPV_OPTION_STRING, &config.action[request], .arg = "COMMAND",             \
								     .help = text                  \
	}

static const struct xpv_option options[] = {
    ACTION("poweroff", REQUEST_POWEROFF, "what powers this guest off; refuse: nothing"),
    ACTION("reboot", REQUEST_REBOOT, "what reboots it"),
    ACTION("halt", REQUEST_HALT, "what halts it"),
    ACTION("suspend", REQUEST_SUSPEND, "what is done where the kernel does not suspend it"),
    ACTION("crash", REQUEST_CRASH, "what crashes it"),
    ACTION("s3", REQUEST_S3, "what puts an HVM guest to sleep; default: refuse"),
    ACTION("s4", REQUEST_S4, "what hibernates an HVM guest; default: refuse"),
    {"sysrq", 0, XPV_OPTION_STRING, &config.sysrq, .arg = "COMMAND",
	.help = "gets sysrq keys that no kernel takes"},
    {"hooks", 0, XPV_OPTION_STRING, &config.hooks, .arg = "DIR",
	.help = "directory of programs to run before and after"},
    {"hook-timeout", 0, XPV_OPTION_INT, &config.hook_timeout_s, 1, 3600, .arg = "S",
	.help = "seconds until a hook is ended"},
    {"action-timeout", 0, XPV_OPTION_INT, &config.action_timeout_s, 1, 86400, .arg = "S",
	.help = "seconds until an action is ended"},
    {"again-after", 0, XPV_OPTION_INT, &config.again_after_s, 0, 3600, .arg = "S",
	.help = "seconds for which a poweroff that was done counts as under way"},
    {"grace-ms", 0, XPV_OPTION_INT, &config.grace_ms, 0, 60000, .arg = "MS",
	.help = "time for the kernel to take what is its to do"},
    {"divert", 0, XPV_OPTION_BOOL, &config.divert, .at_start = true,
	.help = "make the kernel ask this daemon when it powers off"},
    {"report", 0, XPV_OPTION_BOOL, &config.report,
	.help = "publish system, addresses and memory for the host"},
    {"report-interval", 0, XPV_OPTION_INT, &config.report_interval_s, 1, 86400, .arg = "S",
	.help = "seconds between looks at what is published"},
    {"rundir", 0, XPV_OPTION_STRING, &config.rundir, .at_start = true, .arg = "DIR",
	.help = "directory of the sockets"},
    {NULL},
};

static const struct xpv_program program = {
    .name = "xen-controld",
    .version = XENPV_VERSION,
    .summary = "does what the toolstack asks of a Xen guest",
    .config_path = XENPV_SYSCONFDIR "/controld.conf",
    .options = options,
};

static struct xpv_common common;

struct daemon {
	struct event_base *base;
	struct xpv_store *store;
	struct xpv_signals *signals;
	struct power *power;
	struct watch *watch;
	struct sysrq *sysrq;
	struct door *door;
	struct announced announced;
	struct report *report; /* NULL: off */
	bool stopping;
	int status;
};

static void
page_status(struct evbuffer *out, void *arg)
{
	struct daemon *d = arg;

	power_write_json(out, d->power);
}

static void
page_metrics(struct evbuffer *out, void *arg)
{
	struct daemon *d = arg;

	power_write_metrics(out, d->power);
}

static const struct xpv_control_page pages[] = {
    {"/status", "application/json", page_status},
    {"/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8", page_metrics},
    {NULL},
};

/* ---- xenstore ---- */

static const char *
on_refuse(enum request request, void *arg)
{
	struct daemon *d = arg;

	return power_refuse(d->power, request);
}

static void
on_request(enum request request, void *arg)
{
	struct daemon *d = arg;

	power_request(d->power, request, "toolstack");
}

static void
on_refused(const char *name, const char *why, void *arg)
{
	struct daemon *d = arg;

	power_refused(d->power, name, why);
}

static void
on_taken_by_other(enum request request, void *arg)
{
	struct daemon *d = arg;

	power_taken_by_kernel(d->power, request);
}

static void
on_resumed(bool other_domain, void *arg)
{
	struct daemon *d = arg;

	if (other_domain) {
		announce(&d->announced, d->store, &config);
		if (d->report != NULL)
			report_again(d->report);
	}
	power_resumed(d->power, other_domain);
}

static const struct watch_ops watch_ops = {
    .refuse = on_refuse,
    .request = on_request,
    .refused = on_refused,
    .taken_by_other = on_taken_by_other,
    .resumed = on_resumed,
};

static void
on_slept(void *arg)
{
	struct daemon *d = arg;

	if (d->watch != NULL)
		watch_slept(d->watch);
}

/* ---- the kernel's helpers ---- */

static enum door_answer
on_ask(enum request request, void *arg)
{
	struct daemon *d = arg;
	const char *why = power_refuse(d->power, request);

	if (why == NULL)
		return DOOR_TAKEN;
	power_told(d->power);
	power_refused(d->power, request_name(request), why);
	return DOOR_REFUSED;
}

static void
on_take(enum request request, void *arg)
{
	struct daemon *d = arg;

	power_request(d->power, request, "kernel");
}

static const struct door_ops door_ops = {.ask = on_ask, .take = on_take};

/* ---- signals ---- */

static void
stopped(void *arg)
{
	struct daemon *d = arg;

	event_base_loopbreak(d->base);
}

/* Nothing more is taken; what was is done. */
static void
on_stop(void *arg)
{
	struct daemon *d = arg;

	if (d->stopping) {
		stopped(d);
		return;
	}
	d->stopping = true;
	xpv_notify_stopping();
	xpv_notice("stopping");
	/* What was seen just before may be the very reason for the stop. */
	watch_flush(d->watch);
	system_undivert();
	door_close(d->door);
	watch_stop(d->watch);
	sysrq_stop(d->sysrq);
	d->door = NULL;
	d->watch = NULL;
	d->sysrq = NULL;
	power_stop(d->power, stopped, d);
}

/* Nobody can ask any more: what was taken is done, and the service manager starts anew. */
static void
on_lost(void *arg)
{
	struct daemon *d = arg;

	d->status = EX_TEMPFAIL;
	if (!d->stopping)
		on_stop(d);
}

static void
apply_report(struct daemon *d)
{
	if (config.report && d->report != NULL) {
		report_again(d->report);
	} else if (config.report) {
		d->report = report_start(d->base, d->store, &config);
	} else {
		report_stop(d->report);
		d->report = NULL;
	}
}

static void
on_reload(void *arg)
{
	struct daemon *d = arg;

	if (d->stopping || xpv_options_reload(&program, &common) != 0)
		return;
	watch_set_grace(d->watch, (unsigned)config.grace_ms);
	announce(&d->announced, d->store, &config);
	apply_report(d);
	xpv_notice("configuration read again");
}

/* ---- start and end ---- */

/* What is not ours to decide, and yet configured. */
static void
warn_of_kernel(void)
{
	if (config.action[REQUEST_REBOOT] != NULL && !system_reboot_asks())
		xpv_warning("the kernel reboots by way of /sbin/reboot, which does not ask this "
			    "daemon: the configured action is not used; see xen-controld(8)");
}

static bool
start(struct daemon *d)
{
	bool diverted;

	d->door = door_open(d->base, config.rundir, &door_ops, d);
	if (d->door == NULL)
		return false;
	diverted = config.divert && system_divert(config.rundir);
	d->power = power_new(d->base, &config, diverted);
	if (d->power == NULL)
		return false;
	power_on_slept(d->power, on_slept, d);
	d->watch = watch_start(d->base, d->store, (unsigned)config.grace_ms, &watch_ops, d);
	d->sysrq = sysrq_start(d->base, d->store, &config);
	if (d->watch == NULL || d->sysrq == NULL)
		return false;
	announce(&d->announced, d->store, &config);
	apply_report(d);
	warn_of_kernel();
	return true;
}

static void
end(struct daemon *d)
{
	system_undivert();
	report_stop(d->report);
	announce_end(&d->announced, d->store);
	door_close(d->door);
	watch_stop(d->watch);
	sysrq_stop(d->sysrq);
	power_free(d->power);
	xpv_store_close(d->store);
}

/* All that a helper of the kernel does: no configuration, no options. */
static int
knock(int argc, char **argv)
{
	char *const nothing[] = {NULL};
	bool instead = argc > 5 && strcmp(argv[4], "--") == 0;

	xpv_log_open(program.name, XPV_LOG_NOTICE, true);
	if (argc != 4 && !instead) {
		fprintf(stderr, "usage: %s " DOOR_OPTION " REQUEST RUNDIR [-- COMMAND ...]\n",
		    program.name);
		return EX_USAGE;
	}
	return door_knock(argv[2], argv[3], instead ? &argv[5] : nothing);
}

int
main(int argc, char **argv)
{
	struct xpv_control *control;
	struct daemon d = {0};
	char socket_path[108];

	if (argc > 1 && strcmp(argv[1], DOOR_OPTION) == 0)
		return knock(argc, argv);
	config.hooks = strdup(XENPV_SYSCONFDIR "/control.d");
	config.rundir = strdup(XENPV_RUNDIR);
	xpv_options_parse(&program, argc, argv, &common);
	xpv_rundir_make(config.rundir, "", 0755);
	xpv_daemonize(&common);

	d.base = xpv_loop_new();
	if (d.base == NULL)
		xpv_die(EX_OSERR, "no event loop");
	d.store = xpv_store_open(d.base);
	if (d.store == NULL)
		return EX_UNAVAILABLE;
	xpv_store_on_lost(d.store, on_lost, &d);
	snprintf(socket_path, sizeof(socket_path), "%.80s/xen-controld.sock", config.rundir);
	d.signals = xpv_signals_listen(d.base, on_stop, on_reload, &d);
	/* Also tells whether another xen-controld runs. */
	control = xpv_control_open(d.base, socket_path, pages, &d);
	if (control == NULL)
		return EX_TEMPFAIL;
	if (start(&d)) {
		xpv_notify_ready();
		event_base_dispatch(d.base);
	} else {
		d.status = EX_TEMPFAIL; /* there is a xenstore: another time it may work */
	}

	xpv_control_close(control);
	end(&d);
	xpv_signals_free(d.signals);
	event_base_free(d.base);
	xpv_pidfile_remove(&common);
	xpv_options_free(&program, &common);
	return d.status;
}
