/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hostile_frontend [--seconds N] [--seed N] [--persistent] MODE VDEV
 * hostile_frontend --list
 *
 * A blkif frontend, for a guest: connects to disk VDEV, a number, which no other driver has,
 * misbehaves as MODE says, and looks what becomes of it. --list prints each mode, what must become
 * of the disk, and whether it is to be attached for writing (w) or reading (r):
 *
 *   expect=error    each bad request is answered with an error; the disk works on
 *   expect=refused  the backend closes it
 *   expect=alive    it works, perhaps after it was connected anew
 *   expect=any      nothing is asked of this disk
 *
 * Exits 0 when the backend did as expected. All data on the disk is lost. --seconds and --seed are
 * for the modes that go on for a while.
 */
#include <errno.h>
#include <getopt.h>
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

#define SECTORS_PER_PAGE (XPV_PAGE_SIZE / 512)
#define LIST_MAX	 512 /* segments in an indirect page */
#define PATIENCE_S	 30
#define POLL_US		 2000
#define BOGUS_GREF	 0x00ffff00u /* beyond any grant table; 256 of them */
#define S		 1000000000ull
#define COUNT(a)	 (sizeof(a) / sizeof((a)[0]))

/* Pages we share. */
enum { RING_PAGE, LIST_PAGE, DATA_PAGE, PAGES = DATA_PAGE + 64 };

struct front;

enum expect { ERROR, REFUSED, ALIVE, ANY };

static const char *const expect_names[] = {
    [ERROR] = "error", [REFUSED] = "refused", [ALIVE] = "alive", [ANY] = "any"};

struct mode {
	const char *name;
	enum expect expect;
	const char *text;
	bool read_only;
	/* What is wrong with a request, which is a good read of one page before. */
	void (*request)(struct front *f, blkif_request_t *r);
	/* Instead of that: once, when connected. False: not as expected. */
	bool (*act)(struct front *f);
	/* What is wrong in xenstore, written over what is right. */
	void (*publish)(struct front *f);
};

struct answer {
	uint64_t id;
	uint8_t operation;
	int16_t status;
};

struct front {
	const struct mode *mode;
	unsigned seconds;
	bool persistent;
	char dir[64], *backend;
	uint32_t backend_id;

	struct event_base *base;
	struct xpv_store *store;
	struct xpv_evtchn *evtchn;
	int port;
	struct xpv_pool pool;
	blkif_front_ring_t ring;

	uint64_t sectors, next_id;
	struct answer answers[256];
};

static uint64_t random_state;

/* xorshift64*: the same everywhere for a seed. */
static uint32_t
rnd(uint32_t below)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return (uint32_t)((random_state * 0x2545f4914f6cdd1dull) >> 33) % below;
}

/* ---- xenstore ---- */

static void
put(struct front *f, const char *node, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, node);
	if (xpv_store_write(f->store, path, "%s", value) != 0)
		xpv_warning("%s: %s", path, strerror(errno));
}

static void
put_number(struct front *f, const char *node, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	put(f, node, text);
}

static void
remove_node(struct front *f, const char *node)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->dir, node);
	xpv_store_remove(f->store, path);
}

static enum xpv_state
backend_state(struct front *f)
{
	uint32_t state;

	return xpv_store_read_u32(f->store, &state, "%s/state", f->backend) == 0
		   ? (enum xpv_state)state
		   : XPV_STATE_UNKNOWN;
}

#define BIT(state) (1u << (state))
#define CLOSED	   (BIT(XPV_STATE_CLOSING) | BIT(XPV_STATE_CLOSED) | BIT(XPV_STATE_UNKNOWN))

/* Waits until the backend is in one of "states"; false: it is not. */
static bool
await(struct front *f, unsigned states, unsigned seconds)
{
	uint64_t end = xpv_now_ns() + seconds * S;
	enum xpv_state state;

	for (;;) {
		state = backend_state(f);
		if (state <= XPV_STATE_RECONFIGURED && (BIT(state) & states) != 0)
			return true;
		if (xpv_now_ns() > end)
			break;
		usleep(10 * POLL_US);
	}
	xpv_err("the backend is %s after %u s", xpv_state_name(state), seconds);
	return false;
}

