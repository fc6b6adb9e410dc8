/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xenpv/shared.h"

static size_t page;

/* Whether a child that keeps only "kept" has the page at this address; if so it adds one to its
 * first byte. */
static bool
child_has(const struct xpv_shared *kept, volatile unsigned char *at)
{
	unsigned char incore;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (xpv_shared_keep_only(kept) != 0)
			_exit(3);
		if (mincore((void *)(uintptr_t)at, 1, &incore) != 0)
			_exit(errno == ENOMEM ? 1 : 2);
		++*at;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status) == 0;
}

static void
test_alloc(void **state)
{
	struct xpv_shared *set = xpv_shared_new();
	unsigned char *a, *b;

	a = xpv_shared_alloc(set, 1);
	b = xpv_shared_alloc(set, page + 1);
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal((uintptr_t)a % page, 0);
	assert_int_equal((uintptr_t)b % page, 0);
	for (size_t i = 0; i < 2 * page; i++)
		assert_int_equal(b[i], 0);
	memset(a, 1, page);
	memset(b, 2, 2 * page);
	assert_int_equal(a[0], 1);

	assert_null(xpv_shared_alloc(set, 0));
	assert_int_equal(errno, EINVAL);
	assert_null(xpv_shared_alloc(set, SIZE_MAX));
	assert_int_equal(errno, EINVAL);
	assert_null(xpv_shared_alloc(set, SIZE_MAX / 2));
	assert_int_equal(errno, ENOMEM);
	xpv_shared_free(set);
	xpv_shared_free(NULL);
}

static void
test_keep_only(void **state)
{
	struct xpv_shared *set = xpv_shared_new(), *other = xpv_shared_new();
	unsigned char *a = xpv_shared_alloc(set, page), *b = xpv_shared_alloc(set, 3 * page);
	unsigned char *strange = xpv_shared_alloc(other, page);

	assert_true(child_has(set, a));
	assert_true(child_has(set, b + 2 * page));
	assert_false(child_has(set, strange));
	assert_true(child_has(other, strange));
	assert_false(child_has(other, b));
	assert_false(child_has(NULL, a));
	assert_false(child_has(NULL, strange));

	/* Shared, not copied. */
	assert_int_equal(a[0], 1);
	assert_int_equal(b[2 * page], 1);
	assert_int_equal(strange[0], 1);
	xpv_shared_free(other);
	assert_true(child_has(set, a));
	xpv_shared_free(set);
}

static void
test_foreign_mapping(void **state)
{
	struct xpv_shared *set = xpv_shared_new();
	unsigned char *mine =
	    mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned char *own = xpv_shared_alloc(set, page);

	assert_int_equal(xpv_shared_add(set, mine + 1, page), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(xpv_shared_add(set, mine, 0), -1);
	assert_int_equal(xpv_shared_add(set, mine, 2 * page), 0);
	assert_true(child_has(set, mine + page));
	assert_false(child_has(NULL, mine));
	xpv_shared_remove(set, mine);
	assert_true(child_has(NULL, mine)); /* nobody's any more */
	xpv_shared_remove(set, own);	    /* not foreign: stays */
	assert_false(child_has(NULL, own));
	xpv_shared_free(set);
	mine[0] = 1;
	munmap(mine, 2 * page);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_alloc),
	    cmocka_unit_test(test_keep_only),
	    cmocka_unit_test(test_foreign_mapping),
	};

	page = (size_t)sysconf(_SC_PAGESIZE);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
