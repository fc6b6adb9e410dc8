/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * A domain ends without notice: what the other one holds of it. Domain 0 runs the command in
 * $CONFORM_DESTROY, which destroys the guest. The guest's program does not come to its end.
 */

#include "conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xengnttab.h>

#define RW   (PROT_READ | PROT_WRITE)
#define FULL 0x5a
#define AT   100

/* --- the guest --- */

static void
shares(void)
{
	xengntshr_handle *xgs = xengntshr_open(NULL, 0);
	xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
	uint32_t refs[2], unused;
	uint8_t *p = xengntshr_share_pages(xgs, peer, 2, refs, 1);
	uint8_t *mine;

	if (p == NULL)
		bail("share: %s", strerror(errno));
	memset(p, FULL, 2 * PAGE);
	tell("ref0", refs[0]);
	tell("ref1", refs[1]);
	tell("port", (uint32_t)xenevtchn_bind_unbound_port(xce, peer));
	/* It has a page of the other's, too. */
	mine = xengnttab_map_grant_ref(xengnttab_open(NULL, 0), peer, hear("back"), RW);
	ok(mine != NULL, "the guest maps a page");
	tell("mapped", 1);
	hear("bound");
	tell("waiting", 1);
	unused = hear("never");
	(void)unused;
}

/* --- domain 0 --- */

static int
copy_status(xengnttab_handle *xgt, uint32_t ref)
{
	uint8_t byte;
	struct xengnttab_grant_copy_segment s = {.len = 1, .flags = GNTCOPY_source_gref};

	s.source.foreign.ref = ref;
	s.source.foreign.domid = (uint16_t)peer;
	s.dest.virt = &byte;
	return xengnttab_grant_copy(xgt, 1, &s) == 0 ? s.status : -errno;
}

static void
outlives(void)
{
	const char *destroy = getenv("CONFORM_DESTROY");
	xengnttab_handle *xgt = xengnttab_open(NULL, 0);
	xengntshr_handle *xgs = xengntshr_open(NULL, 0);
	xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
	uint32_t ref0 = hear("ref0"), ref1 = hear("ref1"), remote = hear("port"), back = 0;
	uint8_t *page, *told, *mine, *again;
	char **event;
	int64_t port, waiting;

	if (destroy == NULL)
		bail("CONFORM_DESTROY is not set");
	nonblocking(xenevtchn_fd(xce));
	mine = xengntshr_share_pages(xgs, peer, 1, &back, 1);
	tell("back", back);
	hear("mapped");
	port = xenevtchn_bind_interdomain(xce, peer, remote);
	waiting = xenevtchn_bind_unbound_port(xce, peer);
	ok(port > 0 && waiting > 0, "a channel with the guest, and a port for it");
	settle(xce);
	page = xengnttab_map_grant_ref(xgt, peer, ref0, RW);
	told = xengnttab_map_grant_ref_notify(xgt, peer, ref1, RW, AT, (evtchn_port_t)port);
	if (!ok(page != NULL && told != NULL, "two pages of the guest's"))
		bail("map: %s", strerror(errno));
	ok(xs_watch(store, "@releaseDomain", "gone"), "watch for domains that end");
	event = readable(xs_fileno(store), SOON_MS) ? xs_check_watch(store) : NULL;
	free(event);
	tell("bound", 1);
	hear("waiting");

	peer_has_gone = true;
	is(system(destroy), 0, "the guest is destroyed");
	ok(readable(xs_fileno(store), SOON_MS), "xenstore tells of it");
	is(next_event(xce, QUIET_MS), -1, "no event channel does");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify on the channel");
	is(xenevtchn_notify(xce, (evtchn_port_t)waiting), 0, "notify on the port");
	is(page[0], FULL, "its page is still there");
	page[1] = 1;
	is(page[1], 1, "and can be written to");
	again = xengnttab_map_grant_ref(xgt, peer, ref0, RW);
	is(again != NULL,
	    differs("Xen keeps a domain that has ended while a page of it is mapped", true, false),
	    "and mapped again");
	if (again != NULL)
		xengnttab_unmap(xgt, again, 1);
	is(copy_status(xgt, ref0), GNTST_bad_domain, "but not copied");
	fails(xenevtchn_bind_interdomain(xce, peer, remote),
	    (int)differs("and so finds it", EINVAL, ESRCH), "bind to its port");
	ok(xenevtchn_bind_unbound_port(xce, peer) > 0, "a new port for it");
	is(xengnttab_unmap(xgt, page, 1), 0, "unmap");
	is(xengnttab_unmap(xgt, told, 1), 0, "unmap with notification");
	is(next_event(xce, QUIET_MS), -1, "gives no event here");
	is(xenevtchn_unbind(xce, (evtchn_port_t)port), 0, "unbind the channel");
	is(xenevtchn_unbind(xce, (evtchn_port_t)waiting), 0, "unbind the port");
	mine[0] = FULL;
	is(mine[0], FULL, "the page that it had mapped is there");
	is(xengntshr_unshare(xgs, mine, 1), 0, "unshare it");
	/* It is a domain until all its pages are given back. */
	for (unsigned i = 0; i < 50; i++) {
		if (xenevtchn_bind_interdomain(xce, peer, remote) == -1 && errno == ESRCH)
			break;
		usleep(100000);
	}
	fails(xenevtchn_bind_interdomain(xce, peer, remote), ESRCH, "then the domain has gone");
	fails_null(xengnttab_map_grant_ref(xgt, peer, ref0, RW), EINVAL, "map of what has gone");
	is(copy_status(xgt, ref0), GNTST_bad_domain, "copy from what has gone");
	xengntshr_close(xgs);
	xengnttab_close(xgt);
	xenevtchn_close(xce);
}

static void
role(char role)
{
	if (self == 0)
		outlives();
	else
		shares();
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
