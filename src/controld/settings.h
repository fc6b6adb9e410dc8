/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_SETTINGS_H
#define CONTROL_SETTINGS_H

#include <stdbool.h>

#include "requests.h"

/* Values of controld.conf(5). */
struct control_config {
	char *action[REQUEST_NAMED]; /* a command, "refuse", or NULL: the default */
	char *sysrq;		     /* the same; the command gets the key */
	char *hooks;		     /* directory */
	long hook_timeout_s, action_timeout_s;
	long again_after_s;
	long grace_ms;
	bool divert;
	bool report;
	long report_interval_s;
	char *rundir;
};

#define CONTROL_REFUSE "refuse"

/* The command that does a request, or NULL with "why": it is refused. */
const char *settings_action(
    const struct control_config *config, enum request request, const char **why);

#endif
