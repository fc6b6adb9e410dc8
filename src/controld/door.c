/* SPDX-License-Identifier: BSD-2-Clause */
#include "door.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <event2/listener.h>
#include <xenpv/log.h>

#define VISITORS_MAX 16
#define VISIT_S	     5
#define ANSWER_MS    5000

static const char *const answers[] = {
    [DOOR_TAKEN] = "taken",
    [DOOR_REFUSED] = "refused",
};

struct visitor {
	LIST_ENTRY(visitor) entry;
	struct door *door;
	struct event *readable;
	int fd;
};

struct door {
	struct event_base *base;
	struct evconnlistener *listener;
	const struct door_ops *ops;
	void *arg;
	LIST_HEAD(, visitor) visitors;
	unsigned count;
	struct sockaddr_un address;
};

static void
address_of(struct sockaddr_un *address, const char *rundir)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "%.80s/xen-controld.door", rundir);
}

/* ---- the daemon's side ---- */

static void
send_away(struct visitor *v)
{
	LIST_REMOVE(v, entry);
	v->door->count--;
	event_free(v->readable);
	close(v->fd);
	free(v);
}

static void
hear(struct visitor *v, const char *name)
{
	const struct door_ops *ops = v->door->ops;
	enum request request = request_parse(name);
	void *arg = v->door->arg;
	enum door_answer answer = DOOR_REFUSED;
	const char *text;

	if (request != REQUEST_NONE)
		answer = ops->ask(request, arg);
	else
		xpv_warning("somebody asks for \"%s\", which is no request: refused", name);
	text = answers[answer];
	/* One that waits no longer has shut its ear: this fails, and it does as it thinks best. */
	if (send(v->fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) {
		xpv_warning("who asked for %s does not wait for the answer", name);
		answer = DOOR_REFUSED;
	}
	send_away(v);
	if (answer == DOOR_TAKEN)
		ops->take(request, arg);
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct visitor *v = arg;
	char name[32];
	ssize_t n = (what & EV_TIMEOUT) != 0 ? 0 : recv(fd, name, sizeof(name) - 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		send_away(v);
		return;
	}
	name[n] = '\0';
	hear(v, name);
}

static void
on_visitor(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
    int length, void *arg)
{
	static const struct timeval limit = {.tv_sec = VISIT_S};
	struct door *d = arg;
	struct visitor *v = d->count < VISITORS_MAX ? calloc(1, sizeof(*v)) : NULL;

	if (v != NULL)
		v->readable = event_new(d->base, fd, EV_READ | EV_PERSIST, on_readable, v);
	if (v == NULL || v->readable == NULL || event_add(v->readable, &limit) != 0) {
		if (v != NULL && v->readable != NULL)
			event_free(v->readable);
		free(v);
		close(fd);
		return;
	}
	v->door = d;
	v->fd = fd;
	LIST_INSERT_HEAD(&d->visitors, v, entry);
	d->count++;
}

static int
make_socket(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask;
	int bound;

	if (fd < 0)
		return -1;
	/* The control socket, opened before, has told that there is no other daemon. */
	unlink(address->sun_path);
	mask = umask(0177);
	bound = bind(fd, (const struct sockaddr *)address, sizeof(*address));
	umask(mask);
	if (bound == 0 && listen(fd, VISITORS_MAX) == 0)
		return fd;
	close(fd);
	return -1;
}

struct door *
door_open(struct event_base *base, const char *rundir, const struct door_ops *ops, void *arg)
{
	struct door *d = calloc(1, sizeof(*d));
	int fd;

	if (d == NULL)
		return NULL;
	d->base = base;
	d->ops = ops;
	d->arg = arg;
	LIST_INIT(&d->visitors);
	address_of(&d->address, rundir);
	fd = make_socket(&d->address);
	if (fd >= 0)
		d->listener = evconnlistener_new(
		    base, on_visitor, d, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (d->listener != NULL)
		return d;
	xpv_err("%s: cannot listen: %s", d->address.sun_path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(d);
	return NULL;
}

void
door_close(struct door *d)
{
	struct visitor *v;

	if (d == NULL)
		return;
	unlink(d->address.sun_path);
	evconnlistener_free(d->listener);
	while ((v = LIST_FIRST(&d->visitors)) != NULL)
		send_away(v);
	free(d);
}

/* ---- the helper's side ---- */

static bool
hear_answer(int fd, char *answer, size_t size)
{
	ssize_t n = recv(fd, answer, size - 1, MSG_DONTWAIT);

	answer[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* "taken" or "refused"; NULL when there was no answer, and none will be. */
static const char *
await_answer(int fd, char *answer, size_t size)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	if (poll(&poll_fd, 1, ANSWER_MS) <= 0)
		xpv_warning("the daemon does not answer");
	else if (hear_answer(fd, answer, size))
		return answer;
	/* From here on the daemon cannot answer any more. What it said just before still counts,
	 * and Linux keeps it; FreeBSD does not. */
	shutdown(fd, SHUT_RD);
	return hear_answer(fd, answer, size) ? answer : NULL;
}

static const char *
ask(const char *request, const char *rundir, char *answer, size_t size)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	const char *said = NULL;

	address_of(&address, rundir);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
	    send(fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request))
		said = await_answer(fd, answer, size);
	if (fd >= 0)
		close(fd);
	return said;
}

int
door_knock(const char *request, const char *rundir, char *const instead[])
{
	char answer[32];
	const char *said = ask(request, rundir, answer, sizeof(answer));

	if (said != NULL)
		return strcmp(said, answers[DOOR_TAKEN]) == 0 ? EX_OK : EX_NOPERM;
	if (instead[0] == NULL) {
		xpv_err("%s: no answer in %s", request, rundir);
		return EX_UNAVAILABLE;
	}
	xpv_warning("%s: no answer in %s: running %s", request, rundir, instead[0]);
	execvp(instead[0], instead);
	xpv_err("%s: %s", instead[0], strerror(errno));
	return EX_OSERR;
}
