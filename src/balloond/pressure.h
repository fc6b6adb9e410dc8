/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_PRESSURE_H
#define BALLOON_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;

/*
 * The kernel's word that tasks wait for memory. Linux: a trigger of pressure stall information
 * (Documentation/accounting/psi.rst), for which the kernel wakes us up; there is no polling.
 */
struct pressure;

typedef void pressure_handler(void *arg);

/* Calls "handler" at most once per window while tasks wait for stall_ms of window_ms (500 to
 * 10000). NULL if the kernel has no such thing, after a log line that says what to do. */
struct pressure *pressure_open(struct event_base *base, const char *procfs, long stall_ms,
    long window_ms, pressure_handler *handler, void *arg);
void pressure_close(struct pressure *p); /* NULL is allowed */

/* Whether the kernel will still tell; false for NULL. */
bool pressure_works(const struct pressure *p);

/* Microseconds that tasks have waited since the boot, from the text of the kernel's file; -1 if it
 * has none. */
int64_t pressure_parse(const char *text);
int64_t pressure_total_us(const struct pressure *p);

#endif
