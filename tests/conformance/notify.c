/* SPDX-License-Identifier: BSD-2-Clause */

/* What happens when a mapping, or a share, ends: a byte is cleared, an event is sent. a shares, b
 * maps; each in turn is the one whose end the other is told of. */

#include "conformance.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xengnttab.h>

#define RW   (PROT_READ | PROT_WRITE)
#define FULL 0xee
#define AT   100
#define NONE (~0u)

static xenevtchn_handle *xce;
static evtchn_port_t port; /* this end of the one channel */
static uint32_t far_port;  /* of a's that wait for b */

static void
no_event(const char *name)
{
	is(next_event(xce, QUIET_MS), -1, "%s", name);
}

static void
one_event(const char *name)
{
	is(next_event(xce, SOON_MS), port, "%s", name);
	xenevtchn_unmask(xce, port);
}

/* --- b maps, and a sees it end --- */

static void
sees(const char *step, const char *what, volatile uint8_t *page, uint32_t offset, bool event)
{
	memset((uint8_t *)(uintptr_t)page, FULL, PAGE);
	tell(step, 1);
	hear(step);
	if (event)
		one_event(what);
	else
		no_event(what);
	if (offset < PAGE) {
		ok(becomes(&page[offset], 0), "%s: byte cleared", what);
		page[offset] = FULL;
	}
	for (unsigned i = 0; i < PAGE; i++)
		if (page[i] != FULL) {
			is(i, PAGE, "%s: nothing else changed", what);
			return;
		}
	ok(true, "%s: nothing else changed", what);
}

static void
watches_maps(xengntshr_handle *xgs)
{
	uint32_t ref, ports[2];
	uint8_t *page = xengntshr_share_pages(xgs, peer, 1, &ref, 1);

	if (page == NULL)
		bail("share: %s", strerror(errno));
	tell("ref", ref);
	sees("both", "unmap with byte and event", page, AT, true);
	sees("byte", "unmap with a byte", page, PAGE - 1, false);
	sees("event", "unmap with an event", page, NONE, true);
	sees("neither", "unmap with neither", page, NONE, false);
	sees("beyond", "unmap with a byte beyond the page", page, NONE, true);
	sees("wrong", "wrong notifications", page, NONE, false);
	sees("close", "close of the handle", page, NONE, false);

	/* Of the child's own channel; its death closes that, but not before the event is sent. */
	for (unsigned i = 0; i < 2; i++) {
		ports[i] = (uint32_t)xenevtchn_bind_unbound_port(xce, peer);
		memset(page, FULL, PAGE);
		tell(i == 0 ? "child0" : "child1", ports[i]);
		hear(i == 0 ? "mapped0" : "mapped1");
		settle(xce);
		tell(i == 0 ? "kill0" : "kill1", 1);
		is(next_event(xce, SOON_MS), ports[i], "killed, %s opened first: event",
		    i == 0 ? "events" : "grants");
		xenevtchn_unmask(xce, ports[i]);
		ok(becomes(&page[AT], 0), "killed, %s opened first: byte cleared",
		    i == 0 ? "events" : "grants");
		hear(i == 0 ? "killed0" : "killed1");
		no_event("and no more");
	}
	xengntshr_unshare(xgs, page, 1);
}

struct mapper {
	uint32_t ref;
	uint32_t port;
	bool grants_first;
};

static void
map_in_child(void *arg)
{
	struct mapper *m = arg;
	xengnttab_handle *xgt = m->grants_first ? xengnttab_open(NULL, 0) : NULL;
	xenevtchn_handle *mine = xenevtchn_open(NULL, 0);
	int64_t bound = xenevtchn_bind_interdomain(mine, peer, m->port);

	if (xgt == NULL)
		xgt = xengnttab_open(NULL, 0);
	child_says(bound > 0 && xengnttab_map_grant_ref_notify(
				    xgt, peer, m->ref, RW, AT, (evtchn_port_t)bound) != NULL);
	child_waits();
}

