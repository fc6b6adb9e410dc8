/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_SYSTEM_H
#define CONTROL_SYSTEM_H

#include <stdbool.h>
#include <stdint.h>

#include "requests.h"

struct sockaddr;

/*
 * What differs by system: what the kernel does by itself with the requests that we watch too, and
 * what the commands are. docs/control.md tells where this is known from.
 */

/* The default command for a request; NULL: there is none. */
const char *system_action(enum request request);

/*
 * True for what the kernel is to have the first go at, because only it can do it, or because it
 * would also do what somebody else has taken. What it left lying after a while can be taken.
 */
bool system_goes_first(enum request request);

/* True for what the kernel may take; the rest it leaves. */
bool system_kernel_takes(enum request request);

/* The kernel has a handler for control/sysrq. */
bool system_has_sysrq(void);

/* What the kernel was asked for when it took a request and did not tell us. */
enum request system_untold(bool diverted);

/* A shell command that fails if the system is not being shut down; NULL: that cannot be told. */
const char *system_stopping_check(void);

/*
 * Makes the kernel tell this daemon ("door" is its directory) of the requests it takes, where that
 * can be. False if it cannot, with a log line if that is a fault. system_undivert() gives back
 * what was there before; if nobody does, the kernel's call still ends where it would have.
 */
bool system_divert(const char *rundir);
void system_undivert(void);

/* Whether /sbin/reboot, which Linux calls for a reboot, is made to ask us; true where that does not
 * matter. */
bool system_reboot_asks(void);

/* Time this system has spent suspended since it was booted; constant where it is not known. */
int64_t system_slept_ns(void);

/* Memory in KiB. False if it is not known. */
bool system_memory(uint64_t *total, uint64_t *available);

/* The hardware address in an address of getifaddrs(3); false if it has none. */
bool system_mac(const struct sockaddr *address, uint8_t mac[6]);

#endif
