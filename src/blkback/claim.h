/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_CLAIM_H
#define BLKBACK_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;

/*
 * Taking a vbd from the kernel's backend driver, where that has it or is about to have it.
 *
 * Linux, by its sources: the thread that serves xenstore's watches makes a device of each new
 * directory, but only of one in state Initialising, and binds it to a driver that is loaded before
 * it goes on; xen-blkback then writes InitWait. It and we are woken by the same write, so the
 * kernel may be a moment later than we are, and more when that thread is busy. Once the state is no
 * longer Initialising no new device is made. The link to the driver appears before the driver's
 * probe function runs, and unbinding waits for its end, so to unbind what has a link is safe.
 *
 * What remains is a driver that is loaded later: it binds to all devices there are, in whatever
 * state. udev loads it on a device's first appearance, so who wants none of it keeps it from being
 * loaded: see xen-blkbackd(8).
 */
struct claim;

#define CLAIM_WAIT_MS 1000
#define CLAIM_POLL_MS 20

/* "name" is for the log, and stays valid. "done" is called from the event loop. NULL: no memory. */
struct claim *claim_new(struct event_base *base, const char *name, const char *dev_class,
    uint32_t domid, uint32_t vdev, void (*done)(void *arg), void *arg);
void claim_free(struct claim *c); /* NULL is allowed */

enum claim_state {
	CLAIM_FRESH, /* Initialising: the kernel may still come */
	CLAIM_IDLE,
	CLAIM_IN_USE, /* the kernel would lose what is in flight: left to it, with a message */
};

/* True if the vbd is ours already; else "done" is called when it is, unless it is in use. */
bool claim_begin(struct claim *c, enum claim_state state);

/* Something happened to the vbd: is it still ours? If the kernel has it, it is taken back. */
void claim_check(struct claim *c);

#endif
