/* SPDX-License-Identifier: BSD-2-Clause */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/evtchn.h>
#include <xenpv/log.h>
#include <xenpv/sandbox.h>
#include <xenpv/supervisor.h>

#include "drain.h"
#include "held.h"
#include "image.h"
#include "journal.h"
#include "messages.h"
#include "queue_thread.h"
#include "throttle.h"

#define QUIESCE_S 30 /* for what is in flight; a server that hangs is not waited for */

struct device {
	const struct vbd_device_args *args;
	struct event_base *base;
	int channel;
	int exit_code;
	bool ended; /* finish() was called: what else this turn of the loop brings is ignored */
	bool quiescing;

	struct journal *journal;
	struct image *image;
	struct vbd_image_info info;
	_Atomic uint64_t bytes; /* of the image, as last seen */
	struct throttle throttle;
	atomic_bool complained;

	struct vbd_connection connection;
	bool connected;
	/* A queue's own, so that threads share nothing. */
	struct xpv_gntdev *gntdev[VBD_MAX_QUEUES];
	struct xpv_evtchn *evtchn[VBD_MAX_QUEUES];
	struct queue_thread *threads[VBD_MAX_QUEUES];
	unsigned started, running;
	int report[2];
	struct event *on_message, *on_report, *on_term, *on_impatience;
};

static void
finish(struct device *d, int code)
{
	if (d->ended)
		return;
	d->ended = true;
	d->exit_code = code;
	event_base_loopbreak(d->base);
}

/* ---- with all rights ---- */

static bool
open_xen(struct device *d)
{
	for (unsigned i = 0; i < d->args->max_queues; i++) {
		d->gntdev[i] = xpv_gntdev_open();
		d->evtchn[i] = xpv_evtchn_open();
		if (d->gntdev[i] == NULL || d->evtchn[i] == NULL)
			return false;
	}
	return true;
}

static bool
enter_sandbox(const struct device *d)
{
	char empty_dir[256];
	struct xpv_sandbox sandbox = {
	    .user = d->args->config->user,
	    .empty_dir = empty_dir,
	    .io_uring = image_uses_io_uring(d->image),
	    .disabled = !d->args->config->sandbox,
	};

	snprintf(empty_dir, sizeof(empty_dir), "%s/empty", d->args->config->rundir);
	return xpv_sandbox_enter(&sandbox) == 0;
}

/* EX_OK, or the exit code. */
static int
open_all(struct device *d)
{
	const struct vbd_device_args *args = d->args;
	struct image_params params = {
	    .target = args->target,
	    .read_only = args->read_only,
	    .direct = args->config->direct,
	    .io = (enum vbd_io)args->config->io,
	    .discard = args->config->discard,
	    .queues = args->max_queues,
	    .nbd_connections = args->config->nbd_connections,
	};

	throttle_set(&d->throttle, &args->limits);
	/* First of all: it waits for the I/O of whoever served the disk before. */
	d->journal = journal_open(args->journal);
	if (d->journal == NULL)
		return EX_OSERR;
	drain_connections(args->sockets->fds, args->sockets->old);
	params.keep_fd = journal_fd(d->journal);
	d->image = image_open(&params, &d->info);
	if (d->image == NULL)
		return EX_NOINPUT;
	atomic_store(&d->bytes, d->info.bytes);
	if (!open_xen(d) || pipe2(d->report, O_CLOEXEC | O_NONBLOCK) != 0)
		return EX_OSERR;
	/* From here on we may read what the frontend wrote. */
	return enter_sandbox(d) ? EX_OK : EX_OSERR;
}

/* ---- the frontend ---- */

