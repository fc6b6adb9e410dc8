/* SPDX-License-Identifier: BSD-2-Clause */
#include "queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <event2/event.h>
#include <xenpv/evtchn.h>
#include <xenpv/log.h>

#include "pages.h"
#include "probes.h"
#include "request.h"

#define SEGMENTS_PER_PAGE (XPV_PAGE_SIZE / sizeof(struct blkif_request_segment))
#define COPIES_MAX	  (4 * VBD_MAX_SEGMENTS) /* pages in one call; at least one request's */
#define AGE_S		  60
#define LOOK_NS		  UINT64_C(1000000000)
#define PATIENCE_NS	  UINT64_C(100000000) /* after so long the rest of the world is asked */
#define TURNS_MAX	  16

/* What is left to do for a request, in this order; most have one step. */
enum step {
	STEP_FLUSH_BEFORE = 1, /* barrier, and a flush that carries data */
	STEP_MAIN = 2,	       /* the read, write, flush or discard itself */
	STEP_FLUSH_AFTER = 4,  /* barrier */
};

/* A request that was taken from the ring and is not answered. Its index is its journal slot. */
struct op {
	struct image_io io;
	struct vbd_request request;
	struct blkif_request_segment *segments; /* checked copies: of "request", or "list" */
	unsigned steps;
	bool barrier;
	bool copy_failed;
	uint32_t nr_sectors;
	uint64_t taken_ns;
	struct page_set pages;
	STAILQ_ENTRY(op) copying;
	struct blkif_request_segment list[VBD_MAX_SEGMENTS]; /* of an indirect request */
	struct iovec iov[VBD_MAX_SEGMENTS];
};

struct vbd_queue {
	struct vbd_queue_config c;
	blkif_back_ring_t ring; /* its indices; entries are reached by entry() */
	enum vbd_abi abi;
	unsigned entry_size;
	RING_IDX published; /* responses the frontend can see */

	struct op *ops;	 /* [ring size] */
	struct op *held; /* taken, and must wait: for buffers, or, a barrier, for all before it */
	struct op *barrier;		   /* begun: nothing is taken until it is answered */
	unsigned begun;			   /* operations without an answer, the held one too */
	uint16_t replay[VBD_MAX_REQUESTS]; /* journal slots of the last worker, to be done first */
	unsigned nreplay, replayed;
	struct pages *pages;
	struct xpv_copy copies[COPIES_MAX];
	unsigned ncopies;
	STAILQ_HEAD(, op) copying; /* in the order of "copies" */

	struct image_queue *image;
	struct event *age, *throttled; /* the latter also wakes us for what one turn left */
	bool age_pending;
	uint64_t now; /* when this batch began, if it has asked */
	uint64_t looked_ns;
	uint64_t active_ns; /* when there was work last; kept for polling only */
	bool goes_on;	    /* where the journal says */
	bool quiet;
	bool dead;
	bool working;
	bool stopped; /* by "held" or "barrier" when requests were last taken */
	bool again;   /* something ended or began while working */
};

static void work(struct vbd_queue *q);

/* ---- the ring ---- */

static uint8_t *
entry(const struct vbd_queue *q, RING_IDX index)
{
	size_t at = index & (RING_SIZE(&q->ring) - 1);

	return (uint8_t *)q->ring.sring + offsetof(blkif_sring_t, ring) + at * q->entry_size;
}

static void
ring_broken(struct vbd_queue *q, const char *why)
{
	if (q->dead)
		return;
	q->dead = true;
	xpv_evtchn_unlisten(q->c.evtchn);
	q->c.broken(q->c.arg, why);
}

static unsigned
in_flight(const struct vbd_queue *q)
{
	return q->ring.req_cons - q->ring.rsp_prod_pvt;
}

/* How many requests wait in the ring. No frontend can have more of them out than the ring holds,
 * counted from the last response that it can see. */
static bool
pending(struct vbd_queue *q, RING_IDX *count)
{
	RING_IDX limit = RING_SIZE(&q->ring) - (q->ring.req_cons - q->published);

	if (xpv_ring_claimed(&q->ring.sring->req_prod, q->ring.req_cons, limit, count))
		return true;
	ring_broken(q, "claims more requests than its ring holds");
	return false;
}