/* ---- connecting ---- */

static bool
prepare_ring(struct front *f)
{
	blkif_sring_t *shared = xpv_pool_page(&f->pool, RING_PAGE);

	memset(shared, 0, XPV_PAGE_SIZE);
	SHARED_RING_INIT(shared);
	FRONT_RING_INIT(&f->ring, shared, XPV_PAGE_SIZE);
	f->evtchn = xpv_evtchn_open();
	f->port = f->evtchn != NULL ? xpv_evtchn_bind_unbound(f->evtchn, f->backend_id) : -1;
	if (f->port <= 0)
		xpv_err("no event channel: %s", strerror(errno));
	return f->port > 0;
}

static bool
connect_disk(struct front *f)
{
	if (!await(f, BIT(XPV_STATE_INIT_WAIT), PATIENCE_S) || !prepare_ring(f))
		return false;
	put_number(f, "ring-ref", f->pool.grefs[RING_PAGE]);
	put_number(f, "event-channel", (unsigned)f->port);
	put(f, "protocol", XEN_IO_PROTO_ABI_X86_64);
	put(f, "feature-persistent", f->persistent ? "1" : "0");
	if (f->mode->publish != NULL)
		f->mode->publish(f);
	put_number(f, "state", XPV_STATE_INITIALISED);
	if (f->mode->expect == REFUSED && f->mode->publish != NULL)
		return true;
	if (!await(f, BIT(XPV_STATE_CONNECTED), PATIENCE_S))
		return false;
	if (xpv_store_read_u64(f->store, &f->sectors, "%s/sectors", f->backend) != 0 ||
	    f->sectors < 1024) {
		xpv_err("the disk is too small");
		return false;
	}
	put_number(f, "state", XPV_STATE_CONNECTED);
	return true;
}

static void
close_disk(struct front *f)
{
	put_number(f, "state", XPV_STATE_CLOSING);
	await(f, CLOSED, PATIENCE_S);
	put_number(f, "state", XPV_STATE_CLOSED);
	await(f, CLOSED & ~BIT(XPV_STATE_CLOSING), PATIENCE_S);
}

/* The next ring is in the same pages: the backend has let go of them when it is Closed. */
static bool
begin_again(struct front *f)
{
	xpv_evtchn_close(f->evtchn);
	f->evtchn = NULL;
	put_number(f, "state", XPV_STATE_INITIALISING);
	return connect_disk(f);
}

static bool
reconnect(struct front *f)
{
	close_disk(f);
	return begin_again(f);
}

/* ---- requests ---- */

static uint32_t
data_gref(struct front *f, unsigned i)
{
	return f->pool.grefs[DATA_PAGE + i % (PAGES - DATA_PAGE)];
}

static uint8_t *
data_page(struct front *f, unsigned i)
{
	return xpv_pool_page(&f->pool, DATA_PAGE + i);
}

static blkif_request_t
one_page(struct front *f, uint8_t operation, uint64_t sector, unsigned page)
{
	blkif_request_t r = {.operation = operation, .nr_segments = 1, .sector_number = sector};

	r.id = ++f->next_id;
	r.seg[0] = (struct blkif_request_segment){
	    .gref = data_gref(f, page), .first_sect = 0, .last_sect = SECTORS_PER_PAGE - 1};
	return r;
}

/* A request of "n" segments with their list in the indirect page, all good. */
static void
make_indirect(struct front *f, blkif_request_t *r, uint16_t n)
{
	struct blkif_request_segment *list = xpv_pool_page(&f->pool, LIST_PAGE);
	blkif_request_indirect_t *indirect = (void *)r;
	uint64_t id = r->id, sector = r->sector_number;

	for (unsigned i = 0; i < LIST_MAX; i++)
		list[i] = (struct blkif_request_segment){
		    .gref = data_gref(f, i), .first_sect = 0, .last_sect = SECTORS_PER_PAGE - 1};
	memset(r, 0, sizeof(*r));
	*indirect = (blkif_request_indirect_t){.operation = BLKIF_OP_INDIRECT,
	    .indirect_op = BLKIF_OP_READ,
	    .nr_segments = n,
	    .id = id,
	    .sector_number = sector};
	for (unsigned i = 0; i < BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST; i++)
		indirect->indirect_grefs[i] = f->pool.grefs[LIST_PAGE];
}

