/* SPDX-License-Identifier: BSD-2-Clause */
/* The balloon's arithmetic, on guests that are but numbers. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "policy.h"

#define MIB INT64_C(1024)
#define MAX INT64_MAX

static const struct policy_config defaults = {
    .kind = POLICY_AUTO,
    .headroom = 10,
    .hysteresis = 5,
    .step = 25,
    .settle_ms = 10000,
    .calm_ms = 30000,
};

/* A guest of 1 GiB whose balloon does at once as it is told. */
struct guest {
	struct policy p;
	struct policy_config c;
	struct policy_input in;
	int64_t used;
	unsigned ups, downs; /* steps that moved */
	int64_t lowest;
};

static struct guest
make_guest(int kind, int64_t used)
{
	struct guest g = {.c = defaults, .used = used, .lowest = MAX};

	g.c.kind = kind;
	g.in = (struct policy_input){
	    .boot = 1024 * MIB, .limit = 1024 * MIB, .granted = 1024 * MIB, .current = 1024 * MIB};
	policy_init(&g.p, g.in.current, 0);
	return g;
}

static int64_t
step(struct guest *g, unsigned ms, bool pressure)
{
	int64_t before = g->p.target, target;

	g->in.now_ms += ms;
	g->in.pressure = pressure;
	g->in.available = g->in.current > g->used ? g->in.current - g->used : 0;
	target = policy_step(&g->p, &g->c, &g->in);
	assert_int_equal(target % 4, 0);
	assert_true(target >= policy_floor(&g->c, g->in.boot));
	assert_true(target <= g->in.limit);
	assert_true((target == before) == (g->p.reason == POLICY_STEADY));
	g->ups += target > before;
	g->downs += target < before;
	g->in.current = target;
	if (target < g->lowest)
		g->lowest = target;
	return target;
}

static int64_t
run(struct guest *g, unsigned seconds)
{
	for (unsigned i = 0; i < 4 * seconds; i++)
		step(g, 250, false);
	return g->p.target;
}

static int64_t
wanted(const struct guest *g)
{
	return g->used + policy_reserve(&g->c, g->in.boot) + g->used * g->c.headroom / 100;
}

static void
is_near(int64_t a, int64_t b, int64_t by)
{
	assert_in_range(a, b - by, b + by);
}

/* ---- the floor ---- */

static void
test_floor(void **state)
{
	const struct policy_config none = {0}, some = {.floor = 50 * MIB};
	int64_t last = 0;

	assert_int_equal(policy_floor(&none, 64 * MIB), 40 * MIB);
	assert_int_equal(policy_floor(&none, 256 * MIB), 104 * MIB);
	assert_int_equal(policy_floor(&none, 1024 * MIB), 232 * MIB);
	assert_int_equal(policy_floor(&none, 16384 * MIB), 808 * MIB);
	for (int64_t boot = 4; boot < 8192 * MIB; boot += MIB) {
		int64_t floor = policy_floor(&none, boot);

		assert_true(floor <= boot);
		assert_in_range(floor, last, last + MIB); /* no jump where two pieces meet */
		last = floor;
	}
	assert_int_equal(policy_floor(&some, 1024 * MIB), 50 * MIB);
	assert_int_equal(policy_floor(&some, 20 * MIB), 20 * MIB);
	assert_int_equal(policy_floor(&none, -1), 0);
}

static void
test_reserve(void **state)
{
	const struct policy_config none = {0}, some = {.reserve = 5 * MIB};

	assert_int_equal(policy_reserve(&none, 64 * MIB), 16 * MIB);
	assert_int_equal(policy_reserve(&none, 1024 * MIB), 64 * MIB);
	assert_int_equal(policy_reserve(&none, 65536 * MIB), 256 * MIB);
	assert_int_equal(policy_reserve(&some, 65536 * MIB), 5 * MIB);
}

/* ---- manual, static ---- */

static void
test_manual_follows(void **state)
{
	struct guest g = make_guest(POLICY_MANUAL, 100 * MIB);
	static const int64_t sizes[] = {
	    512 * MIB, 300 * MIB, 1024 * MIB, 512 * MIB + 4, 1000 * MIB};

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		g.in.granted = sizes[i];
		assert_int_equal(step(&g, 1, false), sizes[i]);
		assert_int_equal(g.p.reason, POLICY_HOST);
		assert_int_equal(step(&g, 1, true), sizes[i]); /* also under pressure */
	}
	g.c.maximum = 400 * MIB;
	assert_int_equal(step(&g, 1, false), 400 * MIB);
}

