/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_MECHANISM_H
#define BALLOON_MECHANISM_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Who gives memory to the hypervisor and takes it back. Sizes are KiB, of the whole guest.
 *
 * None ever gives away a page that something may still touch, and none needs this process to go on:
 * what is out stays out and owned when it is killed, and the next one finds it.
 */
struct mechanism {
	const char *name;
	/* The memory the guest has now. 0, or -1 with errno. */
	int (*current)(struct mechanism *m, int64_t *kib);
	/* What it is on the way to. Others may have set that. 0, or -1 with errno. */
	int (*target)(struct mechanism *m, int64_t *kib);
	/* Goes there; returns at once. 0, or -1 with errno. */
	int (*set)(struct mechanism *m, int64_t kib);
	/* A part of the way that does not take long; true if it is to be called again soon. NULL:
	 * it goes by itself. */
	bool (*work)(struct mechanism *m);
	/* KiB that are given away and the kernel counts as its own. NULL: none. */
	int64_t (*out)(struct mechanism *m);
	/* A part of the way to a guest of "kib" that needs nobody any more: the KiB that are still
	 * out. NULL: it needs nobody. */
	int64_t (*leave)(struct mechanism *m, int64_t kib);
	void (*close)(struct mechanism *m);
	int64_t step_kib; /* the target is met when it is nearer than this */
};

enum mechanism_choice { MECHANISM_AUTO, MECHANISM_KERNEL, MECHANISM_PRIVCMD };

struct mechanism_where {
	const char *sysfs, *procfs, *rundir;
	bool dry_run; /* look, and change nothing */
};

/* NULL after a log line that says what to do, with errno: ENODEV if there is nothing to work with
 * and trying again is no use, else what failed. MECHANISM_AUTO is the kernel's: it never makes
 * hypercalls of our own by itself. */
struct mechanism *mechanism_open(enum mechanism_choice choice, const struct mechanism_where *where);
void mechanism_close(struct mechanism *m); /* NULL is allowed */

struct mechanism *mechanism_kernel_open(const char *sysfs, bool dry_run);
struct mechanism *mechanism_privcmd_open(const struct mechanism_where *where);

/* The memory the kernel's own balloon leaves it. -1 with errno: it has none. */
int mechanism_kernel_current(const char *sysfs, int64_t *kib);

#endif
