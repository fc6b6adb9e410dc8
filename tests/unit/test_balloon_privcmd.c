/* SPDX-License-Identifier: BSD-2-Clause */
/* Hypercalls of our own, on a hypervisor and a kernel that are arrays. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xen/hvm/hvm_op.h>
#include <xen/memory.h>
#include <xen/xen.h>
#include <xencall.h>

#include "mechanism.h"
#include "pool.h"
#include "xenpv/log.h"

#define BOOT	 (INT64_C(64) * 1024) /* KiB */
#define PAGE	 512		      /* frames of a page of 2 MiB */
#define PAGES	 16
#define MOST_LOG 1024

static struct {
	bool memory[PAGES * PAGE]; /* Xen's: is there some behind the frame? */
	bool pooled[PAGES];	   /* the kernel's: not for anybody else */
	uint64_t order[PAGES];	   /* the pool's */
	size_t count;
	unsigned room;	 /* frames that Xen has for us */
	unsigned spare;	 /* pages that the kernel can do without */
	int refused;	 /* error of all hypercalls */
	bool superpages; /* Xen has pieces of 2 MiB */
	int give_stops;	 /* giving ends after so many frames; -1: not */
	bool pv;
	uint64_t now;
	bool has_balloon; /* the kernel */
	int64_t kernel_current, kernel_target;
} xen;

static char last_line[MOST_LOG];
static unsigned told_short;

/* Whatever happens: a page that the kernel may use has all its memory. */
static void
check(void)
{
	for (unsigned i = 0; i < PAGES * PAGE; i++)
		assert_true(xen.memory[i] || xen.pooled[i / PAGE]);
}

/* ---- replaced ---- */

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
uint64_t __wrap_xpv_now_ns(void);
bool __wrap_guest_is_pv(const char *sysfs);
int64_t __wrap_meminfo_boot_kib(const char *procfs);
struct pool *__wrap_pool_open(const char *folder);
void __wrap_pool_close(struct pool *p);
size_t __wrap_pool_count(const struct pool *p);
uint64_t __wrap_pool_page(const struct pool *p, size_t i);
int __wrap_pool_take(struct pool *p);
int __wrap_pool_return(struct pool *p, size_t i);
xencall_handle *__wrap_xencall_open(struct xentoollog_logger *logger, unsigned flags);
int __wrap_xencall_close(xencall_handle *h);
void *__wrap_xencall_alloc_buffer(xencall_handle *h, size_t size);
void __wrap_xencall_free_buffer(xencall_handle *h, void *p);
int __wrap_xencall2(xencall_handle *h, unsigned op, uint64_t a1, uint64_t a2);
int __wrap_mechanism_kernel_current(const char *sysfs, int64_t *kib);
struct mechanism *__wrap_mechanism_kernel_open(const char *sysfs, bool dry_run);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	told_short += level <= XPV_LOG_NOTICE && strstr(last_line, "cannot take back") != NULL;
}

uint64_t
__wrap_xpv_now_ns(void)
{
	return xen.now;
}

bool
__wrap_guest_is_pv(const char *sysfs)
{
	return xen.pv;
}

int64_t
__wrap_meminfo_boot_kib(const char *procfs)
{
	return BOOT;
}

struct pool *
__wrap_pool_open(const char *folder)
{
	assert_string_equal(folder, "/nowhere/balloon");
	return (struct pool *)&xen;
}

void
__wrap_pool_close(struct pool *p)
{
}

size_t
__wrap_pool_count(const struct pool *p)
{
	return xen.count;
}

uint64_t
__wrap_pool_page(const struct pool *p, size_t i)
{
	assert_true(i < xen.count);
	return xen.order[i];
}

int
__wrap_pool_take(struct pool *p)
{
	unsigned i = 0;

	while (i < PAGES && xen.pooled[i])
		i++;
	if (xen.spare == 0 || i == PAGES) {
		errno = ENOSPC;
		return -1;
	}
	xen.spare--;
	xen.pooled[i] = true;
	xen.order[xen.count++] = i * PAGE;
	return 0;
}

