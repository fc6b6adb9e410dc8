/* SPDX-License-Identifier: BSD-2-Clause */

/* Granted pages. a shares them, b maps them. */

#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xengnttab.h>

#define PAGES	 4
#define LIMIT	 1024u /* Linux' gntalloc, as it is; run-loop makes its guest so */
#define MANY	 100000
#define FAR_REF	 0x7fffff00u
#define RW	 (PROT_READ | PROT_WRITE)
#define SENTINEL 0x5a

static void
tell_refs(const char *key, const uint32_t *refs, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s%u", key, i);
		tell(name, refs[i]);
	}
}

static void
hear_refs(const char *key, uint32_t *refs, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[32];

		snprintf(name, sizeof(name), "%s%u", key, i);
		refs[i] = hear(name);
	}
}

static bool
all_zero(const uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (p[i] != 0)
			return false;
	return true;
}

/* --- a --- */

static void
limits(xengntshr_handle *xgs)
{
	static uint32_t refs[MANY];
	uint8_t *p;

	fails_null(xengntshr_share_pages(xgs, peer, 0, refs, 1), EINVAL, "share no page");
	fails_null(xengntshr_share_pages(xgs, peer, MANY, refs, 1), ENOSPC,
	    "share more than the limit by far");
	/* Of domain 0 run-loop cannot set it. */
	if (self != 0)
		fails_null(xengntshr_share_pages(xgs, peer, LIMIT + 1, refs, 1), ENOSPC,
		    "share one more than the limit");
	p = xengntshr_share_pages(xgs, peer, LIMIT / 2, refs, 1);
	ok(p != NULL, "share half as many as the limit");
	if (self != 0)
		fails_null(xengntshr_share_pages(xgs, peer, LIMIT, refs, 1), ENOSPC,
		    "then the limit is nearer");
	is(xengntshr_unshare(xgs, p, LIMIT / 2), 0, "unshare");
	p = xengntshr_share_pages(xgs, peer, LIMIT, refs, 1);
	ok(p != NULL, "share as many as the limit");
	xengntshr_unshare(xgs, p, LIMIT);
}

static void
zeroed(xengntshr_handle *xgs)
{
	uint32_t refs[16];
	bool zero = true;

	for (unsigned i = 0; i < 8; i++) {
		uint8_t *p = xengntshr_share_pages(xgs, peer, 16, refs, 1);

		zero = zero && p != NULL && all_zero(p, 16 * PAGE);
		memset(p, 0xff, 16 * PAGE);
		xengntshr_unshare(xgs, p, 16);
	}
	ok(zero, "shared pages are zero, used before or not");
}

static void
write_in_child(void *p)
{
	((uint8_t *)p)[7] = 77;
	child_says(1);
	child_waits();
}

static void
shares(void)
{
	xengntshr_handle *xgs = xengntshr_open(NULL, 0), *other;
	uint32_t refs[PAGES], ro, foreign, revoked, in_use, lasting;
	uint8_t *p, *ro_page, *page;
	struct child child;

	ok(xgs != NULL && xengntshr_fd(xgs) >= 0, "open");
	limits(xgs);
	zeroed(xgs);

	p = xengntshr_share_pages(xgs, peer, PAGES, refs, 1);
	ok(p != NULL, "share pages");
	for (unsigned i = 0; i < PAGES; i++)
		memset(p + i * PAGE, (int)i + 1, PAGE);
	ro_page = xengntshr_share_pages(xgs, peer, 1, &ro, 0);
	ok(ro_page != NULL, "share a page read-only");
	ro_page[0] = 42;
	page = xengntshr_share_pages(xgs, NOBODY, 1, &foreign, 1);
	ok(page != NULL, "share with a domain that does not exist");
	tell_refs("refs", refs, PAGES);
	tell("ro", ro);
	tell("foreign", foreign);

	hear("wrote");
	ok(p[5] == 55 && p[2 * PAGE + 6] == 66, "what the peer writes is there");
	ro_page[1] = 43;
	meet("ro-wrote");

	/* Given back while it is not mapped. */
	hear("unmapped");
	page = xengntshr_share_pages(xgs, peer, 1, &revoked, 1);
	is(xengntshr_unshare(xgs, page, 1), 0, "unshare what nobody has mapped");
	ok(faults(page, false), "the page has gone");
	tell("revoked", revoked);
	hear("revoked-seen"); /* or the next share is the same grant */

	/* And while it is. */
	page = xengntshr_share_pages(xgs, peer, 1, &in_use, 1);
	page[0] = SENTINEL;
	tell("in-use", in_use);
	hear("in-use-mapped");
	is(xengntshr_unshare(xgs, page, 1), 0, "unshare what the peer has mapped");
	ok(faults(page, false), "this page has gone too");
	tell("in-use-unshared", 1);
	hear("in-use-done");

	/* The mapping is what counts, not the handle. */
	other = xengntshr_open(NULL, 0);
	page = xengntshr_share_pages(other, peer, 1, &lasting, 1);
	page[0] = SENTINEL;
	is(xengntshr_close(other), 0, "close the handle of a shared page");
	ok(!faults(page, true), "the page is still there");
	page[0] = SENTINEL;
	tell("lasting", lasting);
	hear("lasting-mapped");

	/* A child has what is shared, and may keep it. */
	child = child_start(write_in_child, p);
	child_hear(&child);
	is(p[7], 77, "a child writes to the page");
	is(xengntshr_unshare(xgs, p, PAGES), 0, "the parent gives it back");
	tell("child-has", 1);
	hear("child-mapped");
	child_kill(&child);
	tell("child-gone", 1);
	hear("child-gone-seen");
	is(xengntshr_close(xgs), 0, "close");
	is(xengntshr_close(NULL), 0, "close nothing");
}

