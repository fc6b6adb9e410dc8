/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_WATCH_H
#define CONTROL_WATCH_H

#include <stdbool.h>

#include "requests.h"

struct event_base;
struct watch;
struct xpv_store;

/*
 * The toolstack's side of control/shutdown: a request is written there, and taken by writing "" in
 * the transaction that read it, so that of all who watch exactly one has it. What is not taken
 * stays, as Linux leaves what it does not know.
 *
 * Also tells when the domain was suspended and goes on: then all watches are set anew and fire,
 * that of "domid" too, which else never does; a suspend that was cancelled, or from which this very
 * domain was resumed, shows in the time that the clocks have lost.
 */

struct watch_ops {
	/* NULL: take it. Else why it is refused. */
	const char *(*refuse)(enum request request, void *arg);
	void (*request)(enum request request, void *arg);
	/* Something that is no request, or is refused, is there; once as long as it is. */
	void (*refused)(const char *name, const char *why, void *arg);
	/* Somebody else, the kernel, has taken one: REQUEST_NONE if it was too fast to be seen. */
	void (*taken_by_other)(enum request request, void *arg);
	/* "other_domain": as another domain than before; else the same goes on. */
	void (*resumed)(bool other_domain, void *arg);
};

/* NULL after a log line. "grace_ms" is for what the kernel is to look at first. */
struct watch *watch_start(struct event_base *base, struct xpv_store *store, unsigned grace_ms,
    const struct watch_ops *ops, void *arg);
void watch_stop(struct watch *w); /* NULL is allowed */

/* Tells at once what is known so far, without waiting for further signs. */
void watch_flush(struct watch *w);

/* An action of ours has put the system to sleep: what the clocks have lost is no resume. */
void watch_slept(struct watch *w);

void watch_set_grace(struct watch *w, unsigned grace_ms);

#endif