int
__wrap_pool_return(struct pool *p, size_t i)
{
	errno = 0; /* as a success may do */
	xen.pooled[xen.order[i] / PAGE] = false;
	xen.order[i] = xen.order[--xen.count];
	xen.spare++;
	check();
	return 0;
}

xencall_handle *
__wrap_xencall_open(struct xentoollog_logger *logger, unsigned flags)
{
	return (xencall_handle *)&xen;
}

int
__wrap_xencall_close(xencall_handle *h)
{
	return 0;
}

void *
__wrap_xencall_alloc_buffer(xencall_handle *h, size_t size)
{
	return malloc(size);
}

void
__wrap_xencall_free_buffer(xencall_handle *h, void *p)
{
	free(p);
}

static int
give(uint64_t frame, unsigned frames)
{
	assert_true(xen.pooled[frame / PAGE]);
	for (unsigned i = 0; i < frames; i++) {
		if ((int)i == xen.give_stops)
			return 0;
		assert_true(xen.memory[frame + i]);
		xen.memory[frame + i] = false;
		xen.room++;
	}
	return 1;
}

static int
take(uint64_t frame, unsigned frames)
{
	if (xen.room < frames || (frames > 1 && !xen.superpages))
		return 0;
	for (unsigned i = 0; i < frames; i++) {
		assert_false(xen.memory[frame + i]); /* Xen would lose what is there */
		xen.memory[frame + i] = true;
	}
	xen.room -= frames;
	return 1;
}

static int
memory_op(unsigned op, struct xen_memory_reservation *r)
{
	xen_pfn_t frame;

	if (op == XENMEM_current_reservation)
		return BOOT / 4;
	assert_int_equal(r->nr_extents, 1);
	assert_int_equal(r->domid, DOMID_SELF);
	assert_int_equal(r->mem_flags, 0);
	frame = *r->extent_start.p;
	assert_true(frame + (1u << r->extent_order) <= PAGES * PAGE);
	return op == XENMEM_decrease_reservation ? give(frame, 1u << r->extent_order)
						 : take(frame, 1u << r->extent_order);
}

int
__wrap_xencall2(xencall_handle *h, unsigned op, uint64_t a1, uint64_t a2)
{
	struct xen_hvm_get_mem_type *type = (void *)(uintptr_t)a2;
	int result;

	if (xen.refused != 0) {
		errno = xen.refused;
		return -1;
	}
	if (op == __HYPERVISOR_hvm_op) {
		assert_int_equal(a1, HVMOP_get_mem_type);
		type->mem_type = xen.memory[type->pfn] ? HVMMEM_ram_rw : HVMMEM_mmio_dm;
		return 0;
	}
	assert_int_equal(op, __HYPERVISOR_memory_op);
	result = memory_op((unsigned)a1, (void *)(uintptr_t)a2);
	check();
	return result;
}

static int
kernel_current(struct mechanism *m, int64_t *kib)
{
	*kib = xen.kernel_current;
	return 0;
}

static int
kernel_target(struct mechanism *m, int64_t *kib)
{
	*kib = xen.kernel_target;
	return 0;
}

static int
kernel_set(struct mechanism *m, int64_t kib)
{
	xen.kernel_target = kib;
	return 0;
}

static void
kernel_close(struct mechanism *m)
{
}

int
__wrap_mechanism_kernel_current(const char *sysfs, int64_t *kib)
{
	*kib = xen.kernel_current;
	errno = ENOENT;
	return xen.has_balloon ? 0 : -1;
}

struct mechanism *
__wrap_mechanism_kernel_open(const char *sysfs, bool dry_run)
{
	static struct mechanism m = {.name = "kernel",
	    .current = kernel_current,
	    .target = kernel_target,
	    .set = kernel_set,
	    .close = kernel_close};

	assert_true(xen.has_balloon);
	return &m;
}

/* A part of the kernel's own way, of 512 KiB at most. */
static void
kernel_goes(void)
{
	while (xen.kernel_target != xen.kernel_current) {
		bool up = xen.kernel_target > xen.kernel_current;

		if (up && xen.room == 0)
			break;
		xen.kernel_current += up ? 4 : -4;
		xen.room += up ? -1u : 1u;
		if (xen.kernel_current % 512 == 0)
			break;
	}
}

