/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hostile_backend [--after N] [--ram-mb N] MODE DOMID VDEV
 * hostile_backend --list
 *
 * Toolstack and blkif backend in one, for dom0: offers domain DOMID a RAM disk as VDEV, serves the
 * first N requests as a backend should, then misbehaves as MODE says. --list prints each mode and
 * what must become of the device:
 *
 *   expect=refused  the frontend closes it and says why
 *   expect=alive    it works, or works again
 *   expect=gone     the backend goes away; nothing else is harmed
 *
 * Exits 0 when its script ran through and the frontend did as expected: by itself (refused, gone),
 * or on SIGTERM (alive). Takes its nodes out of xenstore in any case.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/evtchn.h>
#include <xenpv/grant.h>
#include <xenpv/log.h>
#include <xenpv/ring.h>
#include <xenpv/stats.h>
#include <xenpv/store.h>
#include <xenpv/xenbus.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>
#include <xenstore.h>

#define SECTOR_SHIFT   9
#define SEGMENTS_MAX   256 /* of an indirect request */
#define RING_PAGES_MAX 16
#define BEGIN_S	       5 /* a disk nobody reads: misbehave even so */
#define CONNECT_S      60
#define EXPECT_S       20 /* time for the frontend to do what is expected */
#define SETTLE_S       2  /* before we look whether it has survived */
#define LEAVE_S	       3
#define TICK_MS	       100
#define MS	       1000000ull
#define COUNT(a)       (sizeof(a) / sizeof((a)[0]))

struct backend;

struct request {
	uint64_t id, sector, discard_sectors;
	uint8_t operation; /* the inner one */
	unsigned segments;
	struct blkif_request_segment segment[SEGMENTS_MAX];
};

enum expect { REFUSED, ALIVE, GONE };

static const char *const expect_names[] = {
    [REFUSED] = "refused", [ALIVE] = "alive", [GONE] = "gone"};

struct mode {
	const char *name;
	enum expect expect;
	const char *text;
	/* Once per offer, before state InitWait; may block. */
	void (*offer)(struct backend *b);
	/* Before state Connected; "round" counts offers. */
	void (*describe)(struct backend *b, unsigned round);
	unsigned rounds; /* offers, each to be refused; 0: one */
	/* Once, when it is time to misbehave; may block. */
	void (*act)(struct backend *b);
	/* For each request from then on. False: it is to be answered as usual. */
	bool (*request)(struct backend *b, const struct request *r);
};

struct backend {
	const struct mode *mode;
	unsigned domid, vdev;
	unsigned long after;
	uint8_t *ram;
	uint64_t sectors;
	char front[64], back[64], error[96];

	struct event_base *base;
	struct xs_handle *xs; /* for permissions, which xpv_store has not */
	struct xpv_store *store;
	struct xpv_gntdev *gntdev;
	struct event *begin, *tick, *term;

	struct xpv_evtchn *evtchn; /* NULL: not connected */
	uint32_t local_port, ring_ref;
	void *ring_base;
	unsigned ring_pages;
	blkif_back_ring_t ring;
	uint32_t scribbled; /* what we wrote over req_prod */
	bool scribble;

	unsigned long requests; /* taken */
	unsigned misdeeds;	/* of the mode, for what it does every now and then */
	unsigned round;
	bool offered; /* in this round */
	bool began, acted;
	bool deaf;	/* the ring is not served any more */
	bool satisfied; /* the frontend did as expected */
	bool leaving;	/* we asked the frontend to close */
	bool ending;	/* without a word, at the deadline */
	uint64_t deadline, settled;
	int exit_code;
};

static void
finish(struct backend *b, int code)
{
	b->exit_code = code;
	event_base_loopbreak(b->base);
}

static void
allow(struct backend *b, unsigned seconds)
{
	b->deadline = xpv_now_ns() + seconds * 1000 * MS;
}

static void
end_in(struct backend *b, unsigned seconds)
{
	b->satisfied = b->ending = true;
	allow(b, seconds);
}

/* ---- xenstore ---- */

static void
put_text(struct backend *b, const char *dir, const char *node, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, node);
	if (xpv_store_write(b->store, path, "%s", value) != 0)
		xpv_warning("%s: %s", path, strerror(errno));
}

static void
put(struct backend *b, const char *node, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	put_text(b, b->back, node, text);
}

static void
set_state(struct backend *b, enum xpv_state state)
{
	xpv_info("state %s", xpv_state_name(state));
	put(b, "state", state);
}

