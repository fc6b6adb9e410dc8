/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include <event2/event.h>
#include <xenstore.h>

#include "xenpv/log.h"

#define VALUE_MAX	 4096 /* XENSTORE_PAYLOAD_MAX: no store has longer ones */
#define TRANSACTION_MAX	 32
#define EVENTS_PER_TURN	 64 /* a peer that writes all the time does not hold the loop */
#define LINES_PER_MINUTE 20 /* nor does it fill the log */

struct xpv_store {
	struct xs_handle *xs;
	struct event *readable;
	struct event *more;	      /* runs in the next turn of the loop */
	xs_transaction_t transaction; /* XBT_NULL outside */
	bool lost;
	void (*on_lost)(void *arg);
	void *on_lost_arg;
	uint32_t last_token;
	LIST_HEAD(, xpv_watch) watches;
	time_t minute;
	unsigned lines;
};

struct xpv_watch {
	LIST_ENTRY(xpv_watch) entry;
	struct xpv_store *store;
	xpv_watch_handler *handler;
	void *arg;
	char token[16]; /* never used again: an event of a removed watch finds nobody */
	char path[];
};

/* ---- errors ---- */

static bool
may_log(struct xpv_store *s)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec / 60 != s->minute) {
		s->minute = now.tv_sec / 60;
		s->lines = 0;
	}
	return s->lines++ < LINES_PER_MINUTE;
}

static void
connection_lost(struct xpv_store *s)
{
	if (s->lost)
		return;
	s->lost = true;
	event_del(s->readable);
	event_del(s->more);
	if (s->on_lost == NULL) {
		xpv_err("the connection to xenstore is lost: devices can not be negotiated any "
			"more; restart this daemon when xenstored is back");
		return;
	}
	xpv_err("the connection to xenstore is lost");
	event_add(s->more, &(struct timeval){0}); /* whoever is in a call here is not surprised */
}

/* Logs what is wrong, keeps errno. */
static void
complain(struct xpv_store *s, const char *what, const char *path)
{
	int error = errno;

	if (error != ENOENT && may_log(s))
		xpv_err("xenstore: cannot %s %s: %s", what, path, strerror(error));
	errno = error;
}

/* When its connection closes, libxenstore ends the call that waits with EINVAL and all further
 * ones with what the closed descriptor gives. The store itself answers EINVAL, but none of these.
 */
static bool
connection_closed(struct xpv_store *s, int error)
{
	char *path;

	if (error == EINVAL) {
		path = xs_get_domain_path(s->xs, 0); /* any request would do */
		error = path != NULL ? 0 : errno;
		free(path);
	}
	return error == EBADF || error == EPIPE || error == ECONNRESET || error == ENOTCONN;
}

/* After a failed call of libxenstore. */
static void
failed(struct xpv_store *s, const char *what, const char *path)
{
	int error = errno;

	if (connection_closed(s, error)) {
		connection_lost(s);
		errno = ENOTCONN;
	} else {
		errno = error;
		complain(s, what, path);
	}
}

static bool
connected(const struct xpv_store *s)
{
	if (s->lost)
		errno = ENOTCONN;
	return !s->lost;
}

static int
check_path(struct xpv_store *s, const char *path, size_t length)
{
	if (length > 0 && length < XPV_STORE_PATH)
		return 0;
	errno = length == 0 ? EINVAL : ENAMETOOLONG;
	complain(s, "use the path", path);
	return -1;
}

static int
format_path(struct xpv_store *s, char path[XPV_STORE_PATH], const char *fmt, va_list args)
{
	int length = vsnprintf(path, XPV_STORE_PATH, fmt, args);

	return check_path(s, path, length < 0 ? 0 : (size_t)length);
}

/* ---- connection ---- */

static void on_readable(evutil_socket_t fd, short events, void *arg);

static void
log_open_failure(void)
{
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		xpv_err(
		    "no xenstore: is this a Xen guest? It is /dev/xen/xenbus on Linux (or: mount "
		    "-t xenfs xenfs /proc/xen), /dev/xen/xenstore on FreeBSD; in domain 0 "
		    "xenstored must run");
		break;
	case EACCES:
	case EPERM:
		xpv_err("no xenstore: %s: must run as root", strerror(errno));
		break;
	default:
		xpv_err("no xenstore: %s", strerror(errno));
		break;
	}
}

struct xpv_store *
xpv_store_open(struct event_base *base)
{
	struct xpv_store *s = calloc(1, sizeof(*s));
	int error;

	if (s == NULL)
		return NULL;
	LIST_INIT(&s->watches);
	s->transaction = XBT_NULL;
	s->xs = xs_open(XS_UNWATCH_FILTER);
	if (s->xs == NULL) {
		error = errno;
		log_open_failure();
		free(s);
		errno = error;
		return NULL;
	}
	s->readable = event_new(base, xs_fileno(s->xs), EV_READ | EV_PERSIST, on_readable, s);
	s->more = evtimer_new(base, on_readable, s);
	if (s->readable == NULL || s->more == NULL || event_add(s->readable, NULL) != 0) {
		xpv_err("xenstore: cannot wait for watches");
		xpv_store_close(s);
		errno = ENOMEM;
		return NULL;
	}
	return s;
}