static void
test_manual_floor(void **state)
{
	struct guest g = make_guest(POLICY_MANUAL, 100 * MIB);

	g.in.granted = 4;
	assert_int_equal(step(&g, 1, false), 232 * MIB);
	/* The floor for this guest is what it uses and the reserve. */
	g.in.granted = 1024 * MIB;
	step(&g, 1, false);
	g.used = 500 * MIB;
	g.in.granted = 100 * MIB;
	step(&g, 1, false);
	assert_int_equal(g.p.reason, POLICY_FLOOR);
	assert_true(g.p.target >= 564 * MIB);
	run(&g, 60);
	assert_true(g.p.target >= 564 * MIB);
	/* It grows: so does its memory, at once, and beyond what is granted. */
	for (g.used = 500 * MIB; g.used < 700 * MIB; g.used += 20 * MIB)
		assert_true(step(&g, 1, false) >= g.used + 64 * MIB);
	step(&g, 1, false);
	/* It shrinks: that is followed, too, but not for a moment's sake. */
	g.used = 300 * MIB;
	assert_true(step(&g, 100, false) >= 764 * MIB);
	is_near(run(&g, 60), 364 * MIB, 20 * MIB);
	/* Less than the host grants it never gets. */
	g.in.granted = 600 * MIB;
	assert_int_equal(step(&g, 1, false), 600 * MIB);
}

/* memory/static-max is a word of the host's, too. */
static void
test_limit_below_need(void **state)
{
	static const int kinds[] = {POLICY_MANUAL, POLICY_AUTO, POLICY_STATIC};

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct guest g = make_guest(kinds[i], 500 * MIB);
		struct policy_input in = g.in;

		in.limit = 4;
		in.available = 524 * MIB;
		in.now_ms = 1;
		assert_int_equal(policy_step(&g.p, &g.c, &in), 564 * MIB);
		in.available = in.current;
		in.now_ms = 100000;
		policy_step(&g.p, &g.c, &in);
		in.now_ms = 200000;
		assert_true(policy_step(&g.p, &g.c, &in) >= 232 * MIB);
	}
}

static void
test_manual_jitter(void **state)
{
	struct guest g = make_guest(POLICY_MANUAL, 500 * MIB);

	g.in.granted = 100 * MIB;
	run(&g, 60);
	g.ups = g.downs = 0;
	srand(1);
	for (unsigned i = 0; i < 4000; i++) {
		g.used = 495 * MIB + rand() % (10 * MIB);
		step(&g, 250, false);
	}
	assert_in_range(g.ups + g.downs, 0, 2);
}

static void
test_static(void **state)
{
	struct guest g = make_guest(POLICY_STATIC, 100 * MIB);

	assert_int_equal(run(&g, 60), 1024 * MIB); /* as at the start */
	g.c.size = 700 * MIB;
	assert_int_equal(step(&g, 1, false), 700 * MIB);
	g.in.granted = 600 * MIB; /* not more than is granted */
	assert_int_equal(step(&g, 1, false), 600 * MIB);
	g.in.granted = 1024 * MIB;
	assert_int_equal(step(&g, 1, true), 700 * MIB);
	g.c.size = 4;
	assert_int_equal(step(&g, 1, false), 232 * MIB);
}

/* ---- auto ---- */

static void
test_auto_converges(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);
	int64_t target;

	/* Slowly: a hundredth of its size per second, after the time to settle. */
	assert_int_equal(run(&g, 9), 1024 * MIB);
	is_near(run(&g, 21), (1024 - 200) * MIB, 30 * MIB);
	target = run(&g, 120);
	is_near(target, wanted(&g), target / 20);
	assert_true(g.lowest >= wanted(&g));
	assert_int_equal(g.ups, 0);
	/* And stays there. */
	g.downs = 0;
	assert_int_equal(run(&g, 600), target);
	assert_int_equal(g.downs, 0);
}

static void
test_auto_does_not_flap(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);

	run(&g, 200);
	g.ups = g.downs = 0;
	srand(2);
	for (unsigned i = 0; i < 20000; i++) {
		g.used = 295 * MIB + rand() % (10 * MIB);
		step(&g, 250, false);
	}
	assert_in_range(g.ups, 0, 2);
	assert_in_range(g.downs, 0, 2);
	/* Waves that are shorter than the time to settle: it stays at their height. */
	for (unsigned i = 0; i < 1000; i++) {
		g.used = i / 20 % 2 == 0 ? 300 * MIB : 500 * MIB;
		step(&g, 250, false);
		if (i == 100)
			g.ups = g.downs = 0;
	}
	assert_in_range(g.ups + g.downs, 0, 2);
	assert_true(g.p.target >= 500 * MIB + policy_reserve(&g.c, g.in.boot));
}

