/* SPDX-License-Identifier: BSD-2-Clause */
/* Against models of gntalloc, with its limit in a file that stands for sysfs, and of gntdev. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xengnttab.h>

#include "xenpv/grant.h"
#include "xenpv/log.h"

#define LIMIT "/sys/module/xen_gntalloc/parameters/limit"

/* --- the models --- */

struct xengntdev_handle {
	int fd;
};

static struct {
	unsigned used, table_free; /* pages */
	int limit_file;		   /* -1: none */
	int limit_error;	   /* of opening it for writing */
	int open_error, share_error;
	unsigned handles, shared_areas;
	uint32_t next_gref;
} kernel;

static struct {
	uint32_t domid, count;
	int prot;
	uint32_t grefs[8];
	unsigned char area[4 * 4096];
	xengnttab_grant_copy_segment_t segments[8];
	int16_t status[8];
	int error;
	unsigned copies;
} device;

static unsigned lines;
static char last_line[512];

xengntshr_handle *__wrap_xengntshr_open(struct xentoollog_logger *logger, unsigned flags);
int __wrap_xengntshr_close(xengntshr_handle *h);
int __wrap_xengntshr_fd(xengntshr_handle *h);
void *__wrap_xengntshr_share_pages(
    xengntshr_handle *h, uint32_t domid, int count, uint32_t *refs, int writable);
int __wrap_xengntshr_unshare(xengntshr_handle *h, void *start, uint32_t count);
xengnttab_handle *__wrap_xengnttab_open(struct xentoollog_logger *logger, unsigned flags);
int __wrap_xengnttab_close(xengnttab_handle *h);
void *__wrap_xengnttab_map_domain_grant_refs(
    xengnttab_handle *h, uint32_t count, uint32_t domid, uint32_t *refs, int prot);
int __wrap_xengnttab_unmap(xengnttab_handle *h, void *start, uint32_t count);
int __wrap_xengnttab_grant_copy(
    xengnttab_handle *h, uint32_t count, xengnttab_grant_copy_segment_t *segments);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	lines++;
}

int
__wrap_open(const char *path, int flags, ...)
{
	assert_string_equal(path, LIMIT);
	if (kernel.limit_file < 0 || kernel.limit_error != 0) {
		errno = kernel.limit_file < 0 ? ENOENT : kernel.limit_error;
		return -1;
	}
	return fcntl(kernel.limit_file, F_DUPFD_CLOEXEC, 0);
}

int
__wrap_open64(const char *path, int flags, ...)
{
	return __wrap_open(path, flags);
}

static long
limit(void)
{
	char text[32] = "";

	assert_true(pread(kernel.limit_file, text, sizeof(text) - 1, 0) > 0);
	return atol(text);
}

static void
set_limit(const char *text)
{
	assert_int_equal(ftruncate(kernel.limit_file, 0), 0);
	assert_int_equal(pwrite(kernel.limit_file, text, strlen(text), 0), strlen(text));
}

static struct xengntdev_handle *
new_handle(void)
{
	struct xengntdev_handle *h;

	if (kernel.open_error != 0) {
		errno = kernel.open_error;
		return NULL;
	}
	h = malloc(sizeof(*h));
	h->fd = memfd_create("xen", 0);
	kernel.handles++;
	return h;
}

static int
close_handle(struct xengntdev_handle *h)
{
	close(h->fd);
	free(h);
	kernel.handles--;
	return 0;
}

xengntshr_handle *
__wrap_xengntshr_open(struct xentoollog_logger *logger, unsigned flags)
{
	assert_non_null(logger);
	return new_handle();
}

int
__wrap_xengntshr_close(xengntshr_handle *h)
{
	assert_true(fcntl(h->fd, F_GETFD) & FD_CLOEXEC);
	return close_handle(h);
}

int
__wrap_xengntshr_fd(xengntshr_handle *h)
{
	return h->fd;
}

