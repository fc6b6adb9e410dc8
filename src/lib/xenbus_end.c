/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenbus_end.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xen/xen.h>

#include "xenpv/log.h"

#define ROOM	 128 /* for the names of nodes in the peer's directory */
#define TEXT_MAX 512 /* of an error report */

static const char *const state_names[] = {
    [XPV_STATE_UNKNOWN] = "Unknown",
    [XPV_STATE_INITIALISING] = "Initialising",
    [XPV_STATE_INIT_WAIT] = "InitWait",
    [XPV_STATE_INITIALISED] = "Initialised",
    [XPV_STATE_CONNECTED] = "Connected",
    [XPV_STATE_CLOSING] = "Closing",
    [XPV_STATE_CLOSED] = "Closed",
    [XPV_STATE_RECONFIGURING] = "Reconfiguring",
    [XPV_STATE_RECONFIGURED] = "Reconfigured",
};

const char *
xpv_state_name(enum xpv_state state)
{
	if ((unsigned)state >= sizeof(state_names) / sizeof(state_names[0]))
		return state_names[XPV_STATE_UNKNOWN];
	return state_names[state];
}

/* What is not a state counts as none; -1 when the store itself failed. */
static int
read_state(struct xpv_store *store, const char *dir, enum xpv_state *state)
{
	uint32_t value;

	if (xpv_store_read_u32(store, &value, "%s/state", dir) == 0) {
		*state =
		    value <= XPV_STATE_RECONFIGURED ? (enum xpv_state)value : XPV_STATE_UNKNOWN;
		return 0;
	}
	switch (errno) {
	case ENOENT:
	case EACCES: /* remade for another domain */
	case EINVAL:
	case ERANGE:
		*state = XPV_STATE_UNKNOWN;
		return 0;
	default:
		return -1;
	}
}

/* ---- where the peer is ---- */

/* The directory belongs to the toolstack, but what we read there we follow: be strict. */
static bool
peer_dir_valid(const struct xenbus_end *e)
{
	const char *path = e->peer_dir;
	char prefix[64];
	size_t length = (size_t)snprintf(
	    prefix, sizeof(prefix), "/local/domain/%u/%s", e->peer_id, e->names->below);

	if (strlen(path) >= XPV_STORE_PATH - ROOM || strncmp(path, prefix, length) != 0 ||
	    path[length] == '\0' || strstr(path, "//") != NULL || path[strlen(path) - 1] == '/')
		return false;
	for (const char *c = path; *c != '\0'; c++) {
		/* The store's own rule; without dots there is no "..". */
		if (!isalnum((unsigned char)*c) && strchr("-/_@", *c) == NULL)
			return false;
	}
	return true;
}

static int
read_peer(struct xenbus_end *e)
{
	if (xpv_store_read_u32(e->store, &e->peer_id, "%s/%s", e->dir, e->names->peer_id) != 0) {
		if (errno == ERANGE)
			errno = EINVAL;
		return -1;
	}
	e->peer_dir = xpv_store_read(e->store, "%s/%s", e->dir, e->names->peer);
	if (e->peer_dir == NULL)
		return -1;
	if (e->peer_id >= DOMID_FIRST_RESERVED || !peer_dir_valid(e)) {
		xpv_err("%s: %s \"%.256s\" in domain %u: not %s", e->dir, e->names->peer,
		    e->peer_dir, e->peer_id, e->names->what);
		errno = EINVAL;
		return -1;
	}
	return 0;
}

static bool
peer_moved(const struct xenbus_end *e)
{
	char *dir = xpv_store_read(e->store, "%s/%s", e->dir, e->names->peer);
	bool moved = dir != NULL && strcmp(dir, e->peer_dir) != 0;

	free(dir);
	return moved;
}

/* ---- watches; calling the driver is the last thing each does, as it may close the device ---- */

