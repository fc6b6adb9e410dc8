/* SPDX-License-Identifier: BSD-2-Clause */
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/sandbox.h>
#include <xenpv/store.h>
#include <xenpv/supervisor.h>
#include <xenpv/xenbus.h>

#include "messages.h"
#include "nbd_transfer.h"
#include "negotiate.h"
#include "queue.h"
#include "queue_thread.h"

/*
 * The phases of a worker, in order. A live link starts at DRAIN, all else at RESET.
 *
 *  RESET      our state is not Initialising: close the old connection
 *  OFFER      wait for the backend's InitWait; publish rings, state Initialised
 *  ANSWER     wait for the backend's Connected; read the disk, state Connected
 *  DRAIN      a killed worker's requests are in the rings: wait until all are answered
 *  ATTACH     the supervisor knows the disk; wait for the host side, start the threads
 *  SERVE      I/O flows
 *  QUIESCE    threads end when their last answer has left
 *  LEAVE      the backend left the connection: state Closed while our grants still stand
 *  CLOSE      state Closing, Closed; wait for the backend
 */
enum phase { RESET, OFFER, ANSWER, DRAIN, ATTACH, SERVE, QUIESCE, LEAVE, CLOSE };

static const char *const phase_text[] = {
    [RESET] = "the backend to close the old connection",
    [OFFER] = "the backend's offer (state InitWait)",
    [ANSWER] = "the backend to connect",
    [DRAIN] = "the backend to answer what is in flight",
    [ATTACH] = "the host side",
    [SERVE] = "nothing",
    [QUIESCE] = "the backend to answer what is in flight",
    [LEAVE] = "the backend to forget the old connection",
    [CLOSE] = "the backend to close",
};

struct device {
	const struct blk_device_args *args;
	struct event_base *base;
	int channel;
	struct xpv_store *store;
	struct xpv_frontend *frontend;
	enum phase phase;
	int exit_code;
	bool ended; /* finish() was called: what else this turn of the loop brings is ignored */
	bool close_after; /* QUIESCE goes on to CLOSE instead of ending */
	bool detach_asked;

	struct blk_queue *queues[BLK_MAX_QUEUES];
	struct queue_thread *threads[BLK_MAX_QUEUES];
	unsigned threads_started, threads_running;
	int report[2];
	const char *volatile broken; /* why a ring is not to be trusted; set by a queue's thread */

	struct attach_grant grant;
	unsigned fds_expected;
	struct nbd_transfer transfer;
	struct event *on_message, *on_report, *on_term, *patience;
};

#define PATIENCE_S	 30 /* then say what we wait for */
#define CLOSE_PATIENCE_S 5  /* then a closing device is left as it is */
#define LEAVE_PATIENCE_S 2  /* then a new connection is made as things are */

static void step(struct device *d);

static void
finish(struct device *d, int code)
{
	if (d->ended)
		return;
	d->ended = true;
	d->exit_code = code;
	event_base_loopbreak(d->base);
}

static const char gone[] = "the backend is gone";

/* The connection is lost: the next worker makes a new one, on new grants. */
static void
start_over(struct device *d, const char *why)
{
	xpv_notice("%s: connecting anew", why);
	d->args->link->live = false;
	finish(d, XPV_EXIT_AGAIN);
}

/* The peer broke the protocol: this device is closed, others are not affected. */
static void
refuse(struct device *d, const char *what, const char *why)
{
	xpv_frontend_error(d->frontend, EPROTO, "device closed: the backend %s%s%s", what,
	    why != NULL ? ": " : "", why != NULL ? why : "");
	d->args->link->live = false;
	xpv_frontend_set_state(d->frontend, XPV_STATE_CLOSING);
	xpv_frontend_set_state(d->frontend, XPV_STATE_CLOSED);
	finish(d, XPV_EXIT_REFUSED);
}

static void
enter(struct device *d, enum phase phase)
{
	struct timeval patience = {
	    .tv_sec = phase == CLOSE   ? CLOSE_PATIENCE_S
		      : phase == LEAVE ? LEAVE_PATIENCE_S
				       : PATIENCE_S,
	};

	d->phase = phase;
	if (phase == SERVE)
		event_del(d->patience);
	else
		event_add(d->patience, &patience);
}