/* Asks for an event at the next request. The index is written before the producer's is read again,
 * which pairs with the frontend's xen_mb() between publishing a request and reading req_event: one
 * of both sees the other. */
static bool
final_check(struct vbd_queue *q, RING_IDX *count)
{
	q->ring.sring->req_event = q->ring.req_cons + 1;
	xen_mb();
	return pending(q, count);
}

static void
publish(struct vbd_queue *q)
{
	int notify;

	xpv_counter_set(&q->c.stats->inflight, in_flight(q));
	if (q->ring.rsp_prod_pvt == q->published || q->dead)
		return;
	journal_publish(q->c.journal, q->ring.rsp_prod_pvt);
	RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&q->ring, notify);
	q->published = q->ring.rsp_prod_pvt;
	journal_published(q->c.journal);
	if (notify) {
		xpv_counter_add(&q->c.stats->notifies, 1);
		xpv_evtchn_notify(q->c.evtchn, q->c.port);
	}
}

/* ---- answers ---- */

/* One clock read per batch: where the clock cannot be read without a system call, as in PV dom0,
 * two per request are felt. */
static uint64_t
batch_time(struct vbd_queue *q)
{
	if (q->now == 0)
		q->now = xpv_now_ns();
	return q->now;
}

static void
count(struct vbd_queue *q, const struct op *op, int16_t status)
{
	struct vbd_stats *stats = q->c.stats;
	size_t bytes = (size_t)op->nr_sectors << VBD_SECTOR_SHIFT;

	switch (op->request.operation) {
	case BLKIF_OP_READ:
		xpv_counter_add(&stats->reads, 1);
		xpv_counter_add(&stats->read_bytes, bytes);
		break;
	case BLKIF_OP_WRITE:
		xpv_counter_add(&stats->writes, 1);
		xpv_counter_add(&stats->write_bytes, bytes);
		break;
	case BLKIF_OP_WRITE_BARRIER:
		xpv_counter_add(&stats->barriers, 1);
		xpv_counter_add(&stats->write_bytes, bytes);
		break;
	case BLKIF_OP_FLUSH_DISKCACHE:
		xpv_counter_add(&stats->flushes, 1);
		xpv_counter_add(&stats->write_bytes, bytes);
		break;
	case BLKIF_OP_DISCARD:
		xpv_counter_add(&stats->discards, 1);
		break;
	default:
		break;
	}
	if (status != BLKIF_RSP_OKAY)
		xpv_counter_add(&stats->errors, 1);
	xpv_histogram_record(&stats->latency, batch_time(q) - op->taken_ns);
}

static void
respond(struct vbd_queue *q, struct op *op, int16_t status)
{
	RING_IDX index = q->ring.rsp_prod_pvt;

	PROBE3(response, q->c.index, op->request.id, status);
	pages_put(q->pages, &op->pages);
	vbd_response_write(q->abi, entry(q, index), op->request.id, op->request.operation, status);
	journal_answer(q->c.journal, op - q->ops, index);
	q->ring.rsp_prod_pvt = index + 1;
	q->begun--;
	if (q->barrier == op)
		q->barrier = NULL;
}

static void
answer(struct vbd_queue *q, struct op *op, int16_t status)
{
	count(q, op, status);
	respond(q, op, status);
}

static void
refuse(struct vbd_queue *q, struct op *op, int16_t status, const char *why)
{
	xpv_counter_add(&q->c.stats->refused, 1);
	if (why != NULL && !atomic_exchange(q->c.complained, true))
		xpv_warning("the frontend asked for %s: refused (further nonsense of this disk is "
			    "only counted)",
		    why);
	respond(q, op, status);
}

static void
refuse_pages(struct vbd_queue *q, struct op *op)
{
	refuse(q, op, BLKIF_RSP_ERROR, "I/O on pages that it does not grant");
}