void
xpv_store_on_lost(struct xpv_store *s, void (*lost)(void *arg), void *arg)
{
	s->on_lost = lost;
	s->on_lost_arg = arg;
}

void
xpv_store_close(struct xpv_store *s)
{
	struct xpv_watch *w;

	if (s == NULL)
		return;
	if (s->readable != NULL)
		event_free(s->readable);
	if (s->more != NULL)
		event_free(s->more);
	xs_close(s->xs);
	while ((w = LIST_FIRST(&s->watches)) != NULL) {
		LIST_REMOVE(w, entry);
		free(w);
	}
	free(s);
}

/* ---- transactions ---- */

/* One run: 1 to try again. */
static int
try_transaction(struct xpv_store *s, int (*fn)(struct xpv_store *s, void *arg), void *arg)
{
	int result, error;

	s->transaction = xs_transaction_start(s->xs);
	if (s->transaction == XBT_NULL) {
		failed(s, "start", "a transaction");
		return -1;
	}
	result = fn(s, arg);
	error = errno;
	if (!xs_transaction_end(s->xs, s->transaction, result != 0) && result == 0) {
		result = errno == EAGAIN ? 1 : -1;
		if (result < 0)
			failed(s, "commit", "a transaction");
	} else {
		errno = error; /* fn's own, also when the abort failed */
	}
	s->transaction = XBT_NULL;
	return result;
}

int
xpv_store_transaction(struct xpv_store *s, int (*fn)(struct xpv_store *s, void *arg), void *arg)
{
	if (!connected(s))
		return -1;
	if (s->transaction != XBT_NULL)
		return fn(s, arg);
	for (unsigned i = 0; i < TRANSACTION_MAX; i++) {
		int result = try_transaction(s, fn, arg);

		if (result <= 0)
			return result;
	}
	errno = EAGAIN;
	complain(s, "commit", "a transaction");
	return -1;
}

/* ---- reading ---- */

static char *
read_path(struct xpv_store *s, const char *path)
{
	unsigned length;
	char *value;

	if (!connected(s))
		return NULL;
	value = xs_read(s->xs, s->transaction, path, &length);
	if (value == NULL) {
		failed(s, "read", path);
		return NULL;
	}
	if (length > VALUE_MAX || memchr(value, '\0', length) != NULL) {
		free(value);
		errno = length > VALUE_MAX ? E2BIG : EINVAL;
		complain(s, "accept the value of", path);
		return NULL;
	}
	if (length > 0 && value[length - 1] == '\n')
		value[length - 1] = '\0';
	return value;
}

char *
xpv_store_read(struct xpv_store *s, const char *path_fmt, ...)
{
	char path[XPV_STORE_PATH];
	va_list args;
	int result;

	va_start(args, path_fmt);
	result = format_path(s, path, path_fmt, args);
	va_end(args);
	return result == 0 ? read_path(s, path) : NULL;
}

static int
parse_number(const char *text, uint64_t max, uint64_t *value)
{
	uint64_t n = 0;

	if (*text == '\0') {
		errno = EINVAL;
		return -1;
	}
	for (; *text != '\0'; text++) {
		unsigned digit = (unsigned char)*text - '0';

		if (digit > 9) {
			errno = EINVAL;
			return -1;
		}
		if (n > (max - digit) / 10) {
			errno = ERANGE;
			return -1;
		}
		n = n * 10 + digit;
	}
	*value = n;
	return 0;
}

static int
read_number(struct xpv_store *s, uint64_t max, uint64_t *value, const char *path_fmt, va_list args)
{
	char path[XPV_STORE_PATH];
	char *text;
	int result;

	if (format_path(s, path, path_fmt, args) != 0)
		return -1;
	text = read_path(s, path);
	if (text == NULL)
		return -1;
	result = parse_number(text, max, value);
	free(text);
	if (result != 0)
		complain(s, "parse the number in", path);
	return result;
}

int
xpv_store_read_u32(struct xpv_store *s, uint32_t *value, const char *path_fmt, ...)
{
	uint64_t number;
	va_list args;
	int result;

	va_start(args, path_fmt);
	result = read_number(s, UINT32_MAX, &number, path_fmt, args);
	va_end(args);
	if (result == 0)
		*value = (uint32_t)number;
	return result;
}

int
xpv_store_read_u64(struct xpv_store *s, uint64_t *value, const char *path_fmt, ...)
{
	va_list args;
	int result;

	va_start(args, path_fmt);
	result = read_number(s, UINT64_MAX, value, path_fmt, args);
	va_end(args);
	return result;
}

