/* SPDX-License-Identifier: BSD-2-Clause */
#include "balloon.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/supervisor.h>

#include "guest.h"
#include "settings.h"

#define WORK_MS	       1 /* between two parts of the mechanism's work */
#define IDLE_WORK_MS   100
#define CALM_FACTOR    4    /* without a policy of our own, looks are rarer */
#define QUARREL_MIN_MS 1000 /* with another writer */
#define QUARREL_MAX_MS 32000
#define STOP_MS	       10000
#define LEAVE_WAIT_MS  10
#define REFAULT_MIN_MS 100 /* over less time a rate means nothing */

/* The kernel hears the host's word when we do, and acts on it a little before or after us: until
 * that is over, its target is looked at again in these steps. */
static const long after_host_ms[] = {100, 25, 5};

static uint64_t
now_ms(void)
{
	return xpv_now_ns() / 1000000;
}

static void
after(struct event *event, long ms)
{
	const struct timeval when = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	event_add(event, &when);
}

static int64_t
apart(int64_t a, int64_t b)
{
	return a > b ? a - b : b - a;
}

/* --- acting --- */

static void
start_work(struct balloon *b)
{
	if (b->mechanism->work != NULL && !event_pending(b->work, EV_TIMEOUT, NULL))
		after(b->work, 0);
}

static void
on_work(evutil_socket_t fd, short events, void *arg)
{
	struct balloon *b = arg;
	int64_t before = 0, now = 0;

	b->mechanism->current(b->mechanism, &before);
	if (!b->mechanism->work(b->mechanism))
		return;
	b->mechanism->current(b->mechanism, &now);
	after(b->work, now != before ? WORK_MS : IDLE_WORK_MS);
}

static void
set_target(struct balloon *b, int64_t kib, const char *why)
{
	int64_t before = b->wanted;

	if (b->settings->dry_run) {
		b->wanted = kib;
		xpv_notice("would set the target to %" PRId64 " KiB (%s): the guest has %" PRId64
			   ", %" PRId64 " of it available, the host grants %" PRId64,
		    kib, why, b->current, b->meminfo.available, b->granted);
		return;
	}
	if (b->mechanism->set(b->mechanism, kib) != 0) {
		xpv_counter_add(&b->stats.failures, 1);
		if (xpv_counter_get(&b->stats.failures) == 1)
			xpv_err(
			    "cannot set the target to %" PRId64 " KiB: %s", kib, strerror(errno));
		return; /* the next look tries again */
	}
	b->wanted = kib;
	b->set_ms = now_ms();
	xpv_counter_add(kib < before ? &b->stats.down : &b->stats.up, 1);
	xpv_info("target %" PRId64 " KiB (%s): the guest has %" PRId64 ", %" PRId64
		 " of it available, the host grants %" PRId64,
	    kib, why, b->current, b->meminfo.available, b->granted);
	start_work(b);
}

/* Somebody else has set another target: the kernel, each time that the host says something, which
 * is answered at once; or another program, which is answered ever more seldom. */
static void
answer_quarrel(struct balloon *b, uint64_t now)
{
	int64_t target;

	if (b->settings->dry_run || b->mechanism->target(b->mechanism, &target) != 0)
		return;
	if (apart(target, b->wanted) <= b->mechanism->step_kib) {
		if (now - b->set_ms > 2 * QUARREL_MAX_MS)
			b->quarrel_wait_ms = 0;
		return;
	}
	if (b->after_host > 0) {
		set_target(b, b->wanted, "against the kernel's");
		return;
	}
	if (now < b->quarrel_ms)
		return;
	xpv_counter_add(&b->stats.overridden, 1);
	b->quarrel_wait_ms = b->quarrel_wait_ms == 0 ? QUARREL_MIN_MS : 2 * b->quarrel_wait_ms;
	if (b->quarrel_wait_ms == 4 * QUARREL_MIN_MS)
		xpv_warning("somebody else sets the target, too: %" PRId64 " KiB in place of "
			    "%" PRId64,
		    target, b->wanted);
	if (b->quarrel_wait_ms > QUARREL_MAX_MS)
		b->quarrel_wait_ms = QUARREL_MAX_MS;
	b->quarrel_ms = now + b->quarrel_wait_ms;
	set_target(b, b->wanted, "set by another");
}

/* --- looking --- */

static bool
refaulting(struct balloon *b, uint64_t now)
{
	uint64_t elapsed = now - b->refaults_ms;
	int64_t pages = b->meminfo.refaults - b->refaults, limit = b->settings->refaults;
	bool first = b->refaults_ms == 0;

	if (!first && elapsed < REFAULT_MIN_MS)
		return false;
	b->refaults = b->meminfo.refaults;
	b->refaults_ms = now;
	if (first || limit == 0 || pages * 1000 / (int64_t)elapsed < limit)
		return false;
	xpv_counter_add(&b->stats.refaulting, 1);
	return true;
}

