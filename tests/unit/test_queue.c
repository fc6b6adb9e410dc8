/* SPDX-License-Identifier: BSD-2-Clause */
/* One ring between queue.c, a host made of memory, and a backend that checks what it is asked. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/log.h>
#include <xenpv/ring.h>
#include <xen/io/blkif.h>

#include "queue.h"

#define PORT	    9
#define HANDLE	    0xca10
#define MAX_SLOTS   512
#define MAX_SECTORS (BLK_MAX_IO_BYTES >> BLK_SECTOR_SHIFT)

/* ---- what queue.c stands on ---- */

struct xpv_evtchn {
	bool open, listening;
	xpv_evtchn_handler *handler;
	void *arg;
	unsigned notifies;
};

static struct xpv_evtchn evtchn;
static unsigned log_lines;
static uint64_t now;
static void (*on_clock)(void); /* something happens while the queue looks at the clock */

struct xpv_evtchn *__wrap_xpv_evtchn_inherit(const struct xpv_evtchn *parents);
void __wrap_xpv_evtchn_close(struct xpv_evtchn *e);
int __wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port);
int __wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg);
void __wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e);
uint64_t __wrap_xpv_now_ns(void);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

struct xpv_evtchn *
__wrap_xpv_evtchn_inherit(const struct xpv_evtchn *parents)
{
	assert_false(evtchn.open);
	evtchn = (struct xpv_evtchn){.open = true};
	return &evtchn;
}

void
__wrap_xpv_evtchn_close(struct xpv_evtchn *e)
{
	if (e == NULL)
		return;
	assert_true(e->open);
	e->open = e->listening = false;
}

int
__wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port)
{
	assert_true(e->open);
	assert_int_equal(port, PORT);
	e->notifies++;
	return 0;
}

int
__wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg)
{
	assert_int_equal(port, PORT);
	e->listening = true;
	e->handler = handler;
	e->arg = arg;
	return 0;
}

void
__wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e)
{
	e->listening = false;
}

uint64_t
__wrap_xpv_now_ns(void)
{
	now += 1000;
	if (on_clock != NULL)
		on_clock();
	return now;
}

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	log_lines++;
}

/* ---- one queue and its two ends ---- */

struct host_request {
	struct blk_request r;
	uint8_t *data;
	bool done, keep_pages;
	int status;
	unsigned number; /* the how manyth to be done */
	int iovcnt;
};

/* A ring request as the backend took it. */
struct taken {
	uint64_t id, sector, discard_sectors;
	uint8_t operation; /* the inner one */
	bool indirect;
	uint8_t flag;
	unsigned segments;
	struct blkif_request_segment seg[512];
};

struct setup {
	unsigned ring_pages, data_pages; /* 0: 1 and 600 */
	uint32_t max_indirect;
	bool no_flush, barrier, discard, secure;
	bool live;
	uint32_t start; /* index a live ring is at */
	unsigned poll_us;
};

static struct {
	struct xpv_pool pool;
	struct blk_queue_grants grants;
	struct blk_link link;
	struct blk_stats stats;
	struct blk_queue *q;
	struct blk_queue_config config;
	unsigned broken;
	const char *why;
	unsigned idles;

	blkif_back_ring_t back;
	struct taken taken[MAX_SLOTS];
	unsigned ntaken;
	uint8_t *disk;
	size_t disk_sectors;

	unsigned pulls, dones, flushes;
	unsigned depth, deepest; /* of done() in done() */
	int pull_error;
	void (*on_done)(struct host_request *h);
} t;

static void
on_broken(void *arg, const char *why)
{
	assert_ptr_equal(arg, &t);
	t.broken++;
	t.why = why;
}

static void
on_idle(void *arg)
{
	t.idles++;
}

/* References say nothing about pages: a page number taken for one would be noticed. */
static uint32_t
gref_of(unsigned page)
{
	return 70000 + 3 * page;
}

static uint8_t *
page_of(uint32_t gref)
{
	unsigned page = (gref - 70000) / 3;

	assert_int_equal(gref_of(page), gref);
	assert_in_range(page, t.config.ring_pages, t.pool.pages - 1);
	return xpv_pool_page(&t.pool, page);
}

static size_t
iov_bytes(const struct iovec *iov, int iovcnt)
{
	size_t bytes = 0;

	for (int i = 0; i < iovcnt; i++) {
		assert_true((uint8_t *)iov[i].iov_base >= (uint8_t *)xpv_pool_page(&t.pool, 1));
		bytes += iov[i].iov_len;
	}
	return bytes;
}

static int
host_pull(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt)
{
	struct host_request *h = (struct host_request *)r;
	const uint8_t *from = h->data;

	assert_ptr_equal(host, &t);
	assert_int_equal(r->op, BLK_WRITE);
	assert_int_equal(iov_bytes(iov, iovcnt), (size_t)r->sectors * 512);
	t.pulls++;
	for (int i = 0; i < iovcnt; i++) {
		memcpy(iov[i].iov_base, from, iov[i].iov_len);
		from += iov[i].iov_len;
	}
	return t.pull_error;
}

static void
host_done(void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt)
{
	struct host_request *h = (struct host_request *)r;
	uint8_t *to = h->data;

	assert_false(h->done);
	h->done = true;
	h->status = status;
	h->number = ++t.dones;
	h->iovcnt = iovcnt;
	if (++t.depth > t.deepest)
		t.deepest = t.depth;
	if (r->op == BLK_READ && status == 0) {
		assert_int_equal(iov_bytes(iov, iovcnt), (size_t)r->sectors * 512);
		for (int i = 0; i < iovcnt; i++) {
			memcpy(to, iov[i].iov_base, iov[i].iov_len);
			to += iov[i].iov_len;
		}
	}
	if (!h->keep_pages)
		blk_queue_release(t.q, r);
	if (t.on_done != NULL)
		t.on_done(h);
	t.depth--;
}

static void
host_flush(void *host)
{
	t.flushes++;
}

static const struct blk_host_ops host_ops = {host_pull, host_done, host_flush};

static void
new_queue(void)
{
	t.q = blk_queue_new(&t.config);
	assert_non_null(t.q);
	blk_queue_attach(t.q, &host_ops, &t);
}

static void
listen_to(struct blk_queue *q)
{
	assert_int_equal(blk_queue_listen(q, NULL), 0);
}

static blkif_sring_t *
sring(void)
{
	return xpv_pool_page(&t.pool, 0);
}

static void
make(const struct setup *s)
{
	unsigned ring_pages = s->ring_pages ? s->ring_pages : 1;
	unsigned pages = ring_pages + (s->data_pages ? s->data_pages : 600);

	memset(&t, 0, sizeof(t));
	log_lines = 0;
	on_clock = NULL;
	evtchn = (struct xpv_evtchn){0};
	t.pool.pages = pages;
	t.pool.base = aligned_alloc(XPV_PAGE_SIZE, (size_t)pages * XPV_PAGE_SIZE);
	memset(t.pool.base, 0xa5, (size_t)(pages < 2100 ? pages : 2100) * XPV_PAGE_SIZE);
	t.pool.grefs = malloc(pages * sizeof(*t.pool.grefs));
	for (unsigned i = 0; i < pages; i++)
		t.pool.grefs[i] = gref_of(i);
	t.grants = (struct blk_queue_grants){.pool = t.pool, .evtchn = &evtchn, .port = PORT};
	t.link = (struct blk_link){
	    .live = s->live,
	    .queues = 1,
	    .max_indirect = s->max_indirect,
	    .flush = !s->no_flush,
	    .barrier = s->barrier,
	    .discard = s->discard,
	    .secure_discard = s->secure,
	    .req_prod = {s->live ? s->start : 77},
	};
	t.config = (struct blk_queue_config){
	    .grants = &t.grants,
	    .link = &t.link,
	    .stats = &t.stats,
	    .ring_pages = ring_pages,
	    .vdev_handle = HANDLE,
	    .poll_us = s->poll_us,
	    .broken = on_broken,
	    .arg = &t,
	};
	t.disk_sectors = 4 * MAX_SECTORS;
	t.disk = malloc(t.disk_sectors * 512);
	for (size_t i = 0; i < t.disk_sectors * 512 / 8; i++)
		((uint64_t *)t.disk)[i] = i * 0x9e3779b97f4a7c15;
	if (s->live) {
		SHARED_RING_INIT(sring());
		sring()->req_prod = sring()->rsp_prod = s->start;
		sring()->req_event = sring()->rsp_event = s->start + 1;
	}
	new_queue();
	BACK_RING_ATTACH(&t.back, sring(), s->live ? s->start : 0, ring_pages * XPV_PAGE_SIZE);
	listen_to(t.q);
	evtchn.notifies = 0;
}

