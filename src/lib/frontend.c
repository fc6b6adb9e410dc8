/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "xenbus_end.h"

struct xpv_frontend {
	struct xenbus_end end;
};

static const struct xenbus_names names = {
    .peer = "backend",
    .peer_id = "backend-id",
    .below = "backend/",
    .what = "a backend's directory",
};

struct xpv_frontend *
xpv_frontend_open(
    struct xpv_store *store, const char *dir, const struct xpv_frontend_ops *ops, void *arg)
{
	struct xenbus_handlers handlers = {
	    .peer_changed = ops->backend_changed,
	    .peer_touched = ops->backend_touched,
	    .own_changed = ops->own_changed,
	};
	struct xpv_frontend *f = malloc(sizeof(*f));
	int error;

	if (f == NULL)
		return NULL;
	if (xenbus_end_begin(&f->end, store, &names, dir, handlers, arg) != 0) {
		error = errno;
		xpv_frontend_close(f);
		errno = error;
		return NULL;
	}
	return f;
}

void
xpv_frontend_close(struct xpv_frontend *f)
{
	if (f != NULL)
		xenbus_end_end(&f->end);
	free(f);
}

const char *
xpv_frontend_dir(const struct xpv_frontend *f)
{
	return f->end.dir;
}

const char *
xpv_frontend_backend_dir(const struct xpv_frontend *f)
{
	return f->end.peer_dir;
}

uint32_t
xpv_frontend_backend_id(const struct xpv_frontend *f)
{
	return f->end.peer_id;
}

enum xpv_state
xpv_frontend_state(const struct xpv_frontend *f)
{
	return f->end.own;
}

enum xpv_state
xpv_frontend_backend_state(const struct xpv_frontend *f)
{
	return f->end.peer;
}

int
xpv_frontend_set_state(struct xpv_frontend *f, enum xpv_state state)
{
	return xenbus_end_set_state(&f->end, state);
}

void
xpv_frontend_error(struct xpv_frontend *f, int errnum, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	xenbus_end_error(&f->end, errnum, fmt, args);
	va_end(args);
}
