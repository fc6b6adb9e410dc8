/* SPDX-License-Identifier: BSD-2-Clause */
/* One ring of xen-blkbackd between a guest made of memory, honest or not, and a disk that ends what
 * it does in any order. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fake_vbd.h"

#define IDS  4096u
#define DATA VBD_MAX_RING_PAGES /* the first page of the guest that is no ring's */
#define LIST (FAKE_PAGES - 40)	/* and the first for lists of segments */

/* ---- the guest ---- */

static struct {
	uint32_t req_prod, rsp_cons;
	uint64_t next;
	struct {
		bool out;
		uint8_t operation; /* the inner one */
		int status;	   /* 1: none yet */
		unsigned number;   /* the how manyth to be answered */
	} requests[IDS];
	unsigned answers;
} guest;

static void
begin(const struct fake_setup *setup)
{
	memset(&guest, 0, sizeof(guest));
	fake_vbd_begin(setup);
	if (setup->live)
		guest.req_prod = guest.rsp_cons = setup->start;
	for (size_t i = 0; i < FAKE_DISK_BYTES / 8; i++)
		((uint64_t *)(void *)fake.disk)[i] = i * 0x9e3779b97f4a7c15;
	assert_true(fake_vbd_start(setup->live));
}

static int
teardown(void **state)
{
	fake_vbd_end();
	return 0;
}

/* Reads the answers that it can see. */
static void
hear(void)
{
	uint32_t produced = fake_sring()->rsp_prod;

	assert_in_range(produced - guest.rsp_cons, 0, guest.req_prod - guest.rsp_cons);
	for (; guest.rsp_cons != produced; guest.rsp_cons++) {
		const uint8_t *entry = fake_entry(guest.rsp_cons);
		uint64_t id;
		int16_t status;

		memcpy(&id, entry, 8);
		memcpy(&status, entry + 10, 2);
		id %= IDS;
		assert_true(guest.requests[id].out);
		assert_int_equal(entry[8], guest.requests[id].operation);
		guest.requests[id].out = false;
		guest.requests[id].status = status;
		guest.requests[id].number = ++guest.answers;
	}
	fake_sring()->rsp_event = guest.rsp_cons + 1;
}

static uint64_t
ask(struct vbd_request *r)
{
	r->id = guest.next++;
	assert_in_range(guest.req_prod - guest.rsp_cons, 0, fake_ring_size() - 1);
	assert_false(guest.requests[r->id % IDS].out);
	guest.requests[r->id % IDS].out = true;
	guest.requests[r->id % IDS].status = 1;
	guest.requests[r->id % IDS].operation = r->operation;
	fake_write_request(fake_entry(guest.req_prod++), r);
	return r->id % IDS;
}

/* Shows all that was asked, and tells the worker if it wants to know. */
static void
push(void)
{
	uint32_t old = fake_sring()->req_prod;

	fake_sring()->req_prod = guest.req_prod;
	if (guest.req_prod - fake_sring()->req_event < guest.req_prod - old)
		fake_event();
}

/* A read or write of whole pages from "page" on, indirect if it must. */
static struct vbd_request
data(uint8_t operation, uint64_t sector, unsigned page, unsigned pages)
{
	struct vbd_request r = {.operation = operation,
	    .sector = sector,
	    .nr_segments = (uint16_t)pages,
	    .indirect = pages > 11};
	struct blkif_request_segment *segments = r.segments;

	if (r.indirect) {
		unsigned list = LIST + (unsigned)guest.next % 40;

		r.descriptors[0] = fake_gref(list);
		segments = (struct blkif_request_segment *)(void *)fake_page(list);
	}
	for (unsigned i = 0; i < pages; i++)
		segments[i] = (struct blkif_request_segment){fake_gref(page + i), 0, 7};
	return r;
}

static uint64_t
ask_data(uint8_t operation, uint64_t sector, unsigned page, unsigned pages)
{
	struct vbd_request r = data(operation, sector, page, pages);

	return ask(&r);
}

static uint64_t
ask_plain(uint8_t operation)
{
	return ask(&(struct vbd_request){.operation = operation});
}

static uint64_t
ask_discard(uint64_t sector, uint64_t nr_sectors, bool secure)
{
	return ask(&(struct vbd_request){.operation = BLKIF_OP_DISCARD,
	    .sector = sector,
	    .nr_sectors = nr_sectors,
	    .secure = secure});
}

static void
finish(void)
{
	push();
	fake_settle();
	hear();
}

#define assert_status(id, expected) assert_int_equal(guest.requests[id].status, expected)

static unsigned
out(void)
{
	return guest.req_prod - guest.rsp_cons;
}