static int
teardown(void **state)
{
	blk_queue_free(t.q);
	t.q = NULL;
	assert_false(evtchn.open);
	free(t.pool.base);
	free(t.pool.grefs);
	free(t.disk);
	return 0;
}

/* ---- the backend ---- */

static void
take_segments(struct taken *k, const struct blkif_request_segment *seg, unsigned n)
{
	k->segments = n;
	memcpy(k->seg, seg, n * sizeof(*seg));
	for (unsigned i = 0; i < n; i++) {
		page_of(seg[i].gref);
		assert_int_equal(seg[i].first_sect, 0);
		assert_in_range(seg[i].last_sect, 0, 7);
		if (i + 1 < n)
			assert_int_equal(seg[i].last_sect, 7);
	}
}

static void
take(const blkif_request_t *req)
{
	const blkif_request_indirect_t *indirect = (const void *)req;
	const blkif_request_discard_t *discard = (const void *)req;
	struct taken *k = &t.taken[t.ntaken++];

	*k = (struct taken){.id = req->id, .operation = req->operation};
	assert_in_range(k->id, 0, RING_SIZE(&t.back) - 1);
	for (unsigned i = 0; i < t.ntaken - 1; i++)
		assert_true(t.taken[i].id != k->id);
	switch (req->operation) {
	case BLKIF_OP_READ:
	case BLKIF_OP_WRITE:
		assert_int_equal(req->handle, HANDLE);
		assert_in_range(req->nr_segments, 1, BLKIF_MAX_SEGMENTS_PER_REQUEST);
		k->sector = req->sector_number;
		take_segments(k, req->seg, req->nr_segments);
		for (unsigned i = req->nr_segments; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++)
			assert_int_equal(req->seg[i].gref, 0);
		break;
	case BLKIF_OP_INDIRECT:
		assert_int_equal(indirect->handle, HANDLE);
		assert_in_range(indirect->nr_segments, 1, t.link.max_indirect);
		k->operation = indirect->indirect_op;
		assert_in_range(k->operation, BLKIF_OP_READ, BLKIF_OP_WRITE);
		k->indirect = true;
		k->sector = indirect->sector_number;
		take_segments(
		    k, (void *)page_of(indirect->indirect_grefs[0]), indirect->nr_segments);
		for (unsigned i = 1; i < BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST; i++)
			assert_int_equal(indirect->indirect_grefs[i], 0);
		break;
	case BLKIF_OP_DISCARD:
		assert_int_equal(discard->handle, HANDLE);
		k->sector = discard->sector_number;
		k->discard_sectors = discard->nr_sectors;
		k->flag = discard->flag;
		break;
	case BLKIF_OP_FLUSH_DISKCACHE:
	case BLKIF_OP_WRITE_BARRIER:
		assert_int_equal(req->handle, HANDLE);
		assert_int_equal(req->nr_segments, 0);
		break;
	default:
		fail_msg("operation %u", req->operation);
	}
}

/* Takes what is published; the number of requests that are not answered. */
static unsigned
backend_take(void)
{
	RING_IDX pending;

	assert_true(xpv_ring_requests(&t.back, &pending));
	while (pending-- > 0) {
		blkif_request_t req;

		xpv_ring_copy_request(&t.back, t.back.req_cons, &req);
		t.back.req_cons++;
		take(&req);
	}
	t.back.sring->req_event = t.back.req_cons + 1;
	return t.ntaken;
}

static void
execute(const struct taken *k)
{
	uint8_t *at = t.disk + k->sector * 512;

	for (unsigned i = 0; i < k->segments; i++) {
		size_t bytes = (k->seg[i].last_sect + 1u) * 512;
		uint8_t *page = page_of(k->seg[i].gref);

		assert_true(at + bytes <= t.disk + t.disk_sectors * 512);
		memcpy(k->operation == BLKIF_OP_READ ? page : at,
		    k->operation == BLKIF_OP_READ ? at : page, bytes);
		at += bytes;
	}
}

static void
respond(uint64_t id, uint8_t operation, int16_t status)
{
	blkif_response_t *rsp = RING_GET_RESPONSE(&t.back, t.back.rsp_prod_pvt);

	*rsp = (blkif_response_t){.id = id, .operation = operation, .status = status};
	t.back.rsp_prod_pvt++;
}

static void
raise_event(void)
{
	if (evtchn.listening)
		evtchn.handler(PORT, evtchn.arg);
}

static bool
publish_answers(void)
{
	int notify;

	RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&t.back, notify);
	return notify;
}

static void
push_answers(void)
{
	if (publish_answers())
		raise_event();
}

static void
answer(const struct taken *k, int16_t status)
{
	if (status == BLKIF_RSP_OKAY)
		execute(k);
	respond(k->id, k->operation, status);
}

static void
answer_one(unsigned index, int16_t status)
{
	assert_true(index < t.ntaken);
	answer(&t.taken[index], status);
	t.taken[index] = t.taken[--t.ntaken];
}

static void
answer_taken(int16_t status)
{
	for (unsigned i = 0; i < t.ntaken; i++)
		answer(&t.taken[i], status);
	t.ntaken = 0;
}

/* Serves until nothing more comes. */
static void
backend_run(void)
{
	while (backend_take() > 0) {
		answer_taken(BLKIF_RSP_OKAY);
		push_answers();
	}
}

/* ---- the host ---- */

static void
submit(struct host_request *h, enum blk_op op, uint64_t sector, uint32_t sectors)
{
	h->r.op = op;
	h->r.sector = sector;
	h->r.sectors = sectors;
	h->done = false;
	h->status = -1;
	blk_queue_submit(t.q, &h->r);
}

static void
send(struct host_request *h, enum blk_op op, uint64_t sector, uint32_t sectors)
{
	submit(h, op, sector, sectors);
	blk_queue_push(t.q);
}

static uint8_t *
room(uint32_t sectors)
{
	uint8_t *data = malloc((size_t)sectors * 512);

	memset(data, 0x5a, (size_t)sectors * 512);
	return data;
}

/* ---- rings ---- */

static void
fresh_ring(void **state)
{
	make(&(struct setup){0});
	assert_int_equal(t.link.req_prod[0], 0);
	assert_int_equal(sring()->req_prod, 0);
	assert_int_equal(sring()->rsp_prod, 0);
	assert_int_equal(sring()->rsp_event, 1);
	assert_int_equal(blk_queue_inflight(t.q), 0);
	blk_queue_push(t.q);
	assert_int_equal(evtchn.notifies, 0);
	assert_int_equal(t.flushes, 0);
}

