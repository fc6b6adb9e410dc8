/* SPDX-License-Identifier: BSD-2-Clause */

/* A ring of xen-blkbackd whose guest does what the input says: requests of any kind, indexes that
 * jump, bytes anywhere in the ring's pages and in lists of segments, grants that come and go; with
 * a disk that ends its work when the input says, and workers killed meanwhile. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#include "../unit/fake_vbd.h"

#define DATA VBD_MAX_RING_PAGES
#define LIST (FAKE_PAGES - 8)

static struct input *choices;

static unsigned
choose(unsigned below)
{
	return take_byte(choices) % below;
}

static int
status(const struct image_io *io)
{
	static const int errors[] = {0, 0, 0, -5, -95, -28};

	return errors[take_byte(choices) % 6];
}

/* Well-formed, but for what the input changes. */
static void
ask(struct input *in)
{
	static const uint8_t operations[] = {BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER,
	    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_DISCARD, 7};
	uint8_t flags = take_byte(in), count = take_byte(in);
	struct vbd_request r = {
	    .operation = operations[flags % 6],
	    .indirect = (flags & 0x80) != 0,
	    .secure = (flags & 0x40) != 0,
	    .nr_segments = (flags & 0x80) != 0 ? count * 2 : count % 13,
	    .id = take_byte(in),
	    .sector = take_byte(in) * 40ull,
	    .nr_sectors = count,
	};
	unsigned page = DATA + take_byte(in);

	for (unsigned i = 0; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++)
		r.segments[i] = (struct blkif_request_segment){fake_gref(page + i), 0, 7};
	for (unsigned i = 0; i < BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST; i++)
		r.descriptors[i] = fake_gref(LIST + i);
	fake_write_request(fake_entry(fake_sring()->req_prod), &r);
	if (flags & 0x20)
		fake_entry(fake_sring()->req_prod)[take_byte(in) % 108] = take_byte(in);
	fake_sring()->req_prod++;
}

static void
lists(struct input *in)
{
	struct blkif_request_segment *segments =
	    (struct blkif_request_segment *)(void *)fake_page(LIST);
	unsigned first = take_byte(in);

	for (unsigned i = 0; i < VBD_MAX_SEGMENTS; i++)
		segments[i] =
		    (struct blkif_request_segment){fake_gref(DATA + (first + i) % 300), 0, 7};
	segments[take_byte(in)].last_sect = take_byte(in);
	segments[take_byte(in)].gref = take_u32(in);
}

/* Each of these must hold between any two steps. */
static void
check_books(void)
{
	const struct journal_queue *q = journal_queue(fake.journal, 0);
	uint64_t inflight;

	/* A disk that is done at once is left for the loop now and then. */
	for (unsigned i = 0; i < 16 && fake.nsubmitted > 0; i++)
		event_base_loop(fake.base, EVLOOP_NONBLOCK);
	inflight = xpv_counter_get(&fake.stats.inflight);
	check(inflight <= fake_ring_size());
	check(journal_taken(q) - journal_answered(q) <= fake_ring_size());
	check(fake.nsubmitted == 0 || fake.broken);
	check(fake.nrunning <= inflight || fake.broken);
	check(fake.mapped <=
	      fake.config.cache_pages + (fake.setup.lending ? fake.config.buffer_pages : 0));
	check(fake.log_lines <= 200);
}

/* A kill, and the next worker: at any call that it makes. */
static void
replace(struct input *in)
{
	uint8_t how = take_byte(in);

	if (fake.broken)
		return;
	fake_vbd_stop((how & 1) != 0);
	if (setjmp(fake.killed) != 0)
		fake_vbd_stop(true);
	else
		fake.dies_after = how / 8;
	check(fake_vbd_start(true));
	fake.dies_after = 0;
}

static void
step(struct input *in)
{
	switch (take_byte(in) % 12) {
	case 0:
	case 1:
	case 2:
		ask(in);
		break;
	case 3:
		fake_event();
		break;
	case 4:
	case 5:
		fake_image_ends(1 + take_byte(in) % 8);
		break;
	case 6:
		fake.memory[take_u32(in) % ((size_t)XPV_PAGE_SIZE << fake.setup.ring_order)] =
		    take_byte(in);
		break;
	case 7:
		fake_sring()->req_prod += take_byte(in);
		break;
	case 8:
		lists(in);
		break;
	case 9:
		fake.revoked[DATA + take_u32(in) % (FAKE_PAGES - DATA)] ^= true;
		break;
	case 10:
		replace(in);
		break;
	case 11:
		fake.push_ends = take_byte(in) % 4;
		fake.poll_ends = take_byte(in) % 4;
		break;
	}
}

/* All pages have come back: there are enough for the largest request. */
static void
check_pages(void)
{
	struct blkif_request_segment *segments =
	    (struct blkif_request_segment *)(void *)fake_page(LIST);
	struct vbd_request r = {.operation = BLKIF_OP_READ,
	    .indirect = true,
	    .nr_segments = VBD_MAX_SEGMENTS,
	    .descriptors = {fake_gref(LIST)}};

	memset(fake.revoked, 0, sizeof(fake.revoked));
	for (unsigned i = 0; i < VBD_MAX_SEGMENTS; i++)
		segments[i] = (struct blkif_request_segment){fake_gref(DATA + i), 0, 7};
	fake_write_request(fake_entry(fake_sring()->req_prod), &r);
	fake_sring()->req_prod++;
	fake_event();
	check(fake.nrunning == 1 || fake.broken);
}

static int
failed(const struct image_io *io)
{
	return -EIO;
}

/* Once all has ended nothing is held any more, and the next worker finds nothing to do again. */
static void
check_end(void)
{
	fake.push_ends = fake.poll_ends = 0;
	fake_event();
	fake_settle();
	if (!fake.broken)
		check_pages();
	fake.status = failed; /* a megabyte would take its time */
	vbd_queue_quiesce(fake.queue);
	fake_settle();
	if (fake.broken)
		return;
	check(fake.drained > 0);
	check(xpv_counter_get(&fake.stats.inflight) == 0);
	fake_vbd_stop(true);
	fake_sring()->req_prod = fake_sring()->rsp_prod;
	check(fake_vbd_start(true));
	check(fake.nrunning == 0);
	check(!fake.broken);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t features = take_byte(&in);
	struct fake_setup setup = {
	    .abi = (features & 1) != 0 ? VBD_ABI_X86_32 : VBD_ABI_X86_64,
	    .ring_order = (features & 2) != 0,
	    .persistent = (features & 4) != 0,
	    .read_only = (features & 8) != 0,
	    .cache_pages = (features & 16) != 0 ? 20 : 300,
	    .buffer_pages = VBD_MAX_SEGMENTS,
	    .sector_size = (features & 32) != 0 ? 4096 : 512,
	    .poll_us = (features & 64) != 0 ? 20 : 0,
	    .lending = (features & 128) != 0,
	};

	choices = &in;
	fake_vbd_begin(&setup);
	fake.choose = choose;
	fake.status = status;
	check(fake_vbd_start(false));
	while (in.left > 0 && !fake.broken) {
		step(&in);
		check_books();
	}
	check_end();
	fake_vbd_end();
	return 0;
}