/* --- b --- */

static uint8_t *
map_is(xengnttab_handle *xgt, uint32_t ref, int prot, uint8_t first, const char *name)
{
	uint8_t *p = xengnttab_map_grant_ref(xgt, peer, ref, prot);

	ok(p != NULL && p[0] == first, "%s", name);
	return p;
}

static void
map_fails(
    xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot, int error, const char *name)
{
	fails_null(xengnttab_map_grant_ref(xgt, domid, ref, prot), error, "%s", name);
}

/* How many mappings of grants this process has. */
static unsigned
mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned count = 0;
	char line[512];

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		count += strstr(line, "/dev/xen/gntdev") != NULL ||
			 strstr(line, "memfd:xenloop-memory") != NULL;
	if (f != NULL)
		fclose(f);
	return count;
}

static void
several(xengnttab_handle *xgt, uint32_t refs[])
{
	static uint32_t many[MANY];
	uint32_t wrong[PAGES], shuffled[PAGES], domids[PAGES];
	unsigned before;
	uint8_t *p, *q;

	p = xengnttab_map_domain_grant_refs(xgt, PAGES, peer, refs, RW);
	if (!ok(p != NULL, "map several"))
		return;
	for (unsigned i = 0; i < PAGES; i++)
		ok(p[i * PAGE] == i + 1 && p[i * PAGE + PAGE - 1] == i + 1, "page %u of them", i);
	fails(xengnttab_unmap(xgt, p, PAGES - 1), EINVAL, "unmap fewer");
	fails(xengnttab_unmap(xgt, p, PAGES + 1), EINVAL, "unmap more");
	fails(xengnttab_unmap(xgt, p + PAGE, PAGES - 1), EINVAL, "unmap from the middle");
	ok(!faults(p, false), "they are still there");

	for (unsigned i = 0; i < PAGES; i++) {
		shuffled[i] = refs[PAGES - 1 - i];
		domids[i] = peer;
	}
	q = xengnttab_map_grant_refs(xgt, PAGES, domids, shuffled, RW);
	if (ok(q != NULL, "map them again, in another order")) {
		ok(q[0] == PAGES && q[3 * PAGE] == 1, "in that order");
		p[1 * PAGE + 100] = 99;
		is(q[2 * PAGE + 100], 99, "they are the same pages");
		p[1 * PAGE + 100] = 2;
		is(xengnttab_unmap(xgt, q, PAGES), 0, "unmap these");
	}
	ok(!faults(p, false), "the others are still there");
	is(xengnttab_unmap(xgt, p, PAGES), 0, "unmap");
	ok(faults(p, false), "now they have gone");
	fails(xengnttab_unmap(xgt, p, PAGES), EINVAL, "unmap again");

	before = mappings();
	memcpy(wrong, refs, sizeof(wrong));
	wrong[2] = FAR_REF;
	fails_null(xengnttab_map_domain_grant_refs(xgt, PAGES, peer, wrong, RW), EINVAL,
	    "map several, one of them no grant");
	is(mappings(), before, "nothing stays mapped");
	domids[1] = NOBODY;
	fails_null(xengnttab_map_grant_refs(xgt, PAGES, domids, shuffled, RW), EINVAL,
	    "map several, one of a domain that does not exist");
	is(mappings(), before, "nothing stays mapped then");
	fails_null(xengnttab_map_domain_grant_refs(xgt, 0, peer, refs, RW), EINVAL, "map none");
	fails_null(
	    xengnttab_map_domain_grant_refs(xgt, MANY, peer, many, RW), EINVAL, "map too many");
	shuffled[1] = shuffled[0];
	p = xengnttab_map_domain_grant_refs(xgt, 2, peer, shuffled, RW);
	ok(p != NULL && p[0] == PAGES && p[PAGE] == PAGES, "map one twice at once");
	xengnttab_unmap(xgt, p, 2);
}

