/* SPDX-License-Identifier: BSD-2-Clause */
#include "policy.h"

#define MIB	    INT64_C(1024)
#define PAGE	    4
#define NEXT_MIN_MS 20
#define STEP_MAX_MS 2000 /* a step that comes late takes and gives no more than for this long */

/* Sizes beyond this are nonsense, and so is what would be computed from them. */
#define SIZE_MAX_KIB (INT64_C(1) << 50)
#define RATE_MAX_KIB (INT64_C(1) << 40)

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
sane(int64_t size)
{
	return smaller(larger(size, 0), SIZE_MAX_KIB);
}

/* A kernel's own tables grow with the memory it has been booted with, and stay: small guests can
 * give away half, large ones nearly all. The four pieces meet at their ends. */
int64_t
policy_floor(const struct policy_config *c, int64_t boot)
{
	int64_t floor;

	boot = sane(boot);
	if (c->floor > 0)
		return smaller(c->floor, boot);
	if (boot < 128 * MIB)
		floor = 8 * MIB + boot / 2;
	else if (boot < 512 * MIB)
		floor = 40 * MIB + boot / 4;
	else if (boot < 2048 * MIB)
		floor = 104 * MIB + boot / 8;
	else
		floor = 296 * MIB + boot / 32;
	return smaller(floor, boot);
}

int64_t
policy_reserve(const struct policy_config *c, int64_t boot)
{
	if (c->reserve > 0)
		return c->reserve;
	return smaller(larger(sane(boot) / 16, 16 * MIB), 256 * MIB);
}

/* Per second; 0: a quarter of the boot size up, a hundredth down. */
static int64_t
rate(long configured, int64_t boot, int64_t part)
{
	return smaller(configured > 0 ? configured : larger(sane(boot) / part, MIB), RATE_MAX_KIB);
}

const char *
policy_reason_name(enum policy_reason reason)
{
	static const char *const names[] = {
	    [POLICY_STEADY] = "steady",
	    [POLICY_HOST] = "host",
	    [POLICY_NEED] = "need",
	    [POLICY_PRESSURE] = "pressure",
	    [POLICY_SURPLUS] = "surplus",
	    [POLICY_FLOOR] = "floor",
	};

	return names[reason];
}

void
policy_init(struct policy *p, int64_t current, uint64_t now_ms)
{
	*p = (struct policy){
	    .target = sane(current), .size = sane(current), .calm_ms = now_ms, .last_ms = now_ms};
}

/* What holds for one step. */
struct bounds {
	int64_t used;
	int64_t least;	 /* the floor, or what is in use with the reserve */
	int64_t granted; /* the most */
	int64_t limit;	 /* there is no more; the host's word for it is not taken below "least" */
	int64_t band;	 /* differences within it are none */
};

static struct bounds
find_bounds(const struct policy *p, const struct policy_config *c, const struct policy_input *in)
{
	int64_t boot = sane(in->boot);
	struct bounds b;

	b.used = larger(sane(in->current) - sane(in->available), 0);
	b.least = larger(policy_floor(c, boot), b.used + policy_reserve(c, boot));
	b.limit = larger(in->limit > 0 ? sane(in->limit) : boot, smaller(b.least, boot));
	b.least = smaller(b.least, b.limit);
	b.granted = in->granted > 0 ? smaller(sane(in->granted), b.limit) : b.limit;
	if (c->maximum > 0)
		b.granted = smaller(b.granted, c->maximum);
	b.band = larger(p->target * c->hysteresis / 100, PAGE);
	return b;
}

/* Tasks also wait for memory where there is enough: at a limit of their own, or for a file that is
 * read from end to end time and again. More of it would not help them. */
static bool
is_scarce(const struct policy_config *c, const struct policy_input *in, const struct bounds *b)
{
	return sane(in->available) < 2 * policy_reserve(c, in->boot) + b->used * c->headroom / 100;
}

/* More than is needed, long enough, and nobody has waited for memory lately. */
static bool
may_take(struct policy *p, const struct policy_config *c, uint64_t now_ms, bool surplus)
{
	if (!surplus) {
		p->surplus = false;
		return false;
	}
	if (!p->surplus) {
		p->surplus = true;
		p->surplus_ms = now_ms;
	}
	return now_ms >= p->calm_ms && now_ms - p->surplus_ms >= (uint64_t)c->settle_ms;
}

