/* SPDX-License-Identifier: BSD-2-Clause */
/* The pool's files, in a folder that is no hugetlbfs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "pool.h"
#include "textfile.h"
#include "xenpv/log.h"

#define FRAME UINT64_C(0x12345)

static char folder[64];

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);
int __wrap_fstatfs(int fd, struct statfs *fs);
int __wrap_fstatfs64(int fd, struct statfs *fs);
ssize_t __wrap_pread(int fd, void *data, size_t size, off_t at);
ssize_t __wrap_pread64(int fd, void *data, size_t size, off_t at);
int __wrap_textfile_open(const char *where, const char *name, int flags);
int __wrap_textfile_number(const char *where, const char *name, int64_t *value);
int __wrap_textfile_write_number(int fd, int64_t value);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

int
__wrap_fstatfs(int fd, struct statfs *fs)
{
	*fs = (struct statfs){.f_type = HUGETLBFS_MAGIC, .f_bsize = POOL_PAGE_KIB * 1024};
	return 0;
}

int
__wrap_fstatfs64(int fd, struct statfs *fs)
{
	return __wrap_fstatfs(fd, fs);
}

/* Of pagemap: all pages are the same. */
ssize_t
__wrap_pread(int fd, void *data, size_t size, off_t at)
{
	const uint64_t entry = UINT64_C(1) << 63 | FRAME;

	assert_int_equal(size, sizeof(entry));
	memcpy(data, &entry, sizeof(entry));
	return sizeof(entry);
}

ssize_t
__wrap_pread64(int fd, void *data, size_t size, off_t at)
{
	return __wrap_pread(fd, data, size, at);
}

int
__wrap_textfile_open(const char *where, const char *name, int flags)
{
	return dup(STDERR_FILENO);
}

int
__wrap_textfile_number(const char *where, const char *name, int64_t *value)
{
	*value = 0;
	return 0;
}

int
__wrap_textfile_write_number(int fd, int64_t value)
{
	return 0;
}

static int
setup(void **state)
{
	strcpy(folder, "/tmp/xenpv-pool-XXXXXX");
	return mkdtemp(folder) != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

/* The next process opens it, and need not be one that may open everything. */
static void
test_page_can_be_opened(void **state)
{
	struct pool *p = pool_open(folder);
	char path[128];
	struct stat st;

	assert_non_null(p);
	assert_int_equal(pool_take(p), 0);
	assert_int_equal(pool_page(p, 0), FRAME);
	snprintf(path, sizeof(path), "%s/%016x", folder, (unsigned)FRAME);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	pool_close(p);
	p = pool_open(folder);
	assert_non_null(p);
	assert_int_equal(pool_count(p), 1);
	assert_int_equal(pool_return(p, 0), 0);
	pool_close(p);
}

/* That never comes right by itself. */
static void
test_page_was_moved(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "truncate -s %d %s/7", POOL_PAGE_KIB * 1024, folder);
	assert_int_equal(system(command), 0);
	assert_null(pool_open(folder));
	assert_int_equal(errno, ENODEV);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_page_can_be_opened, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_page_was_moved, setup, teardown),
	};

	return cmocka_run_group_tests_name("balloon_pool", tests, NULL, NULL);
}
