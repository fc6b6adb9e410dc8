/* SPDX-License-Identifier: BSD-2-Clause */

/* Foreign memory: domain 0 maps a page of the guest, its xenstore ring; the guest maps none. */

#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xen/io/xs_wire.h>
#include <xenforeignmemory.h>

#define RW	  (PROT_READ | PROT_WRITE)
#define NO_FRAME  0x7fffffffful
#define FREE_BYTE 4000 /* of the page, beyond what xs_wire.h uses */

static xen_pfn_t
ring_frame(void)
{
	char path[64], *text;
	xen_pfn_t frame;

	snprintf(path, sizeof(path), "/local/domain/%u/store/ring-ref", peer);
	text = xs_read(store, XBT_NULL, path, NULL);
	if (text == NULL)
		bail("%s: %s", path, strerror(errno));
	frame = strtoul(text, NULL, 10);
	free(text);
	return frame;
}

/* The guest may go on meanwhile: at one moment both say the same. */
static bool
same_index(const volatile struct xenstore_domain_interface *one,
    const volatile struct xenstore_domain_interface *other)
{
	for (;;) {
		XENSTORE_RING_IDX before = one->req_prod, seen = other->req_prod;

		if (one->req_prod == before)
			return seen == before;
	}
}

static void
good_frames(xenforeignmemory_handle *fmem, xen_pfn_t frame)
{
	volatile struct xenstore_domain_interface *ring, *again;
	xen_pfn_t frames[2] = {frame, frame};
	uint8_t *bytes, *other, was;
	XENSTORE_RING_IDX before;
	int errors[2] = {99, 99};

	bytes = xenforeignmemory_map(fmem, peer, RW, 1, frames, NULL);
	if (!ok(bytes != NULL, "map a frame"))
		bail("map: %s", strerror(errno));
	other = xenforeignmemory_map(fmem, peer, PROT_READ, 2, frames, errors);
	if (!ok(other != NULL, "map it twice to read"))
		bail("map: %s", strerror(errno));
	ok(errors[0] == 0 && errors[1] == 0, "without errors");
	ring = (volatile struct xenstore_domain_interface *)(void *)bytes;
	again = (volatile struct xenstore_domain_interface *)(void *)other;
	before = ring->req_prod;
	tell("request", 1);
	hear("requested");
	ok(ring->req_prod != before, "the guest's requests are seen");
	ok(same_index(ring, again), "in both");
	was = bytes[FREE_BYTE];
	bytes[FREE_BYTE] = 0xa5;
	ok(other[FREE_BYTE] == 0xa5 && other[PAGE + FREE_BYTE] == 0xa5, "what is written is seen");
	bytes[FREE_BYTE] = was;
	ok(faults(other + FREE_BYTE, true), "what is mapped to read cannot be written");
	is(xenforeignmemory_unmap(fmem, other, 2), 0, "unmap");
	ok(faults(other, false), "it has gone");
	ok(!faults(bytes + FREE_BYTE, false), "the other is there");
	is(xenforeignmemory_unmap(fmem, bytes, 1), 0, "unmap this too");
}

/* A PV guest's frames are the machine's: a bad one is none of the guest's. Others have their own.
 */
static bool
is_bad(int error)
{
	return error == EPERM || error == EINVAL;
}

