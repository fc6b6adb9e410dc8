/* SPDX-License-Identifier: BSD-2-Clause */

/* Grant copy. a shares pages, b copies from them and to them. */

#include "conformance.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xengnttab.h>

#define FAR_REF 0x7fffff00u

typedef struct xengnttab_grant_copy_segment segment;

static uint8_t
pattern(unsigned at)
{
	return (uint8_t)(at * 7 + at / 256 + 1);
}

static void
fill(uint8_t *p, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		p[i] = pattern(i);
}

static bool
matches(const uint8_t *p, unsigned from, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		if (p[i] != pattern(from + i))
			return false;
	return true;
}

static bool
all(const uint8_t *p, uint8_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		if (p[i] != value)
			return false;
	return true;
}

static segment
from_grant(uint32_t domid, uint32_t ref, unsigned offset, void *to, unsigned length)
{
	segment s = {.len = (uint16_t)length, .flags = GNTCOPY_source_gref, .status = 99};

	s.source.foreign.ref = ref;
	s.source.foreign.offset = (uint16_t)offset;
	s.source.foreign.domid = (uint16_t)domid;
	s.dest.virt = to;
	return s;
}

static segment
to_grant(uint32_t domid, uint32_t ref, unsigned offset, void *from, unsigned length)
{
	segment s = {.len = (uint16_t)length, .flags = GNTCOPY_dest_gref, .status = 99};

	s.dest.foreign.ref = ref;
	s.dest.foreign.offset = (uint16_t)offset;
	s.dest.foreign.domid = (uint16_t)domid;
	s.source.virt = from;
	return s;
}

static void
status_is(xengnttab_handle *xgt, segment s, int status, const char *name)
{
	is(xengnttab_grant_copy(xgt, 1, &s), 0, "%s: the call succeeds", name);
	is(s.status, status, "%s: the status", name);
}

/* --- b --- */

struct attempt {
	xengnttab_handle *xgt;
	segment s;
};

static void
copy_in_child(void *arg)
{
	struct attempt *a = arg;

	_exit(xengnttab_grant_copy(a->xgt, 1, &a->s) == -1 ? errno : 0);
}

static void
bad_memory(xengnttab_handle *xgt, segment s, const char *name)
{
	struct attempt a = {xgt, s};
	struct child c = child_start(copy_in_child, &a);

	is(child_status(&c),
	    differs("a copy from or to memory that is not there is a fault", EFAULT, -SIGSEGV),
	    "%s", name);
}