static uint32_t
front_u32(struct backend *b, const char *node, uint32_t absent)
{
	uint32_t value;

	return xpv_store_read_u32(b->store, &value, "%s/%s", b->front, node) == 0 ? value : absent;
}

/* UNKNOWN: there is none. */
static enum xpv_state
front_state(struct backend *b)
{
	return front_u32(b, "state", XPV_STATE_UNKNOWN);
}

struct node {
	const char *dir, *name, *value;
};

static bool
make_dir(struct backend *b, xs_transaction_t t, const char *dir, unsigned owner, unsigned reader)
{
	struct xs_permissions perms[2] = {
	    {.id = owner, .perms = XS_PERM_NONE}, {.id = reader, .perms = XS_PERM_READ}};

	if (!xs_rm(b->xs, t, dir) && errno != ENOENT)
		return false;
	return xs_mkdir(b->xs, t, dir) && xs_set_permissions(b->xs, t, dir, perms, 2);
}

/* As a toolstack does: both directories, all at once. */
static bool
make_device(struct backend *b)
{
	char vdev[16], domid[16], path[128];
	const struct node nodes[] = {
	    {b->front, "backend", b->back},
	    {b->front, "backend-id", "0"},
	    {b->front, "virtual-device", vdev},
	    {b->front, "device-type", "disk"},
	    {b->front, "state", "1"},
	    {b->back, "frontend", b->front},
	    {b->back, "frontend-id", domid},
	    {b->back, "online", "1"},
	    {b->back, "removable", "0"},
	    {b->back, "mode", "w"},
	    {b->back, "device-type", "disk"},
	    {b->back, "state", "1"},
	};
	xs_transaction_t t;

	snprintf(vdev, sizeof(vdev), "%u", b->vdev);
	snprintf(domid, sizeof(domid), "%u", b->domid);
	do {
		bool good;

		t = xs_transaction_start(b->xs);
		if (t == XBT_NULL)
			return false;
		good =
		    make_dir(b, t, b->back, 0, b->domid) && make_dir(b, t, b->front, b->domid, 0);
		for (unsigned i = 0; good && i < COUNT(nodes); i++) {
			snprintf(path, sizeof(path), "%s/%s", nodes[i].dir, nodes[i].name);
			good = xs_write(
			    b->xs, t, path, nodes[i].value, (unsigned)strlen(nodes[i].value));
		}
		if (!good) {
			int error = errno;

			xs_transaction_end(b->xs, t, true);
			errno = error;
			return false;
		}
		if (xs_transaction_end(b->xs, t, false))
			return true;
	} while (errno == EAGAIN);
	return false;
}

/* The directories above the backend's, if it was the last. */
static int
prune(struct xpv_store *store, const struct backend *b)
{
	char dir[sizeof(b->back)];

	strcpy(dir, b->back);
	for (unsigned i = 0; i < 2; i++) {
		char **others;
		bool empty;

		*strrchr(dir, '/') = '\0';
		others = xpv_store_list(store, dir);
		empty = others != NULL && others[0] == NULL;
		free(others);
		if (empty && xpv_store_remove(store, dir) != 0)
			return -1;
	}
	return 0;
}

static int
remove_device(struct xpv_store *store, void *arg)
{
	const struct backend *b = arg;

	return xpv_store_remove(store, b->front) | xpv_store_remove(store, b->back) |
	       xpv_store_remove(store, b->error) | prune(store, b);
}

static int
ask_to_close(struct xpv_store *store, void *arg)
{
	struct backend *b = arg;

	put(b, "online", 0);
	put(b, "state", XPV_STATE_CLOSING);
	return 0;
}

/* ---- the rings ---- */

static void
disconnect(struct backend *b)
{
	if (b->evtchn == NULL)
		return;
	xpv_evtchn_close(b->evtchn);
	b->evtchn = NULL;
	xpv_gntdev_unmap(b->gntdev, b->ring_base, b->ring_pages);
	xpv_info("disconnected after %lu requests", b->requests);
}

static void
notify(struct backend *b)
{
	xpv_evtchn_notify(b->evtchn, b->local_port);
}

static void
answer(struct backend *b, uint64_t id, uint8_t operation, int16_t status)
{
	blkif_response_t *rsp = RING_GET_RESPONSE(&b->ring, b->ring.rsp_prod_pvt);

	*rsp = (blkif_response_t){.id = id, .operation = operation, .status = status};
	b->ring.rsp_prod_pvt++;
}