static void
bad_frames(xenforeignmemory_handle *fmem, xen_pfn_t frame)
{
	xen_pfn_t mixed[3] = {frame, NO_FRAME, frame}, bad[1] = {NO_FRAME};
	int errors[3] = {99, 99, 99};
	uint8_t *p;

	p = xenforeignmemory_map(fmem, peer, RW, 1, bad, NULL);
	ok(p == NULL && is_bad(errno), "map a bad frame");
	p = xenforeignmemory_map(fmem, peer, RW, 3, mixed, NULL);
	ok(p == NULL && is_bad(errno), "map a bad one among good ones");
	p = xenforeignmemory_map(fmem, peer, RW, 1, bad, errors);
	ok(p != NULL, "map a bad frame, with room for errors");
	ok(is_bad(-errors[0]), "its error is there");
	if (p != NULL) {
		ok(faults(p, false), "its page is not");
		xenforeignmemory_unmap(fmem, p, 1);
	}
	p = xenforeignmemory_map(fmem, peer, RW, 3, mixed, errors);
	ok(p != NULL, "a bad one among good ones, with room for errors");
	ok(errors[0] == 0 && is_bad(-errors[1]) && errors[2] == 0, "the bad one has the error");
	if (p != NULL) {
		ok(!faults(p, false), "the first is there");
		ok(faults(p + PAGE, false), "the bad one is not");
		ok(!faults(p + 2 * PAGE, false), "the last is");
		xenforeignmemory_unmap(fmem, p, 3);
	}
	fails_null(xenforeignmemory_map(fmem, NOBODY, RW, 1, mixed, NULL), ESRCH,
	    "map of a domain that does not exist");
	p = xenforeignmemory_map(fmem, NOBODY, RW, 1, mixed, errors);
	ok(p != NULL, "the same, with room for errors");
	is(errors[0], -ESRCH, "the error is there");
	if (p != NULL) {
		ok(faults(p, false), "no page is");
		xenforeignmemory_unmap(fmem, p, 1);
	}
	fails_null(xenforeignmemory_map(fmem, peer, RW, 0, mixed, NULL), EINVAL, "map none");
}

static void
restricted(xen_pfn_t frame)
{
	xenforeignmemory_handle *fmem = xenforeignmemory_open(NULL, 0);
	uint8_t *p;

	is(xenforeignmemory_restrict(fmem, (domid_t)peer), 0, "restrict to the guest");
	p = xenforeignmemory_map(fmem, peer, RW, 1, &frame, NULL);
	ok(p != NULL, "then map its frame");
	if (p != NULL)
		xenforeignmemory_unmap(fmem, p, 1);
	fails_null(xenforeignmemory_map(fmem, NOBODY, RW, 1, &frame, NULL), EPERM,
	    "then map another domain's");
	is(xenforeignmemory_restrict(fmem, (domid_t)peer), 0, "restrict to it again");
	fails(xenforeignmemory_restrict(fmem, (domid_t)NOBODY), EINVAL, "restrict to another");
	is(xenforeignmemory_close(fmem), 0, "close");
}

static void
domain0(void)
{
	xenforeignmemory_handle *fmem = xenforeignmemory_open(NULL, 0);
	xen_pfn_t frame = ring_frame();
	uint8_t *p;

	ok(fmem != NULL, "open");
	good_frames(fmem, frame);
	bad_frames(fmem, frame);
	restricted(frame);
	p = xenforeignmemory_map(fmem, peer, PROT_READ, 1, &frame, NULL);
	is(xenforeignmemory_close(fmem), 0, "close the handle");
	ok(p != NULL && !faults(p, false), "what it has mapped is there");
	is(xenforeignmemory_close(NULL), 0, "close nothing");
	tell("done", 1);
}

static void
guest(void)
{
	xenforeignmemory_handle *fmem = xenforeignmemory_open(NULL, 0);
	xen_pfn_t frames[2] = {1, 2};
	int errors[2] = {99, 99};
	void *p;

	ok(fmem != NULL, "open");
	hear("request");
	tell("requested", 1);
	fails_null(xenforeignmemory_map(fmem, peer, PROT_READ, 1, frames, NULL), EPERM,
	    "map a page of domain 0");
	p = xenforeignmemory_map(fmem, peer, PROT_READ, 2, frames, errors);
	ok(p == NULL || (errors[0] != 0 && errors[1] != 0), "or several");
	hear("done");
	is(xenforeignmemory_close(fmem), 0, "close");
}

static void
role(char role)
{
	if (self == 0)
		domain0();
	else
		guest();
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
