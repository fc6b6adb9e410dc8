/* SPDX-License-Identifier: BSD-2-Clause */
#include "queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/log.h>
#include <xenpv/ring.h>
#include <xen/io/blkif.h>

#include "probes.h"

#define NO_SLOT 0xffffu
#define NO_PAGE 0xffffu

#define SECTORS_PER_PAGE (XPV_PAGE_SIZE >> BLK_SECTOR_SHIFT)

/* What we remember of a ring request; its index is the request's id. The ring itself is never read
 * for this: the backend can write it. */
struct slot {
	struct blk_request *request; /* NULL: free */
	uint16_t descriptors;	     /* page of an indirect request, or NO_PAGE */
	uint16_t next_free;
	uint8_t operation; /* that the answer must name */
};

struct blk_queue {
	struct blk_queue_config c;
	blkif_front_ring_t ring;
	struct xpv_evtchn *evtchn;
	const struct blk_host_ops *ops;
	void *host;

	STAILQ_HEAD(, blk_request) waiting;
	unsigned nwaiting;
	struct slot *slots;
	uint16_t free_slot;
	uint16_t *free_pages; /* a stack: the page used last is the warmest */
	unsigned nfree_pages;
	unsigned segments_max; /* of one ring request */
	RING_IDX published;

	bool draining; /* a live ring: what the last worker sent is not all answered */
	bool quiet;
	bool dead;
	bool in_batch; /* pushes are collected */
	bool replies;  /* done() was called since the last flush() */
	uint64_t now;  /* when this batch began, if it has asked */

	void (*idle)(void *arg);
	void *idle_arg;
};

/* ---- the ring's memory ---- */

static blkif_sring_t *
shared_ring(const struct blk_queue *q)
{
	return xpv_pool_page(&q->c.grants->pool, 0);
}

static void
ring_broken(struct blk_queue *q, const char *why)
{
	if (q->dead)
		return;
	q->dead = true;
	xpv_evtchn_unlisten(q->evtchn);
	q->c.broken(q->c.arg, why);
}

struct blk_queue *
blk_queue_new(const struct blk_queue_config *config)
{
	const struct xpv_pool *pool = &config->grants->pool;
	const struct blk_link *link = config->link;
	size_t ring_bytes = (size_t)config->ring_pages * XPV_PAGE_SIZE;
	struct blk_queue *q = calloc(1, sizeof(*q));
	unsigned nslots;

	if (q == NULL)
		return NULL;
	q->c = *config;
	STAILQ_INIT(&q->waiting);
	q->segments_max = link->max_indirect > BLKIF_MAX_SEGMENTS_PER_REQUEST
			      ? link->max_indirect
			      : BLKIF_MAX_SEGMENTS_PER_REQUEST;
	if (link->live) {
		RING_IDX sent = link->req_prod[config->index];

		FRONT_RING_ATTACH(&q->ring, shared_ring(q), sent, ring_bytes);
		/* All may be unanswered: drain() finds out, and what it says is what counts. */
		q->ring.rsp_cons = sent - RING_SIZE(&q->ring);
		q->published = sent;
		q->draining = true;
	} else {
		SHARED_RING_INIT(shared_ring(q));
		FRONT_RING_INIT(&q->ring, shared_ring(q), ring_bytes);
		config->link->req_prod[config->index] = 0;
	}
	nslots = RING_SIZE(&q->ring);
	q->slots = calloc(nslots, sizeof(*q->slots));
	q->free_pages = calloc(pool->pages, sizeof(*q->free_pages));
	q->evtchn = xpv_evtchn_inherit(config->grants->evtchn);
	if (q->slots == NULL || q->free_pages == NULL || q->evtchn == NULL) {
		blk_queue_free(q);
		return NULL;
	}
	for (unsigned i = 0; i < nslots; i++)
		q->slots[i].next_free = i + 1 < nslots ? i + 1 : NO_SLOT;
	/* The lowest page on top, so that a fresh pool hands out adjacent pages in order. */
	for (unsigned page = pool->pages < NO_PAGE ? pool->pages : NO_PAGE;
	     page-- > config->ring_pages;)
		q->free_pages[q->nfree_pages++] = page;
	return q;
}

void
blk_queue_free(struct blk_queue *q)
{
	if (q == NULL)
		return;
	xpv_evtchn_close(q->evtchn);
	free(q->free_pages);
	free(q->slots);
	free(q);
}

void
blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host)
{
	q->ops = ops;
	q->host = host;
}

