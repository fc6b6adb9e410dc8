/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "xenbus_end.h"

struct xpv_backend {
	struct xenbus_end end;
};

static const struct xenbus_names names = {
    .peer = "frontend",
    .peer_id = "frontend-id",
    .below = "",
    .what = "a frontend's directory",
};

struct xpv_backend *
xpv_backend_open(
    struct xpv_store *store, const char *dir, const struct xpv_backend_ops *ops, void *arg)
{
	struct xenbus_handlers handlers = {
	    .peer_changed = ops->frontend_changed,
	    .own_changed = ops->own_changed,
	};
	struct xpv_backend *b = malloc(sizeof(*b));
	int error;

	if (b == NULL)
		return NULL;
	if (xenbus_end_begin(&b->end, store, &names, dir, handlers, arg) != 0) {
		error = errno;
		xpv_backend_close(b);
		errno = error;
		return NULL;
	}
	return b;
}

void
xpv_backend_close(struct xpv_backend *b)
{
	if (b != NULL)
		xenbus_end_end(&b->end);
	free(b);
}

const char *
xpv_backend_dir(const struct xpv_backend *b)
{
	return b->end.dir;
}

const char *
xpv_backend_frontend_dir(const struct xpv_backend *b)
{
	return b->end.peer_dir;
}

uint32_t
xpv_backend_frontend_id(const struct xpv_backend *b)
{
	return b->end.peer_id;
}

enum xpv_state
xpv_backend_state(const struct xpv_backend *b)
{
	return b->end.own;
}

enum xpv_state
xpv_backend_frontend_state(const struct xpv_backend *b)
{
	return b->end.peer;
}

bool
xpv_backend_online(const struct xpv_backend *b)
{
	return xpv_store_read_flag(b->end.store, "%s/online", b->end.dir);
}

int
xpv_backend_set_state(struct xpv_backend *b, enum xpv_state state)
{
	return xenbus_end_set_state(&b->end, state);
}

void
xpv_backend_error(struct xpv_backend *b, int errnum, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	xenbus_end_error(&b->end, errnum, fmt, args);
	va_end(args);
}