/* ---- tests ---- */

static const struct mechanism_where where = {
    .sysfs = "/nowhere", .procfs = "/nowhere", .rundir = "/nowhere"};

static int
setup(void **state)
{
	memset(&xen, 0, sizeof(xen));
	memset(xen.memory, true, sizeof(xen.memory));
	xen.spare = PAGES;
	xen.superpages = true;
	xen.give_stops = -1;
	xen.now = 1;
	last_line[0] = '\0';
	return 0;
}

static int64_t
current(struct mechanism *m)
{
	int64_t kib;

	assert_int_equal(m->current(m, &kib), 0);
	return kib;
}

/* Until there is nothing to do, or only to wait. */
static void
work(struct mechanism *m)
{
	for (unsigned i = 0; i < 100 && m->work(m); i++)
		;
}

static void
test_down_and_up(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	assert_non_null(m);
	assert_int_equal(current(m), BOOT);
	assert_false(m->work(m));
	m->set(m, BOOT - 3 * 2048 - 1000);
	work(m);
	assert_false(m->work(m));
	assert_int_equal(current(m), BOOT - 3 * 2048);
	assert_int_equal(xen.room, 3 * PAGE);
	m->set(m, BOOT - 2048);
	work(m);
	assert_int_equal(current(m), BOOT - 2048);
	m->set(m, BOOT + 100 * 2048); /* more than there is */
	work(m);
	assert_false(m->work(m));
	assert_int_equal(current(m), BOOT);
	assert_int_equal(xen.count, 0);
	mechanism_close(m);
}

/* Killed, at any moment: what is out is found, what is not is the kernel's again. */
static void
test_killed(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	m->set(m, BOOT - 4 * 2048);
	work(m);
	mechanism_close(m);
	assert_int_equal(xen.count, 4);
	pool_take(NULL); /* before its memory went */
	for (unsigned i = 0; i < 100; i++)
		take(xen.order[1] + i, 1); /* while its memory came back */
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	assert_non_null(m);
	assert_int_equal(current(m), BOOT - 3 * 2048);
	assert_false(m->work(m)); /* it stays so until the policy says otherwise */
	m->set(m, BOOT);
	work(m);
	assert_int_equal(xen.room, 0);
	mechanism_close(m);
}

/* Killed while memory came back, and the host has nothing left for the rest of the page. */
static void
test_killed_on_full_host(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	m->set(m, BOOT - 4 * 2048);
	work(m);
	mechanism_close(m);
	for (unsigned i = 0; i < 100; i++)
		take(xen.order[1] + i, 1);
	xen.room = 0;
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	assert_non_null(m);
	assert_int_equal(current(m), BOOT - 4 * 2048);
	m->set(m, BOOT);
	work(m);
	assert_int_equal(current(m), BOOT - 4 * 2048);
	xen.room = 4 * PAGE - 100;
	xen.now += UINT64_C(33000000000);
	work(m);
	assert_int_equal(current(m), BOOT);
	mechanism_close(m);
}

static void
test_half_way(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	xen.give_stops = 77;
	m->set(m, BOOT - 2048);
	assert_true(m->work(m));
	assert_non_null(strstr(last_line, "Cannot allocate memory")); /* of the first failure */
	assert_int_equal(current(m), BOOT);
	assert_int_equal(xen.room, 0);
	xen.give_stops = -1;
	assert_true(m->work(m)); /* not at once again */
	assert_int_equal(current(m), BOOT);
	xen.now += UINT64_C(200000000);
	work(m);
	assert_int_equal(current(m), BOOT - 2048);
	mechanism_close(m);
}

