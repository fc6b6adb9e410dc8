/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_SETTINGS_H
#define BALLOON_SETTINGS_H

#include <stdbool.h>

#include <xenpv/options.h>

#include "policy.h"

/* balloond.conf(5). */
struct settings {
	struct policy_config policy;
	long interval_ms;
	long stall_ms, window_ms, refaults;
	int publish; /* enum host_keys */
	long publish_s, publish_kib;
	/* Not changed by reading the file again: */
	int mechanism; /* enum mechanism_choice */
	bool dry_run;
	char *rundir, *sysfs, *procfs;
};

/* The defaults, and what xpv_options_parse() fills them by. */
void settings_init(struct settings **settings, struct xpv_program *program);

#endif