static bool
take_request(struct backend *b, struct request *r)
{
	blkif_request_t entry;
	const blkif_request_indirect_t *indirect = (const void *)&entry;
	const blkif_request_discard_t *discard = (const void *)&entry;

	xpv_ring_copy_request(&b->ring, b->ring.req_cons, &entry);
	b->ring.req_cons++;
	b->requests++;
	r->id = entry.id;
	r->operation = entry.operation;
	r->sector = entry.sector_number;
	r->segments = entry.nr_segments;
	switch (entry.operation) {
	case BLKIF_OP_INDIRECT: {
		struct xpv_copy list = {.local = r->segment,
		    .domid = b->domid,
		    .gref = indirect->indirect_grefs[0],
		    .length = sizeof(r->segment)};

		r->operation = indirect->indirect_op;
		r->segments = indirect->nr_segments;
		return r->segments <= SEGMENTS_MAX && xpv_gntdev_copy(b->gntdev, &list, 1) == 0;
	}
	case BLKIF_OP_DISCARD:
		r->segments = 0;
		r->discard_sectors = discard->nr_sectors;
		return true;
	default:
		if (r->segments > BLKIF_MAX_SEGMENTS_PER_REQUEST)
			return false;
		memcpy(r->segment, entry.seg, sizeof(entry.seg));
		return true;
	}
}

static bool
on_disk(const struct backend *b, uint64_t sector, uint64_t n)
{
	return n <= b->sectors && sector <= b->sectors - n;
}

static bool
move_data(struct backend *b, const struct request *r)
{
	static struct xpv_copy copies[SEGMENTS_MAX];
	uint64_t sector = r->sector;

	for (unsigned i = 0; i < r->segments; i++) {
		unsigned first = r->segment[i].first_sect, last = r->segment[i].last_sect;

		if (first > last || last > 7 || !on_disk(b, sector, last - first + 1))
			return false;
		copies[i] = (struct xpv_copy){
		    .local = b->ram + (sector << SECTOR_SHIFT),
		    .domid = b->domid,
		    .gref = r->segment[i].gref,
		    .offset = (uint16_t)(first << SECTOR_SHIFT),
		    .length = (uint16_t)((last - first + 1) << SECTOR_SHIFT),
		    .to_foreign = r->operation == BLKIF_OP_READ,
		};
		sector += last - first + 1;
	}
	return xpv_gntdev_copy(b->gntdev, copies, r->segments) == 0;
}

static int16_t
execute(struct backend *b, const struct request *r)
{
	switch (r->operation) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
		return r->segments > 0 && move_data(b, r) ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR;
	case BLKIF_OP_WRITE_BARRIER:
		return move_data(b, r) ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR;
	case BLKIF_OP_FLUSH_DISKCACHE:
		return BLKIF_RSP_OKAY;
	case BLKIF_OP_DISCARD:
		if (!on_disk(b, r->sector, r->discard_sectors))
			return BLKIF_RSP_ERROR;
		memset(b->ram + (r->sector << SECTOR_SHIFT), 0, r->discard_sectors << SECTOR_SHIFT);
		return BLKIF_RSP_OKAY;
	default:
		return BLKIF_RSP_EOPNOTSUPP;
	}
}

static void
answer_well(struct backend *b, const struct request *r)
{
	answer(b, r->id, r->operation, execute(b, r));
}

static void
push(struct backend *b)
{
	int wanted;

	RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&b->ring, wanted);
	if (wanted)
		notify(b);
}

static void
begin_misbehaving(struct backend *b)
{
	if (b->began)
		return;
	b->began = true;
	event_active(b->begin, EV_TIMEOUT, 0);
}

static void
serve_request(struct backend *b)
{
	static struct request r;

	if (!take_request(b, &r)) {
		xpv_warning("request %lu is malformed", b->requests);
		answer(b, r.id, r.operation, BLKIF_RSP_ERROR);
		return;
	}
	if (b->requests >= b->after) {
		begin_misbehaving(b);
		/* Now: requests may come so fast that this loop ends with the last one. */
		b->acted = b->acted || b->mode->request != NULL;
	}
	if (!b->acted || b->leaving || b->mode->request == NULL || !b->mode->request(b, &r))
		answer_well(b, &r);
}

static void
serve(struct backend *b)
{
	int more = 1;

	while (more && b->evtchn != NULL && !b->deaf) {
		RING_IDX pending;

		if (b->scribble && b->ring.sring->req_prod == b->scribbled)
			return; /* the frontend has sent nothing since */
		b->scribble = false;
		if (!xpv_ring_requests(&b->ring, &pending)) {
			xpv_err("the frontend claims %u requests", pending);
			finish(b, 1);
			return;
		}
		while (pending-- > 0 && !b->deaf)
			serve_request(b);
		if (b->deaf)
			return;
		push(b);
		if (b->scribble)
			return;
		RING_FINAL_CHECK_FOR_REQUESTS(&b->ring, more);
	}
}