static void
fill(unsigned page, unsigned pages, uint8_t with)
{
	for (unsigned i = 0; i < pages * XPV_PAGE_SIZE; i++)
		fake_page(page)[i] = (uint8_t)(with + i * 7 + i / 256);
}

/* What was done to the disk, in its order. */
static struct {
	enum image_op op;
	uint64_t offset, length;
} done[64];
static unsigned ndone;

static void
note(const struct image_io *io)
{
	if (ndone < 64) {
		done[ndone].op = io->op;
		done[ndone].offset = io->offset;
		done[ndone].length = io->length;
	}
	ndone++;
}

static unsigned
at_random(unsigned below)
{
	return (unsigned)rand() % below;
}

static unsigned
the_last(unsigned below)
{
	return below - 1;
}

/* ---- honest guests ---- */

/* Each way there is: layouts, sizes of ring, copied and mapped. */
static const struct fake_setup ways[] = {
    {.abi = VBD_ABI_X86_64},
    {.abi = VBD_ABI_X86_32, .ring_order = 4},
    {.abi = VBD_ABI_X86_64, .ring_order = 2, .persistent = true},
    {.abi = VBD_ABI_X86_32, .persistent = true},
    {.abi = VBD_ABI_X86_64, .ring_order = 4, .persistent = true, .cache_pages = 60},
    {.abi = VBD_ABI_X86_64, .ring_order = 2, .lending = true},
    {.abi = VBD_ABI_X86_32, .persistent = true, .cache_pages = 60, .lending = true},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

static void
reads_and_writes(void **state)
{
	static const unsigned sizes[] = {1, 11, 12, 256};

	for (unsigned way = 0; way < WAYS; way++) {
		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		for (unsigned s = 0; s < 4; s++) {
			size_t bytes = sizes[s] * XPV_PAGE_SIZE;
			uint64_t write, read;

			fill(DATA, sizes[s], (uint8_t)(s + way));
			write = ask_data(BLKIF_OP_WRITE, 8 * s, DATA, sizes[s]);
			finish();
			assert_status(write, BLKIF_RSP_OKAY);
			assert_memory_equal(fake.disk + s * XPV_PAGE_SIZE, fake_page(DATA), bytes);
			read = ask_data(BLKIF_OP_READ, 8 * s, DATA + 256, sizes[s]);
			finish();
			assert_status(read, BLKIF_RSP_OKAY);
			assert_memory_equal(fake_page(DATA), fake_page(DATA + 256), bytes);
		}
		assert_int_equal(fake.copies == 0, way == 2 || way == 3 || ways[way].lending);
		assert_int_equal(xpv_counter_get(&fake.stats.reads), 4);
		assert_int_equal(xpv_counter_get(&fake.stats.writes), 4);
		assert_int_equal(xpv_counter_get(&fake.stats.read_bytes), 280 * XPV_PAGE_SIZE);
		assert_int_equal(xpv_counter_get(&fake.stats.write_bytes), 280 * XPV_PAGE_SIZE);
		assert_int_equal(xpv_counter_get(&fake.stats.inflight), 0);
	}
}

static void
parts_of_pages(void **state)
{
	struct vbd_request r = {.operation = BLKIF_OP_READ,
	    .sector = 5,
	    .nr_segments = 3,
	    .segments = {
		{fake_gref(DATA), 2, 4}, {fake_gref(DATA + 1), 7, 7}, {fake_gref(DATA), 0, 1}}};

	for (unsigned way = 0; way < 3; way += 2) {
		uint64_t id;

		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		memset(fake_page(DATA), 0x55, 2 * XPV_PAGE_SIZE);
		id = ask(&r);
		finish();
		assert_status(id, BLKIF_RSP_OKAY);
		assert_memory_equal(fake_page(DATA) + 1024, fake.disk + 5 * 512, 3 * 512);
		assert_memory_equal(fake_page(DATA + 1) + 7 * 512, fake.disk + 8 * 512, 512);
		assert_memory_equal(fake_page(DATA), fake.disk + 9 * 512, 1024);
		for (unsigned i = 5 * 512; i < XPV_PAGE_SIZE + 7 * 512; i++)
			assert_int_equal(fake_page(DATA)[i], 0x55);
	}
}

static void
order_of_steps(void **state)
{
	uint64_t id;

	begin(&ways[0]);
	fake.performed = note;
	ndone = 0;
	id = ask_plain(BLKIF_OP_FLUSH_DISKCACHE);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	assert_int_equal(ndone, 1);
	assert_int_equal(done[0].op, IMAGE_FLUSH);
	id = ask_data(BLKIF_OP_FLUSH_DISKCACHE, 8, DATA, 2);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	assert_int_equal(ndone, 3);
	assert_int_equal(done[1].op, IMAGE_FLUSH);
	assert_int_equal(done[2].op, IMAGE_WRITE);
	assert_memory_equal(fake.disk + XPV_PAGE_SIZE, fake_page(DATA), 2 * XPV_PAGE_SIZE);
	id = ask_data(BLKIF_OP_WRITE_BARRIER, 8, DATA, 2);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	assert_int_equal(ndone, 6);
	assert_int_equal(done[3].op, IMAGE_FLUSH);
	assert_int_equal(done[4].op, IMAGE_WRITE);
	assert_int_equal(done[5].op, IMAGE_FLUSH);
	id = ask_plain(BLKIF_OP_WRITE_BARRIER);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	assert_int_equal(ndone, 7);
	ask_discard(16, 8, true);
	finish();
	assert_int_equal(done[7].op, IMAGE_DISCARD);
	assert_int_equal(done[7].offset, 16 * 512);
	assert_int_equal(done[7].length, 8 * 512);
	assert_int_equal(xpv_counter_get(&fake.stats.discards), 1);
	assert_int_equal(xpv_counter_get(&fake.stats.flushes), 2);
	assert_int_equal(xpv_counter_get(&fake.stats.barriers), 2);
}

/* All before a barrier is over when it begins, and nothing after it begins before its end. */
static void
barrier(void **state)
{
	for (unsigned way = 0; way < WAYS; way++) {
		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		fake.performed = note;
		fake.choose = the_last;
		ndone = 0;
		for (unsigned i = 0; i < 4; i++)
			ask_data(BLKIF_OP_WRITE, 8 * i, DATA + i, 1);
		ask_data(BLKIF_OP_WRITE_BARRIER, 32, DATA + 4, 1);
		for (unsigned i = 5; i < 9; i++)
			ask_data(BLKIF_OP_WRITE, 8 * i, DATA + i, 1);
		ask_data(BLKIF_OP_WRITE_BARRIER, 72, DATA + 9, 1);
		push();
		assert_int_equal(fake.nrunning, 4);
		fake_image_ends(3);
		assert_int_equal(fake.nrunning, 1);
		fake_image_ends(1);
		assert_int_equal(fake.nrunning, 1); /* the barrier's first flush */
		finish();
		assert_int_equal(out(), 0);
		assert_int_equal(ndone, 14);
		for (unsigned i = 0; i < 4; i++)
			assert_in_range(done[i].offset, 0, 3 * 4096);
		assert_int_equal(done[4].op, IMAGE_FLUSH);
		assert_int_equal(done[5].offset, 4 * 4096);
		assert_int_equal(done[6].op, IMAGE_FLUSH);
		for (unsigned i = 7; i < 11; i++)
			assert_in_range(done[i].offset, 5 * 4096, 8 * 4096);
		assert_int_equal(done[11].op, IMAGE_FLUSH);
		assert_int_equal(done[12].offset, 9 * 4096);
		assert_int_equal(done[13].op, IMAGE_FLUSH);
	}
}

/* Refused while what comes after it waits: that goes on. */
static void
barrier_without_grants(void **state)
{
	uint64_t refused, after;

	begin(&ways[0]);
	fake.revoked[DATA] = true;
	refused = ask_data(BLKIF_OP_WRITE_BARRIER, 0, DATA, 1);
	after = ask_data(BLKIF_OP_WRITE, 8, DATA + 1, 1);
	finish();
	assert_status(refused, BLKIF_RSP_ERROR);
	assert_status(after, BLKIF_RSP_OKAY);
}

/* The disk ends all within image_push(): further steps, copies and answers follow at once. */
static void
instant_image(void **state)
{
	for (unsigned way = 0; way < WAYS; way++) {
		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		fake.push_ends = VBD_MAX_REQUESTS;
		for (unsigned i = 0; i < 32; i++) {
			static const uint8_t operations[] = {BLKIF_OP_READ, BLKIF_OP_WRITE,
			    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER};

			ask_data(operations[i % 4], 8 * i, DATA + i, 1);
		}
		push();
		event_base_loop(fake.base, EVLOOP_NONBLOCK);
		event_base_loop(fake.base, EVLOOP_NONBLOCK);
		event_base_loop(fake.base, EVLOOP_NONBLOCK);
		hear();
		assert_int_equal(out(), 0);
		assert_int_equal(fake.nrunning + fake.nsubmitted, 0);
	}
}

/* One with little memory for many large requests: each has its turn. */
static void
buffers_are_short(void **state)
{
	static const unsigned tried[] = {0, 4, 5, 6};

	for (unsigned t = 0; t < 4; t++) {
		if (t > 0)
			fake_vbd_end();
		begin(&ways[tried[t]]);
		fake.choose = at_random;
		srand(t);
		for (unsigned i = 0; i < 32; i++)
			ask_data(
			    i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, 8 * i, DATA + i, 1 + i * 8);
		push();
		assert_in_range(fake.nrunning, 1, 31);
		while (fake.nrunning > 0)
			fake_image_ends(1);
		hear();
		assert_int_equal(out(), 0);
	}
}

static void
index_wraps(void **state)
{
	struct fake_setup setup = ways[1];
	unsigned size;

	setup.live = true;
	setup.start = UINT32_MAX - 700;
	begin(&setup);
	size = fake_ring_size();
	fake.choose = at_random;
	srand(3);
	for (unsigned round = 0; round < 6; round++) {
		for (unsigned i = out(); i < size; i++)
			ask_data(
			    i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, i % 64 * 8, DATA + i % 64, 1);
		push();
		/* Answers go over the slots of requests that are not answered. */
		fake_image_ends(size / 2 + round);
		hear();
		assert_int_equal(out(), size / 2 - round);
	}
	finish();
	assert_int_equal(out(), 0);
	assert_int_equal(fake.broken, 0);
}

static void
events_are_asked_for(void **state)
{
	unsigned notifies;

	begin(&ways[0]);
	ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push();
	assert_int_equal(fake.nrunning, 1);
	assert_int_equal(fake_sring()->req_event, 2);
	assert_int_equal(xpv_counter_get(&fake.stats.inflight), 1);
	notifies = fake.notifies;
	/* Ten answers: one event, and none to a guest that does not want any. */
	for (unsigned i = 0; i < 9; i++)
		ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
	push();
	fake_settle();
	assert_int_equal(fake.notifies, notifies + 1);
	ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push();
	fake_settle();
	assert_int_equal(fake.notifies, notifies + 1);
	hear();
	assert_int_equal(out(), 0);
}

/* ---- errors ---- */

static int
bad_second_megabyte(const struct image_io *io)
{
	if (io->op == IMAGE_DISCARD)
		return -EOPNOTSUPP;
	return io->offset >> 20 == 1 ? -EIO : 0;
}

static void
errors_stay_where_they_are(void **state)
{
	for (unsigned way = 0; way < WAYS; way++) {
		uint64_t good[4], bad[4], discard;

		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		fake.status = bad_second_megabyte;
		fake.choose = at_random;
		for (unsigned i = 0; i < 4; i++) {
			good[i] = ask_data(i % 2, 8 * i, DATA + i, 1);
			bad[i] = ask_data(i % 2, 2048 + 8 * i, DATA + 4 + i, 1);
		}
		discard = ask_discard(0, 8, false);
		finish();
		for (unsigned i = 0; i < 4; i++) {
			assert_status(good[i], BLKIF_RSP_OKAY);
			assert_status(bad[i], BLKIF_RSP_ERROR);
		}
		assert_status(discard, BLKIF_RSP_EOPNOTSUPP);
		assert_int_equal(xpv_counter_get(&fake.stats.errors), 5);
		assert_int_equal(fake.broken, 0);
	}
}

static int
no_flush(const struct image_io *io)
{
	return io->op == IMAGE_FLUSH ? -EIO : 0;
}

/* A flush that failed is not followed by its data. */
static void
steps_end_with_an_error(void **state)
{
	uint64_t flush, barrier_id, after;

	begin(&ways[0]);
	fake.status = no_flush;
	fake.performed = note;
	ndone = 0;
	flush = ask_data(BLKIF_OP_FLUSH_DISKCACHE, 0, DATA, 1);
	finish();
	barrier_id = ask_data(BLKIF_OP_WRITE_BARRIER, 0, DATA, 1);
	after = ask_data(BLKIF_OP_WRITE, 0, DATA, 1);
	finish();
	assert_status(flush, BLKIF_RSP_ERROR);
	assert_status(barrier_id, BLKIF_RSP_ERROR);
	assert_status(after, BLKIF_RSP_OKAY);
	assert_int_equal(ndone, 3);
}

static void
read_only(void **state)
{
	struct fake_setup setup = {.read_only = true};
	uint64_t ids[5];

	begin(&setup);
	ids[0] = ask_data(BLKIF_OP_WRITE, 0, DATA, 1);
	ids[1] = ask_data(BLKIF_OP_WRITE_BARRIER, 0, DATA, 1);
	ids[2] = ask_data(BLKIF_OP_WRITE, 0, DATA, 20);
	ids[3] = ask_discard(0, 8, false);
	ids[4] = ask_data(BLKIF_OP_READ, 0, DATA, 1);
	finish();
	for (unsigned i = 0; i < 4; i++)
		assert_status(ids[i], BLKIF_RSP_ERROR);
	assert_status(ids[4], BLKIF_RSP_OKAY);
	assert_int_equal(xpv_counter_get(&fake.stats.refused), 4);
	assert_int_equal(fake.log_lines, 1);
}

/* The image has grown, or shrunk, since. */
static void
size_changes(void **state)
{
	uint64_t id;

	begin(&ways[0]);
	atomic_store(&fake.bytes, FAKE_DISK_BYTES / 2);
	id = ask_data(BLKIF_OP_READ, FAKE_DISK_BYTES / 1024, DATA, 1);
	finish();
	assert_status(id, BLKIF_RSP_ERROR);
	atomic_store(&fake.bytes, FAKE_DISK_BYTES);
	id = ask_data(BLKIF_OP_READ, FAKE_DISK_BYTES / 1024, DATA, 1);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	/* It is looked at once a second. */
	fake.looks = 0;
	for (unsigned i = 0; i < 10; i++) {
		fake.now += 500000000;
		ask_data(BLKIF_OP_READ, 0, DATA, 1);
		finish();
	}
	assert_in_range(fake.looks, 4, 6);
}

/* ---- hostile guests ---- */

static void
more_requests_than_the_ring_holds(void **state)
{
	static const uint32_t jumps[] = {33, 1000, 0x80000000, UINT32_MAX};

	for (unsigned i = 0; i < 4; i++) {
		if (i > 0)
			fake_vbd_end();
		begin(&ways[0]);
		fake_sring()->req_prod = jumps[i];
		fake_event();
		assert_int_equal(fake.broken, 1);
		assert_false(fake.listening);
		assert_int_equal(fake.nrunning + fake.nsubmitted, 0);
	}
	/* With some in flight that were not answered. */
	fake_vbd_end();
	begin(&ways[0]);
	for (unsigned i = 0; i < 20; i++)
		ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
	push();
	assert_int_equal(fake.nrunning, 20);
	fake_sring()->req_prod = 33;
	fake_event();
	assert_int_equal(fake.broken, 1);
	/* What ends now goes nowhere. */
	fake_image_ends(20);
	assert_int_equal(fake_sring()->rsp_prod, 0);
}

/* It counts from what it was answered, not from what was taken. */
static void
a_full_ring(void **state)
{
	begin(&ways[0]);
	for (unsigned i = 0; i < 32; i++)
		ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
	push();
	assert_int_equal(fake.nrunning, 32);
	fake_event();
	assert_int_equal(fake.broken, 0);
	finish();
	assert_int_equal(out(), 0);
}

static void
bogus_segments(void **state)
{
	for (unsigned way = 0; way < WAYS; way++) {
		struct vbd_request r;
		uint64_t ids[12], good;
		unsigned n = 0;

		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
#define bogus(...)                                                                                 \
	do {                                                                                       \
		r = data(BLKIF_OP_WRITE, 0, DATA, 2);                                              \
		__VA_ARGS__;                                                                       \
		ids[n++] = ask(&r);                                                                \
	} while (0)
		bogus(r.segments[1].last_sect = 8);
		bogus(r.segments[1].first_sect = 7, r.segments[1].last_sect = 6);
		bogus(r.segments[0].first_sect = 255, r.segments[0].last_sect = 255);
		bogus(r.segments[1].gref = 1);
		bogus(r.segments[1].gref = UINT32_MAX);
		bogus(r.nr_segments = 12);
		bogus(r.nr_segments = 0);
		bogus(r.sector = UINT64_MAX);
		bogus(r.sector = FAKE_DISK_BYTES / 512 - 15);
		bogus(r.indirect = true, r.descriptors[0] = 1);
		bogus(r.indirect = true, r.nr_segments = 257, r.descriptors[0] = fake_gref(LIST));
		bogus(r.indirect = true, r.nr_segments = UINT16_MAX,
		    r.descriptors[0] = fake_gref(LIST));
#undef bogus
		good = ask_data(BLKIF_OP_WRITE, 0, DATA, 2);
		finish();
		for (unsigned i = 0; i < n; i++)
			assert_status(ids[i], BLKIF_RSP_ERROR);
		assert_status(good, BLKIF_RSP_OKAY);
		assert_int_equal(xpv_counter_get(&fake.stats.refused), n);
		assert_int_equal(fake.log_lines, 1);
		assert_int_equal(fake.broken, 0);
	}
}

static void
unknown_operations(void **state)
{
	uint64_t ids[4];

	begin(&ways[0]);
	ids[0] = ask_plain(4);
	ids[1] = ask_plain(255);
	ids[2] = ask(&(struct vbd_request){
	    .operation = BLKIF_OP_INDIRECT, .indirect = true, .nr_segments = 1});
	ids[3] = ask_data(BLKIF_OP_READ, 0, DATA, 1);
	finish();
	for (unsigned i = 0; i < 3; i++)
		assert_status(ids[i], BLKIF_RSP_EOPNOTSUPP);
	assert_status(ids[3], BLKIF_RSP_OKAY);
	assert_int_equal(fake.log_lines, 0);
}

/* Even where all of it could be done. */
static void
what_was_not_offered(void **state)
{
	uint64_t ids[4];

	begin(&(struct fake_setup){.less = true});
	ids[0] = ask_data(BLKIF_OP_WRITE, 0, DATA, 12);
	ids[1] = ask_discard(0, 8, false);
	ids[2] = ask_discard(0, 8, true);
	ids[3] = ask_data(BLKIF_OP_WRITE, 0, DATA, 11);
	finish();
	for (unsigned i = 0; i < 3; i++)
		assert_status(ids[i], BLKIF_RSP_EOPNOTSUPP);
	assert_status(ids[3], BLKIF_RSP_OKAY);
	assert_int_equal(xpv_counter_get(&fake.stats.refused), 3);
	assert_int_equal(fake.log_lines, 0);
}

/* Taken away while the disk reads. */
static void
revoked_meanwhile(void **state)
{
	uint64_t gone, good;

	begin(&ways[0]);
	gone = ask_data(BLKIF_OP_READ, 0, DATA, 3);
	good = ask_data(BLKIF_OP_READ, 0, DATA + 4, 3);
	push();
	fake.revoked[DATA + 2] = true;
	finish();
	assert_status(gone, BLKIF_RSP_ERROR);
	assert_status(good, BLKIF_RSP_OKAY);
	assert_memory_equal(fake_page(DATA + 4), fake.disk, 3 * XPV_PAGE_SIZE);
}

/* Without grant copy. A guest may take an answer as leave to end its grants, and Linux breaks with
 * a backend that still has them. */
static void
pages_are_back_when_answered(void **state)
{
	begin(&(struct fake_setup){.lending = true});
	for (unsigned i = 0; i < 4; i++)
		ask_data(i % 2 ? BLKIF_OP_READ : BLKIF_OP_WRITE, 24 * i, DATA + 3 * i, 3);
	push();
	for (unsigned left = 4; left > 0; left--) {
		assert_int_equal(fake.mapped, 3 * left);
		assert_int_equal(fake_sring()->rsp_prod, 4 - left);
		fake_image_ends(1);
	}
	hear();
	assert_int_equal(fake.mapped, 0);
	assert_int_equal(fake.maps, 4);
	assert_int_equal(fake.copies, 0);
}

/* A guest lets us read what is to be written, and no more. */
static void
pages_to_be_written_are_read_only(void **state)
{
	for (unsigned lending = 0; lending < 2; lending++) {
		uint64_t read, write;

		if (lending > 0)
			fake_vbd_end();
		begin(&(struct fake_setup){.lending = lending > 0});
		fake.read_only[DATA] = fake.read_only[LIST] = true;
		fill(DATA, 1, 5);
		write = ask_data(BLKIF_OP_WRITE, 0, DATA, 1);
		read = ask_data(BLKIF_OP_READ, 8, DATA, 1);
		finish();
		assert_status(write, BLKIF_RSP_OKAY);
		assert_status(read, BLKIF_RSP_ERROR);
		assert_memory_equal(fake.disk, fake_page(DATA), XPV_PAGE_SIZE);
		assert_int_equal(xpv_counter_get(&fake.stats.refused), 1);
		/* The list of segments, too. */
		fake.read_only[LIST + guest.next % 40] = true;
		write = ask_data(BLKIF_OP_WRITE, 0, DATA, 12);
		finish();
		assert_status(write, BLKIF_RSP_OKAY);
	}
}

/* Scribbled over after it was shown: what was taken counts. */
static void
entries_change(void **state)
{
	uint64_t id;

	begin(&ways[0]);
	id = ask_data(BLKIF_OP_WRITE, 8, DATA, 1);
	push();
	memset(fake_entry(0), 0xff, 112);
	fake_settle();
	hear();
	assert_status(id, BLKIF_RSP_OKAY);
	assert_memory_equal(fake.disk + XPV_PAGE_SIZE, fake_page(DATA), XPV_PAGE_SIZE);
}

/* ---- limits, polling, ageing ---- */

static void
throttled(void **state)
{
	struct fake_setup setup = {.limits = {.iops = 1000}};

	begin(&setup);
	for (unsigned i = 0; i < 10; i++)
		ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
	push();
	assert_int_equal(fake.nrunning, 1);
	assert_int_equal(xpv_counter_get(&fake.stats.throttled), 1);
	fake_settle();
	/* Time is the test's; the timer's is not. */
	for (unsigned i = 0; i < 9; i++) {
		fake.now += 1000000;
		event_base_loop(fake.base, EVLOOP_ONCE);
		assert_int_equal(fake.nrunning, 1);
		fake_settle();
	}
	hear();
	assert_int_equal(out(), 0);
}

/* Limits that go away are noticed soon, however long the wait would have been. */
static void
throttle_is_lifted(void **state)
{
	struct fake_setup setup = {.limits = {.bytes_per_s = 1}};

	begin(&setup);
	for (unsigned i = 0; i < 10; i++)
		ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
	push();
	fake_settle();
	hear();
	assert_int_equal(out(), 9);
	throttle_set(&fake.throttle, &(struct vbd_limits){0});
	event_base_loop(fake.base, EVLOOP_ONCE);
	finish();
	assert_int_equal(out(), 0);
}

static void
polling(void **state)
{
	struct fake_setup setup = {.poll_us = 50};

	begin(&setup);
	for (unsigned round = 0; round < 2; round++) {
		fake.poll_ends = 0; /* the first request after a while is not waited for */
		ask_data(BLKIF_OP_READ, 0, DATA, 1);
		push();
		finish();
		fake.poll_ends = 1;
		for (unsigned i = 0; i < 10; i++)
			ask_data(BLKIF_OP_READ, 0, DATA + i, 1);
		push();
		/* All was done within that one event. */
		hear();
		assert_int_equal(out(), 0);
		assert_int_equal(xpv_counter_get(&fake.stats.events), 2 * (round + 1));
		fake.now += 50000;
	}
}

static void
polling_is_given_up(void **state)
{
	struct fake_setup setup = {.poll_us = 50};

	begin(&setup);
	fake.poll_ends = 1;
	for (unsigned i = 0; i < 3; i++) {
		fake.now += 50000;
		ask_data(BLKIF_OP_READ, 0, DATA, 1);
		push();
		assert_int_equal(fake.nrunning, 1);
		finish();
	}
}

/* A guest that always has another request. */
static void
ask_for_more(const struct image_io *io)
{
	hear();
	if (out() < 16)
		ask_data(BLKIF_OP_READ, 0, DATA, 1);
	fake_sring()->req_prod = guest.req_prod;
}

static void
polling_ends_for_the_loop(void **state)
{
	struct fake_setup setup = {.poll_us = 1000};

	begin(&setup);
	ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push();
	finish();
	fake.poll_ends = 1;
	fake.performed = ask_for_more;
	ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push(); /* and comes back */
	fake.performed = NULL;
	finish();
	assert_int_equal(out(), 0);
}

/* The same with a disk that takes no time. */
static void
an_instant_image_leaves_time_for_the_loop(void **state)
{
	begin(&ways[2]);
	fake.push_ends = VBD_MAX_REQUESTS;
	fake.performed = ask_for_more;
	ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push(); /* and comes back */
	fake.performed = NULL;
	event_base_loop(fake.base, EVLOOP_NONBLOCK); /* goes on */
	finish();
	assert_int_equal(out(), 0);
}

/* ---- ends ---- */

static void
quiesce(void **state)
{
	for (unsigned way = 0; way < WAYS; way++) {
		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		for (unsigned i = 0; i < 8; i++)
			ask_data(i % 2, 0, DATA + i * 20, 20);
		ask_data(BLKIF_OP_WRITE_BARRIER, 0, DATA, 1); /* held */
		ask_data(BLKIF_OP_READ, 0, DATA + 300, 1);    /* not even taken */
		push();
		vbd_queue_quiesce(fake.queue);
		assert_int_equal(fake.drained, 0);
		fake_image_ends(7);
		assert_int_equal(fake.drained, 0);
		fake_settle();
		assert_true(fake.drained > 0);
		hear();
		assert_int_equal(out(), 1);
		ask_data(BLKIF_OP_READ, 0, DATA + 301, 1);
		push();
		fake_settle();
		hear();
		assert_int_equal(out(), 2);
		/* The next worker goes on. */
		fake_vbd_stop(true);
		assert_true(fake_vbd_start(true));
		fake_settle();
		hear();
		assert_int_equal(out(), 0);
	}
}

static void
quiesce_when_idle(void **state)
{
	begin(&ways[0]);
	vbd_queue_quiesce(fake.queue);
	assert_int_equal(fake.drained, 1);
}

/* The journal is of another version, or gone; the last worker had answered all. */
static void
adopted(void **state)
{
	struct fake_setup setup = {.live = true, .start = 777, .ring_order = 1};
	uint64_t id;

	begin(&setup);
	id = ask_data(BLKIF_OP_READ, 0, DATA, 1);
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	id = ask_data(BLKIF_OP_READ, 0, DATA, 1);
	vbd_queue_quiesce(fake.queue);
	push();
	fake_vbd_stop(true);
	fake.connection.domid++; /* to make the journal another's */
	assert_false(journal_match(fake.journal, &fake.connection));
	fake.connection.domid--;
	assert_true(fake_vbd_start(true));
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
	/* Killed before the queue's journal began. */
	fake_vbd_stop(true);
	id = ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push();
	fake.connection.domid++;
	assert_false(journal_match(fake.journal, &fake.connection));
	fake.connection.domid--;
	assert_false(journal_match(fake.journal, &fake.connection));
	assert_true(fake_vbd_start(true));
	finish();
	assert_status(id, BLKIF_RSP_OKAY);
}

static void
nonsense_in_the_journal(void **state)
{
	begin(&ways[0]);
	for (unsigned i = 0; i < 3; i++)
		ask_data(BLKIF_OP_READ, 0, DATA, 1);
	push();
	journal_publish(journal_queue(fake.journal, 0), 2);
	fake_vbd_stop(true);
	assert_false(fake_vbd_start(true));
}

/* Requests of every kind, the worker killed at any call it makes: each is answered once. */
static void
random_request(void)
{
	unsigned slot = (unsigned)rand() % 32, pages = 1 + (unsigned)rand() % (rand() % 4 ? 3 : 14);
	unsigned page = DATA + slot * 14;

	switch (rand() % 10) {
	case 0:
		ask_plain(BLKIF_OP_FLUSH_DISKCACHE);
		break;
	case 1:
		ask_data(BLKIF_OP_WRITE_BARRIER, slot * 112, page, pages % 12);
		break;
	case 2:
		ask_discard(8 * 1000, 8, false);
		break;
	case 3:
		ask_data(BLKIF_OP_READ, UINT64_MAX, page, 1);
		break;
	default:
		ask_data(rand() % 2, slot * 112, page, pages);
		break;
	}
}

static bool
worker_moves(void)
{
	if (setjmp(fake.killed) != 0)
		return false;
	switch (rand() % 4) {
	case 0:
		push();
		break;
	case 1:
		fake_event();
		break;
	default:
		fake_image_ends(1 + (unsigned)rand() % 8);
		break;
	}
	return true;
}

static bool
next_worker(void)
{
	if (setjmp(fake.killed) != 0)
		return false;
	fake.dies_after = rand() % 3 == 0 ? 1 + (unsigned)rand() % 20 : 0;
	assert_true(fake_vbd_start(true));
	fake.dies_after = 0;
	return true;
}

static void
killed_at_any_call(void **state)
{
	unsigned kills = 0;

	for (unsigned way = 0; way < WAYS; way++) {
		if (way > 0)
			fake_vbd_end();
		begin(&ways[way]);
		fake.choose = at_random;
		srand(11 + way);
		for (unsigned turn = 0; turn < 300; turn++) {
			unsigned room = fake_ring_size() - out();

			for (unsigned n = (unsigned)rand() % 16; n > 0 && room > 0; n--, room--)
				random_request();
			fake.push_ends = rand() % 4 == 0 ? 3 : 0;
			fake.dies_after = rand() % 4 == 0 ? 1 + (unsigned)rand() % 30 : 0;
			if (!worker_moves()) {
				do {
					kills++;
					fake_vbd_stop(rand() % 2);
				} while (!next_worker());
			}
			fake.dies_after = 0;
			hear();
		}
		finish();
		assert_int_equal(out(), 0);
		assert_int_equal(fake.broken, 0);
		assert_int_equal(xpv_counter_get(&fake.stats.inflight), 0);
	}
	assert_in_range(kills, 60, 10000);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(reads_and_writes),
	    TEST(parts_of_pages),
	    TEST(order_of_steps),
	    TEST(barrier),
	    TEST(barrier_without_grants),
	    TEST(instant_image),
	    TEST(buffers_are_short),
	    TEST(index_wraps),
	    TEST(events_are_asked_for),
	    TEST(errors_stay_where_they_are),
	    TEST(steps_end_with_an_error),
	    TEST(read_only),
	    TEST(size_changes),
	    TEST(more_requests_than_the_ring_holds),
	    TEST(a_full_ring),
	    TEST(bogus_segments),
	    TEST(unknown_operations),
	    TEST(what_was_not_offered),
	    TEST(revoked_meanwhile),
	    TEST(pages_are_back_when_answered),
	    TEST(pages_to_be_written_are_read_only),
	    TEST(entries_change),
	    TEST(throttled),
	    TEST(throttle_is_lifted),
	    TEST(polling),
	    TEST(polling_is_given_up),
	    TEST(polling_ends_for_the_loop),
	    TEST(an_instant_image_leaves_time_for_the_loop),
	    TEST(quiesce),
	    TEST(quiesce_when_idle),
	    TEST(adopted),
	    TEST(nonsense_in_the_journal),
	    TEST(killed_at_any_call),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