void *
__wrap_xengntshr_share_pages(
    xengntshr_handle *h, uint32_t domid, int count, uint32_t *refs, int writable)
{
	void *area;

	assert_int_equal(domid, 3);
	assert_int_equal(writable, 1);
	if (kernel.share_error != 0) {
		errno = kernel.share_error;
		return NULL;
	}
	if (kernel.used + (unsigned)count > limit() || (unsigned)count > kernel.table_free) {
		errno = ENOSPC;
		return NULL;
	}
	kernel.used += (unsigned)count;
	kernel.shared_areas++;
	for (int i = 0; i < count; i++)
		refs[i] = kernel.next_gref++;
	area = aligned_alloc(4096, (size_t)count * 4096);
	memset(area, 0xa5, (size_t)count * 4096);
	return area;
}

int
__wrap_xengntshr_unshare(xengntshr_handle *h, void *start, uint32_t count)
{
	free(start);
	kernel.used -= count;
	kernel.shared_areas--;
	return 0;
}

xengnttab_handle *
__wrap_xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
	assert_non_null(logger);
	return new_handle();
}

int
__wrap_xengnttab_close(xengnttab_handle *h)
{
	return close_handle(h);
}

void *
__wrap_xengnttab_map_domain_grant_refs(
    xengnttab_handle *h, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
	if (device.error != 0) {
		errno = device.error;
		return NULL;
	}
	device.count = count;
	device.domid = domid;
	device.prot = prot;
	memcpy(device.grefs, refs, count * sizeof(*refs));
	return device.area;
}

int
__wrap_xengnttab_unmap(xengnttab_handle *h, void *start, uint32_t count)
{
	assert_ptr_equal(start, device.area);
	assert_int_equal(count, device.count);
	return 0;
}

int
__wrap_xengnttab_grant_copy(
    xengnttab_handle *h, uint32_t count, xengnttab_grant_copy_segment_t *segments)
{
	device.copies++;
	if (device.error != 0) {
		errno = device.error;
		return -1;
	}
	assert_true(count <= 8);
	memcpy(device.segments, segments, count * sizeof(*segments));
	for (uint32_t i = 0; i < count; i++)
		segments[i].status = device.status[i];
	return 0;
}

static int
setup(void **state)
{
	memset(&kernel, 0, sizeof(kernel));
	memset(&device, 0, sizeof(device));
	kernel.limit_file = memfd_create("limit", MFD_CLOEXEC);
	kernel.table_free = 1000000;
	kernel.next_gref = 8;
	set_limit("1024\n");
	lines = 0;
	return 0;
}

static int
teardown(void **state)
{
	assert_int_equal(kernel.handles, 0);
	assert_int_equal(kernel.shared_areas, 0);
	close(kernel.limit_file);
	return 0;
}

/* --- own pages --- */

static void
shares_a_pool(void **state)
{
	struct xpv_pool pool, nothing = {0};
	uint8_t seen = 0;

	assert_int_equal(xpv_pool_share(&pool, 3, 16), 0);
	assert_int_equal(pool.pages, 16);
	assert_int_equal(pool.grefs[0], 8);
	assert_int_equal(pool.grefs[15], 23);
	assert_ptr_equal(xpv_pool_page(&pool, 0), pool.base);
	assert_ptr_equal(xpv_pool_page(&pool, 15), pool.base + 15 * 4096);
	for (unsigned i = 0; i < 16 * 4096; i++)
		seen |= pool.base[i];
	assert_int_equal(seen, 0);
	assert_int_equal(limit(), 1024);
	xpv_pool_unshare(&pool);
	assert_null(pool.base);
	assert_null(pool.grefs);
	assert_int_equal(kernel.used, 0);
	xpv_pool_unshare(&pool);
	xpv_pool_unshare(&nothing);
	assert_int_equal(lines, 0);
}