static void
send_request(struct front *f, const blkif_request_t *r)
{
	memcpy(RING_GET_REQUEST(&f->ring, f->ring.req_prod_pvt), r, sizeof(*r));
	f->ring.req_prod_pvt++;
}

static void
push(struct front *f)
{
	RING_PUSH_REQUESTS(&f->ring);
	xpv_evtchn_notify(f->evtchn, (uint32_t)f->port);
}

/* Takes "n" answers, as long as that is; false if they do not come. */
static bool
collect(struct front *f, unsigned n)
{
	uint64_t end = xpv_now_ns() + PATIENCE_S * S;
	unsigned got = 0;
	RING_IDX pending;

	while (got < n) {
		if (!xpv_ring_responses(&f->ring, &pending)) {
			xpv_err("the backend answers what was not asked");
			return false;
		}
		for (; pending > 0; pending--) {
			blkif_response_t a;

			xpv_ring_copy_response(&f->ring, f->ring.rsp_cons, &a);
			f->ring.rsp_cons++;
			f->answers[got++ % COUNT(f->answers)] =
			    (struct answer){a.id, a.operation, a.status};
		}
		if (got < n && xpv_now_ns() > end) {
			xpv_err("%u of %u answers in %d s; the backend is %s", got, n, PATIENCE_S,
			    xpv_state_name(backend_state(f)));
			return false;
		}
		if (got < n)
			usleep(POLL_US);
	}
	return true;
}

/* Sends one request and gives its status. */
static bool
ask(struct front *f, const blkif_request_t *r, int16_t *status)
{
	send_request(f, r);
	push(f);
	if (!collect(f, 1))
		return false;
	/* The answer to an indirect request names the operation in it. */
	if (f->answers[0].id != r->id ||
	    (f->answers[0].operation != r->operation && r->operation != BLKIF_OP_INDIRECT)) {
		xpv_err("the answer is for another request");
		return false;
	}
	*status = f->answers[0].status;
	return true;
}

static bool
succeeds(struct front *f, uint8_t operation, uint64_t sector, unsigned page)
{
	blkif_request_t r = one_page(f, operation, sector, page);
	int16_t status;

	if (!ask(f, &r, &status))
		return false;
	if (status != BLKIF_RSP_OKAY)
		xpv_err("a good request of operation %u has status %d", operation, status);
	return status == BLKIF_RSP_OKAY;
}

/* The disk reads, and holds what is written to it. */
static bool
works(struct front *f)
{
	uint64_t sector = (f->sectors - 64) & ~7ull;

	if (f->mode->read_only)
		return succeeds(f, BLKIF_OP_READ, sector, 0);
	for (unsigned i = 0; i < XPV_PAGE_SIZE; i++)
		data_page(f, 0)[i] = (uint8_t)rnd(256);
	memset(data_page(f, 1), 0, XPV_PAGE_SIZE);
	if (!succeeds(f, BLKIF_OP_WRITE, sector, 0) || !succeeds(f, BLKIF_OP_READ, sector, 1))
		return false;
	if (memcmp(data_page(f, 0), data_page(f, 1), XPV_PAGE_SIZE) != 0) {
		xpv_err("what was read is not what was written");
		return false;
	}
	return true;
}

/* ---- what is wrong with a request ---- */

static void
sector_beyond_end(struct front *f, blkif_request_t *r)
{
	r->sector_number = f->sectors;
}

static void
sector_across_end(struct front *f, blkif_request_t *r)
{
	r->sector_number = f->sectors - 1;
}

static void
sector_wrap(struct front *f, blkif_request_t *r)
{
	r->sector_number = UINT64_MAX - 3;
}

/* Times 512, it is a small number. */
static void
sector_shifted_out(struct front *f, blkif_request_t *r)
{
	r->sector_number = 1ull << 55;
}

static void
write_beyond_end(struct front *f, blkif_request_t *r)
{
	r->operation = BLKIF_OP_WRITE;
	r->sector_number = f->sectors - 4;
}