static void
test_auto_grows(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 100 * MIB);
	int64_t before;

	before = run(&g, 300);
	/* Into the headroom: a quarter of its size per second. */
	g.used += 40 * MIB;
	step(&g, 100, false);
	assert_int_equal(g.p.reason, POLICY_STEADY); /* at the floor there is room enough */
	g.used = 200 * MIB;
	step(&g, 100, false);
	assert_int_equal(g.p.reason, POLICY_NEED);
	assert_true(g.p.target >= g.used + policy_reserve(&g.c, g.in.boot));
	assert_true(g.p.target > before);
	run(&g, 2);
	is_near(g.p.target, wanted(&g), g.p.target / 20);
}

static void
test_auto_rates(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);
	int64_t before;

	g.c.down = 2 * MIB;
	g.c.up = 20 * MIB;
	g.c.headroom = 100;
	run(&g, 20);
	for (unsigned i = 0; i < 50; i++) {
		before = g.p.target;
		step(&g, 250, false);
		assert_true(before - g.p.target <= 2 * MIB);
	}
	g.used = 500 * MIB; /* wants all, needs 564 */
	g.in.granted = 600 * MIB;
	step(&g, 1, false);
	g.in.granted = 1024 * MIB;
	for (unsigned i = 0; i < 20; i++) {
		before = g.p.target;
		step(&g, 100, false);
		assert_true(g.p.target - before <= 2 * MIB + 4);
	}
	assert_true(g.p.target > 630 * MIB);
}

/* A rate of less than a page in a step, and one step in a minute. */
static void
test_auto_slow(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);
	int64_t before;

	g.c.down = 3;
	g.c.up = 5;
	before = run(&g, 15);
	is_near(run(&g, 1000), before - 3000, 4);
	g.c.hysteresis = 0;
	g.in.current = g.p.target = before = 400 * MIB;
	g.c.headroom = 100; /* wants 664 MiB */
	is_near(run(&g, 1000), before + 5000, 4);
	g.c.headroom = 10;
	g.c.down = 100;
	g.in.interval_ms = 60000;
	g.in.current = g.p.target = before = 1024 * MIB;
	step(&g, 60000, false);
	before = g.p.target;
	for (unsigned i = 0; i < 10; i++)
		step(&g, 60000, false);
	is_near(g.p.target, before - 10 * 6000, 4);
	before = g.p.target;
	step(&g, 86400000, false); /* the guest was paused */
	is_near(g.p.target, before - 6000, 4);
}

static void
test_auto_pressure(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);
	int64_t before = run(&g, 300);

	/* At once, a quarter more; again while more is used; then nothing for half a minute. */
	step(&g, 1, true);
	assert_int_equal(g.p.reason, POLICY_PRESSURE);
	is_near(g.p.target, before * 5 / 4, 4);
	g.used = g.in.current - 10 * MIB;
	step(&g, 1, true);
	is_near(g.p.target, before * 25 / 16, 8);
	for (unsigned i = 0; i < 10; i++) {
		g.used = g.in.current - 10 * MIB;
		step(&g, 1, true);
	}
	assert_int_equal(g.p.target, 1024 * MIB);
	g.used = 300 * MIB;
	assert_int_equal(run(&g, 29), 1024 * MIB);
	is_near(run(&g, 200), before, before / 20);
}

/* A control group at its own limit, a file that is read in circles: they wait for ever, and more
 * memory is no help. */
static void
test_auto_pressure_without_shortage(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);
	int64_t before = run(&g, 300);

	for (unsigned i = 0; i < 1000; i++)
		step(&g, 500, true);
	assert_in_range(g.p.target, before, before * 3 / 2);
	before = g.p.target;
	/* Nothing is taken while it goes on; and a program that needs memory gets it. */
	assert_int_equal(step(&g, 500, true), before);
	g.used = g.in.current - 10 * MIB;
	is_near(step(&g, 1, true), before * 5 / 4, 4);
}

static void
test_auto_hog(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 200 * MIB);
	long next;

	run(&g, 300);
	/* 200 MiB per second: with the looks that follow from it the memory is always there first.
	 */
	next = 250;
	while (g.used < 900 * MIB) {
		int64_t growth = 200 * MIB * next / 1000;

		g.used += growth;
		assert_true(g.used < g.in.current);
		step(&g, (unsigned)next, false);
		next = policy_next_ms(250, g.in.available, 200 * MIB);
	}
	/* It ends, and the guest gives it up again. */
	g.used = 200 * MIB;
	is_near(run(&g, 200), wanted(&g), wanted(&g) / 10);
}

