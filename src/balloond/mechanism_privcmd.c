/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * Hypercalls of our own (xenmem.h) on pages that nothing uses (pool.h): for PVH and HVM guests.
 *
 * A page is in the pool before its memory goes, and leaves the pool after its memory has come back.
 * In between the pool is what keeps the kernel from it, whatever becomes of this process. Which
 * pages have no memory the hypervisor knows, so there is nothing to be written down, nor to be out
 * of date after a kill.
 *
 * The kernel's own balloon, where there is one, follows the host with no floor, and what both give
 * adds up. So its target is kept where its size was at the start, or what it was on the way up to;
 * and is raised where the guest is to have more. A program that is killed leaves it so.
 */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/log.h>
#include <xenpv/stats.h>

#include "guest.h"
#include "mechanism.h"
#include "meminfo.h"
#include "pool.h"
#include "xenmem.h"

#define FRAMES	       (1u << POOL_ORDER)
#define RETRY_MIN_MS   100
#define RETRY_MAX_MS   32000
#define LEAVE_STEP_KIB (2 * POOL_PAGE_KIB)

struct privcmd {
	struct mechanism mechanism;
	struct mechanism *kernel; /* its own balloon; NULL: it has none */
	int64_t pinned;		  /* the target of that */
	struct xenmem *xen;
	struct pool *pool;
	int64_t boot;
	int64_t target;
	uint64_t retry_ms, wait_ms; /* after a failure */
	bool short_told;	    /* that it has less than it is to have */
};

