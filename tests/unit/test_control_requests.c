/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "requests.h"

static struct requests q;

static int
reset(void **state)
{
	requests_init(&q);
	return 0;
}

/* A request that is under way, from its first hook to its end, whatever waits. */
static enum requests_step
finish(bool ok)
{
	assert_int_equal(requests_done(&q, true), REQUESTS_ACT);
	assert_int_equal(requests_done(&q, ok), REQUESTS_RUN_AFTER);
	return requests_done(&q, true);
}

static void
test_names(void **state)
{
	for (unsigned i = 0; i < REQUEST_NAMED; i++)
		assert_int_equal(request_parse(request_name((enum request)i)), i);
	assert_int_equal(request_parse(""), REQUEST_NONE);
	assert_int_equal(request_parse("none"), REQUEST_NONE);
	assert_int_equal(request_parse("shutdown"), REQUEST_NONE);
	assert_int_equal(request_parse("Poweroff"), REQUEST_NONE);
	assert_int_equal(request_parse("poweroff "), REQUEST_NONE);
}

static void
test_once(void **state)
{
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_STARTED);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_SAME);
	assert_int_equal(requests_done(&q, false), REQUESTS_ACT); /* hooks have no say */
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_SAME);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_AFTER);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_SAME);
	assert_int_equal(requests_take(&q, REQUEST_REBOOT), REQUESTS_TOO_LATE);
	assert_int_equal(requests_done(&q, true), REQUESTS_SETTLE);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_SAME);
	assert_int_equal(requests_take(&q, REQUEST_S3), REQUESTS_TOO_LATE);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
	assert_int_equal(q.state, REQUESTS_IDLE);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_STARTED);
}

/* What could not be done may be asked for again, also while hooks are told of it. */
static void
test_failed(void **state)
{
	requests_take(&q, REQUEST_POWEROFF);
	requests_done(&q, true);
	assert_int_equal(requests_done(&q, false), REQUESTS_RUN_AFTER);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_WAITS);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_SAME);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_BEFORE);
	assert_int_equal(finish(false), REQUESTS_NOTHING);
}

static void
test_newest_wish_waits(void **state)
{
	requests_take(&q, REQUEST_S3);
	assert_int_equal(requests_take(&q, REQUEST_POWEROFF), REQUESTS_WAITS);
	assert_int_equal(requests_take(&q, REQUEST_REBOOT), REQUESTS_WAITS);
	assert_int_equal(finish(true), REQUESTS_RUN_BEFORE);
	assert_int_equal(q.current, REQUEST_REBOOT);
	assert_int_equal(finish(true), REQUESTS_SETTLE);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
}

static void
test_nothing_after_the_last(void **state)
{
	requests_take(&q, REQUEST_HALT);
	requests_take(&q, REQUEST_REBOOT);
	assert_int_equal(finish(true), REQUESTS_SETTLE);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
}

static void
test_crash(void **state)
{
	requests_take(&q, REQUEST_POWEROFF);
	requests_take(&q, REQUEST_REBOOT);
	assert_int_equal(requests_take(&q, REQUEST_CRASH), REQUESTS_PREEMPTED);
	assert_int_equal(requests_take(&q, REQUEST_CRASH), REQUESTS_SAME);
	assert_int_equal(requests_done(&q, false), REQUESTS_RUN_AFTER);
	assert_int_equal(requests_done(&q, true), REQUESTS_NOTHING);
	/* ... also of what only seems to go. */
	requests_take(&q, REQUEST_POWEROFF);
	finish(true);
	assert_int_equal(requests_take(&q, REQUEST_CRASH), REQUESTS_PREEMPTED);
}

static void
test_resumed(void **state)
{
	assert_int_equal(requests_resumed(&q), REQUESTS_RUN_RESUMED);
	assert_int_equal(q.current, REQUEST_SUSPEND);
	/* Twice in a row is two times. */
	assert_int_equal(requests_resumed(&q), REQUESTS_NOTHING);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_RESUMED);
	assert_int_equal(requests_take(&q, REQUEST_REBOOT), REQUESTS_WAITS);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_BEFORE);
	/* In the midst of something else: after it, and before what waits. */
	assert_int_equal(requests_resumed(&q), REQUESTS_NOTHING);
	requests_take(&q, REQUEST_HALT);
	assert_int_equal(finish(false), REQUESTS_RUN_RESUMED);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_BEFORE);
	assert_int_equal(q.current, REQUEST_HALT);
}

/* A system that was to go and was migrated instead still goes. */
static void
test_resumed_while_going(void **state)
{
	requests_take(&q, REQUEST_HALT);
	requests_done(&q, true);
	requests_done(&q, true);
	assert_int_equal(requests_resumed(&q), REQUESTS_NOTHING); /* hooks run */
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_RESUMED);
	assert_int_equal(requests_take(&q, REQUEST_HALT), REQUESTS_SAME);
	assert_int_equal(requests_take(&q, REQUEST_REBOOT), REQUESTS_TOO_LATE);
	assert_int_equal(requests_done(&q, true), REQUESTS_SETTLE);
	assert_int_equal(q.current, REQUEST_HALT);
	/* At once, not when that is over. */
	assert_int_equal(requests_resumed(&q), REQUESTS_RUN_RESUMED);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
	assert_int_equal(requests_done(&q, true), REQUESTS_SETTLE);
	assert_int_equal(requests_take(&q, REQUEST_HALT), REQUESTS_SAME);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
	assert_int_equal(q.state, REQUESTS_IDLE);
	assert_int_equal(requests_resumed(&q), REQUESTS_RUN_RESUMED);
	assert_int_equal(requests_take(&q, REQUEST_HALT), REQUESTS_WAITS);
	assert_int_equal(requests_done(&q, true), REQUESTS_RUN_BEFORE);
	assert_int_equal(requests_take(&q, REQUEST_CRASH), REQUESTS_PREEMPTED);
	assert_int_equal(requests_done(&q, false), REQUESTS_RUN_AFTER);
	assert_int_equal(requests_done(&q, true), REQUESTS_NOTHING);
}

static void
test_calls_out_of_turn(void **state)
{
	assert_int_equal(requests_done(&q, true), REQUESTS_NOTHING);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
	requests_take(&q, REQUEST_REBOOT);
	assert_int_equal(requests_settled(&q), REQUESTS_NOTHING);
	assert_int_equal(q.state, REQUESTS_BEFORE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_names, reset),
	    cmocka_unit_test_setup(test_once, reset),
	    cmocka_unit_test_setup(test_failed, reset),
	    cmocka_unit_test_setup(test_newest_wish_waits, reset),
	    cmocka_unit_test_setup(test_nothing_after_the_last, reset),
	    cmocka_unit_test_setup(test_crash, reset),
	    cmocka_unit_test_setup(test_resumed, reset),
	    cmocka_unit_test_setup(test_resumed_while_going, reset),
	    cmocka_unit_test_setup(test_calls_out_of_turn, reset),
	};

	return cmocka_run_group_tests_name("control_requests", tests, NULL, NULL);
}