static void
unmap_with(xengnttab_handle *xgt, const char *step, uint32_t ref, uint32_t offset, uint32_t event)
{
	uint8_t *p;

	hear(step);
	p = xengnttab_map_grant_ref_notify(xgt, peer, ref, RW, offset, event);
	if (ok(p != NULL, "map with notification: %s", step))
		is(xengnttab_unmap(xgt, p, 1), 0, "unmap with notification: %s", step);
	tell(step, 1);
}

static void
ends_maps(void)
{
	xengnttab_handle *xgt = xengnttab_open(NULL, 0), *other = xengnttab_open(NULL, 0);
	uint32_t ref = hear("ref");
	uint8_t *p;

	unmap_with(xgt, "both", ref, AT, port);
	unmap_with(xgt, "byte", ref, PAGE - 1, NONE);
	unmap_with(xgt, "event", ref, NONE, port);
	unmap_with(xgt, "neither", ref, NONE, NONE);
	unmap_with(xgt, "beyond", ref, PAGE, port);

	hear("wrong");
	fails_null(xengnttab_map_grant_ref_notify(xgt, peer, ref, PROT_READ, AT, NONE), EINVAL,
	    "map to read, with a byte to clear");
	fails_null(xengnttab_map_grant_ref_notify(xgt, peer, ref, RW, NONE, 4000), EINVAL,
	    "map with a port that is nobody's");
	p = xengnttab_map_grant_ref_notify(xgt, peer, ref, PROT_READ, NONE, NONE);
	ok(p != NULL, "map to read, without");
	if (p != NULL)
		xengnttab_unmap(xgt, p, 1);
	tell("wrong", 1);

	/* As the mapping is still there, it has not ended. */
	hear("close");
	p = xengnttab_map_grant_ref_notify(other, peer, ref, RW, AT, port);
	ok(p != NULL, "map with notification: close");
	xengnttab_close(other);
	ok(!faults(p, false), "it outlives the handle");
	tell("close", 1);

	for (unsigned i = 0; i < 2; i++) {
		struct mapper m = {
		    .ref = ref, .port = hear(i == 0 ? "child0" : "child1"), .grants_first = i == 1};
		struct child child = child_start(map_in_child, &m);

		is(child_hear(&child), 1, "a child maps with notification");
		tell(i == 0 ? "mapped0" : "mapped1", 1);
		hear(i == 0 ? "kill0" : "kill1");
		child_kill(&child);
		tell(i == 0 ? "killed0" : "killed1", 1);
	}
	xengnttab_close(xgt);
}

/* --- a shares, and b sees it end --- */

static void
share_with(
    xengntshr_handle *xgs, const char *step, const char *done, uint32_t offset, uint32_t event)
{
	uint32_t ref = 0;
	uint8_t *p = xengntshr_share_page_notify(xgs, peer, &ref, 1, offset, event);

	if (!ok(p != NULL, "share with notification: %s", step))
		bail("share: %s", strerror(errno));
	memset(p, FULL, PAGE);
	tell(step, ref);
	hear(step);
	is(xengntshr_unshare(xgs, p, 1), 0, "unshare with notification: %s", step);
	tell(done, 1);
	hear(done);
}

struct sharer {
	uint32_t port;
	bool grants_first;
};

/* The child makes the port, as b binds to it only when it has been told. */
static void
share_in_child(void *arg)
{
	struct sharer *s = arg;
	xengntshr_handle *xgs = s->grants_first ? xengntshr_open(NULL, 0) : NULL;
	xenevtchn_handle *mine = xenevtchn_open(NULL, 0);
	int64_t unbound = xenevtchn_bind_unbound_port(mine, peer);
	uint32_t ref = 0;
	uint8_t *p;

	if (xgs == NULL)
		xgs = xengntshr_open(NULL, 0);
	p = xengntshr_share_page_notify(xgs, peer, &ref, 1, AT, (evtchn_port_t)unbound);
	if (unbound <= 0 || p == NULL)
		_exit(1);
	memset(p, FULL, PAGE);
	child_says((uint32_t)unbound);
	child_says(ref);
	child_waits();
}