static void
first_gt_last(struct front *f, blkif_request_t *r)
{
	r->seg[0].first_sect = 5;
	r->seg[0].last_sect = 2;
}

static void
last_gt_7(struct front *f, blkif_request_t *r)
{
	r->seg[0].last_sect = 255;
}

static void
nr_segments_12(struct front *f, blkif_request_t *r)
{
	r->nr_segments = BLKIF_MAX_SEGMENTS_PER_REQUEST + 1;
}

static void
nr_segments_255(struct front *f, blkif_request_t *r)
{
	r->nr_segments = 255;
}

static void
nr_segments_0(struct front *f, blkif_request_t *r)
{
	r->nr_segments = 0;
}

static void
indirect_257(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 257);
}

static void
indirect_65535(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 65535);
}

static void
indirect_0(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 0);
}

static void
indirect_nested(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 8);
	((blkif_request_indirect_t *)(void *)r)->indirect_op = BLKIF_OP_INDIRECT;
}

static void
indirect_discard(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 8);
	((blkif_request_indirect_t *)(void *)r)->indirect_op = BLKIF_OP_DISCARD;
}

static void
indirect_bogus_gref(struct front *f, blkif_request_t *r)
{
	make_indirect(f, r, 8);
	((blkif_request_indirect_t *)(void *)r)->indirect_grefs[0] = BOGUS_GREF;
}

static void
indirect_bogus_segment(struct front *f, blkif_request_t *r)
{
	struct blkif_request_segment *list = xpv_pool_page(&f->pool, LIST_PAGE);

	make_indirect(f, r, 32);
	list[17].gref = BOGUS_GREF + 17;
}

static void
bogus_gref(struct front *f, blkif_request_t *r)
{
	r->seg[0].gref = BOGUS_GREF;
}

static void
write_request(struct front *f, blkif_request_t *r)
{
	r->operation = BLKIF_OP_WRITE;
}

static void
unknown_operation(struct front *f, blkif_request_t *r)
{
	r->operation = 77;
}

static void
make_discard(blkif_request_t *r, uint64_t sector, uint64_t count)
{
	blkif_request_discard_t *discard = (void *)r;
	uint64_t id = r->id;

	memset(r, 0, sizeof(*r));
	*discard = (blkif_request_discard_t){
	    .operation = BLKIF_OP_DISCARD, .id = id, .sector_number = sector, .nr_sectors = count};
}

static void
discard_beyond_end(struct front *f, blkif_request_t *r)
{
	make_discard(r, f->sectors - 8, 4096);
}

static void
discard_wrap(struct front *f, blkif_request_t *r)
{
	make_discard(r, 8, UINT64_MAX - 4);
}

static void
discard_read_only(struct front *f, blkif_request_t *r)
{
	make_discard(r, 0, 8);
}

/* What no image of the tests can do, and so none offers. */
static void
discard_secure(struct front *f, blkif_request_t *r)
{
	make_discard(r, 0, 8);
	((blkif_request_discard_t *)(void *)r)->flag = BLKIF_DISCARD_SECURE;
}

/* Alone, and between good ones. */
static bool
ask_badly(struct front *f)
{
	blkif_request_t r;
	unsigned errors = 0;
	int16_t status;

	r = one_page(f, BLKIF_OP_READ, 0, 0);
	f->mode->request(f, &r);
	if (!ask(f, &r, &status))
		return false;
	if (status == BLKIF_RSP_OKAY) {
		xpv_err("the backend says that this has worked");
		return false;
	}
	for (unsigned i = 0; i < 9; i++) {
		r = one_page(f, BLKIF_OP_READ, 8 * i, i);
		if (i % 3 == 1)
			f->mode->request(f, &r);
		send_request(f, &r);
	}
	push(f);
	if (!collect(f, 9))
		return false;
	for (unsigned i = 0; i < 9; i++)
		errors += f->answers[i].status != BLKIF_RSP_OKAY;
	if (errors != 3)
		xpv_err("of 3 bad requests and 6 good ones, %u failed", errors);
	return errors == 3;
}

/* ---- what is wrong with the ring ---- */