static void
out_of_patience(evutil_socket_t fd, short events, void *arg)
{
	struct device *d = arg;

	if (d->phase == CLOSE) {
		xpv_notice("the backend has not closed after %d s: leaving it", CLOSE_PATIENCE_S);
		finish(d, XPV_EXIT_DONE);
		return;
	}
	if (d->phase == LEAVE) {
		start_over(d, gone);
		return;
	}
	xpv_warning("still waiting for %s; backend %s is %s, we are %s", phase_text[d->phase],
	    xpv_frontend_backend_dir(d->frontend),
	    xpv_state_name(xpv_frontend_backend_state(d->frontend)),
	    xpv_state_name(xpv_frontend_state(d->frontend)));
}

static bool
backend_online(struct device *d)
{
	return xpv_store_read_flag(d->store, "%s/online", xpv_frontend_backend_dir(d->frontend));
}

/* As things are I/O goes on, or waits, until the supervisor finds the device unused. */
static void
ask_to_detach(struct device *d)
{
	if (d->detach_asked)
		return;
	d->detach_asked = true;
	xpv_channel_send(d->channel, BLK_MSG_DETACH, NULL, 0, -1);
}

/* ---- rings ---- */

/* In the thread of the queue, or in the main thread while it drains. */
static void
ring_broken(void *arg, const char *why)
{
	struct device *d = arg;
	char byte = 'B';

	d->broken = why;
	(void)!write(d->report[1], &byte, 1);
}

static bool
make_queues(struct device *d)
{
	const struct blk_device_args *args = d->args;

	for (unsigned i = 0; i < args->link->queues; i++) {
		struct blk_queue_config config = {
		    .index = i,
		    .grants = &args->grants[i],
		    .link = args->link,
		    .stats = &args->stats[i],
		    .ring_pages = 1u << args->link->ring_order,
		    .vdev_handle = (uint16_t)args->vdev,
		    .poll_us = args->config->poll_us,
		    .broken = ring_broken,
		    .arg = d,
		};

		d->queues[i] = blk_queue_new(&config);
		if (d->queues[i] == NULL) {
			xpv_err("queue %u: %s", i, strerror(errno));
			return false;
		}
	}
	return true;
}

static void
connected(struct device *d)
{
	enter(d, ATTACH);
	if (xpv_channel_send(d->channel, BLK_MSG_CONNECTED, &d->args->link->geometry,
		sizeof(d->args->link->geometry), -1) != 0)
		finish(d, XPV_EXIT_DONE);
}

static void
drained(void *arg)
{
	struct device *d = arg;

	if (d->phase != DRAIN || d->broken != NULL)
		return;
	for (unsigned i = 0; i < d->args->link->queues; i++) {
		if (blk_queue_inflight(d->queues[i]) != 0)
			return;
	}
	for (unsigned i = 0; i < d->args->link->queues; i++) {
		blk_queue_on_idle(d->queues[i], NULL, NULL);
		blk_queue_unlisten(d->queues[i]);
	}
	xpv_info("going on with the connection of the last worker");
	connected(d);
}

/* A detach that was asked for meanwhile does not end the connection: the disk may be in use. */
static bool
backend_still_serves(struct device *d)
{
	enum xpv_state backend = xpv_frontend_backend_state(d->frontend);

	return backend == XPV_STATE_CONNECTED ||
	       (backend == XPV_STATE_CLOSING && !backend_online(d));
}

static void
resume_link(struct device *d)
{
	const struct blk_link *link = d->args->link;

	if (xpv_frontend_state(d->frontend) != XPV_STATE_CONNECTED || !backend_still_serves(d) ||
	    strcmp(link->backend_dir, xpv_frontend_backend_dir(d->frontend)) != 0) {
		start_over(d, "the backend is not where the last worker left it");
		return;
	}
	if (!make_queues(d)) {
		finish(d, EXIT_FAILURE);
		return;
	}
	enter(d, DRAIN);
	for (unsigned i = 0; i < link->queues; i++) {
		blk_queue_on_idle(d->queues[i], drained, d);
		if (blk_queue_listen(d->queues[i], d->base) != 0) {
			finish(d, EXIT_FAILURE);
			return;
		}
	}
	drained(d);
	step(d);
}