static void
on_peer(struct xpv_watch *w, const char *changed, void *arg)
{
	struct xenbus_end *e = arg;
	bool first = !e->peer_watch_fired;
	enum xpv_state state;

	e->peer_watch_fired = true;
	if (read_state(e->store, e->peer_dir, &state) != 0)
		return;
	if (state != e->peer) {
		e->peer = state;
		if (e->handlers.peer_changed != NULL)
			e->handlers.peer_changed(state, e->arg);
	} else if (!first && state != XPV_STATE_UNKNOWN && e->handlers.peer_touched != NULL) {
		e->handlers.peer_touched(state, e->arg);
	}
}

static void
on_own(struct xpv_watch *w, const char *changed, void *arg)
{
	struct xenbus_end *e = arg;
	bool just_moved = false;
	enum xpv_state state;

	if (read_state(e->store, e->dir, &state) != 0)
		return;
	if (!e->moved && state != XPV_STATE_UNKNOWN)
		just_moved = e->moved = peer_moved(e);
	if (state == e->own && !just_moved)
		return;
	e->own = state;
	if (e->handlers.own_changed != NULL)
		e->handlers.own_changed(state, e->arg);
}

/* ---- the device ---- */

int
xenbus_end_begin(struct xenbus_end *e, struct xpv_store *store, const struct xenbus_names *names,
    const char *dir, struct xenbus_handlers handlers, void *arg)
{
	*e = (struct xenbus_end){.store = store, .names = names, .handlers = handlers, .arg = arg};
	if (strlen(dir) >= sizeof(e->dir)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(e->dir, dir);
	if (read_peer(e) != 0 || read_state(e->store, e->dir, &e->own) != 0 ||
	    read_state(e->store, e->peer_dir, &e->peer) != 0)
		return -1;
	e->own_watch = xpv_store_watch(e->store, on_own, e, "%s/state", e->dir);
	if (e->own_watch == NULL)
		return -1;
	e->peer_watch = xpv_store_watch(e->store, on_peer, e, "%s/state", e->peer_dir);
	return e->peer_watch != NULL ? 0 : -1;
}

void
xenbus_end_end(struct xenbus_end *e)
{
	xpv_store_unwatch(e->own_watch);
	xpv_store_unwatch(e->peer_watch);
	free(e->peer_dir);
}

struct switching {
	struct xenbus_end *e;
	enum xpv_state to;
};

/*
 * A blind write would make the directory anew that the toolstack just removed, or hide that it was
 * made anew (resume) from us for ever.
 */
static int
switch_state(struct xpv_store *store, void *arg)
{
	const struct switching *s = arg;
	char path[XENBUS_DIR_MAX + sizeof("/state")];
	enum xpv_state now;

	snprintf(path, sizeof(path), "%s/state", s->e->dir);
	if (!xpv_store_exists(store, path) || read_state(store, s->e->dir, &now) != 0)
		return -1;
	if (now != s->e->own) {
		errno = ESTALE;
		return -1;
	}
	return xpv_store_write(store, path, "%d", s->to);
}

int
xenbus_end_set_state(struct xenbus_end *e, enum xpv_state state)
{
	struct switching s = {.e = e, .to = state};
	int error;

	if (state == e->own)
		return 0;
	if (xpv_store_transaction(e->store, switch_state, &s) != 0) {
		error = errno;
		xpv_notice("%s: state not set to %s: %s", e->dir, xpv_state_name(state),
		    error == ESTALE ? "the toolstack has changed it" : strerror(error));
		errno = error;
		return -1;
	}
	e->own = state;
	return 0;
}

void
xenbus_end_error(struct xenbus_end *e, int errnum, const char *fmt, va_list args)
{
	char path[XENBUS_DIR_MAX + sizeof("error//error")], text[TEXT_MAX];

	snprintf(path, sizeof(path), "error/%s/error", e->dir);
	if (errnum == 0) {
		xpv_store_remove(e->store, path);
		return;
	}
	vsnprintf(text, sizeof(text), fmt, args);
	xpv_err("%s: %s", e->dir, text);
	xpv_store_write(e->store, path, "%d %s", errnum, text);
}