static bool
claim_requests(struct front *f, uint32_t n)
{
	xen_wmb();
	f->ring.sring->req_prod = f->ring.req_prod_pvt + n;
	xpv_evtchn_notify(f->evtchn, (uint32_t)f->port);
	return true;
}

static bool
ring_index_jump(struct front *f)
{
	return works(f) && claim_requests(f, RING_SIZE(&f->ring) + 1);
}

static bool
ring_index_far(struct front *f)
{
	return works(f) && claim_requests(f, 0x80000000u);
}

static bool
ring_index_back(struct front *f)
{
	return works(f) && claim_requests(f, -1u);
}

static bool
event_storm(struct front *f)
{
	uint64_t end = xpv_now_ns() + f->seconds * S;
	unsigned long n = 0;

	for (; xpv_now_ns() < end; n++)
		xpv_evtchn_notify(f->evtchn, (uint32_t)f->port);
	xpv_info("%lu events sent", n);
	return true;
}

/* The backend's indices are in our page, too. */
static bool
response_scribble(struct front *f)
{
	for (unsigned i = 0; i < RING_SIZE(&f->ring); i++) {
		blkif_request_t r = one_page(f, BLKIF_OP_READ, 0, 0);

		f->ring.sring->rsp_prod = rnd(UINT32_MAX);
		f->ring.sring->rsp_event = rnd(UINT32_MAX);
		send_request(f, &r);
		push(f);
		usleep(5 * POLL_US);
	}
	return true;
}

/* Pages that are taken back while the backend may be reading and writing them. */
static bool
revoke_in_flight(struct front *f)
{
	struct xpv_pool victims;

	for (unsigned round = 0; round < 10; round++) {
		if (xpv_pool_share(&victims, f->backend_id, 16) != 0)
			return false;
		for (unsigned i = 0; i < 16; i++) {
			blkif_request_t r =
			    one_page(f, i % 2 == 0 ? BLKIF_OP_READ : BLKIF_OP_WRITE, 8 * i, 0);

			r.seg[0].gref = victims.grefs[i];
			send_request(f, &r);
		}
		push(f);
		usleep(round * 500);
		xpv_pool_unshare(&victims);
		if (!collect(f, 16))
			return false;
	}
	return true;
}

/* ---- random requests ---- */

/* Ours or none: a guest has other pages shared with this backend's domain, its console's. */
static uint32_t
random_gref(struct front *f)
{
	return rnd(8) == 0 ? BOGUS_GREF + rnd(256)
			   : f->pool.grefs[LIST_PAGE + rnd(PAGES - LIST_PAGE)];
}

static struct blkif_request_segment
random_segment(struct front *f)
{
	struct blkif_request_segment s = {.gref = random_gref(f)};

	s.first_sect = (uint8_t)(rnd(16) == 0 ? rnd(256) : rnd(8));
	s.last_sect = (uint8_t)(rnd(16) == 0 ? rnd(256) : s.first_sect + rnd(8));
	return s;
}

static uint64_t
random_sector(struct front *f)
{
	switch (rnd(16)) {
	case 0:
		return (uint64_t)rnd(UINT32_MAX) << rnd(33);
	case 1:
		return f->sectors - rnd(16);
	default:
		return rnd((uint32_t)f->sectors - 64);
	}
}

static uint16_t
random_count(void)
{
	static const uint16_t edges[] = {0, 1, 11, 12, 256, 257, 512, 513, 4096, 65535};

	return rnd(4) == 0 ? edges[rnd(COUNT(edges))] : (uint16_t)(1 + rnd(40));
}

static void
random_indirect(struct front *f, blkif_request_t *r)
{
	struct blkif_request_segment *list = xpv_pool_page(&f->pool, LIST_PAGE);
	blkif_request_indirect_t *indirect = (void *)r;

	make_indirect(f, r, random_count());
	indirect->indirect_op = (uint8_t)rnd(8);
	indirect->sector_number = random_sector(f);
	indirect->indirect_grefs[0] = random_gref(f);
	/* Also while the backend reads it for the request before. */
	for (unsigned i = 0; i < 16; i++)
		list[rnd(LIST_MAX)] = random_segment(f);
}

