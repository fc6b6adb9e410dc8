/* SPDX-License-Identifier: BSD-2-Clause */
#include "host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <xenpv/log.h>
#include <xenpv/store.h>

#include "meminfo.h"

#define SIZE_MAX_KIB (UINT64_C(1) << 50)

struct host {
	struct xpv_store *store;
	struct xpv_watch *watch;
	void (*on_target)(void *arg);
	void *arg;
	int64_t target, static_max;
	uint64_t targets, nonsense;

	int64_t domid;
	const char *told_node; /* one that was written */
	int64_t told_free;     /* what was published last */
	uint64_t told_ms;
	bool told;
	bool refused; /* the host does not let us */
};

/* 0, or -1: not there, or no number. */
static int
read_size(struct host *h, const char *path, int64_t *kib)
{
	uint64_t value;

	if (xpv_store_read_u64(h->store, &value, "%s", path) != 0) {
		if (errno != ERANGE)
			return -1;
		value = SIZE_MAX_KIB;
	}
	*kib = (int64_t)(value > SIZE_MAX_KIB ? SIZE_MAX_KIB : value);
	return 0;
}

static void
read_target(struct host *h)
{
	int64_t kib;

	h->targets++;
	if (read_size(h, "memory/target", &kib) == 0)
		h->target = kib > 0 ? kib : 4;
	else if (errno != ENOENT)
		h->nonsense++;
	/* A migration may change it. */
	if (read_size(h, "memory/static-max", &kib) == 0 && kib > 0)
		h->static_max = kib;
}

void
host_forget(struct host *h)
{
	h->told = h->refused = false;
}

/* Watches are set anew after a migration or a restore, so that this is asked then. The new domain
 * may have the old one's number. */
static void
see_whether_moved(struct host *h)
{
	int64_t domid = h->domid;

	read_size(h, "domid", &domid);
	if (domid != h->domid || (h->told && !xpv_store_exists(h->store, h->told_node)))
		host_forget(h);
	h->domid = domid;
}

static void
on_watch(struct xpv_watch *w, const char *changed, void *arg)
{
	struct host *h = arg;

	see_whether_moved(h);
	read_target(h);
	h->on_target(h->arg);
}

struct host *
host_open(struct xpv_store *store, void (*on_target)(void *arg), void *arg)
{
	struct host *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->store = store;
	h->on_target = on_target;
	h->arg = arg;
	read_size(h, "domid", &h->domid);
	read_target(h);
	h->watch = xpv_store_watch(store, on_watch, h, "memory/target");
	if (h->watch != NULL)
		return h;
	host_close(h);
	return NULL;
}

void
host_close(struct host *h)
{
	if (h == NULL)
		return;
	xpv_store_unwatch(h->watch);
	free(h);
}

int64_t
host_target(const struct host *h)
{
	return h->target;
}

int64_t
host_static_max(const struct host *h)
{
	return h->static_max;
}

uint64_t
host_targets(const struct host *h)
{
	return h->targets;
}

uint64_t
host_nonsense(const struct host *h)
{
	return h->nonsense;
}

int64_t
host_offset(const struct host *h, bool pv, int64_t boot)
{
	return !pv && h->static_max > boot ? h->static_max - boot : 0;
}

/* --- publishing --- */

static int
write_data(struct host *h, const struct meminfo *m)
{
	if (xpv_store_write(h->store, "data/meminfo_total", "%" PRId64, m->total) != 0)
		return -1;
	return xpv_store_write(h->store, "data/meminfo_free", "%" PRId64, m->available);
}

static int
write_keys(struct host *h, enum host_keys keys, const struct meminfo *m)
{
	h->told_node = "memory/meminfo";
	if (keys == HOST_KEYS_QUBES)
		return xpv_store_write(
		    h->store, "memory/meminfo", "%" PRId64, m->total - m->available + m->swap_used);
	h->told_node = "data/meminfo_free";
	if (keys == HOST_KEYS_XAPI) {
		h->told_node = "control/feature-balloon";
		if (!h->told && xpv_store_write(h->store, h->told_node, "1") != 0)
			return -1;
	}
	return write_data(h, m);
}

bool
host_publish(
    struct host *h, const struct host_publish *how, const struct meminfo *m, uint64_t now_ms)
{
	if (how->keys == HOST_KEYS_NONE || h->refused)
		return false;
	if (h->told && (now_ms - h->told_ms < how->interval_ms ||
			   llabs(m->available - h->told_free) < how->change_kib))
		return false;
	if (write_keys(h, how->keys, m) != 0) {
		h->refused = errno == EACCES;
		if (h->refused)
			xpv_warning("the host does not let this guest write there: choose other "
				    "keys with \"publish\"; nothing is published");
		return false;
	}
	h->told = true;
	h->told_ms = now_ms;
	h->told_free = m->available;
	return true;
}