static void
ends_shares(xengntshr_handle *xgs)
{
	uint32_t ref;

	share_with(xgs, "s-both", "s-both-done", AT, port);
	share_with(xgs, "s-byte", "s-byte-done", 0, NONE);
	share_with(xgs, "s-event", "s-event-done", NONE, port);
	share_with(xgs, "s-beyond", "s-beyond-done", PAGE, port);
	fails_null(xengntshr_share_page_notify(xgs, peer, &ref, 1, NONE, 4000), EINVAL,
	    "share with a port that is nobody's");
	for (unsigned i = 0; i < 2; i++) {
		struct sharer s = {.grants_first = i == 1};
		struct child child = child_start(share_in_child, &s);

		tell(i == 0 ? "s-port0" : "s-port1", child_hear(&child));
		tell(i == 0 ? "s-ref0" : "s-ref1", child_hear(&child));
		hear(i == 0 ? "s-kill0" : "s-kill1");
		child_kill(&child);
	}
}

static void
watch_share(xengnttab_handle *xgt, const char *step, const char *done, uint32_t offset, bool event)
{
	uint32_t ref = hear(step);
	uint8_t *p = xengnttab_map_grant_ref(xgt, peer, ref, RW);

	if (!ok(p != NULL && p[AT] == FULL, "mapped: %s", step))
		bail("map: %s", strerror(errno));
	tell(step, 1);
	hear(done);
	if (event)
		one_event("unshare: event");
	else
		no_event("unshare: no event");
	if (offset < PAGE)
		ok(becomes(&p[offset], 0), "unshare: byte cleared");
	ok(p[AT + 1] == FULL, "unshare: nothing else changed");
	xengnttab_unmap(xgt, p, 1);
	tell(done, 1);
}

static void
watches_shares(void)
{
	xengnttab_handle *xgt = xengnttab_open(NULL, 0);

	watch_share(xgt, "s-both", "s-both-done", AT, true);
	watch_share(xgt, "s-byte", "s-byte-done", 0, false);
	watch_share(xgt, "s-event", "s-event-done", NONE, true);
	watch_share(xgt, "s-beyond", "s-beyond-done", NONE, true);
	for (unsigned i = 0; i < 2; i++) {
		const char *first = i == 0 ? "events" : "grants";
		uint32_t remote = hear(i == 0 ? "s-port0" : "s-port1");
		uint32_t ref = hear(i == 0 ? "s-ref0" : "s-ref1");
		int64_t local = xenevtchn_bind_interdomain(xce, peer, remote);
		uint8_t *p = xengnttab_map_grant_ref(xgt, peer, ref, RW);

		if (!ok(local > 0 && p != NULL && p[AT] == FULL, "mapped of a child"))
			bail("map: %s", strerror(errno));
		settle(xce);
		tell(i == 0 ? "s-kill0" : "s-kill1", 1);
		is(next_event(xce, SOON_MS), local, "sharer killed, %s opened first: event", first);
		ok(becomes(&p[AT], 0), "sharer killed, %s opened first: byte cleared", first);
		is(p[AT + 1], FULL, "its page is still there");
		xenevtchn_unmask(xce, (evtchn_port_t)local);
		xengnttab_unmap(xgt, p, 1);
		xenevtchn_unbind(xce, (evtchn_port_t)local);
	}
	xengnttab_close(xgt);
}

static void
role(char role)
{
	xce = xenevtchn_open(NULL, 0);
	if (xce == NULL)
		bail("event channels: %s", strerror(errno));
	nonblocking(xenevtchn_fd(xce));
	if (role == 'a') {
		port = (evtchn_port_t)xenevtchn_bind_unbound_port(xce, peer);
		tell("port", port);
	} else {
		far_port = hear("port");
		port = (evtchn_port_t)xenevtchn_bind_interdomain(xce, peer, far_port);
	}
	meet("bound");
	settle(xce);
	meet("settled");
	if (role == 'a') {
		xengntshr_handle *xgs = xengntshr_open(NULL, 0);

		watches_maps(xgs);
		ends_shares(xgs);
		xengntshr_close(xgs);
	} else {
		ends_maps();
		watches_shares();
	}
	meet("done");
	xenevtchn_close(xce);
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