static blkif_request_t
random_request(struct front *f)
{
	blkif_request_t r;

	memset(&r, 0, sizeof(r));
	r.id = rnd(16) == 0 ? UINT64_MAX - rnd(4) : ++f->next_id;
	r.operation = (uint8_t)(rnd(32) == 0 ? rnd(256) : rnd(7));
	r.nr_segments = (uint8_t)(rnd(16) == 0 ? rnd(256) : rnd(13));
	r.handle = (uint16_t)rnd(65536);
	r.sector_number = random_sector(f);
	for (unsigned i = 0; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++)
		r.seg[i] = random_segment(f);
	if (r.operation == BLKIF_OP_INDIRECT)
		random_indirect(f, &r);
	else if (r.operation == BLKIF_OP_DISCARD)
		make_discard(&r, random_sector(f), rnd(4) == 0 ? rnd(UINT32_MAX) : rnd(64));
	return r;
}

static bool
send_random(struct front *f, bool scribble)
{
	uint64_t end = xpv_now_ns() + f->seconds * S;
	unsigned long n = 0;

	while (xpv_now_ns() < end) {
		unsigned batch = 1 + rnd(RING_SIZE(&f->ring));
		RING_IDX first = f->ring.req_prod_pvt;

		for (unsigned i = 0; i < batch; i++) {
			blkif_request_t r = random_request(f);

			send_request(f, &r);
		}
		push(f);
		for (unsigned i = 0; scribble && i < 4 * batch; i++) {
			blkif_request_t r = random_request(f);

			memcpy(RING_GET_REQUEST(&f->ring, first + rnd(batch)), &r, sizeof(r));
		}
		if (scribble) {
			/* We may have written over answers: their number is all we can know. */
			uint64_t limit = xpv_now_ns() + PATIENCE_S * S;

			while (f->ring.sring->rsp_prod != f->ring.req_prod_pvt) {
				if (xpv_now_ns() > limit)
					return false;
				usleep(POLL_US);
			}
			f->ring.rsp_cons = f->ring.req_prod_pvt;
		} else if (!collect(f, batch)) {
			return false;
		}
		n += batch;
	}
	xpv_info("%lu random requests", n);
	return true;
}

static bool
fuzz(struct front *f)
{
	return send_random(f, false);
}

static bool
entry_scribble(struct front *f)
{
	return send_random(f, true);
}

/* ---- what is wrong in xenstore ---- */

static void
ring_ref_garbage(struct front *f)
{
	put(f, "ring-ref", "banana");
}

static void
ring_ref_bogus(struct front *f)
{
	put_number(f, "ring-ref", BOGUS_GREF);
}

static void
ring_ref_missing(struct front *f)
{
	remove_node(f, "ring-ref");
}

static void
order_huge(struct front *f)
{
	put(f, "ring-page-order", "4294967295");
}

static void
order_without_refs(struct front *f)
{
	put(f, "ring-page-order", "4");
}

static void
port_garbage(struct front *f)
{
	put(f, "event-channel", "-1");
}

static void
port_bogus(struct front *f)
{
	put(f, "event-channel", "99999999");
}

static void
protocol_garbage(struct front *f)
{
	put(f, "protocol", "pdp11-abi");
}

static void
queues_1000(struct front *f)
{
	put(f, "multi-queue-num-queues", "1000");
}

static void
queues_0(struct front *f)
{
	put(f, "multi-queue-num-queues", "0");
}

static void
long_text(struct front *f)
{
	char text[1800];

	memset(text, '7', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	put(f, "ring-ref", text);
}

static bool
states_in_no_order(struct front *f)
{
	static const char *const states[] = {"6", "4", "9", "banana", "3", "", "255", "3", "7", "8",
	    "-1", "4", "99999999999999999999", "0", "6", "4", "5", "3", "2", "4", "5", "6"};

	for (unsigned i = 0; i < COUNT(states); i++) {
		put(f, "state", states[i]);
		usleep(i % 4 == 0 ? 200000 : 10000);
	}
	return reconnect(f);
}

static bool
close_while_busy(struct front *f)
{
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < RING_SIZE(&f->ring); i++) {
			blkif_request_t r = one_page(f, BLKIF_OP_WRITE, 8 * i, i);

			send_request(f, &r);
		}
		push(f);
		if (!reconnect(f))
			return false;
	}
	return true;
}