/* EX_OK, or the exit code. */
static int
connect_queue(struct device *d, unsigned i, bool journal_matches)
{
	const struct vbd_connection *c = &d->connection;
	struct vbd_queue_config config = {
	    .index = i,
	    .config = d->args->config,
	    .connection = c,
	    .info = &d->info,
	    .bytes = &d->bytes,
	    .gntdev = d->gntdev[i],
	    .evtchn = d->evtchn[i],
	    .journal = journal_queue(d->journal, i),
	    .journal_matches = journal_matches,
	    .throttle = &d->throttle,
	    .stats = &d->args->stats[i],
	    .complained = &d->complained,
	};
	int port;

	config.ring =
	    xpv_gntdev_map(d->gntdev[i], c->domid, c->queue[i].grefs, 1u << c->ring_order, true);
	if (config.ring == NULL) {
		xpv_err("queue %u: the frontend's ring cannot be mapped: %s", i, strerror(errno));
		return XPV_EXIT_REFUSED;
	}
	if (xpv_evtchn_restrict(d->evtchn[i], c->domid) != 0)
		return EXIT_FAILURE;
	port = xpv_evtchn_bind_interdomain(d->evtchn[i], c->domid, c->queue[i].port);
	if (port < 0) {
		xpv_err("queue %u: the frontend's event channel %u cannot be bound: %s", i,
		    c->queue[i].port, strerror(errno));
		return XPV_EXIT_REFUSED;
	}
	config.port = port;
	d->threads[i] = queue_thread_start(&config, d->image, d->report[1]);
	if (d->threads[i] == NULL)
		return EXIT_FAILURE;
	d->running++;
	return EX_OK;
}

static void
connect_frontend(struct device *d, const struct vbd_connection *connection)
{
	bool matches;
	int rc;

	if (d->connected || d->quiescing)
		return;
	d->connected = true;
	d->connection = *connection;
	if (connection->queues > d->args->max_queues) {
		xpv_err("%u queues, but at most %u can be served", connection->queues,
		    d->args->max_queues);
		finish(d, EXIT_FAILURE);
		return;
	}
	matches = journal_match(d->journal, connection);
	for (unsigned i = 0; i < connection->queues; i++) {
		rc = connect_queue(d, i, matches);
		if (rc != EX_OK) {
			finish(d, rc);
			return;
		}
	}
}

/* Nothing is lost by that: the journal has what is in flight. */
static void
on_impatience(evutil_socket_t fd, short events, void *arg)
{
	xpv_warning(
	    "requests are still in flight after %u s: they are left to the next worker", QUIESCE_S);
	finish(arg, XPV_EXIT_AGAIN);
}

static void
quiesce(struct device *d)
{
	if (d->quiescing)
		return;
	d->quiescing = true;
	if (d->running == 0)
		finish(d, XPV_EXIT_DONE);
	for (unsigned i = 0; i < VBD_MAX_QUEUES; i++) {
		if (d->threads[i] != NULL)
			queue_thread_quiesce(d->threads[i]);
	}
}

static void
look_at_size(struct device *d)
{
	uint64_t bytes = image_size(d->image);

	bytes -= bytes % d->info.sector_size;
	if (bytes == atomic_load(&d->bytes))
		return;
	atomic_store(&d->bytes, bytes);
	xpv_channel_send(d->channel, VBD_MSG_RESIZED, &bytes, sizeof(bytes), -1);
}

/* ---- the threads ---- */

static const char *
why(const struct device *d)
{
	for (unsigned i = 0; i < VBD_MAX_QUEUES; i++) {
		if (d->threads[i] != NULL && queue_thread_why(d->threads[i]) != NULL)
			return queue_thread_why(d->threads[i]);
	}
	return "no reason given";
}

static void
take_report(struct device *d, enum queue_report report)
{
	switch (report) {
	case QUEUE_STARTED:
		if (++d->started == d->connection.queues)
			xpv_channel_send(d->channel, VBD_MSG_CONNECTED, NULL, 0, -1);
		break;
	case QUEUE_LOOK:
		look_at_size(d);
		break;
	case QUEUE_ENDED:
		if (--d->running == 0)
			finish(d, XPV_EXIT_DONE);
		break;
	case QUEUE_FAILED:
		finish(d, EXIT_FAILURE);
		break;
	case QUEUE_BROKEN:
		xpv_err("device closed: the frontend %s", why(d));
		finish(d, XPV_EXIT_REFUSED);
		break;
	case QUEUE_LOST:
		xpv_warning("%s: opening it again; requests wait", why(d));
		finish(d, XPV_EXIT_AGAIN);
		break;
	}
}