static void
test_host_is_full(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	m->set(m, BOOT - 4 * 2048);
	work(m);
	xen.room = PAGE + 10; /* others have the rest */
	xen.superpages = false;
	told_short = 0;
	m->set(m, BOOT);
	for (unsigned i = 0; i < 20; i++) {
		work(m);
		xen.now += UINT64_C(33000000000);
		m->set(m, BOOT - i); /* again and again */
	}
	assert_int_equal(told_short, 1);
	m->set(m, BOOT);
	assert_int_equal(current(m), BOOT - 3 * 2048);
	assert_int_equal(xen.room, 0); /* the page that is half full waits in the pool */
	xen.room = 10 * PAGE;
	xen.superpages = true;
	for (unsigned i = 0; i < 20; i++) {
		work(m);
		xen.now += UINT64_C(33000000000);
	}
	assert_int_equal(current(m), BOOT);
	/* Another time it is told again. */
	m->set(m, BOOT - 4 * 2048);
	work(m);
	xen.room = 0;
	m->set(m, BOOT);
	work(m);
	assert_int_equal(told_short, 2);
	mechanism_close(m);
}

static int64_t
target(struct mechanism *m)
{
	int64_t kib;

	assert_int_equal(m->target(m, &kib), 0);
	return kib;
}

static void
with_balloon(int64_t current, int64_t target)
{
	xen.has_balloon = true;
	xen.kernel_current = current;
	xen.kernel_target = target;
}

/* The kernel follows the host by itself; not when it is not to. */
static void
test_kernel_is_pinned(void **state)
{
	struct mechanism *m;

	with_balloon(BOOT, BOOT);
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	m->set(m, BOOT - 4 * 2048);
	xen.kernel_target = BOOT - 4 * 2048; /* the same word */
	assert_int_equal(target(m), BOOT - 8 * 2048);
	kernel_goes();
	m->set(m, BOOT - 4 * 2048);
	assert_int_equal(target(m), BOOT - 4 * 2048);
	assert_int_equal(xen.kernel_target, BOOT);
	for (unsigned i = 0; i < 100; i++) {
		m->work(m);
		kernel_goes();
	}
	assert_int_equal(current(m), BOOT - 4 * 2048);
	assert_int_equal(xen.kernel_current, BOOT);
	/* Killed; meanwhile the kernel is on its way to next to nothing. */
	mechanism_close(m);
	assert_int_equal(xen.kernel_target, BOOT);
	xen.kernel_target = 4096;
	for (unsigned i = 0; i < 20; i++)
		kernel_goes();
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	assert_int_equal(xen.kernel_target, BOOT - 20 * 512);
	assert_int_equal(target(m), current(m));
	m->set(m, BOOT - 4 * 2048);
	for (unsigned i = 0; i < 100; i++) {
		m->work(m);
		kernel_goes();
		assert_true(current(m) <= BOOT - 4 * 2048 + 512);
	}
	assert_int_equal(current(m), BOOT - 4 * 2048);
	mechanism_close(m);
}

/* What the kernel's balloon has out since before the start comes back when the host grants it. */
static void
test_kernel_is_let_up(void **state)
{
	struct mechanism *m;

	with_balloon(BOOT - 8 * 2048, BOOT - 8 * 2048);
	xen.room = 100 * PAGE;
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	assert_int_equal(current(m), BOOT - 8 * 2048);
	m->set(m, BOOT - 10 * 2048);
	work(m);
	assert_int_equal(xen.kernel_target, BOOT - 8 * 2048);
	m->set(m, BOOT + 2048);
	for (unsigned i = 0; i < 100; i++) {
		m->work(m);
		kernel_goes();
	}
	assert_int_equal(xen.kernel_target, BOOT);
	assert_int_equal(current(m), BOOT);
	assert_int_equal(xen.count, 0);
	mechanism_close(m);
	with_balloon(BOOT - 8 * 2048, BOOT * 9); /* on its way, to nonsense */
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	assert_int_equal(xen.kernel_target, BOOT);
	mechanism_close(m);
}