/* Without a word of Closing: as a guest that was reset would come back. */
static bool
start_over(struct front *f)
{
	put_number(f, "state", XPV_STATE_CLOSED);
	return await(f, BIT(XPV_STATE_CLOSED), PATIENCE_S) && begin_again(f);
}

static bool
vanish(struct front *f)
{
	blkif_request_t r = one_page(f, BLKIF_OP_WRITE, 0, 0);

	send_request(f, &r);
	push(f);
	xpv_store_remove(f->store, f->dir);
	sleep(1);
	return true;
}

static const struct mode modes[] = {
    {"honest", ALIVE, "does as it should"},
    {"sector-beyond-end", ERROR, "reads behind the end", .request = sector_beyond_end},
    {"sector-across-end", ERROR, "reads over the end", .request = sector_across_end},
    {"sector-wrap", ERROR, "reads where 64 bits end", .request = sector_wrap},
    {"sector-shifted-out", ERROR, "reads where 64 bits of bytes end",
	.request = sector_shifted_out},
    {"write-beyond-end", ERROR, "writes over the end", .request = write_beyond_end},
    {"first-gt-last", ERROR, "has a segment that ends before it begins", .request = first_gt_last},
    {"last-gt-7", ERROR, "has a segment beyond its page", .request = last_gt_7},
    {"nr-segments-0", ERROR, "reads nothing", .request = nr_segments_0},
    {"nr-segments-12", ERROR, "claims 12 segments", .request = nr_segments_12},
    {"nr-segments-255", ERROR, "claims 255 segments", .request = nr_segments_255},
    {"indirect-0", ERROR, "reads nothing, indirectly", .request = indirect_0},
    {"indirect-257", ERROR, "has one indirect segment too many", .request = indirect_257},
    {"indirect-too-many", ERROR, "claims 65535 indirect segments", .request = indirect_65535},
    {"indirect-nested", ERROR, "has an indirect request in an indirect request",
	.request = indirect_nested},
    {"indirect-discard", ERROR, "discards indirectly", .request = indirect_discard},
    {"indirect-bogus-gref", ERROR, "has its list in a page that is none",
	.request = indirect_bogus_gref},
    {"indirect-bogus-segment", ERROR, "has one segment in a page that is none",
	.request = indirect_bogus_segment},
    {"bogus-gref", ERROR, "reads into a page that is none", .request = bogus_gref},
    {"write-to-read-only", ERROR, "writes to a read-only disk", true, .request = write_request},
    {"discard-read-only", ERROR, "discards on a read-only disk", true,
	.request = discard_read_only},
    {"unknown-op", ERROR, "asks for operation 77", .request = unknown_operation},
    {"discard-beyond", ERROR, "discards over the end", .request = discard_beyond_end},
    {"discard-wrap", ERROR, "discards where 64 bits end", .request = discard_wrap},
    {"discard-secure", ERROR, "erases for good, which is not offered", .request = discard_secure},
    {"revoked-in-flight", ALIVE, "takes pages back that are in use", .act = revoke_in_flight},
    {"ring-index-jump", REFUSED, "claims one request more than fit", .act = ring_index_jump},
    {"ring-index-far", REFUSED, "claims two billion requests", .act = ring_index_far},
    {"ring-index-back", REFUSED, "takes a request back", .act = ring_index_back},
    {"response-scribble", ANY, "writes over the backend's indices", .act = response_scribble},
    {"flood", ALIVE, "sends nothing but events", .act = event_storm},
    {"fuzz", ALIVE, "sends random requests", .act = fuzz},
    {"entry-scribble", ALIVE, "changes requests after they were sent", .act = entry_scribble},
    {"ring-ref-garbage", REFUSED, "names a ring that is no number", .publish = ring_ref_garbage},
    {"ring-ref-bogus", REFUSED, "names a ring that is none", .publish = ring_ref_bogus},
    {"ring-ref-missing", REFUSED, "names no ring", .publish = ring_ref_missing},
    {"ring-ref-long", REFUSED, "names a ring in 1799 digits", .publish = long_text},
    {"order-huge", REFUSED, "has a ring of 2^4294967295 pages", .publish = order_huge},
    {"order-without-refs", REFUSED, "names one page of 16", .publish = order_without_refs},
    {"port-garbage", REFUSED, "names port -1", .publish = port_garbage},
    {"port-bogus", REFUSED, "names a port that is none", .publish = port_bogus},
    {"protocol-garbage", REFUSED, "is a PDP-11", .publish = protocol_garbage},
    {"queues-1000", REFUSED, "has 1000 queues", .publish = queues_1000},
    {"queues-0", REFUSED, "has no queue", .publish = queues_0},
    {"states-in-no-order", ALIVE, "goes through states in no order", .act = states_in_no_order},
    {"close-while-busy", ALIVE, "closes with a full ring, and comes back", .act = close_while_busy},
    {"start-over", ALIVE, "is Closed at once, and comes back", .act = start_over},
    {"vanish", ANY, "removes its directory", .act = vanish},
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
		printf("%s expect=%s %c %s\n", modes[i].name, expect_names[modes[i].expect],
		    modes[i].read_only ? 'r' : 'w', modes[i].text);
	return 0;
}

