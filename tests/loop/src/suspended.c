/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * What a guest's program has of before a suspend, once it is resumed: ports and grants are gone,
 * the handles are not.
 *
 *     suspended REF	a grant of domain 0's; says "ready", and goes on when it is resumed
 *     suspended	in domain 0: shares a page, prints its reference, and stays
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

static void
must(bool right, const char *what)
{
	if (!right)
		err(1, "not so: %s", what);
}

static bool
quiet(xenevtchn_handle *xce)
{
	struct pollfd fd = {.fd = xenevtchn_fd(xce), .events = POLLIN};

	return poll(&fd, 1, 200) == 0;
}

static void
channel_works(xenevtchn_handle *xce)
{
	int near = xenevtchn_bind_unbound_port(xce, DOMID_SELF), far;

	must(near > 0, "a new port");
	far = xenevtchn_bind_interdomain(xce, DOMID_SELF, (evtchn_port_t)near);
	must(far > 0, "it is bound");
	must(xenevtchn_pending(xce) == far, "and has an event");
	must(xenevtchn_unbind(xce, (evtchn_port_t)far) == 0, "unbind it");
	must(xenevtchn_unbind(xce, (evtchn_port_t)near) == 0, "and the other end");
}

static uint32_t
guest_domid(void)
{
	struct xs_handle *xs = xs_open(0);
	char *text = xs_read(xs, XBT_NULL, "domid", NULL);

	must(text != NULL, "the domain has a number");
	xs_close(xs);
	return (uint32_t)strtoul(text, NULL, 10);
}

static void
guest(uint32_t ref0)
{
	xenevtchn_handle *xce = xenevtchn_open(NULL, 0);
	xengnttab_handle *xgt = xengnttab_open(NULL, 0);
	xengntshr_handle *xgs = xengntshr_open(NULL, 0);
	uint32_t ref, before = guest_domid();
	uint8_t *shared = xengntshr_share_pages(xgs, 0, 1, &ref, 1);
	uint8_t *mapped = xengnttab_map_grant_ref(xgt, 0, ref0, PROT_READ | PROT_WRITE);
	int port = xenevtchn_bind_unbound_port(xce, 0);

	must(shared != NULL && mapped != NULL && port > 0, "all is there before");
	shared[0] = 1;
	printf("ready %u %d\n", ref, port);
	fflush(stdout);
	must(getchar() == '\n', "a word to go on");
	must(guest_domid() != before, "the domain has another number");
	must(shared[0] == 1, "the shared page is the program's still");
	must(mapped[0] == 7, "so is the one that it had mapped");
	must(xenevtchn_notify(xce, (evtchn_port_t)port) == 0, "notify on a port of before");
	must(quiet(xce), "which gives no event");
	must(xenevtchn_unbind(xce, (evtchn_port_t)port) == 0, "unbind it");
	must(xenevtchn_notify(xce, (evtchn_port_t)port) == -1 && errno == ENOTCONN,
	    "then it is nobody's");
	must(xengnttab_map_grant_ref(xgt, 0, ref0, PROT_READ) == NULL,
	    "what was for the old number is not for the new one");
	must(xengnttab_unmap(xgt, mapped, 1) == 0, "unmap");
	must(xengntshr_unshare(xgs, shared, 1) == 0, "unshare");
	shared = xengntshr_share_pages(xgs, 0, 1, &ref, 1);
	must(shared != NULL && shared[0] == 0, "a new page, with nothing in it");
	must(xengntshr_unshare(xgs, shared, 1) == 0, "unshare it");
	channel_works(xce);
	xenevtchn_close(xce);
	xengnttab_close(xgt);
	xengntshr_close(xgs);
}

int
main(int argc, char *argv[])
{
	xengntshr_handle *xgs;
	uint8_t *page;
	uint32_t ref;

	if (argc > 1) {
		guest((uint32_t)strtoul(argv[1], NULL, 10));
		return 0;
	}
	xgs = xengntshr_open(NULL, 0);
	page = xengntshr_share_pages(xgs, 1, 1, &ref, 1);
	must(page != NULL, "a page for the guest");
	page[0] = 7;
	printf("%u\n", ref);
	fflush(stdout);
	for (;;)
		pause();
}