static void
on_event(uint32_t port, void *arg)
{
	serve(arg);
}

static uint32_t
first_ring_ref(struct backend *b)
{
	return front_u32(b, "ring-ref", front_u32(b, "ring-ref0", 0));
}

static bool
map_rings(struct backend *b, unsigned order)
{
	uint32_t refs[RING_PAGES_MAX];
	char node[32];

	b->ring_pages = 1u << order;
	b->ring_ref = refs[0] = first_ring_ref(b);
	for (unsigned i = 1; i < b->ring_pages; i++) {
		snprintf(node, sizeof(node), "ring-ref%u", i);
		refs[i] = front_u32(b, node, 0);
	}
	b->ring_base = xpv_gntdev_map(b->gntdev, b->domid, refs, b->ring_pages, true);
	return b->ring_base != NULL;
}

static bool
connect_rings(struct backend *b)
{
	uint32_t order = front_u32(b, "ring-page-order", 0);
	uint32_t port = front_u32(b, "event-channel", 0);
	char *protocol = xpv_store_read(b->store, "%s/protocol", b->front);
	bool native = protocol != NULL && strcmp(protocol, XEN_IO_PROTO_ABI_X86_64) == 0;
	blkif_sring_t *shared;
	int local;

	free(protocol);
	if (!native || order > 4 || front_u32(b, "multi-queue-num-queues", 1) != 1) {
		xpv_err("the frontend wants what was not offered");
		return false;
	}
	if (!map_rings(b, order)) {
		xpv_err("cannot map the ring: %s", strerror(errno));
		return false;
	}
	b->evtchn = xpv_evtchn_open();
	local = b->evtchn != NULL ? xpv_evtchn_bind_interdomain(b->evtchn, b->domid, port) : -1;
	if (local < 0 || xpv_evtchn_listen(b->evtchn, b->base, 0, on_event, b) != 0) {
		xpv_err("cannot bind port %u: %s", port, strerror(errno));
		xpv_gntdev_unmap(b->gntdev, b->ring_base, b->ring_pages);
		xpv_evtchn_close(b->evtchn);
		b->evtchn = NULL;
		return false;
	}
	b->local_port = (uint32_t)local;
	b->scribble = false;
	shared = b->ring_base;
	BACK_RING_ATTACH(&b->ring, shared, shared->rsp_prod, b->ring_pages * XPV_PAGE_SIZE);
	xpv_info("connected: %u ring page%s, %u slots", b->ring_pages,
	    b->ring_pages == 1 ? "" : "s", RING_SIZE(&b->ring));
	return true;
}

/* ---- the device ---- */

static void
describe(struct backend *b)
{
	put(b, "sectors", b->sectors);
	put(b, "sector-size", 1 << SECTOR_SHIFT);
	put(b, "physical-sector-size", 1 << SECTOR_SHIFT);
	put(b, "info", 0);
}

static void
offer(struct backend *b)
{
	if (b->offered)
		return;
	b->offered = true;
	put(b, "max-ring-page-order", 4);
	put(b, "feature-max-indirect-segments", SEGMENTS_MAX);
	put(b, "feature-flush-cache", 1);
	put(b, "feature-barrier", 1);
	put(b, "feature-discard", 1);
	put(b, "discard-granularity", 4096);
	put(b, "discard-alignment", 0);
	put(b, "discard-secure", 1);
	describe(b);
	if (b->mode->offer != NULL)
		b->mode->offer(b);
}

static void
connect_device(struct backend *b, enum xpv_state own)
{
	/* A ring we have mapped keeps its reference: another one is another ring. */
	if (b->evtchn != NULL && first_ring_ref(b) != b->ring_ref)
		disconnect(b);
	if (b->evtchn == NULL) {
		/* They may be those of an attempt that the frontend has given up: the next state
		 * comes with others, or too late. */
		if (!connect_rings(b))
			return;
		describe(b);
		if (b->mode->describe != NULL)
			b->mode->describe(b, b->round);
		else if (!b->began)
			event_add(b->begin, &(struct timeval){.tv_sec = BEGIN_S});
		own = XPV_STATE_UNKNOWN;
	}
	if (own != XPV_STATE_CONNECTED)
		set_state(b, XPV_STATE_CONNECTED);
	serve(b);
}