static int
usage(void)
{
	fprintf(stderr,
	    "usage: hostile_frontend [--seconds N] [--seed N] [--persistent] MODE VDEV\n"
	    "       hostile_frontend --list\n");
	return 64;
}

static bool
open_all(struct front *f)
{
	f->base = event_base_new();
	f->store = f->base != NULL ? xpv_store_open(f->base) : NULL;
	if (f->store == NULL)
		return false;
	f->backend = xpv_store_read(f->store, "%s/backend", f->dir);
	if (f->backend == NULL ||
	    xpv_store_read_u32(f->store, &f->backend_id, "%s/backend-id", f->dir) != 0) {
		xpv_err("%s: there is no such disk", f->dir);
		return false;
	}
	return xpv_pool_share(&f->pool, f->backend_id, PAGES) == 0;
}

static bool
run(struct front *f)
{
	/* After another run: that one has closed it. */
	if (backend_state(f) == XPV_STATE_CLOSED)
		put_number(f, "state", XPV_STATE_INITIALISING);
	if (!connect_disk(f))
		return false;
	xpv_notice("%s", f->mode->text);
	if (f->mode->request != NULL && !ask_badly(f))
		return false;
	if (f->mode->act != NULL && !f->mode->act(f))
		return false;
	switch (f->mode->expect) {
	case REFUSED:
		return await(f, CLOSED, PATIENCE_S);
	case ANY:
		return true;
	default:
		return works(f);
	}
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {{"seconds", required_argument, NULL, 'n'},
	    {"seed", required_argument, NULL, 's'}, {"persistent", no_argument, NULL, 'p'},
	    {"list", no_argument, NULL, 'l'}, {NULL}};
	struct front f = {.seconds = 3};
	int option;
	bool good;

	random_state = 1;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'n':
			f.seconds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 's':
			random_state = strtoull(optarg, NULL, 10) | 1;
			break;
		case 'p':
			f.persistent = true;
			break;
		case 'l':
			return list();
		default:
			return usage();
		}
	}
	if (argc - optind != 2 || (f.mode = find_mode(argv[optind])) == NULL)
		return usage();
	snprintf(f.dir, sizeof(f.dir), "device/vbd/%lu", strtoul(argv[optind + 1], NULL, 10));
	xpv_log_open("hostile_frontend", XPV_LOG_INFO, false);
	if (!open_all(&f))
		return 1;
	good = run(&f);
	xpv_notice("%s: %s", f.mode->name, good ? "as expected" : "NOT as expected");
	if (f.mode->expect == ERROR || f.mode->expect == ALIVE)
		close_disk(&f);
	xpv_evtchn_close(f.evtchn);
	xpv_pool_unshare(&f.pool);
	free(f.backend);
	xpv_store_close(f.store);
	event_base_free(f.base);
	return good ? 0 : 1;
}