/*
 * The host, or the settings, say how much. Their word is followed at once in both directions. Where
 * it is less than the guest can do with, so is the guest's growth; its shrinking is followed when
 * it is worth it.
 */
static int64_t
follow(struct policy *p, const struct policy_config *c, const struct policy_input *in,
    const struct bounds *b, int64_t wanted)
{
	bool new_word = wanted != p->asked;

	p->asked = wanted;
	if (wanted >= b->least) {
		p->surplus = false;
		p->reason = POLICY_HOST;
		return wanted;
	}
	p->reason = POLICY_FLOOR;
	if (new_word || may_take(p, c, in->now_ms, p->target - b->least > b->band))
		return b->least;
	if (b->least > p->target) /* somewhat more, so that it does not grow page by page */
		return smaller(b->least + b->band / 2, b->limit);
	return p->target;
}

/* Whole pages of so many thousandths of a KiB. What is left is for the next step: at a low rate no
 * step alone comes to a page. */
static int64_t
in_pages(struct policy *p, int64_t milli_kib)
{
	int64_t all = p->left + milli_kib, pages = all / (PAGE * 1000);

	p->left = all - pages * PAGE * 1000;
	return pages * PAGE;
}

static int64_t
automatic(struct policy *p, const struct policy_config *c, const struct policy_input *in,
    const struct bounds *b, int64_t elapsed_ms)
{
	int64_t most = larger(b->granted, b->least);
	int64_t target = smaller(p->target, most);
	int64_t wanted = b->used + policy_reserve(c, in->boot) + b->used * c->headroom / 100;
	int64_t left = p->left;
	int64_t pushed = larger(p->target, smaller(sane(in->current), most));

	p->left = 0;
	wanted = smaller(larger(wanted, b->least), most);
	if (target != p->target)
		p->reason = POLICY_HOST;
	if (in->pressure) {
		p->calm_ms = in->now_ms + (uint64_t)c->calm_ms;
		may_take(p, c, in->now_ms, false);
	}
	if (in->pressure && is_scarce(c, in, b)) {
		p->reason = POLICY_PRESSURE;
		return smaller(larger(wanted, pushed + pushed * c->step / 100), most);
	}
	if (may_take(p, c, in->now_ms, target - wanted > b->band)) {
		p->reason = POLICY_SURPLUS;
		p->left = left;
		return larger(
		    wanted, target - in_pages(p, rate(c->down, in->boot, 100) * elapsed_ms));
	}
	if (target < b->least || wanted - target > b->band) {
		p->reason = POLICY_NEED;
		p->left = left;
		/* What keeps the guest alive is not a matter of speed. */
		return larger(b->least,
		    smaller(wanted, target + in_pages(p, rate(c->up, in->boot, 4) * elapsed_ms)));
	}
	return target;
}

int64_t
policy_step(struct policy *p, const struct policy_config *c, const struct policy_input *in)
{
	struct bounds b = find_bounds(p, c, in);
	uint64_t elapsed = in->now_ms > p->last_ms ? in->now_ms - p->last_ms : 0;
	uint64_t most = (uint64_t)larger(STEP_MAX_MS, in->interval_ms);
	int64_t target;

	if (elapsed > most)
		elapsed = most;
	p->last_ms = in->now_ms;
	p->reason = POLICY_STEADY;
	if (c->kind == POLICY_AUTO)
		target = automatic(p, c, in, &b, (int64_t)elapsed);
	else if (c->kind == POLICY_STATIC)
		target = follow(p, c, in, &b, smaller(c->size > 0 ? c->size : p->size, b.granted));
	else
		target = follow(p, c, in, &b, b.granted);
	target = larger(target, policy_floor(c, in->boot));
	/* To whole pages, upwards: what was at the floor is not below it then. */
	target = (target + PAGE - 1) / PAGE * PAGE;
	if (target == p->target)
		p->reason = POLICY_STEADY;
	p->target = target;
	return target;
}

long
policy_next_ms(long interval_ms, int64_t available, int64_t growth)
{
	int64_t next;

	if (growth <= 0)
		return interval_ms;
	next = sane(available) / 8 * 1000 / growth;
	return (long)smaller(larger(next, NEXT_MIN_MS), interval_ms);
}
