/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>

#include "xenpv/log.h"

#define HEADERS_MAX	4096
#define BODY_MAX	4096 /* of a request: enough to answer a POST with 405 */
#define TIMEOUT_S	10
#define CONNECTIONS_MAX 16
#define LISTEN_QUEUE	16
#define FULL_RETRY_US	100000

#define METHODS_KNOWN                                                                              \
	(EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE | \
	    EVHTTP_REQ_OPTIONS | EVHTTP_REQ_TRACE | EVHTTP_REQ_CONNECT | EVHTTP_REQ_PATCH)

struct xpv_control {
	struct evhttp *http;
	struct evconnlistener *listener;
	struct event *full; /* looks for closed connections while none is accepted */
	struct bufferevent *connections[CONNECTIONS_MAX]; /* a reference to each */
	unsigned nconnections;
	const struct xpv_control_page *pages;
	void *arg;
	struct sockaddr_un address;
	bool bound;
};

/* ---- requests ---- */

/* What GET would answer; HEAD's answer has the same headers and no body, which evhttp would send.
 */
static void
reply(struct evhttp_request *request, int code, const char *reason, const char *type,
    struct evbuffer *body)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
	char length[24];

	snprintf(length, sizeof(length), "%zu", evbuffer_get_length(body));
	evhttp_add_header(headers, "Content-Type", type);
	evhttp_add_header(headers, "Content-Length", length);
	if (evhttp_request_get_command(request) == EVHTTP_REQ_HEAD)
		evbuffer_drain(body, evbuffer_get_length(body));
	evhttp_send_reply(request, code, reason, body);
}

static void
reply_error(struct evhttp_request *request, int code, const char *reason, struct evbuffer *body)
{
	evbuffer_add_printf(body, "%s\n", reason);
	reply(request, code, reason, "text/plain; charset=utf-8", body);
}

static void
answer(struct evhttp_request *request, void *arg)
{
	const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(request));
	enum evhttp_cmd_type method = evhttp_request_get_command(request);
	const struct xpv_control *c = arg;
	const struct xpv_control_page *page = c->pages;
	struct evbuffer *body = evbuffer_new();

	if (body == NULL) {
		evhttp_send_error(request, HTTP_SERVUNAVAIL, NULL);
		return;
	}
	while (page->path != NULL && (path == NULL || strcmp(path, page->path) != 0))
		page++;
	if (page->path == NULL) {
		reply_error(request, HTTP_NOTFOUND, "Not Found", body);
	} else if (method != EVHTTP_REQ_GET && method != EVHTTP_REQ_HEAD) {
		evhttp_add_header(evhttp_request_get_output_headers(request), "Allow", "GET, HEAD");
		reply_error(request, HTTP_BADMETHOD, "Method Not Allowed", body);
	} else {
		page->write(body, c->arg);
		reply(request, HTTP_OK, "OK", page->content_type, body);
	}
	evbuffer_free(body);
}

/* ---- connections ---- */

/* Lets go of the connections that have ended: bufferevent_free() has cleared their owner. */
static void
forget_ended(struct xpv_control *c)
{
	unsigned living = 0;
	void *owner;

	for (unsigned i = 0; i < c->nconnections; i++) {
		bufferevent_getcb(c->connections[i], NULL, NULL, NULL, &owner);
		if (owner != NULL)
			c->connections[living++] = c->connections[i];
		else
			bufferevent_decref(c->connections[i]);
	}
	c->nconnections = living;
}

/*
 * libevent 2.1 neither limits connections nor tells of their end, but lets us make their
 * bufferevents. With the last place taken the listener stops, and clients wait in its queue.
 */
static struct bufferevent *
on_connection(struct event_base *base, void *arg)
{
	static const struct timeval retry = {.tv_usec = FULL_RETRY_US};
	struct bufferevent *b = bufferevent_socket_new(base, -1, 0);
	struct xpv_control *c = arg;

	forget_ended(c);
	if (b != NULL && c->nconnections < CONNECTIONS_MAX) {
		bufferevent_incref(b);
		c->connections[c->nconnections++] = b;
	}
	if (c->nconnections == CONNECTIONS_MAX) {
		evconnlistener_disable(c->listener);
		event_add(c->full, &retry);
	}
	return b;
}

static void
on_full(evutil_socket_t fd, short events, void *arg)
{
	struct xpv_control *c = arg;

	forget_ended(c);
	if (c->nconnections == CONNECTIONS_MAX)
		return;
	event_del(c->full);
	evconnlistener_enable(c->listener);
}

