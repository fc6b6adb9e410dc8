/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_POLICY_H
#define BALLOON_POLICY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How much memory the guest shall have: arithmetic only, no I/O, on a clock of the caller's.
 * balloond.conf(5) explains it to users; the names here are those of the settings.
 *
 * All sizes are KiB. "used" is what the guest cannot do without: current - available. Whatever the
 * policy is, the target is never below the floor, nor below used + reserve, and, but for these two,
 * never above what the host grants.
 *
 * Threading: none.
 */

enum policy_kind {
	POLICY_MANUAL, /* as much as the host grants */
	POLICY_AUTO,   /* as much as the guest needs */
	POLICY_STATIC, /* a fixed size */
};

struct policy_config {
	int kind; /* enum policy_kind */
	long floor;
	long maximum, size;		 /* 0: none; 0: as large as at the start */
	long reserve;			 /* 0: computed from the boot size, as floor is */
	long headroom, hysteresis, step; /* percent */
	long up, down;			 /* KiB per second; 0: computed */
	long settle_ms, calm_ms;
};

/* What the guest and the host look like now. */
struct policy_input {
	uint64_t now_ms;
	int64_t boot;	   /* memory without a balloon */
	int64_t limit;	   /* the host never gives more: memory/static-max */
	int64_t granted;   /* memory/target; 0: the host has not said */
	int64_t current;   /* memory the guest has */
	int64_t available; /* of it, without swapping or thrashing */
	bool pressure;	   /* tasks have waited for memory since the last step */
	long interval_ms;  /* between two steps, when nothing happens */
};

enum policy_reason {
	POLICY_STEADY,	 /* nothing to change */
	POLICY_HOST,	 /* the host grants more or less */
	POLICY_NEED,	 /* the guest has grown */
	POLICY_PRESSURE, /* tasks wait for memory */
	POLICY_SURPLUS,	 /* the guest has had more than it needs for a while */
	POLICY_FLOOR,	 /* the host wants more than the guest can give */
};

struct policy {
	int64_t target;
	int64_t size;  /* at the start */
	int64_t asked; /* manual, static: by the host or the settings */
	bool surplus;  /* since surplus_ms there has been more than is needed */
	uint64_t surplus_ms;
	uint64_t calm_ms; /* nothing is taken before */
	uint64_t last_ms; /* of the last step */
	int64_t left;	  /* auto: of the last step, less than a page; thousandths of a KiB */
	enum policy_reason reason;
};

void policy_init(struct policy *p, int64_t current, uint64_t now_ms);

/* The new target, which is p->target, a multiple of 4; p->reason says why. */
int64_t policy_step(struct policy *p, const struct policy_config *c, const struct policy_input *in);

/* What is computed where the setting is 0. */
int64_t policy_floor(const struct policy_config *c, int64_t boot);
int64_t policy_reserve(const struct policy_config *c, int64_t boot);

/* When to look again at the latest, in milliseconds: while "used" grows, before an eighth of what
 * is available is gone. "growth" is in KiB per second. */
long policy_next_ms(long interval_ms, int64_t available, int64_t growth);

const char *policy_reason_name(enum policy_reason reason);

#endif