/* Answers each state of the frontend with ours, whatever was before. */
static void
step(struct backend *b)
{
	enum xpv_state front = front_state(b), own = XPV_STATE_UNKNOWN;
	uint32_t value;

	if (xpv_store_read_u32(b->store, &value, "%s/state", b->back) == 0)
		own = value;
	switch (front) {
	case XPV_STATE_INITIALISING:
		disconnect(b);
		offer(b);
		if (own != XPV_STATE_INIT_WAIT && !b->leaving)
			set_state(b, XPV_STATE_INIT_WAIT);
		break;
	case XPV_STATE_INITIALISED:
	case XPV_STATE_CONNECTED:
		if (!b->leaving)
			connect_device(b, own);
		break;
	case XPV_STATE_CLOSING:
		if (own != XPV_STATE_CLOSING)
			set_state(b, XPV_STATE_CLOSING);
		break;
	case XPV_STATE_CLOSED:
		disconnect(b);
		if (own != XPV_STATE_CLOSED)
			set_state(b, XPV_STATE_CLOSED);
		if (b->leaving)
			finish(b, b->satisfied ? 0 : 1);
		break;
	default:
		xpv_notice("the frontend's directory is gone");
		finish(b, b->satisfied ? 0 : 1);
		break;
	}
}

static void
on_front(struct xpv_watch *w, const char *changed, void *arg)
{
	struct backend *b = arg;

	if (!b->ending)
		step(b);
}

static void
on_begin(evutil_socket_t fd, short events, void *arg)
{
	struct backend *b = arg;

	b->began = b->acted = true;
	xpv_notice("after %lu requests: %s", b->requests, b->mode->text);
	if (b->mode->act != NULL)
		b->mode->act(b);
	if (b->ending)
		return;
	allow(b, EXPECT_S);
	b->settled = xpv_now_ns() + SETTLE_S * 1000 * MS;
	step(b);
}

static void
check_refused(struct backend *b)
{
	char *error;

	/* For a second: whoever closes it may have more to do before it can be offered again. */
	if (front_state(b) != XPV_STATE_CLOSED)
		b->settled = xpv_now_ns() + 1000 * MS;
	if (xpv_now_ns() < b->settled)
		return;
	error = xpv_store_read(b->store, "%s", b->error);
	if (error == NULL)
		return;
	xpv_notice("refused: %s", error);
	free(error);
	if (++b->round >= b->mode->rounds) {
		b->satisfied = true;
		finish(b, 0);
		return;
	}
	b->offered = false;
	allow(b, EXPECT_S);
	if (!make_device(b) || xpv_store_remove(b->store, b->error) != 0)
		finish(b, 1);
}

static void
check_alive(struct backend *b)
{
	if (!b->acted || b->evtchn == NULL || front_state(b) != XPV_STATE_CONNECTED)
		return;
	b->satisfied = true;
	xpv_notice("alive: the frontend is connected");
}

static void
on_term(evutil_socket_t signal, short events, void *arg)
{
	struct backend *b = arg;

	xpv_notice("told to end");
	if (b->mode->expect == ALIVE && !b->satisfied)
		check_alive(b);
	if (front_state(b) == XPV_STATE_CLOSED) {
		finish(b, b->satisfied ? 0 : 1);
		return;
	}
	b->leaving = true;
	allow(b, LEAVE_S);
	xpv_store_transaction(b->store, ask_to_close, b);
}

static void
on_tick(evutil_socket_t fd, short events, void *arg)
{
	struct backend *b = arg;

	serve(b); /* what we did may have cost us an event */
	if (!b->leaving && !b->ending) {
		if (b->mode->expect == REFUSED)
			check_refused(b);
		else if (!b->satisfied && xpv_now_ns() >= b->settled)
			check_alive(b);
		if (b->satisfied)
			return;
		/* One that failed a moment ago may have missed that it is offered again. */
		if (front_state(b) == XPV_STATE_INITIALISING)
			put_text(b, b->front, "offered", "again");
	}
	if (xpv_now_ns() < b->deadline)
		return;
	if (!b->satisfied)
		xpv_err("the frontend is %s for too long: expected %s",
		    xpv_state_name(front_state(b)), expect_names[b->mode->expect]);
	finish(b, b->satisfied ? 0 : 1);
}

/* ---- what is wrong with the answers ---- */

static bool
unknown_id(struct backend *b, const struct request *r)
{
	answer(b, r->id + 100000, r->operation, BLKIF_RSP_OKAY);
	return true;
}

static bool
idle_id(struct backend *b, const struct request *r)
{
	/* Far off: a request cut in two has neighbours in flight. */
	answer(b, r->id ^ 16, r->operation, BLKIF_RSP_OKAY);
	return true;
}

static bool
double_response(struct backend *b, const struct request *r)
{
	answer_well(b, r);
	answer_well(b, r);
	return true;
}

