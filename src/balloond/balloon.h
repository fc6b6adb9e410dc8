/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_BALLOON_H
#define BALLOON_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include <xenpv/stats.h>

#include "host.h"
#include "mechanism.h"
#include "meminfo.h"
#include "policy.h"
#include "pressure.h"

struct event;
struct event_base;
struct settings;
struct xpv_store;

struct balloon_stats {
	xpv_counter target_bytes, current_bytes, available_bytes, granted_bytes;
	xpv_counter up, down;	   /* targets set */
	xpv_counter failures;	   /* ... that the mechanism refused */
	xpv_counter overridden;	   /* ... that another writer replaced */
	xpv_counter pressure;	   /* triggers of the kernel */
	xpv_counter refaulting;	   /* looks that found too many refaults */
	xpv_counter pressure_us;   /* the kernel's count of the time that tasks have waited */
	xpv_counter host_targets;  /* changes of memory/target */
	xpv_counter host_nonsense; /* ... that are no number */
	xpv_counter published;
};

/* The guest's balloon: looks, decides (policy.h), acts (mechanism.h), tells (host.h). One per
 * process, in its main thread. */
struct balloon {
	struct event_base *base;
	const struct settings *settings;
	struct host *host;
	struct meminfo_source *source;
	struct pressure *pressure; /* NULL: the kernel has none */
	long stall_ms, window_ms;  /* as it was opened with */
	struct mechanism *mechanism;
	struct event *look; /* the next look at the memory */
	struct event *work; /* the mechanism's next part */

	struct policy policy;
	struct meminfo meminfo;
	bool pv, waited; /* waited: tasks have, since the last look */
	int64_t boot, current, granted, limit, used;
	uint64_t looked_ms;
	int64_t refaults; /* at refaults_ms */
	uint64_t refaults_ms;

	unsigned after_host;		      /* looks that follow the host's word, still to come */
	int64_t wanted;			      /* what was set last; 0: nothing yet */
	uint64_t set_ms;		      /* when */
	uint64_t quarrel_ms, quarrel_wait_ms; /* another writer is not answered before */

	struct balloon_stats stats;
};

/* 0, or after a log line the exit status: EX_UNAVAILABLE if there is nothing to work with,
 * EX_TEMPFAIL if it may work another time. */
int balloon_start(struct balloon *b, struct event_base *base, struct xpv_store *store,
    const struct settings *settings);
/* The settings have changed. */
void balloon_reload(struct balloon *b);
/* Brings the guest back to what the host grants, and all pages of our own to the kernel, as nobody
 * looks after them from now on. What takes longer than some seconds stays as it is. */
void balloon_stop(struct balloon *b);
void balloon_free(struct balloon *b);

#endif