static int16_t
response_status(int error)
{
	if (error == 0)
		return BLKIF_RSP_OKAY;
	return error == -EOPNOTSUPP ? BLKIF_RSP_EOPNOTSUPP : BLKIF_RSP_ERROR;
}

/* ---- data ---- */

/* Segment "i" within its page. */
static uint32_t
segment_offset(const struct blkif_request_segment *s)
{
	return (uint32_t)s->first_sect << VBD_SECTOR_SHIFT;
}

static uint32_t
segment_length(const struct blkif_request_segment *s)
{
	return (s->last_sect - s->first_sect + 1u) << VBD_SECTOR_SHIFT;
}

/* The data as an I/O vector; what is adjacent becomes one element. */
static void
fill_iov(struct vbd_queue *q, struct op *op)
{
	int n = 0;

	for (unsigned i = 0; i < op->request.nr_segments; i++) {
		const struct blkif_request_segment *s = &op->segments[i];
		uint8_t *base = pages_address(q->pages, &op->pages, i) + segment_offset(s);

		if (n > 0 && (uint8_t *)op->iov[n - 1].iov_base + op->iov[n - 1].iov_len == base) {
			op->iov[n - 1].iov_len += segment_length(s);
		} else {
			op->iov[n].iov_base = base;
			op->iov[n++].iov_len = segment_length(s);
		}
	}
	op->io.iov = op->iov;
	op->io.iovcnt = n;
}

static void submit_step(struct vbd_queue *q, struct op *op);

/* Copies what waits for it, in one call; then writes go on to the image and reads are answered. */
static void
copy_all(struct vbd_queue *q)
{
	struct op *op;
	unsigned i = 0;

	if (q->ncopies == 0)
		return;
	/* Its result says only whether any failed. */
	(void)xpv_gntdev_copy(q->c.gntdev, q->copies, q->ncopies);
	xpv_counter_add(&q->c.stats->copied, q->ncopies);
	STAILQ_FOREACH (op, &q->copying, copying) {
		op->copy_failed = false;
		for (unsigned n = op->pages.count; n > 0; n--)
			op->copy_failed |= q->copies[i++].status != 0;
	}
	q->ncopies = 0;
	while ((op = STAILQ_FIRST(&q->copying)) != NULL) {
		STAILQ_REMOVE_HEAD(&q->copying, copying);
		if (op->copy_failed)
			refuse_pages(q, op);
		else if (op->request.operation == BLKIF_OP_READ)
			answer(q, op, BLKIF_RSP_OKAY);
		else
			submit_step(q, op);
	}
}

static void
copy_later(struct vbd_queue *q, struct op *op)
{
	bool to_foreign = op->request.operation == BLKIF_OP_READ;

	if (q->ncopies + op->pages.count > COPIES_MAX)
		copy_all(q);
	for (unsigned i = 0; i < op->pages.count; i++) {
		const struct blkif_request_segment *s = &op->segments[i];

		q->copies[q->ncopies++] = (struct xpv_copy){
		    .local = pages_address(q->pages, &op->pages, i) + segment_offset(s),
		    .domid = q->c.connection->domid,
		    .gref = s->gref,
		    .offset = segment_offset(s),
		    .length = segment_length(s),
		    .to_foreign = to_foreign,
		};
	}
	STAILQ_INSERT_TAIL(&q->copying, op, copying);
}

/* ---- from request to I/O ---- */

static unsigned
steps_of(const struct vbd_request *r)
{
	bool data = r->nr_segments > 0;

	switch (r->operation) {
	case BLKIF_OP_WRITE_BARRIER:
		return STEP_FLUSH_BEFORE | (data ? STEP_MAIN | STEP_FLUSH_AFTER : 0);
	case BLKIF_OP_FLUSH_DISKCACHE:
		return STEP_FLUSH_BEFORE | (data ? STEP_MAIN : 0);
	default:
		return STEP_MAIN;
	}
}