static int64_t
larger(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t
smaller(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
out(const struct privcmd *p)
{
	return (int64_t)pool_count(p->pool) * POOL_PAGE_KIB;
}

static int
current(struct mechanism *m, int64_t *kib)
{
	const struct privcmd *p = (struct privcmd *)m;

	*kib = p->boot;
	if (p->kernel != NULL && p->kernel->current(p->kernel, kib) != 0)
		return -1;
	*kib -= out(p);
	return 0;
}

/* Where the guest ends if the kernel goes on to its target as well. */
static int
target(struct mechanism *m, int64_t *kib)
{
	const struct privcmd *p = (struct privcmd *)m;
	int64_t kernel = p->pinned;

	if (p->kernel != NULL && p->kernel->target(p->kernel, &kernel) != 0)
		return -1;
	*kib = p->target + kernel - p->pinned;
	return 0;
}

static int
pin(struct privcmd *p, int64_t kib)
{
	int64_t kernel;

	p->pinned = kib;
	if (p->kernel == NULL)
		return 0;
	if (p->kernel->target(p->kernel, &kernel) == 0 && kernel == kib)
		return 0;
	return p->kernel->set(p->kernel, kib);
}

/* What the kernel's balloon has out is brought back only by itself: it may, up to what the guest is
 * to have. */
static int
set(struct mechanism *m, int64_t kib)
{
	struct privcmd *p = (struct privcmd *)m;
	int64_t most = smaller(kib, p->boot);

	p->target = kib;
	p->retry_ms = p->wait_ms = 0;
	return pin(p, most - p->pinned >= POOL_PAGE_KIB ? most : p->pinned);
}

/* After giving or taking has stopped half way, or when an earlier process may have been killed in
 * the middle of it: memory behind each frame of a page. 0, or -1 with errno. */
static int
fill(struct privcmd *p, uint64_t page)
{
	for (unsigned i = 0; i < FRAMES; i++) {
		int there = xenmem_is_there(p->xen, page + i);

		if (there < 0 || (there == 0 && xenmem_take(p->xen, page + i, 0) != 0))
			return -1;
	}
	return 0;
}

/* A page of the pool gets its memory back and is the kernel's again. 0, or -1 with errno. */
static int
take_back(struct privcmd *p, size_t i)
{
	uint64_t page = pool_page(p->pool, i);
	int first = xenmem_is_there(p->xen, page),
	    last = xenmem_is_there(p->xen, page + FRAMES - 1);

	if (first < 0 || last < 0)
		return -1;
	/* Giving begins at the front, so that these two tell whether all of it is out. A piece of
	 * 2 MiB is better for both sides; single frames will do when the host has none. */
	if ((first != 0 || last != 0 || xenmem_take(p->xen, page, POOL_ORDER) != 0) &&
	    fill(p, page) != 0)
		return -1;
	return pool_return(p->pool, i);
}

static int
give_away(struct privcmd *p)
{
	size_t i = pool_count(p->pool);
	int error;

	if (pool_take(p->pool) != 0)
		return -1;
	if (xenmem_give(p->xen, pool_page(p->pool, i), POOL_ORDER) == 0)
		return 0;
	error = errno;
	take_back(p, i);
	errno = error;
	return -1;
}

static uint64_t
now_ms(void)
{
	return xpv_now_ns() / 1000000;
}

/* Whoever granted it should know that it is not there. New targets come all the time meanwhile. */
static void
tell_short(struct privcmd *p)
{
	if (!p->short_told)
		xpv_notice("cannot take back 2 MiB now: %s", strerror(errno));
	p->short_told = true;
}

static void
back_off(struct privcmd *p)
{
	p->wait_ms = p->wait_ms == 0 ? RETRY_MIN_MS : 2 * p->wait_ms;
	if (p->wait_ms > RETRY_MAX_MS)
		p->wait_ms = RETRY_MAX_MS;
	p->retry_ms = now_ms() + p->wait_ms;
}

static bool
work(struct mechanism *m)
{
	struct privcmd *p = (struct privcmd *)m;
	int64_t kib;

	if (now_ms() < p->retry_ms || current(m, &kib) != 0)
		return true;
	if (kib - p->target >= POOL_PAGE_KIB) {
		p->short_told = false;
		if (give_away(p) == 0) {
			p->wait_ms = 0;
			return true;
		}
		if (p->wait_ms == 0)
			xpv_info("cannot give away 2 MiB now: %s", strerror(errno));
		back_off(p);
		return true;
	}
	if (kib < p->target && pool_count(p->pool) > 0) {
		if (take_back(p, pool_count(p->pool) - 1) == 0) {
			p->wait_ms = 0;
			return true;
		}
		tell_short(p);
		back_off(p);
		return true;
	}
	p->short_told = false;
	return false;
}

static int64_t
out_of(struct mechanism *m)
{
	return out((struct privcmd *)m);
}

/* All pages come back: whoever unmounts them then does no harm. What the host does not grant the
 * kernel's balloon gives in their place, no faster than they come. */
static int64_t
leave(struct mechanism *m, int64_t kib)
{
	struct privcmd *p = (struct privcmd *)m;
	int64_t most = larger(p->pinned, smaller(kib, p->boot)), ahead;
	size_t i = pool_count(p->pool);

	if (i > 0)
		take_back(p, i - 1);
	ahead = out(p) - LEAVE_STEP_KIB;
	pin(p, smaller(kib + larger(ahead, 0), most));
	return out(p);
}

static void
close_privcmd(struct mechanism *m)
{
	struct privcmd *p = (struct privcmd *)m;

	mechanism_close(p->kernel);
	pool_close(p->pool);
	xenmem_close(p->xen);
	free(p);
}

/* An earlier process may have been killed between taking a page from the kernel and giving its
 * memory away, or while it brought that back. A page whose rest the host does not have now stays in
 * the pool, for work(). 0, or -1 with errno: they cannot be looked at. */
static int
finish_earlier(struct privcmd *p)
{
	size_t i = 0;

	while (i < pool_count(p->pool)) {
		int there = xenmem_is_there(p->xen, pool_page(p->pool, i));

		if (there < 0)
			return -1;
		if (there == 0 || take_back(p, i) != 0)
			i++;
	}
	if (i > 0)
		xpv_notice("%zu pages of 2 MiB are out since before the start", i);
	return 0;
}

/* An earlier process may have been killed, and the kernel have followed the host since: then it
 * stops where it is, and set() sees to the rest. 0, or -1 with errno. */
static int
start_at(struct privcmd *p)
{
	int64_t kib, kernel;

	if (current(&p->mechanism, &p->target) != 0)
		return -1;
	if (p->kernel == NULL)
		return 0;
	if (p->kernel->target(p->kernel, &kernel) != 0)
		return -1;
	kib = p->target + out(p);
	return pin(p, larger(kib, smaller(kernel, p->boot)));
}

/* NULL where there is none. False after a log line. */
static bool
open_kernel(struct privcmd *p, const struct mechanism_where *where)
{
	int64_t kib;

	if (mechanism_kernel_current(where->sysfs, &kib) != 0 && errno == ENOENT)
		return true;
	p->kernel = mechanism_kernel_open(where->sysfs, false);
	return p->kernel != NULL;
}

struct mechanism *
mechanism_privcmd_open(const struct mechanism_where *where)
{
	struct privcmd *p;
	char folder[256];
	int error;

	if (where->dry_run) {
		xpv_err("mechanism = privcmd has no dry run: use dry-run with the kernel's");
		errno = ENODEV;
		return NULL;
	}
	/* Frames are the hypervisor's there, and a page that went would have to be struck from the
	 * kernel's tables. */
	if (guest_is_pv(where->sysfs)) {
		xpv_err("mechanism = privcmd is for PVH and HVM guests, and this is a PV one: use "
			"the kernel's");
		errno = ENODEV;
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return NULL;
	p->mechanism = (struct mechanism){.name = "privcmd",
	    .current = current,
	    .target = target,
	    .set = set,
	    .work = work,
	    .out = out_of,
	    .leave = leave,
	    .close = close_privcmd,
	    .step_kib = POOL_PAGE_KIB};
	p->boot = meminfo_boot_kib(where->procfs);
	snprintf(folder, sizeof(folder), "%s/balloon", where->rundir);
	p->xen = xenmem_open();
	if (p->xen != NULL && open_kernel(p, where))
		p->pool = pool_open(folder);
	if (p->pool != NULL && finish_earlier(p) != 0)
		xpv_err("pages of an earlier xen-balloond, which are out, cannot be looked at: %s",
		    strerror(errno));
	else if (p->pool != NULL && start_at(p) != 0)
		xpv_err("the kernel's balloon cannot be kept where it is: %s", strerror(errno));
	else if (p->pool != NULL)
		return &p->mechanism;
	error = errno;
	close_privcmd(&p->mechanism);
	errno = error;
	return NULL;
}