/* The host grants less than all: the kernel's balloon gives what comes back, and no sooner. */
static void
test_leave(void **state)
{
	const int64_t granted = BOOT - 6 * 2048;
	struct mechanism *m;

	with_balloon(BOOT, BOOT);
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	m->set(m, granted);
	work(m);
	assert_int_equal(m->out(m), 6 * 2048);
	xen.room = 0;
	for (unsigned i = 0; i < 1000 && m->leave(m, granted) > 0; i++) {
		kernel_goes();
		assert_true(current(m) >= granted - 2 * 2048);
	}
	assert_int_equal(m->leave(m, granted), 0);
	assert_int_equal(m->out(m), 0);
	assert_int_equal(xen.kernel_target, granted);
	mechanism_close(m);
	/* It grants all of it: the pages come back, and the kernel's balloon is not told of more.
	 */
	setup(state);
	with_balloon(BOOT, BOOT);
	m = mechanism_open(MECHANISM_PRIVCMD, &where);
	m->set(m, granted);
	work(m);
	for (unsigned i = 0; i < 6; i++) {
		m->leave(m, BOOT);
		assert_int_equal(xen.kernel_target, BOOT);
	}
	assert_int_equal(current(m), BOOT);
	mechanism_close(m);
}

/* No balloon of the kernel's, and a host that has nothing. */
static void
test_leave_refused(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	m->set(m, BOOT - 3 * 2048);
	work(m);
	xen.room = PAGE;
	for (unsigned i = 0; i < 10; i++)
		m->leave(m, BOOT - 3 * 2048);
	assert_int_equal(m->leave(m, BOOT - 3 * 2048), 2 * 2048);
	check();
	mechanism_close(m);
}

static void
test_kernel_has_none(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	xen.spare = 2;
	m->set(m, 0);
	for (unsigned i = 0; i < 20; i++) {
		work(m);
		xen.now += UINT64_C(33000000000);
	}
	assert_int_equal(current(m), BOOT - 2 * 2048);
	mechanism_close(m);
}

static void
test_refused(void **state)
{
	const struct mechanism_where dry = {.dry_run = true};

	xen.refused = EPERM;
	assert_null(mechanism_open(MECHANISM_PRIVCMD, &where));
	assert_int_equal(errno, ENODEV);
	assert_non_null(strstr(last_line, "xen_privcmd.unrestricted=1"));
	xen.refused = ENOSYS;
	assert_null(mechanism_open(MECHANISM_PRIVCMD, &where));
	assert_int_equal(errno, ENODEV);
	assert_non_null(strstr(last_line, "no hypercalls"));
	xen.refused = 0;
	xen.pv = true;
	assert_null(mechanism_open(MECHANISM_PRIVCMD, &where));
	assert_int_equal(errno, ENODEV);
	assert_non_null(strstr(last_line, "PV"));
	xen.pv = false;
	assert_null(mechanism_open(MECHANISM_PRIVCMD, &dry));
	assert_int_equal(errno, ENODEV);
	xen.refused = ENOMEM;
	assert_null(mechanism_open(MECHANISM_PRIVCMD, &where));
	assert_int_equal(errno, ENOMEM);
}

/* Pages are out, and whether they are cannot be asked: nothing is touched. */
static void
test_cannot_look(void **state)
{
	struct mechanism *m = mechanism_open(MECHANISM_PRIVCMD, &where);

	m->set(m, BOOT - 2 * 2048);
	work(m);
	xen.refused = EPERM;
	m->set(m, BOOT);
	work(m);
	assert_int_equal(current(m), BOOT - 2 * 2048);
	check();
	mechanism_close(m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_down_and_up, setup),
	    cmocka_unit_test_setup(test_killed, setup),
	    cmocka_unit_test_setup(test_killed_on_full_host, setup),
	    cmocka_unit_test_setup(test_half_way, setup),
	    cmocka_unit_test_setup(test_host_is_full, setup),
	    cmocka_unit_test_setup(test_kernel_is_pinned, setup),
	    cmocka_unit_test_setup(test_kernel_is_let_up, setup),
	    cmocka_unit_test_setup(test_leave, setup),
	    cmocka_unit_test_setup(test_leave_refused, setup),
	    cmocka_unit_test_setup(test_kernel_has_none, setup),
	    cmocka_unit_test_setup(test_refused, setup),
	    cmocka_unit_test_setup(test_cannot_look, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