static void
refuses_impossible_pools(void **state)
{
	struct xpv_pool pool;

	assert_int_equal(xpv_pool_share(&pool, 3, 0), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(xpv_pool_share(&pool, 0x7ff0, 1), -1); /* DOMID_SELF */
	assert_int_equal(xpv_pool_share(&pool, 65539, 1), -1);	/* 3 in 16 bits */
	assert_int_equal(xpv_pool_share(&pool, 3, UINT32_MAX), -1);
	assert_int_equal(errno, EINVAL);
	assert_null(pool.base);
	assert_null(pool.handle);
}

static void
says_what_is_missing(void **state)
{
	struct xpv_pool pool;

	kernel.open_error = ENOENT;
	assert_int_equal(xpv_pool_share(&pool, 3, 1), -1);
	assert_int_equal(errno, ENOENT);
	assert_non_null(strstr(last_line, "modprobe xen-gntalloc"));
	kernel.open_error = EACCES;
	assert_int_equal(xpv_pool_share(&pool, 3, 1), -1);
	assert_int_equal(errno, EACCES);
	assert_non_null(strstr(last_line, "root"));
	assert_null(xpv_gntdev_open());
	kernel.open_error = ENODEV;
	assert_null(xpv_gntdev_open());
	assert_int_equal(errno, ENODEV);
	assert_non_null(strstr(last_line, "modprobe xen-gntdev"));
	kernel.open_error = 0;
	kernel.share_error = ENOMEM;
	assert_int_equal(xpv_pool_share(&pool, 3, 1), -1);
	assert_int_equal(errno, ENOMEM);
	assert_int_equal(lines, 5);
	assert_null(pool.grefs);
}

static void
raises_the_limit_when_it_must(void **state)
{
	struct xpv_pool pools[4];

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(xpv_pool_share(&pools[i], 3, 1000), 0);
	assert_int_equal(kernel.used, 4000);
	assert_in_range(limit(), 4000, 4024);
	for (unsigned i = 0; i < 4; i++)
		xpv_pool_unshare(&pools[i]);
	/* What was made room for once fits again, however often. */
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(xpv_pool_share(&pools[0], 3, 4000), 0);
		xpv_pool_unshare(&pools[0]);
	}
	assert_in_range(limit(), 4000, 4024);
	assert_int_equal(lines, 0);
}