static void
one_read(void **state)
{
	struct host_request h = {.data = room(8)};

	make(&(struct setup){0});
	send(&h, BLK_READ, 24, 8);
	assert_int_equal(evtchn.notifies, 1);
	assert_int_equal(t.link.req_prod[0], 1);
	assert_int_equal(blk_queue_inflight(t.q), 1);
	assert_int_equal(xpv_counter_get(&t.stats.inflight), 1);
	assert_int_equal(backend_take(), 1);
	assert_int_equal(t.taken[0].sector, 24);
	assert_int_equal(t.taken[0].operation, BLKIF_OP_READ);
	answer_taken(BLKIF_RSP_OKAY);
	assert_false(h.done);
	push_answers();
	assert_true(h.done);
	assert_int_equal(h.status, 0);
	assert_memory_equal(h.data, t.disk + 24 * 512, 8 * 512);
	assert_int_equal(t.flushes, 1);
	assert_int_equal(blk_queue_inflight(t.q), 0);
	assert_int_equal(xpv_counter_get(&t.stats.inflight), 0);
	assert_int_equal(xpv_counter_get(&t.stats.reads), 1);
	assert_int_equal(xpv_counter_get(&t.stats.read_bytes), 4096);
	assert_int_equal(xpv_counter_get(&t.stats.events), 1);
	assert_int_equal(xpv_counter_get(&t.stats.notifies), 1);
	free(h.data);
}

/* How many ring requests "sectors" need, and which of them are indirect. */
static void
check_parts(uint32_t sectors, uint32_t max_indirect, uint64_t sector, uint8_t operation)
{
	unsigned most = max_indirect > 11 ? max_indirect : 11, pages = (sectors + 7) / 8, i = 0;

	assert_int_equal(t.ntaken, (pages + most - 1) / most);
	for (; pages > 0; i++) {
		const struct taken *k = &t.taken[i];
		unsigned segments = pages < most ? pages : most;
		unsigned last = segments * 8 < sectors ? 8 : sectors - (segments - 1) * 8;

		assert_int_equal(k->operation, operation);
		assert_int_equal(k->sector, sector);
		assert_int_equal(k->segments, segments);
		assert_int_equal(k->indirect, segments > 11);
		assert_int_equal(k->seg[segments - 1].last_sect, last - 1);
		sector += segments * 8;
		sectors -= segments * 8 < sectors ? segments * 8 : sectors;
		pages -= segments;
	}
}

static void
sizes(void **state)
{
	static const uint32_t all[] = {
	    1, 2, 7, 8, 9, 16, 87, 88, 89, 96, 97, 255, 256, 257, 264, 1000, 2047, 2048};
	static const uint32_t limits[] = {0, 12, 32, 256, 512};

	for (unsigned l = 0; l < sizeof(limits) / sizeof(limits[0]); l++) {
		make(&(struct setup){.max_indirect = limits[l]});
		for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
			struct host_request w = {.data = room(all[i])}, r = {.data = room(all[i])};
			uint64_t sector = 100 + i;

			for (uint32_t b = 0; b < all[i] * 512; b++)
				w.data[b] = (uint8_t)(b >> 9 ^ b ^ l ^ i);
			send(&w, BLK_WRITE, sector, all[i]);
			assert_int_equal(blk_queue_inflight(t.q), backend_take());
			check_parts(all[i], limits[l], sector, BLKIF_OP_WRITE);
			backend_run();
			assert_true(w.done && w.status == 0);
			assert_memory_equal(t.disk + sector * 512, w.data, all[i] * 512);

			send(&r, BLK_READ, sector, all[i]);
			backend_take();
			check_parts(all[i], limits[l], sector, BLKIF_OP_READ);
			backend_run();
			assert_true(r.done && r.status == 0);
			assert_memory_equal(r.data, w.data, all[i] * 512);
			free(w.data);
			free(r.data);
		}
		assert_int_equal(t.broken, 0);
		if (limits[l] != 512)
			teardown(NULL);
	}
}

static void
adjacent_pages_are_joined(void **state)
{
	struct host_request a = {.data = room(64)}, b = {.data = room(8)}, c = {.data = room(64)};

	make(&(struct setup){.data_pages = 20});
	send(&a, BLK_READ, 0, 64);
	backend_run();
	assert_int_equal(a.iovcnt, 1);
	/* A page kept in between makes two elements of what comes next. */
	b.keep_pages = c.keep_pages = true;
	send(&c, BLK_READ, 0, 16);
	send(&b, BLK_READ, 0, 8);
	backend_run();
	blk_queue_release(t.q, &c.r);
	c.keep_pages = false;
	send(&c, BLK_READ, 64, 64);
	backend_run();
	assert_int_equal(c.iovcnt, 2);
	assert_memory_equal(c.data, t.disk + 64 * 512, 64 * 512);
	free(a.data);
	free(b.data);
	free(c.data);
}

static void
many_in_one_push(void **state)
{
	struct host_request h[10] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 10; i++) {
		h[i].data = room(8);
		submit(&h[i], BLK_READ, i * 8, 8);
	}
	assert_int_equal(sring()->req_prod, 0);
	assert_int_equal(evtchn.notifies, 0);
	blk_queue_push(t.q);
	blk_queue_push(t.q);
	assert_int_equal(evtchn.notifies, 1);
	assert_int_equal(t.link.req_prod[0], 10);
	backend_take();
	/* Answered in any order. */
	answer_one(7, BLKIF_RSP_OKAY);
	answer_one(2, BLKIF_RSP_OKAY);
	answer_one(0, BLKIF_RSP_OKAY);
	push_answers();
	assert_int_equal(t.dones, 3);
	assert_int_equal(t.flushes, 1);
	assert_true(h[7].done && h[2].done && h[0].done);
	backend_run();
	assert_int_equal(t.flushes, 2);
	for (unsigned i = 0; i < 10; i++) {
		assert_true(h[i].done && h[i].status == 0);
		assert_memory_equal(h[i].data, t.disk + i * 4096, 4096);
		free(h[i].data);
	}
}

static void
notifies_only_a_backend_that_sleeps(void **state)
{
	struct host_request h[4] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 4; i++)
		h[i].data = room(8);
	send(&h[0], BLK_READ, 0, 8);
	assert_int_equal(evtchn.notifies, 1);
	send(&h[1], BLK_READ, 0, 8); /* the backend has not come to sleep again */
	assert_int_equal(evtchn.notifies, 1);
	backend_take();
	send(&h[2], BLK_READ, 0, 8);
	assert_int_equal(evtchn.notifies, 2);
	backend_take();
	sring()->req_event = 100; /* wants to hear later */
	send(&h[3], BLK_READ, 0, 8);
	assert_int_equal(evtchn.notifies, 2);
	assert_int_equal(backend_take(), 4);
	backend_run();
	assert_int_equal(t.dones, 4);
	for (unsigned i = 0; i < 4; i++)
		free(h[i].data);
}

/* The event for an answer that came while the queue was at work is not needed: it looks again. */
static void
answer_and_publish(struct host_request *h)
{
	if (t.ntaken > 0) {
		answer_one(0, BLKIF_RSP_OKAY);
		publish_answers();
	}
}

static void
looks_again_before_sleeping(void **state)
{
	struct host_request h[3] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 3; i++) {
		h[i].data = room(8);
		submit(&h[i], BLK_READ, i, 8);
	}
	blk_queue_push(t.q);
	backend_take();
	t.on_done = answer_and_publish;
	answer_one(0, BLKIF_RSP_OKAY);
	push_answers();
	assert_int_equal(t.dones, 3);
	assert_int_equal(t.flushes, 1);
	assert_int_equal(xpv_counter_get(&t.stats.events), 1);
	for (unsigned i = 0; i < 3; i++)
		free(h[i].data);
}

static void
answer_while_it_polls(void)
{
	static unsigned calls;

	if (++calls % 20 == 0)
		answer_and_publish(NULL);
}

