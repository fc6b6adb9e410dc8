/* SPDX-License-Identifier: BSD-2-Clause */
/* Limits, on a clock of the test's own. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>

#include "throttle.h"

#define S  UINT64_C(1000000000)
#define MS UINT64_C(1000000)

/* Requests that pass at "now", each of so many bytes. */
static unsigned
passing(struct throttle *t, uint64_t now, uint64_t bytes, unsigned at_most)
{
	unsigned n = 0;
	uint64_t wait;

	while (n < at_most && throttle_allows(t, now, &wait)) {
		throttle_take(t, now, bytes);
		n++;
	}
	return n;
}

/* Requests that pass within a time, each as soon as it may. */
static unsigned
passing_until(struct throttle *t, uint64_t now, uint64_t end, uint64_t bytes)
{
	unsigned n = 0;
	uint64_t wait;

	while (now < end) {
		if (throttle_allows(t, now, &wait)) {
			assert_int_equal(wait, 0);
			throttle_take(t, now, bytes);
			n++;
		} else {
			assert_true(wait > 0);
			/* It says just how long. */
			assert_false(throttle_allows(t, now + wait - 1, &(uint64_t){0}));
			now += wait;
		}
	}
	return n;
}

static void
no_limit(void **state)
{
	struct throttle t = {0};

	throttle_set(&t, &(struct vbd_limits){.burst_ms = 100});
	assert_int_equal(passing(&t, 5 * S, 1 << 20, 10000), 10000);
}

static void
requests_per_second(void **state)
{
	struct throttle t = {0};

	throttle_set(&t, &(struct vbd_limits){.iops = 1000, .burst_ms = 100});
	/* What a burst holds, one more that makes it negative, then the rate. */
	assert_int_equal(passing(&t, 5 * S, 4096, 10000), 101);
	assert_int_equal(passing(&t, 5 * S, 4096, 10000), 0);
	assert_in_range(passing_until(&t, 5 * S, 15 * S, 4096), 9998, 10002);
	/* Idle time is saved up to the burst and no further. */
	assert_int_equal(passing(&t, 100 * S, 4096, 10000), 101);
}

static void
bytes_per_second(void **state)
{
	struct throttle t = {0};

	throttle_set(&t, &(struct vbd_limits){.bytes_per_s = 1 << 20, .burst_ms = 1000});
	assert_int_equal(passing(&t, 5 * S, 1 << 16, 1000), 17);
	/* A request without data costs nothing, but waits as the others do. */
	assert_int_equal(passing(&t, 5 * S, 0, 10), 0);
	assert_int_equal(passing(&t, 50 * S, 0, 10), 10);
	assert_in_range(passing_until(&t, 100 * S, 110 * S, 1 << 16), 176, 178);
}

/* A request larger than the bucket passes; the next one waits the longer. */
static void
larger_than_the_bucket(void **state)
{
	struct throttle t = {0};
	uint64_t wait;

	throttle_set(&t, &(struct vbd_limits){.bytes_per_s = 1 << 10, .burst_ms = 10});
	assert_int_equal(passing(&t, 5 * S, 1 << 20, 5), 1);
	assert_false(throttle_allows(&t, 5 * S, &wait));
	assert_int_equal(wait, 1024 * S - 10 * MS);
}

static void
no_burst(void **state)
{
	struct throttle t = {0};

	throttle_set(&t, &(struct vbd_limits){.iops = 10});
	assert_in_range(passing_until(&t, 5 * S, 15 * S, 512), 100, 101);
}

static void
the_tighter_limit_counts(void **state)
{
	struct throttle t = {0};

	throttle_set(&t, &(struct vbd_limits){.iops = 100, .bytes_per_s = 1 << 20, .burst_ms = 0});
	assert_in_range(passing_until(&t, 5 * S, 15 * S, 1 << 16), 160, 161);
	throttle_set(&t, &(struct vbd_limits){.iops = 100, .bytes_per_s = 1 << 20, .burst_ms = 0});
	assert_in_range(passing_until(&t, 20 * S, 30 * S, 512), 1000, 1001);
}

/* A debt at the old rate is forgiven. */
static void
limits_change(void **state)
{
	struct throttle t = {0};
	uint64_t wait;

	throttle_set(&t, &(struct vbd_limits){.bytes_per_s = 1});
	assert_int_equal(passing(&t, 5 * S, 1 << 20, 5), 1);
	throttle_set(&t, &(struct vbd_limits){.bytes_per_s = UINT64_C(1) << 30});
	assert_true(throttle_allows(&t, 5 * S, &wait));
	throttle_take(&t, 5 * S, 1 << 20);
	throttle_set(&t, &(struct vbd_limits){0});
	assert_int_equal(passing(&t, 5 * S, 1 << 20, 100), 100);
}

/* What threads take at the same time is taken by each. */
#define THREADS	  4
#define TAKE_EACH 20000

static void *
take_many(void *arg)
{
	for (unsigned i = 0; i < TAKE_EACH; i++)
		throttle_take(arg, 5 * S, 1000);
	return NULL;
}

static void
shared_by_threads(void **state)
{
	struct throttle t = {0};
	pthread_t threads[THREADS];
	uint64_t wait;

	throttle_set(&t, &(struct vbd_limits){.iops = 1000, .bytes_per_s = 1000000});
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_many, &t), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_false(throttle_allows(&t, 5 * S, &wait));
	assert_int_equal(wait, THREADS * TAKE_EACH * MS);
	throttle_set(&t, &(struct vbd_limits){0});
	assert_true(throttle_allows(&t, 5 * S, &wait));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_limit),
	    cmocka_unit_test(requests_per_second),
	    cmocka_unit_test(bytes_per_second),
	    cmocka_unit_test(larger_than_the_bucket),
	    cmocka_unit_test(no_burst),
	    cmocka_unit_test(the_tighter_limit_counts),
	    cmocka_unit_test(limits_change),
	    cmocka_unit_test(shared_by_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
