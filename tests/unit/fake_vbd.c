/* SPDX-License-Identifier: BSD-2-Clause */
#include "fake_vbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenpv/log.h>

struct xpv_gntdev {
	int memory; /* a file: what is mapped is the guest's page itself */
};
struct xpv_evtchn {
	int unused;
};

struct fake_vbd fake;
static struct xpv_gntdev gntdev = {-1};
static struct xpv_evtchn evtchn;

int __wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg);
void __wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e);
int __wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port);
void *__wrap_xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable);
int __wrap_xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count);
int __wrap_xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count);
bool __wrap_xpv_gntdev_can_copy(struct xpv_gntdev *g);
void __wrap_image_submit(struct image_queue *q, struct image_io *io);
bool __wrap_image_push(struct image_queue *q);
bool __wrap_image_poll(struct image_queue *q);
uint64_t __wrap_xpv_now_ns(void);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

void
fake_vbd_fail(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	abort();
}

/* A place where a worker can die. */
static void
mortal(void)
{
	if (fake.dies_after > 0 && --fake.dies_after == 0)
		longjmp(fake.killed, 1);
}

static unsigned
choose(unsigned below)
{
	return fake.choose != NULL ? fake.choose(below) : 0;
}

/* ---- event channel, clock, log ---- */

int
__wrap_xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg)
{
	must(port == FAKE_PORT && !fake.listening);
	fake.listening = true;
	fake.handler = handler;
	fake.handler_arg = arg;
	return 0;
}

void
__wrap_xpv_evtchn_unlisten(struct xpv_evtchn *e)
{
	fake.listening = false;
}

int
__wrap_xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port)
{
	must(port == FAKE_PORT);
	mortal();
	fake.notifies++;
	return 0;
}

uint64_t
__wrap_xpv_now_ns(void)
{
	mortal();
	return fake.now += 1000;
}

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	fake.log_lines += level <= XPV_LOG_WARNING;
}

/* ---- the guest's memory ---- */

static bool
granted(uint32_t gref)
{
	return gref >= FAKE_GREF && gref < FAKE_GREF + FAKE_PAGES &&
	       !fake.revoked[gref - FAKE_GREF];
}

void *
__wrap_xpv_gntdev_map(
    struct xpv_gntdev *g, uint32_t domid, const uint32_t *grefs, unsigned count, bool writable)
{
	uint8_t *base;

