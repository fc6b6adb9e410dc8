/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_HOST_H
#define BALLOON_HOST_H

#include <stdbool.h>
#include <stdint.h>

struct meminfo;
struct xpv_store;

/*
 * What the host says and is told, in xenstore. Its words are numbers of a toolstack: checked, and
 * what makes no sense changes nothing.
 */
struct host;

enum host_keys {
	HOST_KEYS_NONE,
	HOST_KEYS_DATA,	 /* data/meminfo_total, data/meminfo_free, as xe-guest-utilities */
	HOST_KEYS_XAPI,	 /* these, and control/feature-balloon, which squeezed wants */
	HOST_KEYS_QUBES, /* memory/meminfo, for qmemman */
};

struct host_publish {
	enum host_keys keys;
	uint64_t interval_ms;
	int64_t change_kib;
};

/* "on_target": memory/target may have changed. NULL after a log line. */
struct host *host_open(struct xpv_store *store, void (*on_target)(void *arg), void *arg);
void host_close(struct host *h); /* NULL is allowed */

/* In the host's count, KiB; 0: it has not said. A target of 0 is 4. */
int64_t host_target(const struct host *h);
int64_t host_static_max(const struct host *h);
uint64_t host_targets(const struct host *h);  /* so many came */
uint64_t host_nonsense(const struct host *h); /* so many of them made no sense */

/* What the host counts more than the guest's kernel: what a PVH or HVM guest's kernel never gets
 * to see. "boot" is the kernel's. */
int64_t host_offset(const struct host *h, bool pv, int64_t boot);

/* Whatever it has been told, and has refused: it is told anew. */
void host_forget(struct host *h);

/* Tells the host, if it is time. True if it has been told. */
bool host_publish(
    struct host *h, const struct host_publish *how, const struct meminfo *m, uint64_t now_ms);

#endif