static void
submit_step(struct vbd_queue *q, struct op *op)
{
	const struct vbd_request *r = &op->request;
	struct image_io *io = &op->io;

	if ((op->steps & (STEP_FLUSH_BEFORE | STEP_MAIN)) != STEP_MAIN) {
		*io = (struct image_io){.op = IMAGE_FLUSH};
	} else if (r->operation == BLKIF_OP_DISCARD) {
		*io = (struct image_io){
		    .op = IMAGE_DISCARD,
		    .secure = r->secure,
		    .offset = r->sector << VBD_SECTOR_SHIFT,
		    .length = r->nr_sectors << VBD_SECTOR_SHIFT,
		};
	} else {
		*io = (struct image_io){
		    .op = r->operation == BLKIF_OP_READ ? IMAGE_READ : IMAGE_WRITE,
		    .offset = r->sector << VBD_SECTOR_SHIFT,
		    .length = (uint64_t)op->nr_sectors << VBD_SECTOR_SHIFT,
		};
		fill_iov(q, op);
	}
	image_submit(q->image, io);
}

/* The step that is over was the lowest bit. */
void
vbd_queue_image_done(struct image_io *io, void *arg)
{
	struct vbd_queue *q = arg;
	struct op *op = (struct op *)((uint8_t *)io - offsetof(struct op, io));

	if (q->dead)
		return;
	q->again = true;
	op->steps &= op->steps - 1;
	if (io->status != 0)
		answer(q, op, response_status(io->status));
	else if (op->steps != 0)
		submit_step(q, op);
	else if (op->request.operation == BLKIF_OP_READ && !op->pages.mapped)
		copy_later(q, op);
	else
		answer(q, op, BLKIF_RSP_OKAY);
}

void
vbd_queue_image_batch_done(void *arg)
{
	work(arg);
}

/* Copies and checks what a read or write is about. */
static bool
read_segments(struct vbd_queue *q, struct op *op, const struct vbd_bounds *bounds)
{
	const struct vbd_request *r = &op->request;
	const char *why = NULL;
	int16_t status;

	op->segments = r->indirect ? op->list : op->request.segments;
	for (unsigned done = 0; r->indirect && done < r->nr_segments; done += SEGMENTS_PER_PAGE) {
		unsigned left = r->nr_segments - done;
		unsigned n = left < SEGMENTS_PER_PAGE ? left : SEGMENTS_PER_PAGE;

		if (!pages_read(q->pages, r->descriptors[done / SEGMENTS_PER_PAGE], &op->list[done],
			n * sizeof(op->list[0]))) {
			refuse(q, op, BLKIF_RSP_ERROR, "segments on a page that it does not grant");
			return false;
		}
	}
	status = vbd_segments_check(r, op->segments, bounds, &op->nr_sectors, &why);
	if (status != BLKIF_RSP_OKAY)
		refuse(q, op, status, why);
	return status == BLKIF_RSP_OKAY;
}

static enum pages_result
get_pages(struct vbd_queue *q, struct op *op)
{
	uint32_t grefs[VBD_MAX_SEGMENTS];

	for (unsigned i = 0; i < op->request.nr_segments; i++)
		grefs[i] = op->segments[i].gref;
	return pages_get(q->pages, &op->pages, grefs, op->request.nr_segments,
	    op->request.operation == BLKIF_OP_READ);
}

/* Begins a checked request. False: it must wait. */
static bool
begin(struct vbd_queue *q, struct op *op)
{
	enum pages_result pages = PAGES_THERE;

	/* A barrier waits for all before it, and nothing is taken until it is over. */
	if (op->barrier && q->begun > 1)
		return false;
	if (op->request.nr_segments > 0)
		pages = get_pages(q, op);
	if (pages == PAGES_SHORT)
		return false;
	if (pages == PAGES_NOT_GRANTED) {
		refuse_pages(q, op);
		return true;
	}
	if (op->barrier)
		q->barrier = op;
	if (op->request.nr_segments > 0 && op->request.operation != BLKIF_OP_READ &&
	    !op->pages.mapped)
		copy_later(q, op);
	else
		submit_step(q, op);
	return true;
}

