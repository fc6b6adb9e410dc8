/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_door.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/sandbox.h>
#include <xenpv/supervisor.h>

#include "nbd_handshake.h"
#include "nbd_listen.h"

#define HALF_OPEN_MAX 64
#define TIMEOUT_MS    30000 /* a person may be typing the options */
#define RETRY_MS      100

enum {
	/* supervisor to door */
	DOOR_EXPORT = 1, /* struct nbd_export */
	DOOR_UNEXPORT,	 /* uint32_t: id */
	/* door to supervisor */
	DOOR_ENTERED, /* uint32_t: id; with the connection */
};

struct nbd_door {
	char *user, *empty_dir;
	bool sandbox;
	nbd_door_entered *entered;
	void *arg;
	struct nbd_listen listening;
	struct nbd_exports exports; /* the supervisor's, to tell each new process */
	struct xpv_worker *process;
};

/* ---- the confined process ---- */

struct doorman {
	struct event_base *base;
	int channel;
	struct nbd_exports exports;
	struct event *acceptable, *message, *retry;
	unsigned half_open;
};

static void
handshake_ended(const struct nbd_export *chosen, int fd, void *arg)
{
	struct doorman *d = arg;

	d->half_open--;
	event_add(d->acceptable, NULL);
	if (chosen == NULL)
		return;
	/* If the supervisor does not take it, the client sees the connection end. */
	xpv_channel_send(d->channel, DOOR_ENTERED, &chosen->id, sizeof(chosen->id), fd);
	close(fd);
}

static void
on_acceptable(evutil_socket_t listening, short events, void *arg)
{
	struct doorman *d = arg;
	int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0) {
		/* Out of descriptors or the like: the client waits, and so do we. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			event_del(d->acceptable);
			event_add(d->retry, &(struct timeval){.tv_usec = RETRY_MS * 1000});
		}
		return;
	}
	if (nbd_handshake_start(d->base, fd, &d->exports, TIMEOUT_MS, handshake_ended, d) == NULL) {
		close(fd);
		return;
	}
	/* The others wait in the kernel until one of these is through or out of time. */
	if (++d->half_open == HALF_OPEN_MAX)
		event_del(d->acceptable);
}

static void
on_retry(evutil_socket_t fd, short events, void *arg)
{
	struct doorman *d = arg;

	event_add(d->acceptable, NULL);
}

static void
on_message(evutil_socket_t channel, short events, void *arg)
{
	struct doorman *d = arg;
	union {
		struct nbd_export export;
		uint32_t id;
	} message;
	size_t length;
	uint32_t type;
	int got;

	while (length = sizeof(message),
	    (got = xpv_channel_receive(channel, &type, &message, &length, NULL)) == 1) {
		if (type == DOOR_EXPORT && length == sizeof(message.export))
			nbd_exports_set(&d->exports, &message.export);
		else if (type == DOOR_UNEXPORT && length == sizeof(message.id))
			nbd_exports_remove(&d->exports, message.id);
	}
	if (got < 0)
		event_base_loopbreak(d->base);
}

static void
on_term(evutil_socket_t signal, short events, void *arg)
{
	struct doorman *d = arg;

	event_base_loopbreak(d->base);
}

static int
door_main(struct event_base *base, int channel, void *arg)
{
	const struct nbd_door *door = arg;
	const struct xpv_sandbox sandbox = {
	    .user = door->user,
	    .empty_dir = door->empty_dir,
	    .accept = true,
	    .disabled = !door->sandbox,
	};
	/* The exports as inherited; changes come by message. */
	struct doorman d = {.base = base, .channel = channel, .exports = door->exports};
	struct event *term = evsignal_new(base, SIGTERM, on_term, &d);

	if (xpv_sandbox_enter(&sandbox) != 0)
		return EXIT_FAILURE;
	d.message = event_new(base, channel, EV_READ | EV_PERSIST, on_message, &d);
	d.acceptable = event_new(base, door->listening.fd, EV_READ | EV_PERSIST, on_acceptable, &d);
	d.retry = evtimer_new(base, on_retry, &d);
	if (term == NULL || d.message == NULL || d.acceptable == NULL || d.retry == NULL ||
	    event_add(term, NULL) != 0 || event_add(d.message, NULL) != 0 ||
	    event_add(d.acceptable, NULL) != 0)
		return EXIT_FAILURE;
	event_base_dispatch(base);
	return XPV_EXIT_AGAIN; /* unless it was the supervisor who ended it */
}