	mortal();
	must(domid == FAKE_DOMID && count > 0 && count <= VBD_MAX_SEGMENTS);
	must(fake.setup.persistent || fake.setup.lending);
	fake.maps++;
	for (unsigned i = 0; i < count; i++) {
		if (!granted(grefs[i]) || (writable && fake.read_only[grefs[i] - FAKE_GREF])) {
			errno = EINVAL;
			return NULL;
		}
	}
	base = mmap(
	    NULL, (size_t)count * XPV_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(base != MAP_FAILED);
	for (unsigned i = 0; i < count; i++)
		must(mmap(base + (size_t)i * XPV_PAGE_SIZE, XPV_PAGE_SIZE,
			 PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, g->memory,
			 (off_t)(grefs[i] - FAKE_GREF) * XPV_PAGE_SIZE) != MAP_FAILED);
	fake.mapped += count;
	return base;
}

int
__wrap_xpv_gntdev_unmap(struct xpv_gntdev *g, void *base, unsigned count)
{
	must(count <= fake.mapped);
	fake.mapped -= count;
	return munmap(base, (size_t)count * XPV_PAGE_SIZE);
}

int
__wrap_xpv_gntdev_copy(struct xpv_gntdev *g, struct xpv_copy *copies, unsigned count)
{
	bool failed = false;

	mortal();
	must(!fake.setup.lending);
	fake.copies++;
	for (unsigned i = 0; i < count; i++) {
		struct xpv_copy *c = &copies[i];

		must(c->domid == FAKE_DOMID);
		must(c->length > 0 && (unsigned)c->offset + c->length <= XPV_PAGE_SIZE);
		c->status = granted(c->gref) ? 0 : -3;
		if (c->status == 0 && c->to_foreign && fake.read_only[c->gref - FAKE_GREF])
			c->status = -3;
		failed |= c->status != 0;
		if (c->status != 0)
			continue;
		if (c->to_foreign)
			memcpy(fake_page(c->gref - FAKE_GREF) + c->offset, c->local, c->length);
		else
			memcpy(c->local, fake_page(c->gref - FAKE_GREF) + c->offset, c->length);
	}
	return failed ? -1 : 0;
}

bool
__wrap_xpv_gntdev_can_copy(struct xpv_gntdev *g)
{
	return !fake.setup.lending;
}

/* ---- the image ---- */

void
__wrap_image_submit(struct image_queue *q, struct image_io *io)
{
	mortal();
	must(fake.nsubmitted + fake.nrunning < fake_ring_size());
	fake.submitted[fake.nsubmitted++] = io;
}

static void
transfer(const struct image_io *io)
{
	uint8_t *at = fake.disk + io->offset;
	uint64_t bytes = 0;

	for (int i = 0; i < io->iovcnt; i++)
		bytes += io->iov[i].iov_len;
	must(bytes == io->length);
	for (int i = 0; i < io->iovcnt; i++) {
		if (io->op == IMAGE_READ)
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		else
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		at += io->iov[i].iov_len;
	}
}

static void
perform(struct image_io *io)
{
	if (io->op != IMAGE_FLUSH) {
		must(io->offset <= FAKE_DISK_BYTES && io->length <= FAKE_DISK_BYTES - io->offset);
		must(io->length > 0);
		must(io->offset % fake.info.sector_size == 0);
		must(io->length % fake.info.sector_size == 0);
	}
	must(io->op == IMAGE_READ || io->op == IMAGE_FLUSH || !fake.setup.read_only);
	io->status = fake.status != NULL ? fake.status(io) : 0;
	if (io->status == 0 && io->op == IMAGE_DISCARD)
		memset(fake.disk + io->offset, 0, io->length);
	else if (io->status == 0 && io->op != IMAGE_FLUSH)
		transfer(io);
	if (fake.performed != NULL)
		fake.performed(io);
}

static bool
end_some(unsigned count)
{
	bool any = false;

	for (; count > 0 && fake.nrunning > 0; count--) {
		unsigned which = choose(fake.nrunning);
		struct image_io *io = fake.running[which];

		/* The order is kept of those that are not chosen. */
		memmove(&fake.running[which], &fake.running[which + 1],
		    (--fake.nrunning - which) * sizeof(fake.running[0]));
		perform(io);
		vbd_queue_image_done(io, fake.queue);
		any = true;
	}
	if (any)
		vbd_queue_image_batch_done(fake.queue);
	return any;
}

bool
__wrap_image_push(struct image_queue *q)
{
	mortal();
	memcpy(&fake.running[fake.nrunning], fake.submitted,
	    fake.nsubmitted * sizeof(fake.submitted[0]));
	fake.nrunning += fake.nsubmitted;
	fake.nsubmitted = 0;
	fake.at_once = fake.push_ends;
	return fake.at_once > 0;
}

bool
__wrap_image_poll(struct image_queue *q)
{
	unsigned count = fake.at_once + fake.poll_ends;

	fake.at_once = 0;
	return end_some(count);
}

void
fake_image_ends(unsigned count)
{
	end_some(count);
}

void
fake_settle(void)
{
	do {
		event_base_loop(fake.base, EVLOOP_NONBLOCK);
	} while (end_some(VBD_MAX_REQUESTS));
	must(fake.nsubmitted == 0);
}

/* ---- the ring ---- */

static const struct {
	uint8_t entry, id, sector, segments, descriptors;
} layouts[] = {[VBD_ABI_X86_64] = {112, 8, 16, 24, 28}, [VBD_ABI_X86_32] = {108, 4, 12, 20, 24}};

blkif_sring_t *
fake_sring(void)
{
	return (blkif_sring_t *)(void *)fake.memory;
}

unsigned
fake_ring_size(void)
{
	return 32u << fake.setup.ring_order;
}

uint8_t *
fake_entry(uint32_t index)
{
	return fake.memory + 64 +
	       (size_t)(index % fake_ring_size()) * layouts[fake.setup.abi].entry;
}

void
fake_write_request(uint8_t *entry, const struct vbd_request *r)
{
	enum vbd_abi abi = fake.setup.abi;

	memset(entry, 0xee, layouts[abi].entry);
	entry[0] = r->indirect ? BLKIF_OP_INDIRECT : r->operation;
	entry[1] = r->indirect ? r->operation : (uint8_t)r->nr_segments;
	memcpy(entry + layouts[abi].id, &r->id, 8);
	memcpy(entry + layouts[abi].sector, &r->sector, 8);
	if (r->indirect) {
		memcpy(entry + 2, &r->nr_segments, 2);
		memcpy(entry + layouts[abi].descriptors, r->descriptors, sizeof(r->descriptors));
	} else if (r->operation == BLKIF_OP_DISCARD) {
		entry[1] = r->secure ? BLKIF_DISCARD_SECURE : 0;
		memcpy(entry + layouts[abi].segments, &r->nr_sectors, 8);
	} else {
		memcpy(entry + layouts[abi].segments, r->segments, sizeof(r->segments));
	}
}

void
fake_event(void)
{
	if (fake.listening)
		fake.handler(FAKE_PORT, fake.handler_arg);
}

/* ---- lives ---- */

static void
on_broken(void *arg, const char *why)
{
	fake.broken++;
	fake.why = why;
	must(fake.broken == 1);
}

static void
on_look(void *arg)
{
	fake.looks++;
}

static void
on_drained(void *arg)
{
	fake.drained++;
}

/* What is made once, as it takes its time. */
static struct {
	uint8_t *memory, *disk;
	struct event_base *base;
	struct journal *journal;
} kept;

static void
make_kept(void)
{
	char path[64];

	gntdev.memory = memfd_create("guest", MFD_CLOEXEC);
	must(gntdev.memory >= 0);
	must(ftruncate(gntdev.memory, FAKE_PAGES * XPV_PAGE_SIZE) == 0);
	kept.memory = mmap(
	    NULL, FAKE_PAGES * XPV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, gntdev.memory, 0);
	must(kept.memory != MAP_FAILED);
	kept.disk = malloc(FAKE_DISK_BYTES);
	kept.base = event_base_new();
	snprintf(path, sizeof(path), "/dev/shm/fake-vbd-%d", (int)getpid());
	kept.journal = journal_open(path);
	must(kept.disk != NULL && kept.base != NULL && kept.journal != NULL);
	unlink(path);
}

void
fake_vbd_begin(const struct fake_setup *setup)
{
	fake = (struct fake_vbd){.setup = *setup, .now = UINT64_C(1000000000000)};
	if (kept.memory == NULL)
		make_kept();
	fake.memory = kept.memory;
	fake.disk = kept.disk;
	fake.base = kept.base;
	fake.journal = kept.journal;
	memset(fake.memory, 0, VBD_MAX_RING_PAGES * XPV_PAGE_SIZE);
	SHARED_RING_INIT(fake_sring());
	if (setup->live) {
		fake_sring()->req_prod = fake_sring()->rsp_prod = setup->start;
		fake_sring()->req_event = fake_sring()->rsp_event = setup->start + 1;
	}
	atomic_store(&fake.bytes, FAKE_DISK_BYTES);
	fake.config = (struct vbd_config){
	    .cache_pages = setup->cache_pages != 0 ? setup->cache_pages : 512,
	    .buffer_pages = setup->buffer_pages != 0 ? setup->buffer_pages : 300,
	    .poll_us = setup->poll_us,
	};
	fake.info = (struct vbd_image_info){
	    .bytes = FAKE_DISK_BYTES,
	    .sector_size = setup->sector_size != 0 ? setup->sector_size : 512,
	    .flush = true,
	    .read_only = setup->read_only,
	};
	fake.connection = (struct vbd_connection){
	    .domid = FAKE_DOMID,
	    .abi = (uint8_t)setup->abi,
	    .persistent = setup->persistent,
	    .queues = 1,
	    .max_indirect = setup->less ? 0 : VBD_MAX_SEGMENTS,
	    .discard = !setup->less,
	    .secure_discard = !setup->less,
	    .ring_order = (uint16_t)setup->ring_order,
	};
	for (unsigned i = 0; i < 1u << setup->ring_order; i++)
		fake.connection.queue[0].grefs[i] = fake_gref(i);
	throttle_set(&fake.throttle, &setup->limits);
	/* Nothing of the last guest's is to be gone on with. */
	must(!journal_match(fake.journal, &fake.connection));
}

bool
fake_vbd_start(bool live)
{
	unsigned dies_after = fake.dies_after;
	struct vbd_queue_config config = {
	    .config = &fake.config,
	    .connection = &fake.connection,
	    .info = &fake.info,
	    .bytes = &fake.bytes,
	    .gntdev = &gntdev,
	    .evtchn = &evtchn,
	    .port = FAKE_PORT,
	    .ring = fake.memory,
	    .throttle = &fake.throttle,
	    .stats = &fake.stats,
	    .complained = &fake.complained,
	    .broken = on_broken,
	    .look = on_look,
	    .drained = on_drained,
	};

	fake.dies_after = 0; /* only as a queue that can be freed */
	fake.broken = 0;     /* each worker finds it out once */
	fake.connection.live = live;
	config.journal = journal_queue(fake.journal, 0);
	config.journal_matches = journal_match(fake.journal, &fake.connection);
	fake.queue = vbd_queue_new(&config);
	must(fake.queue != NULL);
	must(vbd_queue_depth(fake.queue) == fake_ring_size());
	fake.dies_after = dies_after;
	return vbd_queue_start(fake.queue, NULL, fake.base) == 0;
}

void
fake_vbd_stop(bool io_done)
{
	fake.dies_after = 0;
	for (unsigned i = 0; io_done && i < fake.nrunning; i++)
		perform(fake.running[i]);
	fake.nrunning = fake.nsubmitted = 0;
	vbd_queue_free(fake.queue);
	fake.queue = NULL;
	must(fake.mapped == 0 && !fake.listening);
}

void
fake_vbd_end(void)
{
	if (fake.queue != NULL)
		fake_vbd_stop(false);
}