static struct vbd_bounds
bounds_now(const struct vbd_queue *q)
{
	return (struct vbd_bounds){
	    .sectors = atomic_load_explicit(q->c.bytes, memory_order_relaxed) >> VBD_SECTOR_SHIFT,
	    .sector_size = q->c.info->sector_size,
	    .max_segments = q->c.connection->max_indirect,
	    .read_only = q->c.info->read_only,
	    .discard = q->c.connection->discard,
	    .secure_discard = q->c.connection->secure_discard,
	};
}

/* A request in its journal slot: checks it and begins it, or holds it. */
static void
accept_request(struct vbd_queue *q, unsigned slot, const void *copy)
{
	struct vbd_bounds bounds = bounds_now(q);
	struct op *op = &q->ops[slot];
	const char *why = NULL;
	int16_t status;

	vbd_request_read(q->abi, copy, &op->request);
	PROBE3(request, q->c.index, op->request.id, op->request.sector);
	op->taken_ns = batch_time(q);
	op->nr_sectors = 0;
	q->begun++;
	op->pages.count = 0;
	op->pages.mapped = false;
	op->barrier = op->request.operation == BLKIF_OP_WRITE_BARRIER;
	op->steps = steps_of(&op->request);
	status = vbd_request_check(&op->request, &bounds, &why);
	if (status != BLKIF_RSP_OKAY) {
		refuse(q, op, status, why);
		return;
	}
	if (op->request.nr_segments > 0 && !read_segments(q, op, &bounds))
		return;
	throttle_take(q->c.throttle, batch_time(q), (uint64_t)op->nr_sectors << VBD_SECTOR_SHIFT);
	if (!begin(q, op))
		q->held = op;
}

/* ---- the loop ---- */

static bool
over_limit(struct vbd_queue *q)
{
	struct timeval wait;
	uint64_t ns;

	if (throttle_allows(q->c.throttle, batch_time(q), &ns))
		return false;
	if (!event_pending(q->throttled, EV_TIMEOUT, NULL))
		xpv_counter_add(&q->c.stats->throttled, 1);
	if (ns > PATIENCE_NS) /* the limits may be changed meanwhile */
		ns = PATIENCE_NS;
	wait.tv_sec = 0;
	wait.tv_usec = ns / 1000 + 1;
	event_add(q->throttled, &wait);
	return true;
}

/* Nothing goes on before what was taken last does. */
static bool
stopped(struct vbd_queue *q)
{
	q->stopped = q->held != NULL || q->barrier != NULL;
	return q->stopped;
}

/* Takes what the last worker left, then what is in the ring, as far as may be. */
static void
take(struct vbd_queue *q)
{
	RING_IDX waiting;
	unsigned slot;

	while (!stopped(q) && q->replayed < q->nreplay) {
		slot = q->replay[q->replayed++];
		accept_request(q, slot, journal_entry(q->c.journal, slot));
	}
	while (!q->dead && !q->quiet && !stopped(q) && pending(q, &waiting)) {
		if (waiting == 0 && (!final_check(q, &waiting) || waiting == 0))
			return;
		for (; waiting > 0 && !stopped(q); waiting--) {
			RING_IDX index = q->ring.req_cons;

			if (over_limit(q))
				return;
			slot = journal_take(q->c.journal, index, entry(q, index), q->entry_size);
			q->ring.req_cons = index + 1;
			accept_request(q, slot, journal_entry(q->c.journal, slot));
		}
	}
}

static void
age(evutil_socket_t fd, short events, void *arg)
{
	struct vbd_queue *q = arg;

	q->age_pending = false;
	if (pages_age(q->pages)) {
		q->age_pending = true;
		event_add(q->age, &(struct timeval){.tv_sec = AGE_S});
	}
}

static void
after_work(struct vbd_queue *q)
{
	uint64_t now = batch_time(q);

	if (!q->age_pending && xpv_counter_get(&q->c.stats->mapped) > 0) {
		q->age_pending = true;
		event_add(q->age, &(struct timeval){.tv_sec = AGE_S});
	}
	if (now - q->looked_ns > LOOK_NS) {
		q->looked_ns = now;
		q->c.look(q->c.arg);
	}
	q->now = 0;
	if (q->c.config->poll_us > 0)
		q->active_ns = xpv_now_ns();
	if (q->quiet && !q->dead && in_flight(q) == 0)
		q->c.drained(q->c.arg);
}

