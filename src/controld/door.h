/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_DOOR_H
#define CONTROL_DOOR_H

#include "requests.h"

struct event_base;
struct door;

/*
 * Where the kernel's helper programs tell the daemon of a request that the kernel has taken:
 * a socket in the run-time directory, on which somebody says a request's name and is answered
 * "taken" or "refused". The daemon acts on it only if the answer could be given, and who asked does
 * it by other means only if there was no answer and none can come any more: never both, never
 * neither.
 */

#define DOOR_OPTION "--kernel-request"

enum door_answer {
	DOOR_TAKEN,
	DOOR_REFUSED,
};

struct door_ops {
	/* What will become of it; nothing is done yet. */
	enum door_answer (*ask)(enum request request, void *arg);
	/* It was "taken": now it is to be done. */
	void (*take)(enum request request, void *arg);
};

/* NULL after a log line. */
struct door *door_open(
    struct event_base *base, const char *rundir, const struct door_ops *ops, void *arg);
void door_close(struct door *d); /* NULL is allowed */

/*
 * The other side, which is all that a program called by the kernel does: asks the daemon whose
 * run-time directory that is; if there is none, or it does not answer, runs "instead" (a command
 * with arguments, may be empty). Returns an exit status.
 */
int door_knock(const char *request, const char *rundir, char *const instead[]);

#endif