static void
polls(void **state)
{
	struct host_request h[3] = {0};

	make(&(struct setup){.poll_us = 100});
	for (unsigned i = 0; i < 3; i++) {
		h[i].data = room(8);
		submit(&h[i], BLK_READ, i, 8);
	}
	blk_queue_push(t.q);
	backend_take();
	answer_one(0, BLKIF_RSP_OKAY);
	on_clock = answer_while_it_polls;
	push_answers();
	on_clock = NULL;
	assert_int_equal(t.dones, 3);
	assert_int_equal(xpv_counter_get(&t.stats.events), 1);
	/* And gives up in time. */
	send(&h[0], BLK_READ, 0, 8);
	raise_event();
	assert_false(h[0].done);
	assert_int_equal(sring()->rsp_event, 4);
	backend_run();
	assert_true(h[0].done);
	for (unsigned i = 0; i < 3; i++)
		free(h[i].data);
}

/* ---- flush and discard ---- */

static void
flush(void **state)
{
	struct host_request h = {0};

	make(&(struct setup){0});
	send(&h, BLK_FLUSH, 0, 17); /* a host may leave anything there */
	backend_take();
	assert_int_equal(t.taken[0].operation, BLKIF_OP_FLUSH_DISKCACHE);
	backend_run();
	assert_true(h.done && h.status == 0);
	assert_int_equal(xpv_counter_get(&t.stats.flushes), 1);

	send(&h, BLK_FLUSH, 0, 0);
	backend_take();
	answer_taken(BLKIF_RSP_ERROR);
	push_answers();
	assert_true(h.done && h.status == -EIO);
	assert_int_equal(xpv_counter_get(&t.stats.errors), 1);
}

static void
flush_by_barrier(void **state)
{
	struct host_request h = {0};

	make(&(struct setup){.no_flush = true, .barrier = true});
	send(&h, BLK_FLUSH, 0, 0);
	backend_take();
	assert_int_equal(t.taken[0].operation, BLKIF_OP_WRITE_BARRIER);
	backend_run();
	assert_true(h.done && h.status == 0);
}

static void
nothing_to_flush(void **state)
{
	struct host_request h = {0};

	make(&(struct setup){.no_flush = true});
	submit(&h, BLK_FLUSH, 0, 0);
	assert_true(h.done && h.status == 0);
	assert_int_equal(t.flushes, 0);
	blk_queue_push(t.q);
	assert_int_equal(t.flushes, 1);
	assert_int_equal(backend_take(), 0);
	assert_int_equal(evtchn.notifies, 0);
}

static void
flush_unsupported_after_all(void **state)
{
	struct host_request h[3] = {0};

	for (unsigned barrier = 0; barrier < 2; barrier++) {
		make(&(struct setup){.no_flush = barrier, .barrier = true});
		for (unsigned i = 0; i < 3; i++)
			submit(&h[i], BLK_FLUSH, 0, 0);
		blk_queue_push(t.q);
		assert_int_equal(backend_take(), 3);
		answer_taken(BLKIF_RSP_EOPNOTSUPP);
		push_answers();
		for (unsigned i = 0; i < 3; i++)
			assert_true(h[i].done && h[i].status == 0);
		assert_int_equal(log_lines, 1);
		assert_false(t.link.flush || t.link.barrier);
		send(&h[0], BLK_FLUSH, 0, 0);
		assert_true(h[0].done && h[0].status == 0);
		assert_int_equal(backend_take(), 0);
		if (!barrier)
			teardown(NULL);
	}
}

static void
discard(void **state)
{
	struct host_request h = {0};

	for (unsigned secure = 0; secure < 2; secure++) {
		make(&(struct setup){.discard = true, .secure = secure});
		send(&h, BLK_DISCARD, 4096, 0xfffffff8);
		backend_take();
		assert_int_equal(t.taken[0].operation, BLKIF_OP_DISCARD);
		assert_int_equal(t.taken[0].sector, 4096);
		assert_int_equal(t.taken[0].discard_sectors, 0xfffffff8);
		assert_int_equal(t.taken[0].flag, secure ? BLKIF_DISCARD_SECURE : 0);
		backend_run();
		assert_true(h.done && h.status == 0);
		assert_int_equal(xpv_counter_get(&t.stats.discards), 1);
		if (!secure)
			teardown(NULL);
	}
}

static void
discard_unsupported(void **state)
{
	struct host_request h = {0};

	make(&(struct setup){0});
	send(&h, BLK_DISCARD, 0, 8);
	assert_true(h.done && h.status == -EOPNOTSUPP);
	assert_int_equal(backend_take(), 0);
	teardown(NULL);

	make(&(struct setup){.discard = true});
	send(&h, BLK_DISCARD, 0, 8);
	backend_take();
	answer_taken(BLKIF_RSP_EOPNOTSUPP);
	push_answers();
	assert_true(h.done && h.status == -EOPNOTSUPP);
	assert_false(t.link.discard);
	send(&h, BLK_DISCARD, 0, 8);
	assert_true(h.done && h.status == -EOPNOTSUPP);
	assert_int_equal(backend_take(), 0);
}

/* ---- errors ---- */

static void
error_only_where_it_was(void **state)
{
	static const struct {
		int16_t answer;
		int result;
	} all[] = {{BLKIF_RSP_ERROR, -EIO}, {BLKIF_RSP_EOPNOTSUPP, -EOPNOTSUPP}, {77, -EIO},
	    {INT16_MIN, -EIO}, {1, -EIO}};
	struct host_request h[3] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 3; i++)
		h[i].data = room(8);
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		submit(&h[0], BLK_READ, 0, 8);
		submit(&h[1], BLK_WRITE, 8, 8);
		submit(&h[2], BLK_READ, 16, 8);
		blk_queue_push(t.q);
		backend_take();
		answer_one(1, all[i].answer);
		backend_run();
		assert_true(h[0].done && h[0].status == 0);
		assert_true(h[1].done && h[1].status == all[i].result);
		assert_true(h[2].done && h[2].status == 0);
		assert_int_equal(xpv_counter_get(&t.stats.errors), i + 1);
	}
	assert_int_equal(t.broken, 0);
	for (unsigned i = 0; i < 3; i++)
		free(h[i].data);
}

static void
error_in_one_part(void **state)
{
	struct host_request h = {.data = room(2048)};

	make(&(struct setup){0});
	for (unsigned bad = 0; bad < 24; bad += 23) {
		send(&h, BLK_READ, 0, 2048);
		assert_int_equal(backend_take(), 24);
		answer_one(bad, bad == 0 ? BLKIF_RSP_ERROR : BLKIF_RSP_EOPNOTSUPP);
		push_answers();
		assert_false(h.done);
		answer_taken(BLKIF_RSP_OKAY);
		push_answers();
		assert_true(h.done);
		assert_int_equal(h.status, bad == 0 ? -EIO : -EOPNOTSUPP);
	}
	assert_int_equal(xpv_counter_get(&t.stats.errors), 2);
	free(h.data);
}

static void
write_whose_data_cannot_be_had(void **state)
{
	struct host_request h = {.data = room(8)}, after = {.data = room(8)};

	make(&(struct setup){.data_pages = 1});
	t.pull_error = -EFAULT;
	send(&h, BLK_WRITE, 0, 8);
	assert_true(h.done && h.status == -EFAULT);
	assert_int_equal(t.flushes, 1);
	assert_int_equal(backend_take(), 0);
	t.pull_error = 0;
	send(&after, BLK_WRITE, 0, 8);
	backend_run();
	assert_true(after.done && after.status == 0);
	free(h.data);
	free(after.data);
}

/* ---- waiting ---- */