/* One batch: all that can go on does, with one copy, one submission and one notification. */
static void
work_once(struct vbd_queue *q)
{
	copy_all(q); /* reads that are done give their buffers back */
	if (q->held != NULL && begin(q, q->held))
		q->held = NULL;
	take(q);
	copy_all(q);
	q->again = false; /* but for what the image brings */
	if (image_push(q->image))
		image_poll(q->image);
	publish(q);
}

/* What ends on the way can let others go on: its own next step, copies, a request that was held. An
 * image that is done at once could keep us here as long as the frontend likes. */
static void
work(struct vbd_queue *q)
{
	RING_IDX answered;
	unsigned turns = 0;

	if (q->dead || q->working)
		return;
	q->working = true;
	do {
		answered = q->published;
		work_once(q);
		if (q->published != answered && q->stopped)
			q->again = true;
	} while (!q->dead && q->again && ++turns < TURNS_MAX);
	q->working = false;
	if (q->again && !q->dead)
		event_active(q->throttled, EV_TIMEOUT, 0);
	after_work(q);
}

static bool
more_to_do(struct vbd_queue *q)
{
	RING_IDX waiting;

	return !q->quiet && q->held == NULL && q->barrier == NULL && pending(q, &waiting) &&
	       waiting > 0 && !event_pending(q->throttled, EV_TIMEOUT, NULL);
}

/* Looks for requests and for ends of I/O without sleeping, until none has come for so long; the
 * loop has other things to do now and then, however busy the frontend is. */
static void
spin(struct vbd_queue *q, uint64_t patience_ns)
{
	uint64_t begun = xpv_now_ns(), now;

	while (!q->dead && (now = xpv_now_ns()) - q->active_ns < patience_ns &&
	       now - begun < PATIENCE_NS) {
		/* An end of I/O has called us, and so done the work. */
		if (!image_poll(q->image) && more_to_do(q))
			work(q);
	}
}

static void
ring_event(uint32_t port, void *arg)
{
	struct vbd_queue *q = arg;
	uint64_t patience_ns = (uint64_t)q->c.config->poll_us * 1000;
	/* What came too late to be waited for is no reason to wait for the next. */
	bool soon = patience_ns > 0 && xpv_now_ns() - q->active_ns < patience_ns;

	xpv_counter_add(&q->c.stats->events, 1);
	work(q);
	if (soon)
		spin(q, patience_ns);
}

static void
throttle_over(evutil_socket_t fd, short events, void *arg)
{
	work(arg);
}

/* ---- a queue's life ---- */

/* Where a ring that is in use stands, if no journal tells: nothing in it was begun, or so its last
 * backend left it. */
static void
adopt(struct vbd_queue *q)
{
	RING_IDX produced = *(volatile RING_IDX *)&q->ring.sring->rsp_prod;

	q->ring.rsp_prod_pvt = q->ring.req_cons = q->published = produced;
	journal_reset(q->c.journal, produced, produced);
}

static bool
init_ring(struct vbd_queue *q)
{
	size_t bytes = (size_t)XPV_PAGE_SIZE << q->c.connection->ring_order;

	q->abi = q->c.connection->abi;
	q->entry_size = vbd_entry_size(q->abi);
	/* The layouts differ in the size of an entry, but not in how many there are. */
	BACK_RING_INIT(&q->ring, (blkif_sring_t *)q->c.ring, bytes);
	if (offsetof(blkif_sring_t, ring) + (size_t)RING_SIZE(&q->ring) * q->entry_size > bytes ||
	    RING_SIZE(&q->ring) > VBD_MAX_REQUESTS) {
		errno = EINVAL;
		return false;
	}
	q->goes_on = q->c.journal_matches && journal_begun(q->c.journal);
	if (q->goes_on) {
		q->ring.req_cons = journal_taken(q->c.journal);
		q->ring.rsp_prod_pvt = q->published = journal_answered(q->c.journal);
	} else if (q->c.connection->live) {
		adopt(q);
	} else {
		journal_reset(q->c.journal, 0, 0);
	}
	return true;
}