void
blk_queue_on_idle(struct blk_queue *q, void (*idle)(void *arg), void *arg)
{
	q->idle = idle;
	q->idle_arg = arg;
}

unsigned
blk_queue_inflight(const struct blk_queue *q)
{
	return q->ring.req_prod_pvt - q->ring.rsp_cons;
}

/* ---- host request to ring requests ---- */

static void
give_page(struct blk_queue *q, uint16_t page)
{
	q->free_pages[q->nfree_pages++] = page;
}

static uint16_t
take_page(struct blk_queue *q)
{
	return q->free_pages[--q->nfree_pages];
}

static uint32_t
page_gref(const struct blk_queue *q, uint16_t page)
{
	return q->c.grants->pool.grefs[page];
}

static bool
moves_data(const struct blk_request *r)
{
	return r->op == BLK_READ || r->op == BLK_WRITE;
}

/* The request's pages as an I/O vector; adjacent pages become one element. */
static int
request_iov(const struct blk_queue *q, const struct blk_request *r, struct iovec *iov)
{
	size_t left = (size_t)r->sectors << BLK_SECTOR_SHIFT;
	int n = 0;

	for (unsigned i = 0; i < r->npages; i++) {
		uint8_t *page = xpv_pool_page(&q->c.grants->pool, r->pages[i]);
		size_t bytes = left < XPV_PAGE_SIZE ? left : XPV_PAGE_SIZE;

		if (n > 0 && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == page) {
			iov[n - 1].iov_len += bytes;
		} else {
			iov[n].iov_base = page;
			iov[n++].iov_len = bytes;
		}
		left -= bytes;
	}
	return n;
}

/* One clock read per batch: where the clock cannot be read without a system call, as in PV guests
 * of many hosts, two per request are felt. */
static uint64_t
batch_time(struct blk_queue *q)
{
	if (q->now == 0)
		q->now = xpv_now_ns();
	return q->now;
}

static void
complete(struct blk_queue *q, struct blk_request *r)
{
	struct blk_stats *stats = q->c.stats;
	struct iovec iov[BLK_MAX_IO_PAGES];
	size_t bytes = (size_t)r->sectors << BLK_SECTOR_SHIFT;

	switch (r->op) {
	case BLK_READ:
		xpv_counter_add(&stats->reads, 1);
		xpv_counter_add(&stats->read_bytes, bytes);
		break;
	case BLK_WRITE:
		xpv_counter_add(&stats->writes, 1);
		xpv_counter_add(&stats->write_bytes, bytes);
		break;
	case BLK_FLUSH:
		xpv_counter_add(&stats->flushes, 1);
		break;
	case BLK_DISCARD:
		xpv_counter_add(&stats->discards, 1);
		break;
	}
	if (r->status != 0)
		xpv_counter_add(&stats->errors, 1);
	xpv_histogram_record(&stats->latency, batch_time(q) - r->accepted_ns);
	q->replies = true;
	q->ops->done(q->host, r, r->status, iov, request_iov(q, r, iov));
}

/* Pages for the data and for the descriptors of the indirect requests it takes: all or none, so
 * that a request that has begun never waits for pages another one holds. */
static bool
take_pages(struct blk_queue *q, struct blk_request *r)
{
	unsigned npages = (r->sectors + SECTORS_PER_PAGE - 1) / SECTORS_PER_PAGE;
	unsigned descriptors = npages > BLKIF_MAX_SEGMENTS_PER_REQUEST &&
				       q->segments_max > BLKIF_MAX_SEGMENTS_PER_REQUEST
				   ? (npages + q->segments_max - 1) / q->segments_max
				   : 0;

	if (npages + descriptors > q->nfree_pages)
		return false;
	for (unsigned i = 0; i < npages; i++)
		r->pages[i] = take_page(q);
	r->npages = npages;
	return true;
}

static void
fill_segment(struct blkif_request_segment *segment, uint32_t gref, unsigned sectors)
{
	*segment = (struct blkif_request_segment){
	    .gref = gref,
	    .first_sect = 0,
	    .last_sect = (sectors < SECTORS_PER_PAGE ? sectors : SECTORS_PER_PAGE) - 1,
	};
}

/* The next part of a read or write into ring entry "id": as many whole pages as one request takes.
 */