static void
says_how_to_raise_the_limit(void **state)
{
	struct xpv_pool pool;

	kernel.limit_error = EACCES;
	assert_int_equal(xpv_pool_share(&pool, 3, 2000), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(lines, 2);
	assert_int_equal(limit(), 1024);
	kernel.limit_error = 0;

	set_limit("garbage");
	assert_int_equal(xpv_grant_reserve(1 << 30), -1);
	assert_non_null(strstr(last_line, LIMIT));
	assert_non_null(strstr(last_line, "options xen-gntalloc limit="));
	set_limit("2147483647");
	assert_int_equal(xpv_grant_reserve(1 << 30), -1);
	assert_int_equal(errno, ERANGE);
	assert_int_equal(limit(), 2147483647);
}

static void
gives_back_what_did_not_help(void **state)
{
	struct xpv_pool pool;

	kernel.table_free = 100;
	assert_int_equal(xpv_pool_share(&pool, 3, 200), -1);
	assert_int_equal(errno, ENOSPC);
	assert_non_null(strstr(last_line, "gnttab_max_frames"));
	assert_int_equal(lines, 1);
	assert_int_equal(limit(), 1024);
}

static void
reserves(void **state)
{
	struct xpv_pool pool;
	long before;

	/* What earlier tests left as spare is taken first: reserve relative to a known state. */
	assert_int_equal(xpv_grant_reserve(100000), 0);
	before = limit();
	assert_int_equal(xpv_grant_reserve(100000), 0);
	assert_int_equal(limit(), before);
	assert_int_equal(xpv_grant_reserve(100100), 0);
	assert_int_equal(limit(), before + 100);
	assert_int_equal(xpv_pool_share(&pool, 3, 500), 0);
	assert_int_equal(xpv_grant_reserve(100100), 0);
	assert_int_equal(limit(), before + 600);
	xpv_pool_unshare(&pool);
	assert_int_equal(xpv_grant_reserve(100600), 0);
	assert_int_equal(limit(), before + 600);
}

/* --- foreign pages --- */

static void
maps(void **state)
{
	struct xpv_gntdev *g = xpv_gntdev_open();
	static const uint32_t grefs[] = {9, 8, 400};

	assert_ptr_equal(xpv_gntdev_map(g, 3, grefs, 3, true), device.area);
	assert_int_equal(device.domid, 3);
	assert_int_equal(device.count, 3);
	assert_int_equal(device.prot, PROT_READ | PROT_WRITE);
	assert_memory_equal(device.grefs, grefs, sizeof(grefs));
	assert_int_equal(xpv_gntdev_unmap(g, device.area, 3), 0);
	assert_ptr_equal(xpv_gntdev_map(g, 3, grefs, 1, false), device.area);
	assert_int_equal(device.prot, PROT_READ);
	assert_null(xpv_gntdev_map(g, 3, grefs, 0, true));
	assert_int_equal(errno, EINVAL);
	assert_null(xpv_gntdev_map(g, 0x7ff1, grefs, 1, true));
	assert_int_equal(errno, EINVAL);
	device.error = EINVAL;
	assert_null(xpv_gntdev_map(g, 3, grefs, 1, true));
	xpv_gntdev_close(g);
	xpv_gntdev_close(NULL);
}

static void
copies(void **state)
{
	struct xpv_gntdev *g = xpv_gntdev_open();
	char local[8192];
	struct xpv_copy copy[] = {
	    {.local = local, .domid = 3, .gref = 9, .offset = 512, .length = 3584, .status = 1},
	    {.local = local + 1, .domid = 4, .gref = 10, .length = 4096, .to_foreign = true},
	};

	assert_int_equal(xpv_gntdev_copy(g, NULL, 0), 0);
	assert_int_equal(xpv_gntdev_copy(g, copy, 2), 0);
	assert_int_equal(device.copies, 1);
	assert_int_equal(device.segments[0].flags, GNTCOPY_source_gref);
	assert_int_equal(device.segments[0].source.foreign.ref, 9);
	assert_int_equal(device.segments[0].source.foreign.offset, 512);
	assert_int_equal(device.segments[0].source.foreign.domid, 3);
	assert_ptr_equal(device.segments[0].dest.virt, local);
	assert_int_equal(device.segments[0].len, 3584);
	assert_int_equal(device.segments[1].flags, GNTCOPY_dest_gref);
	assert_ptr_equal(device.segments[1].source.virt, local + 1);
	assert_int_equal(device.segments[1].dest.foreign.ref, 10);
	assert_int_equal(device.segments[1].dest.foreign.domid, 4);
	assert_int_equal(device.segments[1].len, 4096);
	assert_int_equal(copy[0].status, 0);
	assert_int_equal(copy[1].status, 0);

	device.status[1] = GNTST_bad_gntref;
	assert_int_equal(xpv_gntdev_copy(g, copy, 2), -1);
	assert_int_equal(errno, EIO);
	assert_int_equal(copy[0].status, 0);
	assert_int_equal(copy[1].status, GNTST_bad_gntref);
	xpv_gntdev_close(g);
}

static void
does_not_copy_beyond_a_page(void **state)
{
	struct xpv_gntdev *g = xpv_gntdev_open();
	char local[4096];
	struct xpv_copy copy[] = {
	    {.local = local, .domid = 3, .gref = 9, .length = 8},
	    {.local = local, .domid = 3, .gref = 9, .offset = 4095, .length = 2},
	};

	assert_int_equal(xpv_gntdev_copy(g, copy, 2), -1);
	assert_int_equal(errno, EINVAL);
	copy[1].offset = copy[1].length = UINT16_MAX;
	assert_int_equal(xpv_gntdev_copy(g, copy, 2), -1);
	copy[1] = copy[0];
	copy[1].domid = 65536 + 3;
	assert_int_equal(xpv_gntdev_copy(g, copy, 2), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(device.copies, 0);
	assert_true(copy[0].status < 0 && copy[1].status < 0);
	xpv_gntdev_close(g);
}

static void
says_that_there_is_no_copy(void **state)
{
	struct xpv_gntdev *g = xpv_gntdev_open();
	char local[8];
	struct xpv_copy copy = {.local = local, .domid = 3, .gref = 9, .length = 8};

	assert_true(xpv_gntdev_can_copy(g));
	device.error = ENOSYS;
	assert_false(xpv_gntdev_can_copy(g));
	assert_int_equal(lines, 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(xpv_gntdev_copy(g, &copy, 1), -1);
		assert_int_equal(errno, ENOSYS);
		assert_true(copy.status < 0);
	}
	assert_int_equal(lines, 1);
	xpv_gntdev_close(g);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(shares_a_pool),
	    test(refuses_impossible_pools),
	    test(says_what_is_missing),
	    test(raises_the_limit_when_it_must),
	    test(says_how_to_raise_the_limit),
	    test(gives_back_what_did_not_help),
	    test(reserves),
	    test(maps),
	    test(copies),
	    test(does_not_copy_beyond_a_page),
	    test(says_that_there_is_no_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