/* ---- the xenbus phases ---- */

static void
step_reset(struct device *d, enum xpv_state own, enum xpv_state backend)
{
	switch (own) {
	case XPV_STATE_INITIALISING:
		enter(d, OFFER);
		step(d);
		return;
	case XPV_STATE_CLOSED:
		/* Not while the backend still uses the old rings. */
		if (backend == XPV_STATE_CLOSED || backend == XPV_STATE_UNKNOWN ||
		    backend == XPV_STATE_INITIALISING || backend == XPV_STATE_INIT_WAIT) {
			if (xpv_frontend_set_state(d->frontend, XPV_STATE_INITIALISING) == 0)
				step_reset(d, XPV_STATE_INITIALISING, backend);
		}
		return;
	case XPV_STATE_CLOSING:
		if (backend != XPV_STATE_CONNECTED && backend != XPV_STATE_INITIALISED &&
		    xpv_frontend_set_state(d->frontend, XPV_STATE_CLOSED) == 0)
			step_reset(d, XPV_STATE_CLOSED, backend);
		return;
	default:
		if (xpv_frontend_set_state(d->frontend, XPV_STATE_CLOSING) == 0)
			step_reset(d, XPV_STATE_CLOSING, backend);
		return;
	}
}

static void
step_offer(struct device *d, enum xpv_state backend)
{
	const struct blk_device_args *args = d->args;
	struct blk_link *link = args->link;
	unsigned host_queues, depth, max_io, max_queues = args->max_queues;

	/* A host device of an earlier connection may be in use. */
	if (backend == XPV_STATE_CLOSING && !backend_online(d))
		ask_to_detach(d);
	if (backend != XPV_STATE_INIT_WAIT && backend != XPV_STATE_INITIALISED)
		return;
	/* A host device that exists already cannot get more queues. */
	if (args->attach->existing(args->attachment, &host_queues, &depth, &max_io) &&
	    host_queues < max_queues)
		max_queues = host_queues;
	blk_negotiate(
	    d->store, xpv_frontend_backend_dir(d->frontend), args->config, max_queues, link);
	snprintf(link->backend_dir, sizeof(link->backend_dir), "%s",
	    xpv_frontend_backend_dir(d->frontend));
	if (!make_queues(d) || blk_publish(d->store, args->dir, link, args->grants) != 0 ||
	    xpv_frontend_set_state(d->frontend, XPV_STATE_INITIALISED) != 0) {
		xpv_err("cannot publish the rings: %s", strerror(errno));
		finish(d, EXIT_FAILURE);
		return;
	}
	enter(d, ANSWER);
}

static void
step_answer(struct device *d, enum xpv_state backend)
{
	struct blk_link *link = d->args->link;
	const char *why;

	if (backend == XPV_STATE_CLOSING || backend == XPV_STATE_CLOSED) {
		start_over(d, "the backend gave up while connecting");
		return;
	}
	if (backend != XPV_STATE_CONNECTED)
		return;
	if (blk_read_geometry(d->store, xpv_frontend_backend_dir(d->frontend), d->args->config,
		link, &why) != 0) {
		refuse(d, "describes a disk we cannot serve", why);
		return;
	}
	if (xpv_frontend_set_state(d->frontend, XPV_STATE_CONNECTED) != 0) {
		finish(d, EXIT_FAILURE);
		return;
	}
	link->live = true;
	xpv_info("connected to %s: %u queue%s of %u page%s, %u segments, %s%s%s", link->backend_dir,
	    link->queues, link->queues == 1 ? "" : "s", 1u << link->ring_order,
	    link->ring_order == 0 ? "" : "s", link->max_indirect ? link->max_indirect : 11,
	    link->flush	    ? "flush"
	    : link->barrier ? "barrier"
			    : "no flush",
	    link->discard ? ", discard" : "", link->secure_discard ? " (secure)" : "");
	connected(d);
}