static void
more_requests_than_slots(void **state)
{
	struct host_request h[100] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 100; i++) {
		h[i].data = room(1);
		submit(&h[i], BLK_READ, i, 1);
	}
	blk_queue_push(t.q);
	assert_int_equal(backend_take(), 32);
	assert_int_equal(xpv_counter_get(&t.stats.waiting), 68);
	assert_int_equal(evtchn.notifies, 1);
	answer_one(5, BLKIF_RSP_OKAY);
	push_answers();
	assert_true(h[5].done);
	assert_int_equal(backend_take(), 32);
	assert_int_equal(t.taken[31].sector, 32); /* the one that waited longest */
	assert_int_equal(evtchn.notifies, 2);
	backend_run();
	for (unsigned i = 0; i < 100; i++) {
		assert_true(h[i].done && h[i].status == 0);
		assert_memory_equal(h[i].data, t.disk + i * 512, 512);
		if (i > 32)
			assert_true(h[i].number > h[i - 32].number);
		free(h[i].data);
	}
	assert_int_equal(xpv_counter_get(&t.stats.waiting), 0);
}

/* A request may have more parts than the ring has slots left; those after it wait behind it. */
static void
parts_wait_for_slots(void **state)
{
	struct host_request big[3] = {0}, last = {0};

	make(&(struct setup){.data_pages = 3 * 256});
	for (unsigned i = 0; i < 3; i++) {
		big[i].data = room(2048);
		submit(&big[i], i == 1 ? BLK_WRITE : BLK_READ, i * 2048, 2048);
	}
	submit(&last, BLK_FLUSH, 0, 0);
	blk_queue_push(t.q);
	assert_int_equal(backend_take(), 32);
	assert_int_equal(t.pulls, 1);
	assert_int_equal(xpv_counter_get(&t.stats.waiting), 3);
	/* All that is out of the second is answered before its rest can go. */
	for (unsigned i = 0; i < 8; i++)
		answer_one(24, BLKIF_RSP_OKAY);
	publish_answers();
	raise_event();
	assert_false(big[1].done);
	assert_int_equal(backend_take(), 32);
	backend_run();
	assert_int_equal(t.pulls, 1);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(big[i].done && big[i].status == 0);
		assert_memory_equal(big[i].data, t.disk + i * 2048 * 512, 2048 * 512);
		free(big[i].data);
	}
	assert_true(last.done);
	assert_int_equal(last.number, 4);
}

static void
pages_run_out(void **state)
{
	struct host_request h[4] = {0}, whole = {0};

	make(&(struct setup){.data_pages = 10, .max_indirect = 32});
	for (unsigned i = 0; i < 4; i++) {
		h[i].data = room(32);
		h[i].keep_pages = true;
		submit(&h[i], BLK_READ, i * 32, 32);
	}
	blk_queue_push(t.q);
	assert_int_equal(backend_take(), 2); /* 4 pages each */
	backend_run();
	assert_int_equal(t.dones, 2);
	assert_int_equal(backend_take(), 0); /* the host has the pages still */
	blk_queue_release(t.q, &h[1].r);
	assert_int_equal(backend_take(), 1);
	assert_int_equal(t.taken[0].sector, 64);
	assert_int_equal(evtchn.notifies, 2);
	backend_run();
	blk_queue_release(t.q, &h[0].r);
	backend_run();
	assert_true(h[3].done);
	blk_queue_release(t.q, &h[2].r);
	blk_queue_release(t.q, &h[3].r);

	/* Not one page is lost: all of them fit one more request. */
	whole.data = room(80);
	send(&whole, BLK_READ, 0, 80);
	backend_run();
	assert_true(whole.done && whole.status == 0);
	free(whole.data);
	for (unsigned i = 0; i < 4; i++)
		free(h[i].data);
}

/* An indirect request needs a page more, which a second one must not take from it. */
static void
descriptors_count_too(void **state)
{
	struct host_request a = {.data = room(96)}, b = {.data = room(96)};

	make(&(struct setup){.data_pages = 25, .max_indirect = 32});
	for (unsigned i = 0; i < 50; i++) {
		memset(b.data, i, 96 * 512);
		submit(&a, BLK_READ, 0, 96);
		submit(&b, BLK_WRITE, 96, 96);
		blk_queue_push(t.q);
		assert_int_equal(backend_take(), 1);
		backend_run();
		assert_true(a.done && b.done);
		send(&a, BLK_READ, 96, 96);
		backend_run();
		assert_memory_equal(a.data, b.data, 96 * 512);
	}
	free(a.data);
	free(b.data);
}

/* A host that releases in done() must not make done() run inside itself: the stack is finite. */
static void
no_recursion(void **state)
{
	struct host_request blocker = {.data = room(8), .keep_pages = true}, reads[2] = {0};
	struct host_request *flushes = calloc(4000, sizeof(*flushes));

	make(&(struct setup){.data_pages = 1, .no_flush = true});
	for (unsigned i = 0; i < 2; i++)
		reads[i].data = room(8);
	send(&blocker, BLK_READ, 0, 8);
	backend_run();
	submit(&reads[0], BLK_READ, 0, 8);
	for (unsigned i = 0; i < 4000; i++)
		submit(&flushes[i], BLK_FLUSH, 0, 0);
	submit(&reads[1], BLK_READ, 0, 8);
	assert_int_equal(t.dones, 1);
	blk_queue_release(t.q, &blocker.r);
	assert_int_equal(t.dones, 4001);
	assert_int_equal(t.deepest, 1);
	backend_run();
	assert_true(reads[0].done && reads[1].done);
	free(flushes);
	free(blocker.data);
	for (unsigned i = 0; i < 2; i++)
		free(reads[i].data);
}

/* Page numbers have 16 bits, and one of them means none: what is beyond is left alone. */
static void
huge_pool(void **state)
{
	struct host_request *h = calloc(257, sizeof(*h));
	uint8_t *data = room(2048);

	make(&(struct setup){.data_pages = 65600, .ring_pages = 2});
	for (unsigned i = 0; i < 257; i++) {
		h[i].data = data;
		h[i].keep_pages = true;
		send(&h[i], BLK_READ, 0, i < 255 ? 2048 : i == 255 ? (65533 - 255 * 256) * 8 : 1);
		backend_take();
		answer_taken(BLKIF_RSP_ERROR);
		push_answers();
		assert_int_equal(h[i].done, i < 256);
	}
	for (unsigned i = 0; i < 256; i++)
		blk_queue_release(t.q, &h[i].r);
	backend_run();
	assert_true(h[256].done && h[256].status == 0);
	free(data);
	free(h);
}

static struct host_request chained;

static void
submit_in_done(struct host_request *h)
{
	t.on_done = NULL;
	submit(&chained, BLK_FLUSH, 0, 0);
	blk_queue_push(t.q);
}

static void
host_submits_in_done(void **state)
{
	struct host_request h = {0};

	make(&(struct setup){0});
	send(&h, BLK_FLUSH, 0, 0);
	t.on_done = submit_in_done;
	backend_take();
	answer_taken(BLKIF_RSP_OKAY);
	push_answers();
	assert_true(h.done);
	assert_int_equal(backend_take(), 1);
	assert_int_equal(evtchn.notifies, 2);
	backend_run();
	assert_true(chained.done);
}

static void
index_wraps(void **state)
{
	struct host_request h = {.data = room(9)};

	for (unsigned pages = 1; pages <= 16; pages *= 2) {
		make(&(struct setup){.live = true, .start = UINT32_MAX - 300, .ring_pages = pages});
		assert_int_equal(blk_queue_inflight(t.q), 0);
		for (unsigned i = 0; i < 700; i++) {
			send(&h, BLK_READ, i, 9);
			assert_int_equal(t.link.req_prod[0], (uint32_t)(UINT32_MAX - 300 + i + 1));
			backend_run();
			assert_true(h.done && h.status == 0);
			assert_memory_equal(h.data, t.disk + i * 512, 9 * 512);
		}
		assert_int_equal(evtchn.notifies, 700);
		assert_int_equal(t.broken, 0);
		if (pages < 16)
			teardown(NULL);
	}
	free(h.data);
}

