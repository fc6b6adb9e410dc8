/* SPDX-License-Identifier: BSD-2-Clause */
#include "watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/stats.h>
#include <xenpv/store.h>

#include "system.h"

#define NODE "control/shutdown"

/* The signs of a resume come one after the other, and are one resume. */
#define GATHER_MS 200
/* Clocks are read one after the other: less is no sign. */
#define SLEPT_NS 2000000
/* ... and a late one of these belongs to it, too. */
#define LATE_SIGN_NS 5000000000u
/* The store may answer again. */
#define AGAIN_MS 500
/* Our own answer makes the watch fire once more. */
#define OWN_ANSWER_NS 1000000000u

struct watch {
	struct xpv_store *store;
	struct xpv_watch *node, *domid;
	struct event *grace, *gather, *again;
	unsigned grace_ms;
	bool seen, domid_seen; /* the first call, which every watch makes */
	bool graced;	       /* the kernel has had its time with what is there */
	bool registered_anew, emptied;
	bool lying;	     /* what was there last is nobody's to take */
	enum request theirs; /* ... or is the kernel's */
	enum request taken;  /* what "emptied" is about, if it was seen */
	uint32_t domain;
	int64_t slept_ns;
	uint64_t resumed_ns;
	uint64_t answered_ns;
	char *refused; /* what was refused, as long as it is there */
	const struct watch_ops *ops;
	void *arg;
};

static void
start_timer(struct event *timer, unsigned ms)
{
	struct timeval when = {.tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000};

	event_add(timer, &when);
}

/* ---- a resume ---- */

static void
on_gathered(evutil_socket_t fd, short what, void *arg)
{
	struct watch *w = arg;
	int64_t slept = system_slept_ns();
	bool paused = slept - w->slept_ns > SLEPT_NS;
	bool anew = w->registered_anew, emptied = w->emptied;
	uint32_t before = w->domain;
	uint64_t now = xpv_now_ns();
	bool moved;

	w->slept_ns = slept;
	w->registered_anew = w->emptied = false;
	moved = xpv_store_read_u32(w->store, &w->domain, "domid") == 0 && w->domain != before;
	if (anew && !moved && !paused && w->resumed_ns != 0 && now - w->resumed_ns < LATE_SIGN_NS)
		return;
	if (anew || moved || paused) {
		w->resumed_ns = now;
		w->ops->resumed(anew || moved, w->arg);
	}
	/* The clocks alone may also speak of a sleep that the guest has had by itself before. */
	if (emptied && !anew && !moved && !(paused && w->taken == REQUEST_SUSPEND))
		w->ops->taken_by_other(w->taken, w->arg);
}

static void
on_domid(struct xpv_watch *watch, const char *changed, void *arg)
{
	struct watch *w = arg;

	if (w->domid_seen) {
		w->registered_anew = true;
		start_timer(w->gather, GATHER_MS);
	}
	w->domid_seen = true;
}

static void
forget_value(struct watch *w)
{
	free(w->refused);
	w->refused = NULL;
	event_del(w->grace);
	w->graced = false;
	w->lying = false;
	w->theirs = REQUEST_NONE;
}

static bool
is_our_answer(const struct watch *w)
{
	return w->answered_ns != 0 && xpv_now_ns() - w->answered_ns < OWN_ANSWER_NS;
}

/* What nobody takes was taken back by whoever wrote it. But the kernel may also have taken what we
 * have never seen. */
static void
on_empty(struct watch *w)
{
	bool by_other = !w->lying && !is_our_answer(w);
	enum request taken = w->emptied ? REQUEST_NONE : w->theirs;

	forget_value(w);
	if (!w->seen)
		return;
	if (by_other) {
		w->emptied = true;
		w->taken = taken;
	}
	/* In any case the clocks are looked at: it may have been a suspend. */
	start_timer(w->gather, GATHER_MS);
}

/* One that cannot be read, as the store has logged: the kernel cannot, either. */
static void
on_unreadable(struct watch *w)
{
	forget_value(w);
	w->lying = true;
}

/* ---- a request ---- */

/* What became of a look at the node. */
struct look {
	struct watch *watch;
	enum {
		LOOK_FAILED, /* nothing is known: the transaction did not come about */
		LOOK_NONE,
		LOOK_UNREADABLE,
		LOOK_EMPTY,
		LOOK_TAKEN,
		LOOK_LEFT, /* it cannot be taken */
		LOOK_REFUSED,
		LOOK_LATER
	} result;
	enum request request;
	char *name;
	const char *why;
};