static void
fill_data(struct blk_queue *q, struct blk_request *r, uint16_t id, void *entry)
{
	struct slot *slot = &q->slots[id];
	unsigned left = r->sectors - r->sectors_sent;
	unsigned first = r->sectors_sent / SECTORS_PER_PAGE;
	unsigned segments = r->npages - first;
	uint64_t sector = r->sector + r->sectors_sent;
	uint8_t operation = r->op == BLK_READ ? BLKIF_OP_READ : BLKIF_OP_WRITE;

	if (segments > q->segments_max)
		segments = q->segments_max;
	if (segments <= BLKIF_MAX_SEGMENTS_PER_REQUEST) {
		blkif_request_t *direct = entry;

		direct->operation = slot->operation = operation;
		direct->nr_segments = segments;
		direct->handle = q->c.vdev_handle;
		direct->id = id;
		direct->sector_number = sector;
		for (unsigned i = 0; i < segments; i++)
			fill_segment(&direct->seg[i], page_gref(q, r->pages[first + i]),
			    left - i * SECTORS_PER_PAGE);
	} else {
		blkif_request_indirect_t *indirect = entry;
		struct blkif_request_segment *list;

		slot->descriptors = take_page(q);
		list = xpv_pool_page(&q->c.grants->pool, slot->descriptors);
		indirect->operation = BLKIF_OP_INDIRECT;
		slot->operation = operation;
		indirect->indirect_op = operation;
		indirect->nr_segments = segments;
		indirect->handle = q->c.vdev_handle;
		indirect->id = id;
		indirect->sector_number = sector;
		indirect->indirect_grefs[0] = page_gref(q, slot->descriptors);
		for (unsigned i = 0; i < segments; i++)
			fill_segment(&list[i], page_gref(q, r->pages[first + i]),
			    left - i * SECTORS_PER_PAGE);
	}
	r->sectors_sent += segments * SECTORS_PER_PAGE < left ? segments * SECTORS_PER_PAGE : left;
}

static void
fill_flush(struct blk_queue *q, struct blk_request *r, uint16_t id, blkif_request_t *entry)
{
	/* A backend without flush may have the older barrier: an empty one flushes too. */
	entry->operation = q->slots[id].operation =
	    q->c.link->flush ? BLKIF_OP_FLUSH_DISKCACHE : BLKIF_OP_WRITE_BARRIER;
	entry->handle = q->c.vdev_handle;
	entry->id = id;
}

static void
fill_discard(
    struct blk_queue *q, struct blk_request *r, uint16_t id, blkif_request_discard_t *entry)
{
	entry->operation = q->slots[id].operation = BLKIF_OP_DISCARD;
	entry->flag = q->c.link->secure_discard ? BLKIF_DISCARD_SECURE : 0;
	entry->handle = q->c.vdev_handle;
	entry->id = id;
	entry->sector_number = r->sector;
	entry->nr_sectors = r->sectors;
	r->sectors_sent = r->sectors;
}

/* Sends the next ring request of "r" in a free slot. */
static void
send_part(struct blk_queue *q, struct blk_request *r)
{
	uint16_t id = q->free_slot;
	struct slot *slot = &q->slots[id];
	blkif_request_t *entry = RING_GET_REQUEST(&q->ring, q->ring.req_prod_pvt);

	q->free_slot = slot->next_free;
	slot->request = r;
	slot->descriptors = NO_PAGE;
	memset(entry, 0, sizeof(*entry)); /* nothing of ours leaks in padding (XSA-216) */
	switch (r->op) {
	case BLK_READ:
	case BLK_WRITE:
		fill_data(q, r, id, entry);
		break;
	case BLK_FLUSH:
		fill_flush(q, r, id, entry);
		break;
	case BLK_DISCARD:
		fill_discard(q, r, id, (blkif_request_discard_t *)entry);
		break;
	}
	r->parts++;
	q->ring.req_prod_pvt++;
	PROBE3(request, q->c.index, id, r->sector);
}

/* An answer without asking the backend: it cannot do this. */
static bool
refused_here(const struct blk_queue *q, struct blk_request *r)
{
	const struct blk_link *link = q->c.link;

	if (r->op == BLK_FLUSH && !link->flush && !link->barrier) {
		r->status = 0; /* no cache to flush: a write is stable when it is answered */
		return true;
	}
	if (r->op == BLK_DISCARD && !link->discard) {
		r->status = -EOPNOTSUPP;
		return true;
	}
	return false;
}