static void
read_new_size(struct device *d)
{
	struct blk_geometry *g = &d->args->link->geometry;
	const char *dir = xpv_frontend_backend_dir(d->frontend);
	struct blk_geometry changed = *g;
	const char *why;

	if (xpv_store_read_u64(d->store, &changed.sectors, "%s/sectors", dir) != 0 ||
	    changed.sectors == g->sectors)
		return;
	if (!blk_geometry_valid(&changed, &why)) {
		xpv_warning("the backend announces a new size that cannot be: %s: ignored", why);
		return;
	}
	g->sectors = changed.sectors;
	xpv_channel_send(
	    d->channel, BLK_MSG_RESIZED, &changed.sectors, sizeof(changed.sectors), -1);
}

/*
 * A backend that comes back (InitWait) may be about to take up the old rings of a frontend
 * that says Connected, as Linux' does. It has to have seen us close before the grants go.
 */
static void
step_leave(struct device *d, enum xpv_state own, enum xpv_state backend)
{
	int rc = 0;

	if (own != XPV_STATE_CLOSING && own != XPV_STATE_CLOSED)
		rc = xpv_frontend_set_state(d->frontend, own = XPV_STATE_CLOSING);
	if (rc == 0 && own == XPV_STATE_CLOSING && backend != XPV_STATE_CONNECTED &&
	    backend != XPV_STATE_INITIALISED)
		rc = xpv_frontend_set_state(d->frontend, own = XPV_STATE_CLOSED);
	if (rc != 0 || backend == XPV_STATE_UNKNOWN || backend == XPV_STATE_INITIALISING ||
	    (own == XPV_STATE_CLOSED && backend == XPV_STATE_CLOSED))
		start_over(d, gone);
}

/* The backend left Connected while the rings are in use. */
static void
backend_left(struct device *d, enum xpv_state backend)
{
	switch (backend) {
	case XPV_STATE_CONNECTED:
		if (d->phase == SERVE)
			read_new_size(d);
		break;
	case XPV_STATE_CLOSING:
		if (d->phase == QUIESCE)
			break;
		if (backend_online(d))
			start_over(d, "the backend closes but stays online");
		else
			ask_to_detach(d);
		break;
	case XPV_STATE_UNKNOWN:
		start_over(d, gone);
		break;
	default:
		enter(d, LEAVE);
		step(d);
		break;
	}
}

static void
step_close(struct device *d, enum xpv_state own, enum xpv_state backend)
{
	if (own != XPV_STATE_CLOSING && own != XPV_STATE_CLOSED) {
		xpv_frontend_set_state(d->frontend, own = XPV_STATE_CLOSING);
		d->args->link->live = false;
	}
	if (own == XPV_STATE_CLOSING && backend != XPV_STATE_CONNECTED)
		xpv_frontend_set_state(d->frontend, own = XPV_STATE_CLOSED);
	if (own == XPV_STATE_CLOSED &&
	    (backend == XPV_STATE_CLOSED || backend == XPV_STATE_UNKNOWN))
		finish(d, XPV_EXIT_DONE);
}

static void
step(struct device *d)
{
	enum xpv_state own = xpv_frontend_state(d->frontend);
	enum xpv_state backend = xpv_frontend_backend_state(d->frontend);

	if (d->ended)
		return;
	switch (d->phase) {
	case RESET:
		step_reset(d, own, backend);
		break;
	case OFFER:
		step_offer(d, backend);
		break;
	case ANSWER:
		step_answer(d, backend);
		break;
	case DRAIN:
	case ATTACH:
	case SERVE:
	case QUIESCE:
		backend_left(d, backend);
		break;
	case LEAVE:
		step_leave(d, own, backend);
		break;
	case CLOSE:
		step_close(d, own, backend);
		break;
	}
}

static void
on_backend(enum xpv_state state, void *arg)
{
	xpv_debug("backend is %s", xpv_state_name(state));
	step(arg);
}

