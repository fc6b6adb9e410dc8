/* SPDX-License-Identifier: BSD-2-Clause */

/* Opens, binds, shares, maps, notifies and closes what it can, without end and in no order: to be
 * killed at any moment. What it finds of the peer's it uses, too.
 *
 *     churn PEER        until it is killed
 *     churn PEER check  once, in order: everything must work
 */

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>

#define PAGE  4096
#define SLOTS 8

static struct {
	xenevtchn_handle *xce;
	xengnttab_handle *xgt;
	xengntshr_handle *xgs;
	int64_t port;
	uint8_t *shared, *mapped;
	uint32_t ref;
} slots[SLOTS];

static uint32_t peer;

static unsigned
any(unsigned count)
{
	return (unsigned)rand() % count;
}

static void
close_slot(unsigned i)
{
	if (slots[i].mapped != NULL)
		xengnttab_unmap(slots[i].xgt, slots[i].mapped, 1);
	if (slots[i].shared != NULL)
		xengntshr_unshare(slots[i].xgs, slots[i].shared, 1);
	xengnttab_close(slots[i].xgt);
	xengntshr_close(slots[i].xgs);
	xenevtchn_close(slots[i].xce);
	memset(&slots[i], 0, sizeof(slots[i]));
}

static void
open_slot(unsigned i)
{
	slots[i].xce = xenevtchn_open(NULL, 0);
	slots[i].xgt = xengnttab_open(NULL, 0);
	slots[i].xgs = xengntshr_open(NULL, 0);
	if (slots[i].xce == NULL || slots[i].xgt == NULL || slots[i].xgs == NULL) {
		fprintf(stderr, "churn: no handle\n");
		exit(1);
	}
	fcntl(xenevtchn_fd(slots[i].xce), F_SETFL, O_NONBLOCK);
}

static void
act(unsigned i)
{
	switch (any(9)) {
	case 0:
		close_slot(i);
		open_slot(i);
		break;
	case 1:
		slots[i].port = xenevtchn_bind_unbound_port(slots[i].xce, peer);
		break;
	case 2: /* Perhaps there is one of the peer's that waits. */
		slots[i].port = xenevtchn_bind_interdomain(slots[i].xce, peer, 3 + any(40));
		break;
	case 3:
		if (slots[i].port > 0)
			xenevtchn_notify(slots[i].xce, (evtchn_port_t)slots[i].port);
		break;
	case 4: {
		int64_t port = xenevtchn_pending(slots[i].xce);

		if (port > 0)
			xenevtchn_unmask(slots[i].xce, (evtchn_port_t)port);
		break;
	}
	case 5:
		if (slots[i].shared == NULL)
			slots[i].shared =
			    xengntshr_share_page_notify(slots[i].xgs, peer, &slots[i].ref, 1, 0,
				slots[i].port > 0 ? (evtchn_port_t)slots[i].port : UINT32_MAX);
		break;
	case 6:
		if (slots[i].shared != NULL)
			memset(slots[i].shared, 0x5a, PAGE);
		break;
	case 7:
		if (slots[i].mapped == NULL)
			slots[i].mapped = xengnttab_map_grant_ref_notify(slots[i].xgt, peer,
			    8 + any(40), PROT_READ | PROT_WRITE, 0,
			    slots[i].port > 0 ? (evtchn_port_t)slots[i].port : UINT32_MAX);
		break;
	case 8:
		if (slots[i].mapped != NULL)
			memset(slots[i].mapped, 0xa5, PAGE);
		break;
	}
}

/* With itself as its peer. */
static int
check(void)
{
	xenevtchn_port_or_error_t far;
	uint8_t *mapped;

	open_slot(0);
	open_slot(1);
	fcntl(xenevtchn_fd(slots[1].xce), F_SETFL, 0);
	slots[0].port = xenevtchn_bind_unbound_port(slots[0].xce, peer);
	far = xenevtchn_bind_interdomain(slots[1].xce, peer, (evtchn_port_t)slots[0].port);
	if (slots[0].port <= 0 || far <= 0)
		return 1;
	/* A port that is bound has an event at once. */
	if (xenevtchn_pending(slots[1].xce) != far ||
	    xenevtchn_unmask(slots[1].xce, (evtchn_port_t)far) != 0 ||
	    xenevtchn_notify(slots[0].xce, (evtchn_port_t)slots[0].port) != 0 ||
	    xenevtchn_pending(slots[1].xce) != far)
		return 2;
	slots[0].shared = xengntshr_share_pages(slots[0].xgs, peer, 1, &slots[0].ref, 1);
	if (slots[0].shared == NULL)
		return 3;
	mapped = xengnttab_map_grant_ref(slots[1].xgt, peer, slots[0].ref, PROT_READ | PROT_WRITE);
	if (mapped == NULL || mapped[0] != 0)
		return 4;
	slots[1].mapped = mapped;
	slots[0].shared[9] = 0x77;
	if (mapped[9] != 0x77)
		return 5;
	close_slot(1);
	close_slot(0);
	return 0;
}

int
main(int argc, char *argv[])
{
	if (argc < 2)
		return 64;
	peer = (uint32_t)strtoul(argv[1], NULL, 10);
	if (argc > 2)
		return check();
	srand((unsigned)getpid());
	for (unsigned i = 0; i < SLOTS; i++)
		open_slot(i);
	for (;;)
		act(any(SLOTS));
}