static bool
wrong_operation(struct backend *b, const struct request *r)
{
	answer(b, r->id, r->operation == BLKIF_OP_READ ? BLKIF_OP_WRITE : BLKIF_OP_READ,
	    BLKIF_RSP_OKAY);
	return true;
}

/* Says that answers are there, or were not, and wakes the frontend to have it look. */
static bool
claim(struct backend *b, uint32_t answers)
{
	xen_wmb();
	b->ring.sring->rsp_prod = b->ring.rsp_prod_pvt + answers;
	notify(b);
	b->deaf = true;
	return true;
}

static bool
response_flood(struct backend *b, const struct request *r)
{
	answer_well(b, r);
	return claim(b, 100000);
}

static bool
rsp_prod_backwards(struct backend *b, const struct request *r)
{
	return claim(b, -RING_SIZE(&b->ring));
}

/* Not over what the frontend has published and we have not seen: that it would never say again. */
static bool
req_prod_scribble(struct backend *b, const struct request *r)
{
	RING_IDX seen = b->ring.req_cons;

	b->scribbled = seen + 0x12345678;
	if (b->misdeeds++ < 10 && __atomic_compare_exchange_n(&b->ring.sring->req_prod, &seen,
				      b->scribbled, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		b->ring.sring->req_event = 0x87654321;
		b->scribble = true;
	}
	return false;
}

static bool
entry_scribble(struct backend *b, const struct request *r)
{
	for (RING_IDX i = b->ring.rsp_prod_pvt; i != b->ring.req_cons; i++)
		memset(RING_GET_REQUEST(&b->ring, i), 0xff, sizeof(blkif_request_t));
	usleep(5000);
	return false;
}

static bool
status_garbage(struct backend *b, const struct request *r)
{
	if (b->misdeeds++ % 5 != 0)
		return false;
	answer(b, r->id, r->operation, 77);
	return true;
}

static bool
some_errors(struct backend *b, const struct request *r)
{
	if (b->misdeeds++ % 4 != 0)
		return false;
	answer(b, r->id, r->operation, BLKIF_RSP_ERROR);
	return true;
}

static bool
never_answer(struct backend *b, const struct request *r)
{
	if (b->misdeeds++ == 0)
		end_in(b, 5);
	return true;
}

static bool
answer_late(struct backend *b, const struct request *r)
{
	if (b->misdeeds++ < 5)
		usleep(500000);
	return false;
}

static bool
event_storm(struct backend *b, const struct request *r)
{
	uint64_t end = xpv_now_ns() + 3000 * MS;
	unsigned long n = 0;

	if (b->misdeeds++ > 0)
		return false;
	for (; xpv_now_ns() < end; n++)
		notify(b);
	xpv_info("%lu events sent", n);
	return false;
}

static bool
flush_unsupported(struct backend *b, const struct request *r)
{
	if (r->operation != BLKIF_OP_FLUSH_DISKCACHE && r->operation != BLKIF_OP_WRITE_BARRIER)
		return false;
	answer(b, r->id, r->operation, BLKIF_RSP_EOPNOTSUPP);
	return true;
}

static bool
read_stale(struct backend *b, const struct request *r)
{
	if (r->operation != BLKIF_OP_READ)
		return false;
	answer(b, r->id, r->operation, BLKIF_RSP_OKAY);
	return true;
}

/* ---- what is wrong in xenstore ---- */

static const char *
two_thousand_nines(void)
{
	static char text[2001];

	memset(text, '9', sizeof(text) - 1);
	return text;
}

static const char *const bad_sectors[] = {
    "12abc", "-1", "", " 2048", "0x800", "9223372036854775808", "99999999999999999999", "0", NULL};

static void
sectors_garbage(struct backend *b, unsigned round)
{
	const char *value = bad_sectors[round] != NULL ? bad_sectors[round] : two_thousand_nines();

	xpv_info("sectors = \"%.32s\"", value);
	put_text(b, b->back, "sectors", value);
}

static const char *const bad_sector_sizes[] = {"0", "3", "256", "8192", "1000000000", "banana"};

static void
sector_size_garbage(struct backend *b, unsigned round)
{
	xpv_info("sector-size = \"%s\"", bad_sector_sizes[round]);
	put_text(b, b->back, "sector-size", bad_sector_sizes[round]);
}

static void
info_garbage(struct backend *b, unsigned round)
{
	put_text(b, b->back, "info", "banana");
}

static void
features_garbage(struct backend *b)
{
	put_text(b, b->back, "max-ring-page-order", "4294967295");
	put_text(b, b->back, "multi-queue-max-queues", "99999999999");
	put_text(b, b->back, "feature-max-indirect-segments", "-5");
	put_text(b, b->back, "feature-flush-cache", "yes");
	put_text(b, b->back, "feature-barrier", "");
	put_text(b, b->back, "feature-persistent", two_thousand_nines());
}

static void
discard_garbage(struct backend *b)
{
	put_text(b, b->back, "feature-discard", "1");
	put_text(b, b->back, "discard-granularity", "7");
	put_text(b, b->back, "discard-alignment", "4294967295");
	put_text(b, b->back, "discard-secure", "banana");
}

static void
state_jump(struct backend *b)
{
	static const char *const states[] = {"2", "6", "4", "9", "banana", "2", "", "255", "3", "7",
	    "8", "-1", "1", "5", "4", "2", "99999999999999999999", "0", "6", "4", "5", "1", "2",
	    "4", "6"};

	for (unsigned i = 0; i < COUNT(states); i++) {
		xpv_info("state \"%s\"", states[i]);
		put_text(b, b->back, "state", states[i]);
		usleep(i % 5 == 0 ? 300000 : 20000);
	}
}

static void
state_flap(struct backend *b)
{
	for (unsigned i = 0; i < 40; i++) {
		put(b, "state", i % 2 == 0 ? XPV_STATE_CLOSING : XPV_STATE_CONNECTED);
		usleep(i * 500);
	}
	set_state(b, XPV_STATE_CONNECTED);
}

static void
vanish(struct backend *b)
{
	disconnect(b);
	xpv_store_remove(b->store, b->back);
	end_in(b, 4);
}

struct resize {
	struct backend *b;
	const char *sectors;
};

/* As blkif.h has it: the size, then the state again. */
static int
announce_size(struct xpv_store *store, void *arg)
{
	struct resize *r = arg;

	put_text(r->b, r->b->back, "sectors", r->sectors);
	put(r->b, "state", XPV_STATE_CONNECTED);
	return 0;
}

static void
resize(struct backend *b, const char *sectors)
{
	struct resize r = {b, sectors};

	xpv_store_transaction(b->store, announce_size, &r);
	serve(b);
}

static void
resize_storm(struct backend *b)
{
	char text[32];

	for (unsigned i = 200; i-- > 0;) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)b->sectors + 8 * i);
		resize(b, text);
		usleep(2000);
	}
}