static void
test_auto_host(void **state)
{
	struct guest g = make_guest(POLICY_AUTO, 300 * MIB);

	g.in.granted = 500 * MIB; /* at once, as the host says */
	assert_int_equal(step(&g, 1, false), 500 * MIB);
	assert_int_equal(g.p.reason, POLICY_HOST);
	g.used = 480 * MIB; /* but what is in use is not given */
	assert_int_equal(step(&g, 1, false), 544 * MIB);
	g.used = 300 * MIB;
	step(&g, 1, true); /* nor is more taken than is granted, under pressure */
	assert_true(g.p.target <= 544 * MIB);
	g.in.granted = 10 * MIB;
	step(&g, 250, false);
	assert_true(g.p.target >= 364 * MIB);
}

/* ---- nonsense ---- */

static int64_t
any(void)
{
	static const int64_t odd[] = {0, 1, 3, -1, 4096, INT64_MAX, INT64_MIN, INT64_C(1) << 50,
	    (INT64_C(1) << 50) + 1, 256 * 1024, -4096};
	unsigned n = (unsigned)rand() % 20;

	return n < sizeof(odd) / sizeof(odd[0]) ? odd[n] : rand() % (2 * 1024 * MIB);
}

static void
test_nonsense(void **state)
{
	srand(3);
	for (unsigned round = 0; round < 300000; round++) {
		struct guest g = make_guest(rand() % 3, 0);

		g.c.floor = rand() % 4 == 0 ? rand() % (2048 * MIB) : 0;
		g.c.maximum = rand() % 4 == 0 ? rand() % (2048 * MIB) : 0;
		policy_init(&g.p, any(), 1000);
		for (unsigned i = 0; i < 4; i++) {
			int64_t target;

			g.in = (struct policy_input){.now_ms = (uint64_t)any(),
			    .boot = 1024 * MIB,
			    .limit = any(),
			    .granted = any(),
			    .current = any(),
			    .available = any(),
			    .pressure = rand() % 2};
			target = policy_step(&g.p, &g.c, &g.in);
			assert_in_range(target, 0, (INT64_C(1) << 50) + 4);
			assert_int_equal(target % 4, 0);
			assert_true(target >= policy_floor(&g.c, 1024 * MIB));
		}
	}
}

/* A thousand changes of the host's mind are a thousand targets, and no more. */
static void
test_many_targets(void **state)
{
	struct guest g = make_guest(POLICY_MANUAL, 100 * MIB);

	srand(4);
	for (unsigned i = 0; i < 1000; i++) {
		g.in.granted = 250 * MIB + rand() % (700 * MIB) / 4 * 4;
		assert_int_equal(step(&g, 1, false), g.in.granted);
		step(&g, 1, false);
		assert_int_equal(g.p.reason, POLICY_STEADY);
	}
}

static void
test_next_look(void **state)
{
	assert_int_equal(policy_next_ms(250, 100 * MIB, 0), 250);
	assert_int_equal(policy_next_ms(250, 100 * MIB, -5), 250);
	assert_int_equal(policy_next_ms(250, 100 * MIB, 100 * MIB), 125);
	assert_int_equal(policy_next_ms(250, 100 * MIB, 10000 * MIB), 20);
	assert_int_equal(policy_next_ms(250, -5, 1), 20);
	assert_int_equal(policy_next_ms(250, INT64_MAX, INT64_MAX), 20);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_floor),
	    cmocka_unit_test(test_reserve),
	    cmocka_unit_test(test_manual_follows),
	    cmocka_unit_test(test_manual_floor),
	    cmocka_unit_test(test_limit_below_need),
	    cmocka_unit_test(test_manual_jitter),
	    cmocka_unit_test(test_static),
	    cmocka_unit_test(test_auto_converges),
	    cmocka_unit_test(test_auto_does_not_flap),
	    cmocka_unit_test(test_auto_grows),
	    cmocka_unit_test(test_auto_rates),
	    cmocka_unit_test(test_auto_slow),
	    cmocka_unit_test(test_auto_pressure),
	    cmocka_unit_test(test_auto_pressure_without_shortage),
	    cmocka_unit_test(test_auto_hog),
	    cmocka_unit_test(test_auto_host),
	    cmocka_unit_test(test_nonsense),
	    cmocka_unit_test(test_many_targets),
	    cmocka_unit_test(test_next_look),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