/* The first request that waits. False: it must wait on, for pages or slots. */
static bool
dispatch_first(struct blk_queue *q, struct blk_request *r)
{
	bool answered = refused_here(q, r);

	if (!answered && moves_data(r) && r->npages == 0) {
		if (!take_pages(q, r))
			return false;
		if (r->op == BLK_WRITE) {
			struct iovec iov[BLK_MAX_IO_PAGES];

			r->status = q->ops->pull(q->host, r, iov, request_iov(q, r, iov));
			answered = r->status != 0;
		}
	}
	if (!answered) {
		do {
			if (q->free_slot == NO_SLOT)
				return false;
			send_part(q, r);
		} while (r->sectors_sent < r->sectors);
	}
	STAILQ_REMOVE_HEAD(&q->waiting, waiting);
	xpv_counter_set(&q->c.stats->waiting, --q->nwaiting);
	if (answered)
		complete(q, r);
	return true;
}

static void
dispatch(struct blk_queue *q)
{
	bool in_batch = q->in_batch;

	/* What done() submits and releases meanwhile is seen by this loop: no recursion. */
	q->in_batch = true;
	while (!q->quiet && !q->dead && !STAILQ_EMPTY(&q->waiting) &&
	       dispatch_first(q, STAILQ_FIRST(&q->waiting)))
		;
	q->in_batch = in_batch;
}

void
blk_queue_submit(struct blk_queue *q, struct blk_request *r)
{
	r->accepted_ns = batch_time(q);
	r->sectors_sent = 0;
	r->npages = 0;
	r->parts = 0;
	r->status = 0;
	if (r->op == BLK_FLUSH)
		r->sectors = 0;
	STAILQ_INSERT_TAIL(&q->waiting, r, waiting);
	xpv_counter_set(&q->c.stats->waiting, ++q->nwaiting);
	if (!q->in_batch)
		dispatch(q);
}

static void
publish(struct blk_queue *q)
{
	int notify;

	/*
	 * The entries, then our own note, then the index the backend reads: a worker that is killed
	 * between the last two leaves a note whose entries are whole, and the next worker
	 * publishes.
	 */
	xen_wmb();
	*(volatile uint32_t *)&q->c.link->req_prod[q->c.index] = q->ring.req_prod_pvt;
	RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&q->ring, notify);
	q->published = q->ring.req_prod_pvt;
	xpv_counter_set(&q->c.stats->inflight, blk_queue_inflight(q));
	if (notify) {
		xpv_counter_add(&q->c.stats->notifies, 1);
		xpv_evtchn_notify(q->evtchn, q->c.grants->port);
	}
}

void
blk_queue_push(struct blk_queue *q)
{
	if (q->in_batch)
		return;
	q->now = 0;
	if (q->ring.req_prod_pvt != q->published && !q->dead)
		publish(q);
	if (q->replies) {
		q->replies = false;
		q->ops->flush(q->host);
	}
}

void
blk_queue_release(struct blk_queue *q, struct blk_request *r)
{
	while (r->npages > 0)
		give_page(q, r->pages[--r->npages]);
	if (!q->in_batch && !STAILQ_EMPTY(&q->waiting)) {
		dispatch(q);
		blk_queue_push(q);
	}
}

void
blk_queue_quiesce(struct blk_queue *q)
{
	q->quiet = true;
	STAILQ_INIT(&q->waiting);
	q->nwaiting = 0;
	xpv_counter_set(&q->c.stats->waiting, 0);
}

/* ---- ring answers to host answers ---- */

static int
answer_status(struct blk_queue *q, const struct slot *slot, int16_t status)
{
	struct blk_link *link = q->c.link;
	bool flush, barrier;

	if (status == BLKIF_RSP_OKAY)
		return 0;
	if (status != BLKIF_RSP_EOPNOTSUPP)
		return -EIO;
	/* A backend may learn late that its disk cannot do what it offered: ask no more. */
	switch (slot->operation) {
	case BLKIF_OP_FLUSH_DISKCACHE:
	case BLKIF_OP_WRITE_BARRIER:
		flush = atomic_exchange(&link->flush, false);
		barrier = atomic_exchange(&link->barrier, false);
		if (flush || barrier)
			xpv_warning("the backend cannot flush its cache after all: data is as safe "
				    "as its writes are");
		return 0;
	case BLKIF_OP_DISCARD:
		link->discard = false;
		break;
	default:
		break;
	}
	return -EOPNOTSUPP;
}