static void
resize_garbage(struct backend *b)
{
	for (unsigned i = 0; i < COUNT(bad_sectors); i++) {
		resize(b, bad_sectors[i] != NULL ? bad_sectors[i] : two_thousand_nines());
		usleep(100000);
	}
	describe(b);
}

static const struct mode modes[] = {
    {"honest", ALIVE, "serves as it should"},
    {"unknown-id", REFUSED, "answers an id that cannot be", .request = unknown_id},
    {"idle-id", REFUSED, "answers an id that is not in flight", .request = idle_id},
    {"double-response", REFUSED, "answers twice", .request = double_response},
    {"wrong-operation", REFUSED, "names another operation", .request = wrong_operation},
    {"response-flood", REFUSED, "claims 100000 answers more", .request = response_flood},
    {"rsp-prod-backwards", REFUSED, "takes answers back", .request = rsp_prod_backwards},
    {"req-prod-scribble", ALIVE, "writes over the frontend's indexes",
	.request = req_prod_scribble},
    {"entry-scribble", ALIVE, "writes over requests it has taken", .request = entry_scribble},
    {"status-garbage", ALIVE, "answers some requests with status 77", .request = status_garbage},
    {"error-all", ALIVE, "answers every fourth request with an error", .request = some_errors},
    {"never-answer", GONE, "answers no more, and goes after 5 s", .request = never_answer},
    {"answer-late", ALIVE, "takes half a second for some requests", .request = answer_late},
    {"event-storm", ALIVE, "sends nothing but events for 3 s", .request = event_storm},
    {"eopnotsupp-flush", ALIVE, "cannot flush after all", .request = flush_unsupported},
    {"read-stale", ALIVE, "answers reads without data", .request = read_stale},
    {"sectors-garbage", REFUSED, "describes disks of impossible sizes", .describe = sectors_garbage,
	.rounds = COUNT(bad_sectors)},
    {"sector-size-garbage", REFUSED, "describes disks of impossible sectors",
	.describe = sector_size_garbage, .rounds = COUNT(bad_sector_sizes)},
    {"info-garbage", REFUSED, "does not say whether the disk is read-only",
	.describe = info_garbage},
    {"features-garbage", ALIVE, "offers features that make no sense", .offer = features_garbage},
    {"discard-garbage", ALIVE, "offers a discard that makes no sense", .offer = discard_garbage},
    {"state-jump", ALIVE, "goes through states in no order before it offers", .offer = state_jump},
    {"state-flap", ALIVE, "closes and connects 20 times in a moment", .act = state_flap},
    {"vanish", GONE, "removes its directory, and goes after 4 s", .act = vanish},
    {"resize-storm", ALIVE, "announces 200 sizes in a moment", .act = resize_storm},
    {"resize-garbage", ALIVE, "announces impossible sizes", .act = resize_garbage},
};