/* What the host says, in the kernel's count. */
static void
translate_host(struct balloon *b)
{
	int64_t offset = host_offset(b->host, b->pv, b->boot), target = host_target(b->host);
	int64_t static_max = host_static_max(b->host);

	b->granted = 0;
	if (target > 0)
		b->granted = target - offset > 4 ? target - offset : 4;
	b->limit = static_max > 0 ? static_max - offset : b->boot;
}

static void
count(struct balloon *b)
{
	struct balloon_stats *s = &b->stats;
	int64_t us = b->pressure != NULL ? pressure_total_us(b->pressure) : -1;

	xpv_counter_set(&s->target_bytes, (uint64_t)b->policy.target * 1024);
	xpv_counter_set(&s->current_bytes, (uint64_t)b->current * 1024);
	xpv_counter_set(&s->available_bytes, (uint64_t)b->meminfo.available * 1024);
	xpv_counter_set(&s->granted_bytes, (uint64_t)b->granted * 1024);
	xpv_counter_set(&s->host_targets, host_targets(b->host));
	xpv_counter_set(&s->host_nonsense, host_nonsense(b->host));
	if (us >= 0)
		xpv_counter_set(&s->pressure_us, (uint64_t)us);
}

static void
decide(struct balloon *b, uint64_t now)
{
	const struct policy_input in = {.now_ms = now,
	    .boot = b->boot,
	    .limit = b->limit,
	    .granted = b->granted,
	    .current = b->current,
	    .available = b->meminfo.available,
	    .pressure = b->waited,
	    .interval_ms = b->settings->interval_ms};
	int64_t target = policy_step(&b->policy, &b->settings->policy, &in);

	b->waited = false;
	if (target != b->wanted) {
		set_target(b, target, policy_reason_name(b->policy.reason));
		return;
	}
	answer_quarrel(b, now);
	/* What the kernel's balloon has moved by itself meanwhile is made up for. */
	if (apart(b->current, b->wanted) >= b->mechanism->step_kib)
		start_work(b);
}

/* What is given away by hypercalls of our own is still in the kernel's total: the guest does not
 * use it. */
static void
tell(struct balloon *b, uint64_t now)
{
	struct meminfo m = b->meminfo;
	const struct host_publish how = {.keys = (enum host_keys)b->settings->publish,
	    .interval_ms = (uint64_t)b->settings->publish_s * 1000,
	    .change_kib = b->settings->publish_kib};

	if (b->mechanism->out != NULL)
		m.total -= b->mechanism->out(b->mechanism);
	if (!b->settings->dry_run && host_publish(b->host, &how, &m, now))
		xpv_counter_add(&b->stats.published, 1);
}

static long
next_look(const struct balloon *b, int64_t growth)
{
	long interval = b->settings->interval_ms;

	if (b->after_host > 0)
		return after_host_ms[b->after_host - 1];
	if (b->settings->policy.kind != POLICY_AUTO)
		interval *= CALM_FACTOR;
	return policy_next_ms(interval, b->meminfo.available, growth);
}

static void
look(struct balloon *b)
{
	struct meminfo before = b->meminfo;
	uint64_t now = now_ms(), elapsed = now - b->looked_ms;
	int64_t used = b->used, growth = 0;

	if (meminfo_read(b->source, &b->meminfo) != 0 ||
	    b->mechanism->current(b->mechanism, &b->current) != 0) {
		b->meminfo = before;
		after(b->look, b->settings->interval_ms);
		return;
	}
	translate_host(b);
	b->waited |= refaulting(b, now);
	b->used = b->current - b->meminfo.available;
	if (b->looked_ms != 0 && elapsed > 0)
		growth = (b->used - used) * 1000 / (int64_t)elapsed;
	b->looked_ms = now;
	decide(b, now);
	count(b);
	tell(b, now);
	after(b->look, next_look(b, growth));
	if (b->after_host > 0)
		b->after_host--;
}

static void
on_look(evutil_socket_t fd, short events, void *arg)
{
	look(arg);
}

static void
on_pressure(void *arg)
{
	struct balloon *b = arg;

	xpv_counter_add(&b->stats.pressure, 1);
	b->waited = true;
	look(b);
}

/* Also once at the start, when nothing has changed. */
static void
on_target(void *arg)
{
	struct balloon *b = arg;

	b->after_host = sizeof(after_host_ms) / sizeof(after_host_ms[0]);
	b->quarrel_ms = b->quarrel_wait_ms = 0;
	look(b);
}

