/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_HOOKS_H
#define CONTROL_HOOKS_H

#include <stdbool.h>

struct event_base;
struct hooks;

/*
 * The programs of a directory, run one after the other in the order of their names (bytes), each
 * with the arguments PHASE REQUEST [RESULT]: "before poweroff", "after suspend resumed". One that
 * fails or is ended for taking too long does not keep the others from running.
 */

struct hooks_result {
	unsigned run, failed, timed_out;
};

/* From the event loop, never from hooks_start(); there are no hooks any more. */
typedef void hooks_ended(const struct hooks_result *result, void *arg);

/* "result" may be NULL; "env" ends with NULL. All are copied. NULL: out of memory. */
struct hooks *hooks_start(struct event_base *base, const char *dir, const char *phase,
    const char *request, const char *result, char *const env[], unsigned timeout_ms,
    hooks_ended *ended, void *arg);

/* Kills what runs, and forgets the rest. */
void hooks_kill(struct hooks *h);

/* Which files in the directory are hooks: those of a plain name (letters, digits, "_", "-", and
 * dots inside) that can be executed and that nobody but root can write to. NULL-terminated, sorted,
 * to be freed with its strings; empty if there is no such directory. */
char **hooks_list(const char *dir);
void hooks_list_free(char **names);

#endif