bool
xpv_store_read_flag(struct xpv_store *s, const char *path_fmt, ...)
{
	uint64_t number;
	va_list args;
	int result;

	va_start(args, path_fmt);
	result = read_number(s, UINT64_MAX, &number, path_fmt, args);
	va_end(args);
	return result == 0 && number != 0;
}

bool
xpv_store_exists(struct xpv_store *s, const char *path)
{
	void *value;

	if (!connected(s) || check_path(s, path, strlen(path)) != 0)
		return false;
	value = xs_read(s->xs, s->transaction, path, &(unsigned){0});
	if (value == NULL)
		failed(s, "read", path);
	free(value);
	return value != NULL;
}

char **
xpv_store_list(struct xpv_store *s, const char *path)
{
	unsigned count;
	char **names, **list;
	size_t bytes = 0;
	char *text;

	if (!connected(s) || check_path(s, path, strlen(path)) != 0)
		return NULL;
	names = xs_directory(s->xs, s->transaction, path, &count);
	if (names == NULL) {
		failed(s, "list", path);
		return NULL;
	}
	for (unsigned i = 0; i < count; i++)
		bytes += strlen(names[i]) + 1;
	list = malloc((count + 1) * sizeof(*list) + bytes);
	if (list != NULL) {
		text = (char *)&list[count + 1];
		for (unsigned i = 0; i < count; i++) {
			list[i] = text;
			text = stpcpy(text, names[i]) + 1;
		}
		list[count] = NULL;
	}
	free(names);
	return list;
}

/* ---- writing ---- */

int
xpv_store_write(struct xpv_store *s, const char *path, const char *value_fmt, ...)
{
	char value[VALUE_MAX + 1];
	va_list args;
	int length;

	if (!connected(s) || check_path(s, path, strlen(path)) != 0)
		return -1;
	va_start(args, value_fmt);
	length = vsnprintf(value, sizeof(value), value_fmt, args);
	va_end(args);
	if (length < 0 || length > VALUE_MAX) {
		errno = E2BIG;
		complain(s, "write", path);
		return -1;
	}
	if (xs_write(s->xs, s->transaction, path, value, (unsigned)length))
		return 0;
	failed(s, "write", path);
	return -1;
}

int
xpv_store_remove(struct xpv_store *s, const char *path)
{
	if (!connected(s) || check_path(s, path, strlen(path)) != 0)
		return -1;
	if (xs_rm(s->xs, s->transaction, path) || errno == ENOENT)
		return 0;
	failed(s, "remove", path);
	return -1;
}

/* ---- watches ---- */

struct xpv_watch *
xpv_store_watch(
    struct xpv_store *s, xpv_watch_handler *handler, void *arg, const char *path_fmt, ...)
{
	char path[XPV_STORE_PATH];
	struct xpv_watch *w;
	va_list args;
	int result;

	va_start(args, path_fmt);
	result = format_path(s, path, path_fmt, args);
	va_end(args);
	if (result != 0 || !connected(s))
		return NULL;
	w = calloc(1, sizeof(*w) + strlen(path) + 1);
	if (w == NULL)
		return NULL;
	w->store = s;
	w->handler = handler;
	w->arg = arg;
	strcpy(w->path, path);
	snprintf(w->token, sizeof(w->token), "%" PRIu32, ++s->last_token);
	errno = 0;
	if (!xs_watch(s->xs, path, w->token)) {
		if (errno == 0)
			errno = EAGAIN; /* it could not start its thread */
		failed(s, "watch", path);
		free(w);
		return NULL;
	}
	LIST_INSERT_HEAD(&s->watches, w, entry);
	return w;
}

void
xpv_store_unwatch(struct xpv_watch *w)
{
	if (w == NULL)
		return;
	LIST_REMOVE(w, entry);
	if (connected(w->store) && !xs_unwatch(w->store->xs, w->path, w->token))
		failed(w->store, "unwatch", w->path);
	free(w);
}

static void
dispatch(struct xpv_store *s, const char *path, const char *token)
{
	struct xpv_watch *w;

	LIST_FOREACH (w, &s->watches, entry) {
		if (strcmp(w->token, token) == 0) {
			w->handler(w, path, w->arg);
			return; /* the handler may have removed any watch */
		}
	}
}

static void
on_readable(evutil_socket_t fd, short events, void *arg)
{
	struct xpv_store *s = arg;

	if (s->lost) {
		s->on_lost(s->on_lost_arg);
		return;
	}
	for (unsigned i = 0; i < EVENTS_PER_TURN; i++) {
		char **event = xs_check_watch(s->xs);

		if (event == NULL) {
			if (errno == EINVAL) /* nothing waits and the connection is closed */
				connection_lost(s);
			return;
		}
		dispatch(s, event[XS_WATCH_PATH], event[XS_WATCH_TOKEN]);
		free(event);
		if (s->lost)
			return;
	}
	/* The descriptor need not be readable while events are left (xenstore.h). */
	event_add(s->more, &(struct timeval){0});
}