/* --- from start to end --- */

/* The one that works is closed when there is another. */
static void
open_pressure(struct balloon *b)
{
	const struct settings *s = b->settings;
	struct pressure *new;

	if (b->stall_ms == s->stall_ms && b->window_ms == s->window_ms &&
	    (b->pressure == NULL || pressure_works(b->pressure)))
		return;
	new = pressure_open(b->base, s->procfs, s->stall_ms, s->window_ms, on_pressure, b);
	if (new == NULL && pressure_works(b->pressure)) {
		xpv_warning("pressure is told of as before: stall = %ld, window = %ld", b->stall_ms,
		    b->window_ms);
		return;
	}
	pressure_close(b->pressure);
	b->pressure = new;
	b->stall_ms = s->stall_ms;
	b->window_ms = s->window_ms;
}

/* 0, or the exit status. */
static int
open_mechanism(struct balloon *b, const struct settings *settings)
{
	const struct mechanism_where where = {.sysfs = settings->sysfs,
	    .procfs = settings->procfs,
	    .rundir = settings->rundir,
	    .dry_run = settings->dry_run};

	b->mechanism = mechanism_open((enum mechanism_choice)settings->mechanism, &where);
	if (b->mechanism == NULL)
		return errno == ENODEV ? EX_UNAVAILABLE : EX_TEMPFAIL;
	if (b->mechanism->current(b->mechanism, &b->current) == 0 &&
	    b->mechanism->target(b->mechanism, &b->wanted) == 0)
		return 0;
	xpv_err("the balloon does not tell the guest's size: %s", strerror(errno));
	return EX_TEMPFAIL;
}

int
balloon_start(struct balloon *b, struct event_base *base, struct xpv_store *store,
    const struct settings *settings)
{
	int status;

	*b = (struct balloon){.base = base, .settings = settings};
	b->source = meminfo_open(settings->procfs);
	if (b->source == NULL)
		return EX_TEMPFAIL;
	status = open_mechanism(b, settings);
	if (status != 0)
		return status;
	b->pv = guest_is_pv(settings->sysfs);
	b->boot = meminfo_boot_kib(settings->procfs);
	if (b->boot == 0) {
		xpv_err("%s/zoneinfo does not tell how much memory there is", settings->procfs);
		return EX_TEMPFAIL;
	}
	policy_init(&b->policy, b->wanted, now_ms());
	b->look = evtimer_new(base, on_look, b);
	b->work = evtimer_new(base, on_work, b);
	if (b->look == NULL || b->work == NULL)
		return EX_TEMPFAIL;
	open_pressure(b);
	b->host = host_open(store, on_target, b);
	if (b->host == NULL)
		return EX_TEMPFAIL;
	look(b);
	xpv_notice("%s guest of %" PRId64 " KiB, balloon: %s, floor %" PRId64 ", reserve %" PRId64,
	    b->pv ? "PV" : "PVH or HVM", b->boot, b->mechanism->name,
	    policy_floor(&settings->policy, b->boot), policy_reserve(&settings->policy, b->boot));
	return 0;
}

void
balloon_reload(struct balloon *b)
{
	open_pressure(b);
	host_forget(b->host); /* there may be other keys */
	look(b);
}

/* What stays out then is safe as long as its filesystem is. */
static void
leave(struct balloon *b)
{
	uint64_t end = now_ms() + STOP_MS;
	int64_t left, before = INT64_MAX;

	if (b->mechanism->leave == NULL)
		return;
	while ((left = b->mechanism->leave(b->mechanism, b->policy.target)) > 0 && now_ms() < end) {
		usleep((left < before ? WORK_MS : LEAVE_WAIT_MS) * 1000);
		before = left;
	}
	if (left > 0)
		xpv_err(
		    "%" PRId64 " MiB stay out, as the host does not give them back now: the guest "
		    "goes without until the next xen-balloond; %s/balloon must stay mounted, else "
		    "the kernel uses memory that is not there",
		    left / 1024, b->settings->rundir);
}

void
balloon_stop(struct balloon *b)
{
	const struct settings *settings = b->settings;
	struct settings whole = *settings;

	if (settings->dry_run)
		return;
	whole.policy.kind = POLICY_MANUAL;
	whole.policy.maximum = 0;
	b->settings = &whole;
	look(b);
	leave(b);
	b->settings = settings;
	event_del(b->look);
	event_del(b->work);
}

void
balloon_free(struct balloon *b)
{
	host_close(b->host);
	pressure_close(b->pressure);
	mechanism_close(b->mechanism);
	meminfo_close(b->source);
	if (b->look != NULL)
		event_free(b->look);
	if (b->work != NULL)
		event_free(b->work);
}