static void
copies(void)
{
	xengnttab_handle *xgt = xengnttab_open(NULL, 0);
	uint32_t full = hear("full"), empty = hear("empty"), ro = hear("ro"),
		 foreign = hear("foreign"), revoked = hear("revoked"), other = hear("other");
	uint8_t *buffer = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint8_t *gap = buffer + 3 * PAGE;
	segment s[40];

	munmap(gap, PAGE);
	status_is(xgt, from_grant(peer, full, 17, buffer + 5, 100), GNTST_okay, "from a grant");
	ok(matches(buffer + 5, 17, 100), "the bytes are there");
	ok(buffer[4] == 0 && buffer[105] == 0, "and no others");
	status_is(xgt, from_grant(peer, full, 0, buffer, PAGE), GNTST_okay, "a whole page");
	ok(matches(buffer, 0, PAGE), "all its bytes are there");
	memset(buffer, 0, 3 * PAGE);
	status_is(xgt, from_grant(peer, full, 10, buffer + PAGE - 50, 200), GNTST_okay,
	    "to memory over the end of a page");
	ok(matches(buffer + PAGE - 50, 10, 200), "they are on both pages");
	status_is(xgt, from_grant(peer, full, 0, buffer + 100, PAGE), GNTST_okay,
	    "a whole page to memory over the end of a page");
	ok(matches(buffer + 100, 0, PAGE), "it is on both pages");
	memset(buffer, 0, PAGE);
	status_is(xgt, from_grant(peer, full, PAGE - 3, buffer, 3), GNTST_okay,
	    "the last bytes of a page");
	ok(matches(buffer, PAGE - 3, 3) && buffer[3] == 0, "just these");
	status_is(xgt, from_grant(peer, full, 0, buffer, 0), GNTST_okay, "no bytes");
	status_is(xgt, from_grant(peer, ro, 0, buffer, 16), GNTST_okay, "from a read-only grant");

	fill(buffer, PAGE);
	status_is(xgt, to_grant(peer, empty, 33, buffer + 3, 50), GNTST_okay, "to a grant");
	status_is(xgt, to_grant(peer, empty, PAGE - 4, buffer, 4), GNTST_okay,
	    "to the last bytes of a page");
	meet("wrote");

	memset(buffer, 0, PAGE);
	memset(&s[0], 0, sizeof(s[0]));
	s[0] = from_grant(peer, full, 0, NULL, 64);
	s[0].flags |= GNTCOPY_dest_gref;
	s[0].dest.foreign.ref = other;
	s[0].dest.foreign.domid = (uint16_t)peer;
	s[0].dest.foreign.offset = 8;
	status_is(xgt, s[0], GNTST_okay, "from grant to grant");
	meet("wrote-other");

	status_is(
	    xgt, to_grant(peer, ro, 0, buffer, 16), GNTST_general_error, "to a read-only grant");
	status_is(xgt, from_grant(peer, FAR_REF, 0, buffer, 16), GNTST_bad_gntref,
	    "from an impossible grant");
	status_is(xgt, to_grant(peer, FAR_REF, 0, buffer, 16), GNTST_bad_gntref,
	    "to an impossible grant");
	status_is(xgt, from_grant(peer, foreign, 0, buffer, 16), GNTST_general_error,
	    "from a grant for another domain");
	status_is(xgt, from_grant(peer, revoked, 0, buffer, 16), GNTST_general_error,
	    "from what was unshared");
	status_is(xgt, from_grant(NOBODY, full, 0, buffer, 16), GNTST_bad_domain,
	    "from a domain that does not exist");
	status_is(xgt, to_grant(NOBODY, full, 0, buffer, 16), GNTST_bad_domain,
	    "to a domain that does not exist");
	ok(all(buffer, 0, PAGE), "none of them has written anything");

	s[0] = from_grant(peer, full, 0, buffer, 8);
	s[1] = from_grant(peer, FAR_REF, 0, buffer + 8, 8);
	s[2] = from_grant(peer, full, 16, buffer + 16, 8);
	s[3] = to_grant(peer, ro, 0, buffer, 8);
	s[4] = from_grant(peer, full, 32, buffer + 32, 8);
	is(xengnttab_grant_copy(xgt, 5, s), 0, "good and bad ones in one call");
	is(s[0].status, GNTST_okay, "the first is good");
	is(s[1].status, GNTST_bad_gntref, "the second is not");
	is(s[2].status, GNTST_okay, "the third is");
	is(s[3].status, GNTST_general_error, "the fourth is not");
	is(s[4].status, GNTST_okay, "the fifth is");
	ok(matches(buffer, 0, 8) && all(buffer + 8, 0, 8) && matches(buffer + 16, 16, 8) &&
		matches(buffer + 32, 32, 8),
	    "what is good is copied");

	/* More than the kernel takes at a time. */
	memset(buffer, 0, PAGE);
	for (unsigned i = 0; i < 40; i++)
		s[i] = from_grant(peer, full, i * 100, buffer + i * 100, 100);
	is(xengnttab_grant_copy(xgt, 40, s), 0, "many in one call");
	ok(matches(buffer, 0, 4000), "all of them");

	memset(buffer, 0, 2 * PAGE);
	s[0] = from_grant(peer, full, PAGE - 10, buffer, 20);
	fails(xengnttab_grant_copy(xgt, 1, s), EINVAL, "from a grant over its page's end");
	s[0] = to_grant(peer, empty, PAGE - 10, buffer, 20);
	fails(xengnttab_grant_copy(xgt, 1, s), EINVAL, "to a grant over its page's end");
	s[0] = from_grant(peer, full, PAGE + 10, buffer, 20);
	fails(xengnttab_grant_copy(xgt, 1, s), EINVAL, "from a grant beyond its page");
	s[0] = from_grant(peer, full, 0, buffer, 8);
	s[1] = from_grant(peer, full, PAGE - 10, buffer + 8, 20);
	fails(xengnttab_grant_copy(xgt, 2, s), EINVAL, "the second over its page's end");
	is(s[0].status, GNTST_okay, "the first has a status");
	ok(all(buffer, 0, PAGE), "but is not copied");
	s[0] = from_grant(peer, full, 0, buffer, 8);
	s[0].flags = 0;
	s[0].source.virt = buffer + PAGE;
	fails(xengnttab_grant_copy(xgt, 1, s), EINVAL, "from memory to memory");
	bad_memory(xgt, from_grant(peer, full, 0, gap, 8), "to memory that is not there");
	bad_memory(xgt, to_grant(peer, empty, 0, gap, 8), "from memory that is not there");
	bad_memory(xgt, from_grant(peer, full, 0, gap - 8, 16), "to memory that ends");
	mprotect(buffer, PAGE, PROT_READ);
	bad_memory(xgt, from_grant(peer, full, 0, buffer, 8), "to memory that is read-only");
	s[0] = to_grant(peer, empty, 0, buffer, 8);
	is(xengnttab_grant_copy(xgt, 1, s), 0, "from memory that is read-only");
	is(xengnttab_grant_copy(xgt, 0, s), 0, "no segment");
	tell("done", 1);
	xengnttab_close(xgt);
}