/* ---- a hostile backend ---- */

static void
id_too_large(void)
{
	respond(RING_SIZE(&t.back), BLKIF_OP_READ, 0);
}

static void
id_huge(void)
{
	respond(UINT64_MAX, BLKIF_OP_READ, 0);
}

static void
id_with_high_bits(void)
{
	respond(t.taken[0].id | 1ull << 32, BLKIF_OP_READ, 0);
}

static void
id_not_in_flight(void)
{
	respond(20, BLKIF_OP_READ, 0);
}

static void
answered_twice(void)
{
	respond(t.taken[0].id, BLKIF_OP_READ, 0);
	respond(t.taken[0].id, BLKIF_OP_READ, 0);
}

static void
write_for_read(void)
{
	respond(t.taken[0].id, BLKIF_OP_WRITE, 0);
}

static void
indirect_for_direct(void)
{
	respond(t.taken[0].id, BLKIF_OP_INDIRECT, 0);
}

static void
flush_for_indirect(void)
{
	respond(t.taken[2].id, BLKIF_OP_FLUSH_DISKCACHE, 0);
}

static void
read_for_flush(void)
{
	respond(t.taken[3].id, BLKIF_OP_READ, 0);
}

static void
nonsense_operation(void)
{
	respond(t.taken[0].id, 255, BLKIF_RSP_EOPNOTSUPP);
}

static void
one_answer_too_many(void)
{
	for (unsigned i = 0; i < 5; i++)
		respond(t.taken[i % 4].id, t.taken[i % 4].operation, 0);
}

static void
flood(void)
{
	t.back.rsp_prod_pvt += 0x40000000;
}

static void
half_the_world(void)
{
	t.back.rsp_prod_pvt += 0x80000000;
}

static void
backwards(void)
{
	t.back.rsp_prod_pvt--;
}

static void
hostile_answers(void **state)
{
	static const struct {
		void (*act)(void);
		unsigned answered_before;
		const char *why;
	} all[] = {
	    {id_too_large, 0, "answered a request id that does not exist"},
	    {id_huge, 0, "answered a request id that does not exist"},
	    {id_with_high_bits, 0, "answered a request id that does not exist"},
	    {id_not_in_flight, 0, "answered a request that is not in flight"},
	    {answered_twice, 1, "answered a request that is not in flight"},
	    {write_for_read, 0, "answered with another operation than was asked for"},
	    {indirect_for_direct, 0, "answered with another operation than was asked for"},
	    {flush_for_indirect, 0, "answered with another operation than was asked for"},
	    {read_for_flush, 0, "answered with another operation than was asked for"},
	    {nonsense_operation, 0, "answered with another operation than was asked for"},
	    {one_answer_too_many, 0, "claims more answers than were asked for"},
	    {flood, 0, "claims more answers than were asked for"},
	    {half_the_world, 0, "claims more answers than were asked for"},
	    {backwards, 0, "claims more answers than were asked for"},
	};
	struct host_request first = {.data = room(8)}, h[4] = {0}, waiting[2] = {0};

	for (unsigned i = 0; i < 4; i++)
		h[i].data = room(96);
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		make(&(struct setup){.max_indirect = 32, .data_pages = 30});
		send(&first, BLK_READ, 0, 8); /* so that there is an answer to take back */
		backend_run();
		submit(&h[0], BLK_READ, 0, 8);
		submit(&h[1], BLK_READ, 8, 8);
		submit(&h[2], BLK_READ, 16, 96);
		submit(&h[3], BLK_FLUSH, 0, 0);
		blk_queue_push(t.q);
		assert_int_equal(backend_take(), 4);
		submit(&waiting[0], BLK_READ, 0, 128); /* there are no pages for it */
		submit(&waiting[1], BLK_FLUSH, 0, 0);
		assert_int_equal(blk_queue_inflight(t.q), 4);

		all[i].act();
		publish_answers();
		raise_event();
		assert_int_equal(t.broken, 1);
		assert_string_equal(t.why, all[i].why);
		assert_int_equal(t.dones, 1 + all[i].answered_before);
		assert_false(evtchn.listening);

		/* Not used again, whatever comes. */
		unsigned notifies = evtchn.notifies;
		RING_IDX sent = sring()->req_prod;
		uint32_t noted = t.link.req_prod[0];

		raise_event();
		send(&first, BLK_READ, 0, 8);
		blk_queue_release(t.q, &h[0].r);
		blk_queue_push(t.q);
		blk_queue_quiesce(t.q);
		blk_queue_unlisten(t.q);
		assert_int_equal(t.broken, 1);
		assert_int_equal(t.dones, 1 + all[i].answered_before);
		assert_int_equal(evtchn.notifies, notifies);
		assert_int_equal(sring()->req_prod, sent);
		assert_int_equal(t.link.req_prod[0], noted);
		if (i + 1 < sizeof(all) / sizeof(all[0]))
			teardown(NULL);
	}
	free(first.data);
	for (unsigned i = 0; i < 4; i++)
		free(h[i].data);
}

static void
outer_operation_of_an_indirect_request(void **state)
{
	struct host_request h = {.data = room(96)};

	make(&(struct setup){.max_indirect = 32});
	send(&h, BLK_READ, 0, 96);
	backend_take();
	execute(&t.taken[0]);
	respond(t.taken[0].id, BLKIF_OP_INDIRECT, BLKIF_RSP_OKAY);
	push_answers();
	assert_int_equal(t.broken, 0);
	assert_true(h.done && h.status == 0);
	assert_memory_equal(h.data, t.disk, 96 * 512);
	free(h.data);
}

/* What it writes where only we write matters to nobody but itself. */
static void
scribbled_requests(void **state)
{
	struct host_request h[2] = {{.data = room(96)}, {.data = room(8)}};

	make(&(struct setup){.max_indirect = 32});
	submit(&h[0], BLK_READ, 0, 96);
	submit(&h[1], BLK_READ, 200, 8);
	blk_queue_push(t.q);
	backend_take();
	memset(sring()->ring, 0xff, XPV_PAGE_SIZE - offsetof(blkif_sring_t, ring));
	sring()->req_prod = 12345;
	sring()->req_event = 54321;
	answer_taken(BLKIF_RSP_OKAY);
	push_answers();
	assert_int_equal(t.broken, 0);
	assert_true(h[0].done && h[0].status == 0 && h[1].done && h[1].status == 0);
	assert_memory_equal(h[0].data, t.disk, 96 * 512);
	assert_memory_equal(h[1].data, t.disk + 200 * 512, 8 * 512);
	send(&h[1], BLK_READ, 0, 8);
	assert_int_equal(t.link.req_prod[0], 3);
	assert_int_equal(sring()->req_prod, 3);
	free(h[0].data);
	free(h[1].data);
}

static void
events_without_answers(void **state)
{
	struct host_request h = {.data = room(8)};

	make(&(struct setup){0});
	send(&h, BLK_READ, 0, 8);
	for (unsigned i = 0; i < 10000; i++)
		raise_event();
	assert_int_equal(evtchn.notifies, 1);
	assert_int_equal(t.flushes, 0);
	assert_int_equal(log_lines, 0);
	backend_run();
	assert_true(h.done);
	free(h.data);
}

/* ---- a live ring: the worker died, the ring goes on ---- */

static void
kill_worker(void)
{
	blk_queue_free(t.q);
	t.link.live = true;
	new_queue();
	blk_queue_on_idle(t.q, on_idle, NULL);
}