/* UNKNOWN is for the supervisor: the directory is gone, and it ends us. */
static void
on_own(enum xpv_state state, void *arg)
{
	struct device *d = arg;

	if (state != XPV_STATE_INITIALISING || d->ended)
		return;
	if (d->phase == RESET) {
		step(d);
		return;
	}
	/* Also in OFFER: our grants were made before the resume. */
	d->args->link->resumed = true;
	start_over(d, "the toolstack made the device anew (resume)");
}

static const struct xpv_frontend_ops frontend_ops = {
    .backend_changed = on_backend,
    .backend_touched = on_backend,
    .own_changed = on_own,
};

/* ---- threads ---- */

static void
start_threads(struct device *d)
{
	unsigned threads = d->args->link->queues;

	if (threads > d->grant.host_queues) {
		/* Only after a reconnect with a device that has fewer: step_offer() prevents it. */
		xpv_err("%u queues for a host device with %u", threads, d->grant.host_queues);
		finish(d, EXIT_FAILURE);
		return;
	}
	for (unsigned i = 0; i < threads; i++) {
		d->threads[i] = queue_thread_start(
		    d->queues[i], d->args->attach->io, &d->grant, i, threads, d->report[1]);
		if (d->threads[i] == NULL) {
			finish(d, EXIT_FAILURE);
			return;
		}
		d->threads_running++;
	}
}

static void
all_ended(struct device *d)
{
	for (unsigned i = 0; i < BLK_MAX_QUEUES; i++) {
		queue_thread_join(d->threads[i]);
		d->threads[i] = NULL;
	}
	if (!d->close_after) {
		finish(d, XPV_EXIT_DONE);
		return;
	}
	enter(d, CLOSE);
	step(d);
}

static void
on_report(evutil_socket_t fd, short events, void *arg)
{
	struct device *d = arg;
	char report[BLK_MAX_QUEUES];
	ssize_t n = read(fd, report, sizeof(report));

	for (ssize_t i = 0; i < n; i++) {
		switch (report[i]) {
		case QUEUE_THREAD_STARTED:
			if (++d->threads_started == d->args->link->queues) {
				if (d->phase == ATTACH)
					enter(d, SERVE);
				xpv_channel_send(d->channel, BLK_MSG_SERVING, NULL, 0, -1);
				/* What the backend announced before is looked at now. */
				step(d);
			}
			break;
		case QUEUE_THREAD_ENDED:
			if (--d->threads_running == 0)
				all_ended(d);
			break;
		case 'B':
			/* Two backends, the old and the new, may have answered for a moment. */
			if (d->phase == LEAVE)
				start_over(d, gone);
			else
				refuse(d, d->broken, NULL);
			return;
		default: /* QUEUE_THREAD_FAILED */
			finish(d, EXIT_FAILURE);
			return;
		}
	}
}

static void
quiesce(struct device *d, bool close_after)
{
	d->close_after |= close_after;
	if (d->phase == CLOSE || d->phase == QUIESCE || d->phase == LEAVE)
		return;
	if (d->threads_running > 0) {
		enter(d, QUIESCE);
		for (unsigned i = 0; i < d->args->link->queues; i++)
			queue_thread_quiesce(d->threads[i]);
	} else if (d->close_after) {
		enter(d, CLOSE);
		step(d);
	} else {
		finish(d, XPV_EXIT_DONE);
	}
}

/* ---- the supervisor ---- */

static void
start_if_ready(struct device *d)
{
	if (d->grant.nfds == d->fds_expected && d->phase == ATTACH && d->threads_running == 0)
		start_threads(d);
}

static void
take_fd(struct device *d, int fd)
{
	if (fd < 0 || d->grant.nfds == ATTACH_MAX_FDS)
		return;
	d->grant.fds[d->grant.nfds++] = fd;
	start_if_ready(d);
}

/* Each connection has its thread. What none takes stays with the supervisor for the next worker. */
static void
take_connection(struct device *d, const void *data, size_t length, int fd)
{
	const struct attach_command *command = &d->transfer.command;
	unsigned threads = d->args->link->queues;

	if (!nbd_transfer_take(&d->transfer, data, length, fd))
		return;
	if (d->threads_running > 0 &&
	    queue_thread_command(d->threads[command->slot % threads], command))
		return;
	for (unsigned i = 0; i < NBD_TRANSFER_FDS; i++)
		close(command->fds[i]);
}