/* ---- the socket ---- */

static bool
make_directory(const char *socket_path)
{
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	char *slash;

	snprintf(path, sizeof(path), "%s", socket_path);
	slash = strrchr(path, '/');
	if (slash == NULL || slash == path)
		return true;
	*slash = '\0';
	return mkdir(path, 0755) == 0 || errno == EEXIST;
}

/* Removes a dead daemon's socket: one that refuses a connection. Anything else is let be. */
static bool
make_way(const struct sockaddr_un *address)
{
	const char *path = address->sun_path;
	struct stat st;
	int fd, error = 0;

	if (lstat(path, &st) != 0) {
		if (errno == ENOENT)
			return true;
		xpv_err("%s: %s", path, strerror(errno));
		return false;
	}
	if (!S_ISSOCK(st.st_mode)) {
		xpv_err("%s: is in the way and not a socket", path);
		return false;
	}
	/* Not blocking: a living daemon's queue may be full (EAGAIN). */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	if (error == ECONNREFUSED && unlink(path) == 0)
		return true;
	if (error == 0 || error == EAGAIN || error == EINPROGRESS)
		xpv_err("%s: another one is already running here", path);
	else
		xpv_err("%s: cannot tell whether another one is running here: %s", path,
		    strerror(error));
	return false;
}

static int
make_socket(struct xpv_control *c)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;
	mode_t mask;

	if (fd < 0)
		return -1;
	/* bind() makes the file: there is no moment at which others may connect. */
	mask = umask(0177);
	c->bound = bind(fd, (const struct sockaddr *)&c->address, sizeof(c->address)) == 0;
	error = errno;
	umask(mask);
	if (c->bound && listen(fd, LISTEN_QUEUE) == 0)
		return fd;
	if (c->bound)
		error = errno;
	close(fd);
	errno = error;
	return -1;
}

static bool
serve(struct xpv_control *c, struct event_base *base, int fd)
{
	c->listener = evconnlistener_new(
	    base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (c->listener == NULL) {
		close(fd);
		return false;
	}
	c->full = event_new(base, -1, EV_PERSIST, on_full, c);
	c->http = evhttp_new(base);
	if (c->full == NULL || c->http == NULL ||
	    evhttp_bind_listener(c->http, c->listener) == NULL) {
		evconnlistener_free(c->listener);
		return false;
	}
	evhttp_set_allowed_methods(c->http, METHODS_KNOWN); /* answer() knows better than 501 */
	evhttp_set_max_headers_size(c->http, HEADERS_MAX);
	evhttp_set_max_body_size(c->http, BODY_MAX);
	evhttp_set_timeout(c->http, TIMEOUT_S);
	evhttp_set_bevcb(c->http, on_connection, c);
	evhttp_set_gencb(c->http, answer, c);
	return true;
}

struct xpv_control *
xpv_control_open(struct event_base *base, const char *socket_path,
    const struct xpv_control_page *pages, void *arg)
{
	struct xpv_control *c;
	int fd;

	if (strlen(socket_path) >= sizeof(c->address.sun_path)) {
		xpv_err("%s: the path is too long for a socket", socket_path);
		return NULL;
	}
	c = calloc(1, sizeof(*c));
	if (c == NULL) {
		xpv_err("%s: out of memory", socket_path);
		return NULL;
	}
	c->pages = pages;
	c->arg = arg;
	c->address.sun_family = AF_UNIX;
	strcpy(c->address.sun_path, socket_path);
	if (!make_directory(socket_path)) {
		xpv_err("%s: cannot make its directory: %s", socket_path, strerror(errno));
		xpv_control_close(c);
		return NULL;
	}
	if (!make_way(&c->address)) {
		xpv_control_close(c);
		return NULL;
	}
	fd = make_socket(c);
	if (fd < 0 || !serve(c, base, fd)) {
		xpv_err("%s: cannot listen: %s", socket_path, strerror(errno));
		xpv_control_close(c);
		return NULL;
	}
	return c;
}

void
xpv_control_close(struct xpv_control *c)
{
	if (c == NULL)
		return;
	if (c->bound)
		unlink(c->address.sun_path);
	if (c->full != NULL)
		event_free(c->full);
	if (c->http != NULL)
		evhttp_free(c->http);
	for (unsigned i = 0; i < c->nconnections; i++)
		bufferevent_decref(c->connections[i]);
	free(c);
}
