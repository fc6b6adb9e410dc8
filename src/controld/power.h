/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_POWER_H
#define CONTROL_POWER_H

#include <stdbool.h>
#include <stdint.h>

#include "requests.h"

struct control_config;
struct evbuffer;
struct event_base;
struct power;

/* Does what is asked for: the hooks, the action, the hooks; with times in the log. */

/* "diverted": the kernel tells us what it takes, as far as it can. */
struct power *power_new(
    struct event_base *base, const struct control_config *config, bool diverted);
void power_free(struct power *p); /* an action is left running, hooks are killed */

/* Calls "slept" when an action for s3 or s4 has ended. */
void power_on_slept(struct power *p, void (*slept)(void *arg), void *arg);

/* Why a request would be refused, or NULL. */
const char *power_refuse(const struct power *p, enum request request);
/* It has been taken. "from": "toolstack" or "kernel". */
void power_request(struct power *p, enum request request, const char *from);
/* It has not, and is reported. */
void power_refused(struct power *p, const char *name, const char *why);
/* The kernel has taken one; its helper has told us of it, also if that was refused. */
void power_taken_by_kernel(struct power *p, enum request request);
void power_told(struct power *p);
void power_resumed(struct power *p, bool other_domain);

/*
 * Calls "stopped" when no hooks run any more; what was taken is done first. If the kernel has taken
 * a request without telling which, and the system is being shut down, it is for that: hooks before
 * it run now.
 */
void power_stop(struct power *p, void (*stopped)(void *arg), void *arg);

/* Pages of the control socket. */
void power_write_json(struct evbuffer *out, void *power);
void power_write_metrics(struct evbuffer *out, void *power);

#endif