static const struct mode *
find_mode(const char *name)
{
	for (unsigned i = 0; i < COUNT(modes); i++) {
		if (strcmp(modes[i].name, name) == 0)
			return &modes[i];
	}
	return NULL;
}

static int
list(void)
{
	for (unsigned i = 0; i < COUNT(modes); i++)
		printf("%s expect=%s %s\n", modes[i].name, expect_names[modes[i].expect],
		    modes[i].text);
	return 0;
}

static int
usage(void)
{
	fprintf(stderr, "usage: hostile_backend [--after N] [--ram-mb N] MODE DOMID VDEV\n"
			"       hostile_backend --list\n");
	return 64;
}

static bool
device_is_free(struct backend *b)
{
	char *other = xpv_store_read(b->store, "%s/backend", b->front);
	bool taken = other != NULL && strcmp(other, b->back) != 0;

	if (taken)
		xpv_err("%s is served by %s: detach it first", b->front, other);
	free(other);
	return !taken;
}

static bool
open_all(struct backend *b)
{
	b->base = event_base_new();
	b->xs = xs_open(0);
	b->store = xpv_store_open(b->base);
	b->gntdev = xpv_gntdev_open();
	if (b->base == NULL || b->xs == NULL || b->store == NULL || b->gntdev == NULL)
		return false;
	b->begin = evtimer_new(b->base, on_begin, b);
	b->tick = event_new(b->base, -1, EV_PERSIST, on_tick, b);
	b->term = evsignal_new(b->base, SIGTERM, on_term, b);
	return b->begin != NULL && b->tick != NULL && b->term != NULL &&
	       event_add(b->term, NULL) == 0 &&
	       event_add(b->tick, &(struct timeval){.tv_usec = TICK_MS * 1000}) == 0;
}

static int
run(struct backend *b)
{
	if (!open_all(b) || !device_is_free(b))
		return 1;
	if (!make_device(b) || xpv_store_remove(b->store, b->error) != 0) {
		xpv_err("cannot make the device: %s", strerror(errno));
		return 1;
	}
	allow(b, CONNECT_S);
	if (xpv_store_watch(b->store, on_front, b, "%s/state", b->front) == NULL)
		b->exit_code = 1;
	else
		event_base_dispatch(b->base);
	disconnect(b);
	xpv_store_transaction(b->store, remove_device, b);
	xpv_notice("%s: %s", b->mode->name, b->exit_code == 0 ? "as expected" : "NOT as expected");
	return b->exit_code;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {{"after", required_argument, NULL, 'a'},
	    {"ram-mb", required_argument, NULL, 'r'}, {"list", no_argument, NULL, 'l'}, {NULL}};
	struct backend b = {.after = 20, .sectors = 16 << 11};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'a':
			b.after = strtoul(optarg, NULL, 10);
			break;
		case 'r':
			b.sectors = strtoull(optarg, NULL, 10) << 11;
			break;
		case 'l':
			return list();
		default:
			return usage();
		}
	}
	if (argc - optind != 3 || b.sectors == 0 || (b.mode = find_mode(argv[optind])) == NULL)
		return usage();
	b.domid = (unsigned)strtoul(argv[optind + 1], NULL, 10);
	b.vdev = (unsigned)strtoul(argv[optind + 2], NULL, 10);
	snprintf(b.front, sizeof(b.front), "/local/domain/%u/device/vbd/%u", b.domid, b.vdev);
	snprintf(b.back, sizeof(b.back), "/local/domain/0/backend/hostile/%u/%u", b.domid, b.vdev);
	snprintf(b.error, sizeof(b.error), "/local/domain/%u/error/device/vbd/%u/error", b.domid,
	    b.vdev);
	b.ram = calloc(b.sectors, 1 << SECTOR_SHIFT);
	if (b.ram == NULL) {
		perror("hostile_backend");
		return 71;
	}
	xpv_log_open("hostile_backend", XPV_LOG_INFO, false);
	return run(&b);
}