static void
on_report(evutil_socket_t fd, short events, void *arg)
{
	char reports[4 * VBD_MAX_QUEUES];
	struct device *d = arg;
	ssize_t n = read(fd, reports, sizeof(reports));

	for (ssize_t i = 0; i < n && !d->ended; i++)
		take_report(d, (enum queue_report)reports[i]);
}

/* ---- the supervisor ---- */

static void
on_channel(evutil_socket_t channel, short events, void *arg)
{
	struct device *d = arg;
	union {
		struct vbd_connection connection;
		struct vbd_limits limits;
		char bytes[XPV_MESSAGE_MAX];
	} message;
	size_t length;
	uint32_t type;
	int got;

	while (length = sizeof(message),
	    (got = xpv_channel_receive(channel, &type, &message, &length, NULL)) == 1) {
		switch (type) {
		case VBD_MSG_CONNECT:
			connect_frontend(d, &message.connection);
			break;
		case VBD_MSG_LIMITS:
			throttle_set(&d->throttle, &message.limits);
			break;
		case VBD_MSG_LOOK:
			look_at_size(d);
			break;
		default:
			break;
		}
	}
	if (got < 0) {
		xpv_notice("the supervisor is gone: ending after the last answer");
		event_del(d->on_message);
		/* Nobody is left to end us if that takes for ever. */
		event_add(d->on_impatience, &(struct timeval){.tv_sec = QUIESCE_S});
		quiesce(d);
	}
}

static void
on_term(evutil_socket_t signal, short events, void *arg)
{
	quiesce(arg);
}

static void
hand_over_sockets(const struct device *d)
{
	int fds[HELD_MAX];
	unsigned count = image_sockets(d->image, fds, HELD_MAX);

	for (unsigned i = 0; i < count; i++) {
		if (xpv_channel_send(d->channel, VBD_MSG_SOCKET, NULL, 0, fds[i]) != 0)
			xpv_warning(
			    "a connection cannot be handed to the supervisor: %s", strerror(errno));
	}
}

/* For the toolstack, which shows it to whoever asked for the disk. */
static void
tell_why(int channel)
{
	char text[256];

	xpv_log_last_error(text, sizeof(text));
	xpv_channel_send(channel, VBD_MSG_WHY, text, strlen(text), -1);
}

int
vbd_device_main(struct event_base *base, int channel, const struct vbd_device_args *args)
{
	/* Not on the stack: threads use it until the process has ended, after this has returned. */
	static struct device d;
	int rc;

	d = (struct device){.args = args, .base = base, .channel = channel, .report = {-1, -1}};
	rc = open_all(&d);
	if (rc == EX_NOINPUT)
		tell_why(channel);
	if (rc != EX_OK)
		return rc;
	d.exit_code = EXIT_FAILURE;
	d.on_message = event_new(base, channel, EV_READ | EV_PERSIST, on_channel, &d);
	d.on_report = event_new(base, d.report[0], EV_READ | EV_PERSIST, on_report, &d);
	d.on_term = evsignal_new(base, SIGTERM, on_term, &d);
	d.on_impatience = evtimer_new(base, on_impatience, &d);
	if (d.on_message == NULL || d.on_report == NULL || d.on_term == NULL ||
	    d.on_impatience == NULL || event_add(d.on_message, NULL) != 0 ||
	    event_add(d.on_report, NULL) != 0 || event_add(d.on_term, NULL) != 0)
		return EXIT_FAILURE;
	hand_over_sockets(&d);
	xpv_channel_send(channel, VBD_MSG_IMAGE, &d.info, sizeof(d.info), -1);
	if (!d.ended)
		event_base_dispatch(base);
	/* The process ends here: threads, rings and handles go with it. The kernel keeps the
	 * journal's lock until the last I/O is over. */
	return d.exit_code;
}