/* One answer, already copied out of the ring. False: no honest backend sends this. */
static bool
answer(struct blk_queue *q, const blkif_response_t *response)
{
	struct blk_request *r;
	struct slot *slot;
	int status;

	if (response->id >= RING_SIZE(&q->ring)) {
		ring_broken(q, "answered a request id that does not exist");
		return false;
	}
	slot = &q->slots[response->id];
	r = slot->request;
	if (r == NULL) {
		ring_broken(q, "answered a request that is not in flight");
		return false;
	}
	/* Backends name the inner operation of an indirect request, or the outer one. */
	if (response->operation != slot->operation &&
	    (response->operation != BLKIF_OP_INDIRECT || slot->descriptors == NO_PAGE)) {
		ring_broken(q, "answered with another operation than was asked for");
		return false;
	}
	PROBE3(response, q->c.index, response->id, response->status);
	status = answer_status(q, slot, response->status);
	if (status != 0 && r->status == 0)
		r->status = status;
	if (slot->descriptors != NO_PAGE)
		give_page(q, slot->descriptors);
	slot->request = NULL;
	slot->next_free = q->free_slot;
	q->free_slot = response->id;
	if (--r->parts == 0 && r->sectors_sent == r->sectors)
		complete(q, r);
	return true;
}

/* Waits a moment for the next answer instead of sleeping until its event. */
static bool
poll_ring(struct blk_queue *q)
{
	uint64_t end;

	if (q->c.poll_us == 0 || blk_queue_inflight(q) == 0)
		return false;
	end = xpv_now_ns() + q->c.poll_us * 1000ull;
	do {
		if (q->ring.sring->rsp_prod != q->ring.rsp_cons)
			return true;
	} while (xpv_now_ns() < end);
	return false;
}

static void
consume_answers(struct blk_queue *q)
{
	int more = 0;

	do {
		RING_IDX pending;

		if (!xpv_ring_responses(&q->ring, &pending)) {
			ring_broken(q, "claims more answers than were asked for");
			return;
		}
		/* Or it could keep this loop busy for ever. */
		if (more && pending == 0) {
			ring_broken(q, "takes back an answer it announced");
			return;
		}
		while (pending-- > 0) {
			blkif_response_t response;

			xpv_ring_copy_response(&q->ring, q->ring.rsp_cons, &response);
			q->ring.rsp_cons++;
			if (!answer(q, &response))
				return;
		}
		more = poll_ring(q);
		/* Asks for an event for the next answer, then looks once more: an answer that came
		 * between is seen here, a later one raises the event. */
		if (!more)
			RING_FINAL_CHECK_FOR_RESPONSES(&q->ring, more);
	} while (more && !q->dead);
}

/* What a killed worker left in flight: the answers are dropped (the host side has those requests
 * and submits them again); its pages are free when the last answer is in. */
static void
drain(struct blk_queue *q)
{
	RING_IDX sent = q->ring.req_prod_pvt, pending;

	q->ring.sring->req_prod = sent;	 /* the dead worker may not have come this far */
	q->ring.sring->rsp_event = sent; /* one event, for the last answer */
	xen_mb();
	if (!xpv_ring_responses(&q->ring, &pending)) {
		ring_broken(q, "claims more answers than were asked for");
		return;
	}
	q->ring.rsp_cons += pending;
	if (q->ring.rsp_cons != sent)
		return;
	q->ring.sring->rsp_event = sent + 1;
	xen_mb();
	q->draining = false;
}

static void
ring_event(uint32_t port, void *arg)
{
	struct blk_queue *q = arg;

	xpv_counter_add(&q->c.stats->events, 1);
	if (q->draining) {
		drain(q);
	} else {
		q->in_batch = true;
		consume_answers(q);
		dispatch(q);
		q->in_batch = false;
		blk_queue_push(q);
	}
	xpv_counter_set(&q->c.stats->inflight, q->dead ? 0 : blk_queue_inflight(q));
	if (q->idle != NULL && !q->dead && blk_queue_inflight(q) == 0)
		q->idle(q->idle_arg);
}

int
blk_queue_listen(struct blk_queue *q, struct event_base *base)
{
	if (xpv_evtchn_listen(q->evtchn, base, q->c.grants->port, ring_event, q) != 0)
		return -1;
	if (q->draining) {
		drain(q);
		/* The dead worker may have published without notifying. */
		if (q->draining && !q->dead)
			xpv_evtchn_notify(q->evtchn, q->c.grants->port);
	}
	return 0;
}

void
blk_queue_unlisten(struct blk_queue *q)
{
	xpv_evtchn_unlisten(q->evtchn);
}