/* ---- the supervisor's side ---- */

static bool
is_stream_socket(int fd)
{
	int domain, type;
	socklen_t size = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

static void
door_message(uint32_t type, const void *data, size_t length, int fd, void *arg)
{
	struct nbd_door *door = arg;
	uint32_t id;

	if (fd < 0)
		return;
	if (type != DOOR_ENTERED || length != sizeof(id) || !is_stream_socket(fd)) {
		close(fd);
		return;
	}
	memcpy(&id, data, sizeof(id));
	door->entered(id, fd, door->arg);
}

/* A process that does not take what it is told is of no use: the next one gets all of it. */
static void
tell(struct nbd_door *door, uint32_t type, const void *data, size_t length)
{
	if (!xpv_worker_running(door->process) ||
	    xpv_worker_send(door->process, type, data, length, -1) == 0)
		return;
	kill(xpv_worker_pid(door->process), SIGKILL);
}

static void
door_exited(enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason, void *arg)
{
	xpv_warning("the process that receives NBD clients ended (%s)%s", reason,
	    restarting ? ": starting another" : "");
}

static const struct xpv_worker_ops door_ops = {
    .main = door_main,
    .message = door_message,
    .exited = door_exited,
};

static const struct xpv_worker_policy policy = {
    .delay_min_ms = 100,
    .delay_max_ms = 5000,
    .window_s = 60,
};

static bool
copy(char **to, const char *text)
{
	*to = text != NULL ? strdup(text) : NULL;
	return text == NULL || *to != NULL;
}

struct nbd_door *
nbd_door_open(struct event_base *base, const struct nbd_door_config *config,
    nbd_door_entered *entered, void *arg)
{
	struct nbd_door *door = calloc(1, sizeof(*door));
	int error;

	if (door == NULL)
		return NULL;
	door->entered = entered;
	door->arg = arg;
	door->listening.fd = -1;
	door->sandbox = config->sandbox;
	if (!copy(&door->user, config->user) || !copy(&door->empty_dir, config->empty_dir) ||
	    nbd_listen_open(&door->listening, config->path, config->group) != 0) {
		error = errno;
		nbd_door_close(door);
		errno = error;
		return NULL;
	}
	door->process = xpv_worker_new(base, "nbd-door", &door_ops, &policy, NULL, door);
	if (door->process != NULL) {
		xpv_worker_keep_fd(door->process, door->listening.fd);
		if (xpv_worker_start(door->process) == 0)
			return door;
	}
	error = errno;
	xpv_err("%s: no process to receive NBD clients: %s", config->path, strerror(error));
	nbd_door_close(door);
	errno = error;
	return NULL;
}

void
nbd_door_export(struct nbd_door *door, const struct nbd_export *e)
{
	if (nbd_exports_set(&door->exports, e) != 0)
		xpv_err("%s cannot be offered to NBD clients: %s", e->name, strerror(errno));
	else
		tell(door, DOOR_EXPORT, e, sizeof(*e));
}

void
nbd_door_unexport(struct nbd_door *door, uint32_t id)
{
	nbd_exports_remove(&door->exports, id);
	tell(door, DOOR_UNEXPORT, &id, sizeof(id));
}

void
nbd_door_close(struct nbd_door *door)
{
	if (door == NULL)
		return;
	xpv_worker_free(door->process);
	nbd_listen_close(&door->listening);
	nbd_exports_free(&door->exports);
	free(door->user);
	free(door->empty_dir);
	free(door);
}