/* --- a --- */

static uint8_t *
share(xengntshr_handle *xgs, uint32_t domid, bool writable, const char *key)
{
	uint32_t ref = 0;
	uint8_t *page = xengntshr_share_pages(xgs, domid, 1, &ref, writable);

	if (page == NULL)
		bail("share: %s", strerror(errno));
	tell(key, ref);
	return page;
}

static void
shares(void)
{
	xengntshr_handle *xgs = xengntshr_open(NULL, 0);
	uint8_t *empty, *full, *ro, *revoked, *other;

	full = share(xgs, peer, true, "full");
	fill(full, PAGE);
	empty = share(xgs, peer, true, "empty");
	ro = share(xgs, peer, false, "ro");
	fill(ro, PAGE);
	share(xgs, NOBODY, true, "foreign");
	other = share(xgs, peer, true, "other");
	revoked = share(xgs, peer, true, "revoked-one");
	(void)revoked;
	{
		uint32_t ref = 0;

		/* The last one: its number is not used anew. */
		revoked = xengntshr_share_pages(xgs, peer, 1, &ref, 1);
		xengntshr_unshare(xgs, revoked, 1);
		tell("revoked", ref);
	}
	meet("wrote");
	ok(matches(empty + 33, 3, 50), "what the peer has copied is there");
	ok(all(empty, 0, 33) && all(empty + 83, 0, PAGE - 87), "and no other bytes");
	ok(matches(empty + PAGE - 4, 0, 4), "the last ones too");
	meet("wrote-other");
	ok(matches(other + 8, 0, 64) && all(other, 0, 8) && all(other + 72, 0, PAGE - 72),
	    "what the peer has copied from grant to grant is there");
	hear("done");
	ok(matches(ro, 0, PAGE), "nothing has changed the read-only page");
	ok(matches(full, 0, PAGE), "nor the one that was read");
	xengntshr_close(xgs);
}

static void
role(char role)
{
	if (role == 'a')
		shares();
	else
		copies();
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
