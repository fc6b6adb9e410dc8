/* SPDX-License-Identifier: BSD-2-Clause */
#include "claim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/xenbus.h>

struct claim {
	const char *name;
	char dev_class[32], bus_id[64];
	struct event *poll;
	unsigned waited_ms;
	bool failure_logged;
	void (*done)(void *arg);
	void *arg;
};

static void
poll_again(struct claim *c)
{
	struct timeval soon = {.tv_usec = CLAIM_POLL_MS * 1000}, later = {.tv_sec = 1};

	event_add(c->poll, c->failure_logged ? &later : &soon);
}

/* False: the kernel has it and keeps it. */
static bool
release(struct claim *c, const char *driver, const char *how)
{
	if (xpv_kernel_backend_release(c->bus_id) == 0 || errno == ENODEV) {
		xpv_info("%s: taken from the kernel's %s", c->name, driver);
		c->failure_logged = false;
		return true;
	}
	if (!c->failure_logged)
		xpv_err("%s (%s) is served by the kernel's %s, and cannot be taken from it: %s; to "
			"free it: %s",
		    c->name, c->bus_id, driver, strerror(errno), how);
	c->failure_logged = true;
	return false;
}

static void
on_poll(evutil_socket_t fd, short events, void *arg)
{
	char driver[64], how[160];
	struct claim *c = arg;

	c->waited_ms += CLAIM_POLL_MS;
	if (xpv_kernel_backend(c->bus_id, driver, sizeof(driver), how, sizeof(how))
		? release(c, driver, how)
		: c->waited_ms >= CLAIM_WAIT_MS)
		c->done(c->arg);
	else
		poll_again(c);
}

bool
claim_begin(struct claim *c, enum claim_state state)
{
	char driver[64], how[160];

	event_del(c->poll);
	c->waited_ms = 0;
	if (!xpv_kernel_backend(c->bus_id, driver, sizeof(driver), how, sizeof(how))) {
		if (state != CLAIM_FRESH || !xpv_kernel_backend_loaded(c->dev_class))
			return true;
	} else if (state == CLAIM_IN_USE) {
		xpv_warning("%s (%s) is in use with the kernel's %s: left to it until it is closed",
		    c->name, c->bus_id, driver);
		return false;
	} else if (release(c, driver, how)) {
		return true;
	}
	poll_again(c);
	return false;
}

void
claim_check(struct claim *c)
{
	char driver[64], how[160];

	if (!event_pending(c->poll, EV_TIMEOUT, NULL) &&
	    xpv_kernel_backend(c->bus_id, driver, sizeof(driver), how, sizeof(how)) &&
	    release(c, driver, how))
		xpv_warning("%s: the kernel's driver had bound to a disk in use: keep xen-blkback "
			    "from being loaded, or load it before (see xen-blkbackd(8))",
		    c->name);
}

struct claim *
claim_new(struct event_base *base, const char *name, const char *dev_class, uint32_t domid,
    uint32_t vdev, void (*done)(void *arg), void *arg)
{
	struct claim *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->name = name;
	c->done = done;
	c->arg = arg;
	snprintf(c->dev_class, sizeof(c->dev_class), "%s", dev_class);
	snprintf(c->bus_id, sizeof(c->bus_id), "%s-%u-%u", dev_class, domid, vdev);
	c->poll = evtimer_new(base, on_poll, c);
	if (c->poll == NULL) {
		free(c);
		return NULL;
	}
	return c;
}

void
claim_free(struct claim *c)
{
	if (c == NULL)
		return;
	event_free(c->poll);
	free(c);
}
