/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_SYSRQ_H
#define CONTROL_SYSRQ_H

struct control_config;
struct event_base;
struct sysrq;
struct xpv_store;

/*
 * control/sysrq: one key, which Linux's kernel takes and obeys by itself. What no kernel takes goes
 * to the configured command, or is reported and stays.
 */
struct sysrq *sysrq_start(
    struct event_base *base, struct xpv_store *store, const struct control_config *config);
void sysrq_stop(struct sysrq *s); /* NULL is allowed */

#endif
