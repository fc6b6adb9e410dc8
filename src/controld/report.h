/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_REPORT_H
#define CONTROL_REPORT_H

#include <stdbool.h>

struct control_config;
struct event_base;
struct report;
struct xpv_store;

/*
 * What the guest agents of XenServer and XCP-ng publish below "attr" and "data", for hosts to show:
 * the operating system, addresses, memory, our version. Written when it has changed, looked at
 * every report-interval seconds; "data/updated" tells the toolstack to look.
 */
struct report *report_start(
    struct event_base *base, struct xpv_store *store, const struct control_config *config);
/* Takes it back, and ends it. NULL is allowed. */
void report_stop(struct report *r);

/* All anew: after a resume, and when the configuration has changed. */
void report_again(struct report *r);

#endif
