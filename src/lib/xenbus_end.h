/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_XENBUS_END_H
#define XENPV_XENBUS_END_H

#include <stdarg.h>

#include "xenpv/xenbus.h"

/*
 * What the two ends of a device have in common: a directory of their own with a state, and a
 * directory of the peer's with another. frontend.c and backend.c say what they are called.
 */

struct xenbus_names {
	const char *peer;    /* node that names the peer's directory */
	const char *peer_id; /* and its domain */
	const char *below;   /* where in that domain's directory it must be: "backend/" */
	const char *what;    /* for the log: "a backend's directory" */
};

/* As struct xpv_frontend_ops explains them. */
struct xenbus_handlers {
	void (*peer_changed)(enum xpv_state state, void *arg);
	void (*peer_touched)(enum xpv_state state, void *arg);
	void (*own_changed)(enum xpv_state state, void *arg);
};

#define XENBUS_DIR_MAX 128 /* of our directory */

struct xenbus_end {
	struct xpv_store *store;
	const struct xenbus_names *names;
	struct xenbus_handlers handlers;
	void *arg;
	char dir[XENBUS_DIR_MAX];
	char *peer_dir;
	uint32_t peer_id;
	enum xpv_state own, peer; /* last seen or written */
	struct xpv_watch *own_watch, *peer_watch;
	bool peer_watch_fired; /* the first event says only that the watch is set */
	bool moved;	       /* the toolstack gave the device another peer: told once */
};

/* 0, or -1 with errno; end() it in either case. */
int xenbus_end_begin(struct xenbus_end *e, struct xpv_store *store,
    const struct xenbus_names *names, const char *dir, struct xenbus_handlers handlers, void *arg);
void xenbus_end_end(struct xenbus_end *e);

int xenbus_end_set_state(struct xenbus_end *e, enum xpv_state state);
void xenbus_end_error(struct xenbus_end *e, int errnum, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));

#endif