static void
maps(void)
{
	xengnttab_handle *xgt = xengnttab_open(NULL, 0), *other;
	uint32_t refs[PAGES], ref;
	uint8_t *p, *q;

	ok(xgt != NULL && xengnttab_fd(xgt) >= 0, "open");
	is(xengnttab_set_max_grants(xgt, 16), 0, "set the most grants");
	hear_refs("refs", refs, PAGES);
	p = map_is(xgt, refs[0], RW, 1, "map one to write");
	q = map_is(xgt, refs[0], PROT_READ, 1, "map it again to read");
	p[5] = 55;
	is(q[5], 55, "it is the same page");
	ok(faults(q, true), "which cannot be written to there");
	fails(xengnttab_unmap(xgt, p + 8, 1), EINVAL, "unmap what is not the beginning");
	is(xengnttab_unmap(xgt, p, 1), 0, "unmap");
	is(xengnttab_unmap(xgt, q, 1), 0, "unmap the other");
	p = map_is(xgt, refs[2], RW, 3, "map another");
	p[6] = 66;
	xengnttab_unmap(xgt, p, 1);
	tell("wrote", 1);

	ref = hear("ro");
	map_fails(xgt, peer, ref, RW, EINVAL, "map a read-only grant to write");
	p = map_is(xgt, ref, PROT_READ, 42, "map it to read");
	meet("ro-wrote");
	is(p[1], 43, "what its owner writes is there");
	ok(faults(p, true), "to write to it is a fault");
	xengnttab_unmap(xgt, p, 1);

	map_fails(xgt, peer, hear("foreign"), RW, EINVAL, "map another domain's grant");
	map_fails(xgt, peer, FAR_REF, RW, EINVAL, "map an impossible grant");
	map_fails(xgt, NOBODY, refs[0], RW, EINVAL, "map of a domain that does not exist");
	map_fails(xgt, self, FAR_REF, RW, EINVAL, "map no grant of one's own");
	several(xgt, refs);
	tell("unmapped", 1);

	map_fails(xgt, peer, hear("revoked"), RW, EINVAL, "map what was unshared");
	tell("revoked-seen", 1);

	ref = hear("in-use");
	p = map_is(xgt, ref, RW, SENTINEL, "map what will be unshared");
	tell("in-use-mapped", 1);
	hear("in-use-unshared");
	is(p[0], SENTINEL, "it is still there");
	ok(!faults(p + 1, true), "and can be written to");
	q = xengnttab_map_grant_ref(xgt, peer, ref, RW);
	ok(q != NULL && q[0] == SENTINEL, "and can be mapped again");
	if (q != NULL)
		xengnttab_unmap(xgt, q, 1);
	xengnttab_unmap(xgt, p, 1);
	/* The kernel looks every second whether such a grant is free. */
	for (unsigned i = 0; i < 40; i++) {
		usleep(100000);
		p = xengnttab_map_grant_ref(xgt, peer, ref, RW);
		if (p == NULL)
			break;
		xengnttab_unmap(xgt, p, 1);
	}
	fails_null(p, EINVAL, "once unmapped it ends");
	tell("in-use-done", 1);

	ref = hear("lasting");
	other = xengnttab_open(NULL, 0);
	p = map_is(other, ref, RW, SENTINEL, "map a page whose handle is closed");
	is(xengnttab_close(other), 0, "close this handle too");
	ok(!faults(p, true), "the page is still there");
	tell("lasting-mapped", 1);

	hear("child-has");
	p = xengnttab_map_grant_ref(xgt, peer, refs[1], RW);
	is(p != NULL && p[0] == 2, differs("unshare ends what a child still has", 1, 0),
	    "map what only a child has still shared");
	if (p != NULL)
		xengnttab_unmap(xgt, p, 1);
	tell("child-mapped", 1);
	hear("child-gone");
	for (unsigned i = 0; i < 40; i++) {
		usleep(100000);
		p = xengnttab_map_grant_ref(xgt, peer, refs[1], RW);
		if (p == NULL)
			break;
		xengnttab_unmap(xgt, p, 1);
	}
	fails_null(p, EINVAL, "the share ends with the child");
	tell("child-gone-seen", 1);
	is(xengnttab_close(xgt), 0, "close");
	is(xengnttab_close(NULL), 0, "close nothing");
}

static void
role(char role)
{
	if (role == 'a')
		shares();
	else
		maps();
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