static void
live_with_nothing_in_flight(void **state)
{
	struct host_request h = {.data = room(8)};

	make(&(struct setup){0});
	send(&h, BLK_READ, 0, 8);
	backend_run();
	kill_worker();
	assert_int_not_equal(blk_queue_inflight(t.q), 0); /* until it has looked */
	listen_to(t.q);
	assert_int_equal(blk_queue_inflight(t.q), 0);
	assert_int_equal(evtchn.notifies, 0);
	send(&h, BLK_READ, 8, 8);
	backend_run();
	assert_true(h.done && h.status == 0);
	assert_memory_equal(h.data, t.disk + 8 * 512, 8 * 512);
	free(h.data);
}

static void
live_with_late_answers(void **state)
{
	struct host_request h[20] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 20; i++) {
		h[i].data = room(8);
		submit(&h[i], BLK_WRITE, i * 8, 8);
	}
	blk_queue_push(t.q);
	backend_take();
	answer_one(0, BLKIF_RSP_OKAY);
	publish_answers(); /* the worker never saw this one */
	kill_worker();
	listen_to(t.q);
	assert_int_equal(evtchn.notifies, 1);
	assert_int_equal(blk_queue_inflight(t.q), 19);
	for (unsigned i = 0; i < 18; i++)
		answer_one(0, BLKIF_RSP_ERROR);
	assert_false(publish_answers()); /* one event, for the last */
	raise_event();			 /* a stray one does no harm */
	assert_int_equal(blk_queue_inflight(t.q), 1);
	assert_int_equal(t.idles, 0);
	answer_one(0, BLKIF_RSP_OKAY);
	assert_true(publish_answers());
	raise_event();
	assert_int_equal(t.idles, 1);
	assert_int_equal(blk_queue_inflight(t.q), 0);
	assert_int_equal(t.dones, 0); /* nobody was told: the host asks again */
	for (unsigned i = 0; i < 20; i++)
		submit(&h[i], BLK_WRITE, i * 8, 8);
	blk_queue_push(t.q);
	backend_run();
	assert_int_equal(t.dones, 20);
	assert_int_equal(t.broken, 0);
	for (unsigned i = 0; i < 20; i++)
		free(h[i].data);
}

/* The last answer is in the ring, its event is not handled: the ring is not idle before it is. */
static void
not_idle_before_it_has_seen_it(void **state)
{
	struct host_request h = {.data = room(8)};

	make(&(struct setup){0});
	send(&h, BLK_READ, 0, 8);
	backend_take();
	kill_worker();
	listen_to(t.q);
	answer_taken(BLKIF_RSP_OKAY);
	assert_true(publish_answers());
	assert_int_not_equal(blk_queue_inflight(t.q), 0);
	raise_event();
	assert_int_equal(blk_queue_inflight(t.q), 0);
	assert_int_equal(t.idles, 1);
	free(h.data);
}

/* Killed between its note and the ring's own index. */
static void
killed_before_it_published(void **state)
{
	struct host_request h[3] = {0};

	make(&(struct setup){0});
	for (unsigned i = 0; i < 3; i++)
		h[i].data = room(8);
	send(&h[0], BLK_READ, 0, 8);
	backend_run();
	submit(&h[1], BLK_READ, 8, 8);
	submit(&h[2], BLK_WRITE, 16, 8);
	blk_queue_push(t.q);
	sring()->req_prod = 1;
	kill_worker();
	listen_to(t.q);
	assert_int_equal(evtchn.notifies, 1);
	assert_int_equal(sring()->req_prod, 3);
	assert_int_equal(backend_take(), 2);
	backend_run();
	assert_int_equal(blk_queue_inflight(t.q), 0);
	assert_int_equal(t.broken, 0);
	assert_memory_equal(t.disk + 16 * 512, h[2].data, 4096); /* its pages were whole */
	for (unsigned i = 0; i < 3; i++)
		free(h[i].data);
}

/* Killed with requests it had not even noted: they are not sent. */
static void
killed_before_it_noted(void **state)
{
	struct host_request h[2] = {{.data = room(8)}, {.data = room(8)}};

	make(&(struct setup){0});
	send(&h[0], BLK_READ, 0, 8);
	submit(&h[1], BLK_READ, 0, 8);
	kill_worker();
	listen_to(t.q);
	assert_int_equal(backend_take(), 1);
	backend_run();
	assert_int_equal(blk_queue_inflight(t.q), 0);
	submit(&h[0], BLK_READ, 0, 8);
	submit(&h[1], BLK_READ, 0, 8);
	blk_queue_push(t.q);
	backend_run();
	assert_int_equal(t.dones, 2);
	free(h[0].data);
	free(h[1].data);
}

static void
hostile_while_draining(void **state)
{
	/* Against a ring of 32 at index 3 with 2 in flight. */
	static const uint32_t claims[] = {4, 100, 0x80000003, UINT32_MAX - 29};
	struct host_request h[3] = {0};

	for (unsigned i = 0; i < 3; i++)
		h[i].data = room(8);
	for (unsigned i = 0; i < sizeof(claims) / sizeof(claims[0]); i++) {
		for (unsigned late = 0; late < 2; late++) {
			make(&(struct setup){0});
			send(&h[0], BLK_READ, 0, 8);
			backend_run();
			submit(&h[1], BLK_READ, 8, 8);
			submit(&h[2], BLK_READ, 16, 8);
			blk_queue_push(t.q);
			kill_worker();
			if (late)
				listen_to(t.q);
			sring()->rsp_prod = claims[i];
			if (late)
				raise_event();
			else
				listen_to(t.q);
			assert_int_equal(t.broken, 1);
			assert_string_equal(t.why, "claims more answers than were asked for");
			assert_int_equal(evtchn.notifies, late);
			raise_event();
			blk_queue_push(t.q);
			assert_int_equal(t.broken, 1);
			assert_int_equal(t.idles, 0);
			teardown(NULL);
		}
	}
	/* Backwards, but within the ring. */
	make(&(struct setup){0});
	for (unsigned i = 0; i < 3; i++)
		submit(&h[i], BLK_READ, 8, 8);
	blk_queue_push(t.q);
	kill_worker();
	sring()->rsp_prod = 2;
	listen_to(t.q);
	sring()->rsp_prod = 1;
	raise_event();
	assert_int_equal(t.broken, 1);
	for (unsigned i = 0; i < 3; i++)
		free(h[i].data);
}

/* ---- quiesce ---- */

static void
quiesce(void **state)
{
	struct host_request h[40] = {0};

	make(&(struct setup){0});
	blk_queue_on_idle(t.q, on_idle, NULL);
	for (unsigned i = 0; i < 40; i++) {
		h[i].data = room(8);
		submit(&h[i], BLK_READ, i, 8);
	}
	blk_queue_push(t.q);
	blk_queue_quiesce(t.q);
	assert_int_equal(xpv_counter_get(&t.stats.waiting), 0);
	assert_int_equal(backend_take(), 32);
	answer_one(0, BLKIF_RSP_OKAY);
	push_answers();
	assert_int_equal(t.idles, 0);
	backend_run();
	assert_int_equal(t.dones, 32);
	assert_int_equal(t.idles, 1);
	assert_int_equal(blk_queue_inflight(t.q), 0);
	for (unsigned i = 0; i < 40; i++)
		free(h[i].data);
}

static void
quiesce_amid_a_request(void **state)
{
	struct host_request h[2] = {{.data = room(2048)}, {.data = room(2048)}};

	make(&(struct setup){0});
	submit(&h[0], BLK_READ, 0, 2048);
	submit(&h[1], BLK_READ, 0, 2048);
	blk_queue_push(t.q);
	assert_int_equal(backend_take(), 32);
	blk_queue_quiesce(t.q);
	backend_run();
	assert_true(h[0].done);
	assert_false(h[1].done); /* half of it never went */
	assert_int_equal(blk_queue_inflight(t.q), 0);
	free(h[0].data);
	free(h[1].data);
}