static void
end_connections(struct device *d)
{
	const struct attach_command leave = {.what = ATTACH_LEAVE};

	for (unsigned i = 0; d->threads_running > 0 && i < d->args->link->queues; i++)
		queue_thread_command(d->threads[i], &leave);
}

static void
on_channel(evutil_socket_t channel, short events, void *arg)
{
	struct device *d = arg;
	union {
		struct blk_msg_attach attach;
		char bytes[XPV_MESSAGE_MAX];
	} message;
	size_t length;
	uint32_t type;
	int fd, got;

	while (length = sizeof(message),
	    (got = xpv_channel_receive(channel, &type, &message, &length, &fd)) == 1) {
		switch (type) {
		case BLK_MSG_ATTACH:
			d->grant = (struct attach_grant){
			    .host_queues = message.attach.host_queues,
			    .depth = message.attach.depth,
			    .max_io_bytes = message.attach.max_io_bytes,
			    .dev_id = message.attach.dev_id,
			    .sectors = message.attach.sectors,
			    .channel = d->channel,
			    .attachment = d->args->attachment,
			};
			d->fds_expected = message.attach.nfds;
			start_if_ready(d);
			break;
		case BLK_MSG_FD:
			take_fd(d, fd);
			break;
		case BLK_MSG_CONNECTION:
			take_connection(d, &message, length, fd);
			break;
		case BLK_MSG_LEAVE:
			end_connections(d);
			break;
		case BLK_MSG_CLOSE:
			quiesce(d, true);
			break;
		default:
			break;
		}
	}
	if (got < 0) {
		xpv_notice("the supervisor is gone: ending after the last answer");
		event_del(d->on_message);
		quiesce(d, false);
	}
}

static void
on_term(evutil_socket_t signal, short events, void *arg)
{
	quiesce(arg, false);
}

static bool
open_all(struct device *d)
{
	char empty_dir[256];
	struct xpv_sandbox sandbox = {
	    .user = d->args->config->user,
	    .empty_dir = empty_dir,
	    .io_uring = d->args->attach->io->io_uring,
	    .disabled = !d->args->config->sandbox,
	};

	snprintf(empty_dir, sizeof(empty_dir), "%s/empty", d->args->config->rundir);
	d->store = xpv_store_open(d->base);
	if (d->store == NULL || pipe2(d->report, O_CLOEXEC | O_NONBLOCK) != 0)
		return false;
	/* From here on we may read what the backend wrote. */
	if (xpv_sandbox_enter(&sandbox) != 0)
		return false;
	d->frontend = xpv_frontend_open(d->store, d->args->dir, &frontend_ops, d);
	if (d->frontend == NULL)
		xpv_err("%s: %s", d->args->dir, strerror(errno));
	return d->frontend != NULL;
}

int
blk_device_main(struct event_base *base, int channel, const struct blk_device_args *args)
{
	struct device d = {.args = args, .base = base, .channel = channel, .report = {-1, -1}};

	d.exit_code = EXIT_FAILURE;
	if (!open_all(&d))
		return EXIT_FAILURE;
	d.on_message = event_new(base, channel, EV_READ | EV_PERSIST, on_channel, &d);
	d.on_report = event_new(base, d.report[0], EV_READ | EV_PERSIST, on_report, &d);
	d.on_term = evsignal_new(base, SIGTERM, on_term, &d);
	d.patience = evtimer_new(base, out_of_patience, &d);
	if (d.on_message == NULL || d.on_report == NULL || d.on_term == NULL ||
	    d.patience == NULL || event_add(d.on_message, NULL) != 0 ||
	    event_add(d.on_report, NULL) != 0 || event_add(d.on_term, NULL) != 0)
		return EXIT_FAILURE;
	if (args->link->live) {
		resume_link(&d);
	} else {
		enter(&d, RESET);
		step(&d);
	}
	/* A loop that has not begun cannot be broken. */
	if (!d.ended)
		event_base_dispatch(base);
	/* The process ends here: threads, rings and handles go with it, what must stay is shared.
	 */
	return d.exit_code;
}
