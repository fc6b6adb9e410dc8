/* SPDX-License-Identifier: BSD-2-Clause */

/* A blkif ring whose backend does what the input says: answers of any kind, indexes that jump,
 * bytes anywhere in the ring's page, at any moment of the frontend's work. */

#include <errno.h>

#include <xenpv/log.h>
#include <xenpv/ring.h>
#include <xen/io/blkif.h>

#include "fuzz.h"
#include "queue.h"

#define PORT	   9
#define REQUESTS   24
#define DATA_PAGES 96

struct xpv_evtchn {
	xpv_evtchn_handler *handler;
	void *arg;
};

struct host_request {
	struct blk_request r;
	bool submitted;
};

static struct xpv_evtchn evtchn;
static struct xpv_pool pool;
static struct blk_queue_grants grants;
static struct blk_link live_link;
static struct blk_stats stats;
static struct blk_queue *queue;
static struct host_request requests[REQUESTS];
static unsigned broken;
static bool attached;

struct xpv_evtchn *__wrap_xpv_evtchn_inherit(const struct xpv_evtchn *parents);
void __wrap_xpv_evtchn_close(struct xpv_evtchn *e);
int __wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port);
int __wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg);
void __wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

struct xpv_evtchn *
__wrap_xpv_evtchn_inherit(const struct xpv_evtchn *parents)
{
	evtchn = (struct xpv_evtchn){0};
	return &evtchn;
}

void
__wrap_xpv_evtchn_close(struct xpv_evtchn *e)
{
}

int
__wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port)
{
	check(port == PORT);
	return 0;
}

int
__wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg)
{
	e->handler = handler;
	e->arg = arg;
	return 0;
}

void
__wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e)
{
	e->handler = NULL;
}

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

static void
on_broken(void *arg, const char *why)
{
	check(why != NULL);
	broken++;
	check(broken == 1);
}

/* --- the host --- */

static void
check_iov(const struct blk_request *r, const struct iovec *iov, int iovcnt)
{
	size_t bytes = 0;

	for (int i = 0; i < iovcnt; i++) {
		uint8_t *base = iov[i].iov_base;

		check(base >= (uint8_t *)xpv_pool_page(&pool, 1));
		check(base + iov[i].iov_len <=
		      (uint8_t *)pool.base + (size_t)pool.pages * XPV_PAGE_SIZE);
		bytes += iov[i].iov_len;
	}
	check(bytes == (size_t)r->sectors * 512);
}

static int
host_pull(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt)
{
	check(r->op == BLK_WRITE);
	check_iov(r, iov, iovcnt);
	for (int i = 0; i < iovcnt; i++)
		memset(iov[i].iov_base, 0x5a, iov[i].iov_len);
	return 0;
}

static void
host_done(void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt)
{
	struct host_request *h = (struct host_request *)r;

	check(h->submitted);
	check(status <= 0);
	if (r->op == BLK_READ && status == 0)
		check_iov(r, iov, iovcnt);
	h->submitted = false;
	blk_queue_release(queue, r);
}

static void
host_flush(void *host)
{
}

static const struct blk_host_ops host_ops = {host_pull, host_done, host_flush};

static void
submit(struct input *in)
{
	static const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD};
	struct host_request *h = &requests[take_byte(in) % REQUESTS];

	if (h->submitted || !attached || broken)
		return;
	h->r.op = ops[take_byte(in) % 4];
	h->r.sector = take_byte(in) * 8ull;
	h->r.sectors =
	    h->r.op == BLK_FLUSH ? 0 : 1 + take_u32(in) % (BLK_MAX_IO_BYTES >> BLK_SECTOR_SHIFT);
	h->submitted = true;
	blk_queue_submit(queue, &h->r);
}

/* --- the backend --- */

static void
answer(struct input *in, bool honest)
{
	blkif_sring_t *sring = xpv_pool_page(&pool, 0);
	blkif_back_ring_t back;
	uint8_t which = take_byte(in);
	blkif_request_t request;
	blkif_response_t response;

	BACK_RING_ATTACH(&back, sring, sring->rsp_prod, XPV_PAGE_SIZE);
	RING_COPY_REQUEST(&back, sring->rsp_prod + which % RING_SIZE(&back), &request);
	response = (blkif_response_t){.id = honest ? request.id : take_byte(in) % 40,
	    .operation = honest
			     ? (request.operation == BLKIF_OP_INDIRECT
				       ? ((const blkif_request_indirect_t *)(const void *)&request)
					     ->indirect_op
				       : request.operation)
			     : take_byte(in) % 8,
	    .status = (int16_t)(take_byte(in) % 4 == 0 ? -(int)(take_byte(in) % 4) : 0)};
	memcpy(RING_GET_RESPONSE(&back, sring->rsp_prod), &response, sizeof(response));
	sring->rsp_prod++;
}

static void
wake(void)
{
	if (evtchn.handler != NULL)
		evtchn.handler(PORT, evtchn.arg);
	if (!attached && !broken && blk_queue_inflight(queue) == 0) {
		blk_queue_attach(queue, &host_ops, NULL);
		attached = true;
	}
}

/* --- both --- */

static void
new_queue(void)
{
	struct blk_queue_config config = {
	    .grants = &grants,
	    .link = &live_link,
	    .stats = &stats,
	    .ring_pages = 1,
	    .broken = on_broken,
	};

	queue = blk_queue_new(&config);
	if (queue == NULL)
		return; /* out of its mind, as a live ring can be */
	blk_queue_listen(queue, NULL);
	attached = false;
	wake();
}

/* The worker is killed; the next one goes on. What was under way comes again from the host. */
static void
replace(void)
{
	if (broken)
		return;
	blk_queue_free(queue);
	for (unsigned i = 0; i < REQUESTS; i++)
		requests[i].submitted = false;
	live_link.live = true;
	new_queue();
}

static void
begin(struct input *in)
{
	uint8_t features = take_byte(in);

	memset(pool.base, 0, XPV_PAGE_SIZE);
	memset(requests, 0, sizeof(requests));
	live_link = (struct blk_link){
	    .queues = 1,
	    .max_indirect = (features & 1) != 0 ? 32 : 0,
	    .flush = (features & 2) != 0,
	    .barrier = (features & 4) != 0,
	    .discard = (features & 8) != 0,
	};
	broken = 0;
	new_queue();
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pool.pages = 1 + DATA_PAGES;
	pool.base = aligned_alloc(XPV_PAGE_SIZE, (size_t)pool.pages * XPV_PAGE_SIZE);
	pool.grefs = calloc(pool.pages, sizeof(*pool.grefs));
	for (unsigned i = 0; i < pool.pages; i++)
		pool.grefs[i] = 100 + i;
	grants = (struct blk_queue_grants){.pool = pool, .evtchn = &evtchn, .port = PORT};
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	blkif_sring_t *sring = xpv_pool_page(&pool, 0);

	begin(&in);
	while (in.left > 0 && queue != NULL) {
		switch (take_byte(&in) % 9) {
		case 0:
			submit(&in);
			break;
		case 1:
			blk_queue_push(queue);
			break;
		case 2:
		case 3:
			answer(&in, true);
			break;
		case 4:
			answer(&in, false);
			break;
		case 5:
			sring->rsp_prod += take_byte(&in);
			break;
		case 6:
			((uint8_t *)pool.base)[take_u32(&in) % XPV_PAGE_SIZE] = take_byte(&in);
			break;
		case 7:
			wake();
			break;
		case 8:
			replace();
			break;
		}
	}
	if (queue != NULL)
		blk_queue_free(queue);
	queue = NULL;
	return 0;
}