/* ---- at random, against a model ---- */

#define HOST_DEPTH 64
#define UNKNOWN	   UINT32_MAX

static uint64_t seed;

static uint32_t
below(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 32) * n >> 32);
}

struct model {
	struct host_request h[HOST_DEPTH];
	bool used[HOST_DEPTH], held[HOST_DEPTH];
	uint32_t written[HOST_DEPTH]; /* version */
	uint32_t *version;	      /* of each sector: what a read must find */
	bool *busy;		      /* of each sector: a request is under way */
	uint32_t last_version;
	unsigned requests, errors, restarts;
};

static void
fill_sector(uint8_t *at, uint64_t sector, uint32_t version)
{
	uint64_t word = (sector << 32 | version) * 0x9e3779b97f4a7c15 + 1;

	for (unsigned i = 0; i < 512 / 8; i++, word += 0x0101010101010101)
		memcpy(at + 8 * i, &word, 8);
}

static bool
sector_is(const uint8_t *at, uint64_t sector, uint32_t version)
{
	uint8_t wanted[512];

	fill_sector(wanted, sector, version);
	return memcmp(at, wanted, 512) == 0;
}

static uint32_t
random_sectors(void)
{
	uint32_t dice = below(200);

	if (dice == 0)
		return 1 + below(MAX_SECTORS);
	return 1 + below(dice < 150 ? 8 : 120);
}

static bool
model_submit(struct model *m, unsigned i)
{
	uint32_t sectors = random_sectors(), dice = below(100);
	uint64_t sector = below((uint32_t)t.disk_sectors - sectors);
	struct host_request *h = &m->h[i];

	if (dice < 3) {
		submit(h, BLK_FLUSH, 0, 0);
		return true;
	}
	/* Requests that overlap have no order: none are made. */
	for (uint32_t s = 0; s < sectors; s++) {
		if (m->busy[sector + s])
			return false;
	}
	memset(&m->busy[sector], 1, sectors);
	if (dice < 50) {
		m->written[i] = ++m->last_version;
		for (uint32_t s = 0; s < sectors; s++)
			fill_sector(h->data + s * 512, sector + s, m->written[i]);
		submit(h, BLK_WRITE, sector, sectors);
	} else {
		submit(h, BLK_READ, sector, sectors);
	}
	return true;
}

/* Looks at what the host was told. */
static void
model_check(struct model *m, unsigned i)
{
	struct host_request *h = &m->h[i];
	const struct blk_request *r = &h->r;

	m->errors += h->status != 0;
	if (r->op == BLK_FLUSH)
		return;
	for (uint32_t s = 0; s < r->sectors; s++) {
		uint32_t *version = &m->version[r->sector + s];

		assert_true(m->busy[r->sector + s]);
		m->busy[r->sector + s] = false;
		if (r->op == BLK_WRITE)
			*version = h->status == 0 ? m->written[i] : UNKNOWN;
		else if (h->status == 0 && *version != UNKNOWN)
			assert_true(sector_is(h->data + s * 512, r->sector + s, *version));
	}
}

static void
model_answer(unsigned most)
{
	backend_take();
	while (t.ntaken > 0 && most-- > 0) {
		unsigned i = below(t.ntaken);

		answer_one(i, below(500) == 0 ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY);
	}
	push_answers();
}

/* The worker is killed, and another one goes on: the host asks again what it was not told. */
static void
model_restart(struct model *m)
{
	m->restarts++;
	kill_worker();
	listen_to(t.q);
	while (blk_queue_inflight(t.q) > 0)
		model_answer(1 + below(8));
	for (unsigned i = 0; i < HOST_DEPTH; i++) {
		m->held[i] = false; /* the pages were the dead worker's */
		m->h[i].keep_pages = false;
		if (m->used[i] && !m->h[i].done)
			submit(&m->h[i], m->h[i].r.op, m->h[i].r.sector, m->h[i].r.sectors);
	}
}

static void
model_turn(struct model *m, unsigned restart_one_in)
{
	unsigned batch = 1 + below(16);

	for (unsigned i = 0; i < HOST_DEPTH; i++) {
		if (m->held[i] && m->h[i].done && below(4) == 0) {
			blk_queue_release(t.q, &m->h[i].r);
			m->held[i] = false;
		}
		if (m->used[i] && m->h[i].done && !m->held[i]) {
			model_check(m, i);
			m->used[i] = false;
			m->requests++;
		}
		if (!m->used[i] && batch > 0) {
			m->h[i].keep_pages = below(3) == 0;
			m->used[i] = model_submit(m, i);
			m->held[i] = m->used[i] && m->h[i].keep_pages;
			batch--;
		}
	}
	if (below(8) != 0)
		blk_queue_push(t.q);
	if (below(restart_one_in) == 0)
		model_restart(m);
	else
		model_answer(below(RING_SIZE(&t.back)));
}

static void
random_requests(const struct setup *s, unsigned requests)
{
	struct model m = {0};

	make(s);
	m.version = calloc(t.disk_sectors, sizeof(*m.version));
	m.busy = calloc(t.disk_sectors, sizeof(*m.busy));
	for (size_t i = 0; i < t.disk_sectors; i++)
		m.version[i] = UNKNOWN;
	for (unsigned i = 0; i < HOST_DEPTH; i++)
		m.h[i].data = room(MAX_SECTORS);
	while (m.requests < requests)
		model_turn(&m, 500);
	assert_int_equal(t.broken, 0);
	assert_true(m.errors > 0 && m.errors < requests / 50);
	assert_true(m.restarts > 0);
	for (unsigned i = 0; i < HOST_DEPTH; i++)
		free(m.h[i].data);
	free(m.version);
	free(m.busy);
}

static void
at_random(void **state)
{
	static const struct setup all[] = {
	    {.data_pages = 300},
	    {.data_pages = 600, .max_indirect = 32},
	    {.data_pages = 2000, .max_indirect = 256, .ring_pages = 16},
	    {.data_pages = 400,
		.max_indirect = 64,
		.ring_pages = 2,
		.live = true,
		.start = -20000u},
	};

	seed = 0x243f6a8885a308d3;
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		random_requests(&all[i], 50000);
		if (i + 1 < sizeof(all) / sizeof(all[0]))
			teardown(NULL);
	}
}

#define TEST(f) cmocka_unit_test_teardown(f, teardown)

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(fresh_ring),
	    TEST(one_read),
	    TEST(sizes),
	    TEST(adjacent_pages_are_joined),
	    TEST(many_in_one_push),
	    TEST(notifies_only_a_backend_that_sleeps),
	    TEST(looks_again_before_sleeping),
	    TEST(polls),
	    TEST(flush),
	    TEST(flush_by_barrier),
	    TEST(nothing_to_flush),
	    TEST(flush_unsupported_after_all),
	    TEST(discard),
	    TEST(discard_unsupported),
	    TEST(error_only_where_it_was),
	    TEST(error_in_one_part),
	    TEST(write_whose_data_cannot_be_had),
	    TEST(more_requests_than_slots),
	    TEST(parts_wait_for_slots),
	    TEST(pages_run_out),
	    TEST(descriptors_count_too),
	    TEST(no_recursion),
	    TEST(huge_pool),
	    TEST(host_submits_in_done),
	    TEST(index_wraps),
	    TEST(hostile_answers),
	    TEST(outer_operation_of_an_indirect_request),
	    TEST(scribbled_requests),
	    TEST(events_without_answers),
	    TEST(live_with_nothing_in_flight),
	    TEST(live_with_late_answers),
	    TEST(not_idle_before_it_has_seen_it),
	    TEST(killed_before_it_published),
	    TEST(killed_before_it_noted),
	    TEST(hostile_while_draining),
	    TEST(quiesce),
	    TEST(quiesce_amid_a_request),
	    TEST(at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