static bool
must_lend(const struct vbd_queue_config *config)
{
	if (config->config->transfer == VBD_TRANSFER_MAP)
		return true;
	if (xpv_gntdev_can_copy(config->gntdev))
		return false;
	if (config->index == 0)
		xpv_info("this kernel has no grant copy: mapping pages for each request");
	return true;
}

struct vbd_queue *
vbd_queue_new(const struct vbd_queue_config *config)
{
	struct vbd_queue *q = calloc(1, sizeof(*q));
	struct pages_config pages = {
	    .lend = must_lend(config),
	    .gntdev = config->gntdev,
	    .domid = config->connection->domid,
	    .cache_pages = config->connection->persistent ? config->config->cache_pages : 0,
	    .buffer_pages = config->config->buffer_pages,
	    .stats = config->stats,
	};

	if (q == NULL)
		return NULL;
	q->c = *config;
	STAILQ_INIT(&q->copying);
	if (!init_ring(q)) {
		vbd_queue_free(q);
		return NULL;
	}
	q->ops = calloc(RING_SIZE(&q->ring), sizeof(*q->ops));
	q->pages = pages_new(&pages);
	if (q->ops == NULL || q->pages == NULL) {
		pages_free(q->pages);
		q->pages = NULL;
		vbd_queue_free(q);
		errno = ENOMEM;
		return NULL;
	}
	return q;
}

unsigned
vbd_queue_depth(const struct vbd_queue *q)
{
	return RING_SIZE(&q->ring);
}

static void
note_replay(unsigned slot, const void *copy, void *arg)
{
	struct vbd_queue *q = arg;

	q->replay[q->nreplay++] = slot;
}

/* What the last worker had not answered is done again. Its own I/O is over (journal.h), so what is
 * done twice is done after each other, and the same twice. */
static bool
plan_replay(struct vbd_queue *q)
{
	if (!journal_replay(q->c.journal, RING_SIZE(&q->ring), note_replay, q))
		return false;
	for (unsigned i = 0; i < q->nreplay; i++) {
		if (q->replay[i] >= RING_SIZE(&q->ring))
			return false;
	}
	if (q->nreplay > 0)
		xpv_info("queue %u: %u requests of the last worker are done again", q->c.index,
		    q->nreplay);
	return true;
}

int
vbd_queue_start(struct vbd_queue *q, struct image_queue *image, struct event_base *base)
{
	q->image = image;
	q->age = evtimer_new(base, age, q);
	q->throttled = evtimer_new(base, throttle_over, q);
	if (q->age == NULL || q->throttled == NULL)
		return -1;
	if (q->goes_on && !plan_replay(q)) {
		xpv_err("queue %u: the journal makes no sense", q->c.index);
		errno = EINVAL;
		return -1;
	}
	if (xpv_evtchn_listen(q->c.evtchn, base, q->c.port, ring_event, q) != 0)
		return -1;
	if (q->c.connection->live) {
		/* The last worker may have died just before it published, or notified. */
		xen_wmb();
		*(volatile RING_IDX *)&q->ring.sring->rsp_prod = q->published;
		xpv_evtchn_notify(q->c.evtchn, q->c.port);
	}
	work(q);
	return 0;
}

void
vbd_queue_quiesce(struct vbd_queue *q)
{
	q->quiet = true;
	work(q);
}

void
vbd_queue_free(struct vbd_queue *q)
{
	if (q == NULL)
		return;
	xpv_evtchn_unlisten(q->c.evtchn);
	if (q->age != NULL)
		event_free(q->age);
	if (q->throttled != NULL)
		event_free(q->throttled);
	/* What is lent to requests that were not answered. */
	for (unsigned i = 0; q->pages != NULL && i < RING_SIZE(&q->ring); i++)
		pages_put(q->pages, &q->ops[i].pages);
	pages_free(q->pages);
	free(q->ops);
	free(q);
}