/* In a transaction, maybe several times. */
static int
look_and_take(struct xpv_store *store, void *arg)
{
	struct look *look = arg;

	free(look->name);
	look->name = xpv_store_read(store, NODE);
	look->result = LOOK_EMPTY;
	if (look->name == NULL)
		look->result = errno == ENOENT ? LOOK_NONE : LOOK_UNREADABLE;
	if (look->name == NULL || look->name[0] == '\0')
		return -1;
	look->request = request_parse(look->name);
	if (look->request != REQUEST_NONE && system_goes_first(look->request) &&
	    !look->watch->graced) {
		look->result = LOOK_LATER;
		return -1;
	}
	look->why = look->request == REQUEST_NONE
			? "it is not known here"
			: look->watch->ops->refuse(look->request, look->watch->arg);
	look->result = LOOK_REFUSED;
	if (look->why != NULL)
		return -1;
	look->result = LOOK_LEFT;
	if (xpv_store_write(store, NODE, "%s", "") != 0)
		return -1;
	look->result = LOOK_TAKEN;
	return 0;
}

static void
refuse(struct watch *w, const struct look *look)
{
	/* The kernel may still take it, unless it has had its time. */
	w->lying = !system_kernel_takes(look->request) || system_goes_first(look->request);
	if (w->refused != NULL && strcmp(w->refused, look->name) == 0)
		return;
	free(w->refused);
	w->refused = strdup(look->name);
	w->ops->refused(look->name, look->why, w->arg);
}

/* The state is as it was, and so is what the next look is about. */
static void
on_failed(struct watch *w)
{
	if (is_our_answer(w))
		w->answered_ns = xpv_now_ns();
	start_timer(w->again, AGAIN_MS);
}

static void
look_at_node(struct watch *w)
{
	struct look look = {.watch = w};

	if (xpv_store_transaction(w->store, look_and_take, &look) != 0 && look.result == LOOK_TAKEN)
		look.result = LOOK_FAILED;
	event_del(w->again);
	switch (look.result) {
	case LOOK_FAILED: /* as the store has logged */
		on_failed(w);
		break;
	case LOOK_NONE: /* some toolstacks make the node for the request */
		forget_value(w);
		break;
	case LOOK_UNREADABLE:
		on_unreadable(w);
		break;
	case LOOK_EMPTY:
		on_empty(w);
		break;
	case LOOK_LATER:
		w->lying = false;
		w->theirs = look.request;
		if (!event_pending(w->grace, EV_TIMEOUT, NULL))
			start_timer(w->grace, w->grace_ms);
		break;
	case LOOK_REFUSED:
		refuse(w, &look);
		break;
	case LOOK_LEFT: /* as the store has logged */
		w->lying = true;
		break;
	case LOOK_TAKEN:
		w->lying = w->graced = false;
		w->answered_ns = xpv_now_ns();
		w->ops->request(look.request, w->arg);
		break;
	}
	w->seen |= look.result != LOOK_FAILED;
	free(look.name);
}

static void
on_again(evutil_socket_t fd, short what, void *arg)
{
	look_at_node(arg);
}

static void
on_grace(evutil_socket_t fd, short what, void *arg)
{
	struct watch *w = arg;

	w->graced = true;
	look_at_node(w);
	w->graced = false;
}

static void
on_node(struct xpv_watch *watch, const char *changed, void *arg)
{
	look_at_node(arg);
}

/* ---- */

struct watch *
watch_start(struct event_base *base, struct xpv_store *store, unsigned grace_ms,
    const struct watch_ops *ops, void *arg)
{
	struct watch *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->store = store;
	w->grace_ms = grace_ms;
	w->ops = ops;
	w->arg = arg;
	w->theirs = w->taken = REQUEST_NONE;
	w->slept_ns = system_slept_ns();
	xpv_store_read_u32(store, &w->domain, "domid");
	w->grace = evtimer_new(base, on_grace, w);
	w->gather = evtimer_new(base, on_gathered, w);
	w->again = evtimer_new(base, on_again, w);
	if (w->grace != NULL && w->gather != NULL && w->again != NULL) {
		w->node = xpv_store_watch(store, on_node, w, NODE);
		w->domid = xpv_store_watch(store, on_domid, w, "domid");
	}
	if (w->node == NULL || w->domid == NULL) {
		xpv_err("cannot watch " NODE);
		watch_stop(w);
		return NULL;
	}
	return w;
}

void
watch_stop(struct watch *w)
{
	if (w == NULL)
		return;
	xpv_store_unwatch(w->node);
	xpv_store_unwatch(w->domid);
	if (w->grace != NULL)
		event_free(w->grace);
	if (w->gather != NULL)
		event_free(w->gather);
	if (w->again != NULL)
		event_free(w->again);
	free(w->refused);
	free(w);
}

void
watch_flush(struct watch *w)
{
	if (event_pending(w->gather, EV_TIMEOUT, NULL)) {
		event_del(w->gather);
		on_gathered(-1, EV_TIMEOUT, w);
	}
}

void
watch_slept(struct watch *w)
{
	/* While signs are gathered this may be the suspend's that they are of. */
	if (!event_pending(w->gather, EV_TIMEOUT, NULL))
		w->slept_ns = system_slept_ns();
}

void
watch_set_grace(struct watch *w, unsigned grace_ms)
{
	w->grace_ms = grace_ms;
}
