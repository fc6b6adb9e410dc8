/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * Measures a virtual disk as its frontend: one ring, persistent grants, indirect descriptors, and
 * nothing behind it. What a filesystem, ublk or NBD cost is not in it, so it tells what the backend
 * can do. Runs in a guest whose disk nobody else has, in a session of xenloop(1) as on a real Xen.
 *
 *   blkif_load VDEV randread|read|write BYTES DEPTH MILLISECONDS
 *
 * Prints requests per second.
 */

#include <err.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>
#include <xen/xen.h>
#include <xen/io/protocols.h>
#include <xen/io/ring.h>

/* What the headers' macros expect; their pairs are the backend's. */
#define xen_mb()  __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)

#include <xen/io/blkif.h>

#define PAGE	   4096u
#define DEPTH_MAX  32u /* a ring of one page */
#define PAGES_MAX  64u /* of a request */
#define WARM_UP_MS 100
#define PATIENCE_S 30

static struct xs_handle *store;
static xenevtchn_handle *events;
static xengntshr_handle *shares;
static evtchn_port_t port;
static char front_dir[64], *back_dir;
static uint32_t back_domid;

static blkif_front_ring_t ring;
static uint32_t ring_gref;
/* A request's own pages, by its slot. */
static uint32_t data_grefs[DEPTH_MAX * PAGES_MAX], indirect_grefs[DEPTH_MAX];
static struct blkif_request_segment *indirect[DEPTH_MAX];
static unsigned free_slots[DEPTH_MAX], nfree;

static enum { RANDREAD, READ, WRITE } workload;
static unsigned block, pages, depth;
static uint64_t sectors, next_sector;

/* ---- xenstore ---- */

static char *
get(const char *dir, const char *node)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, node);
	return xs_read(store, XBT_NULL, path, NULL);
}

static uint64_t
get_number(const char *dir, const char *node)
{
	char *text = get(dir, node);
	uint64_t number = text != NULL ? strtoull(text, NULL, 10) : 0;

	free(text);
	return number;
}

static void
set(const char *node, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", front_dir, node);
	if (!xs_write(store, XBT_NULL, path, text, (unsigned)strlen(text)))
		err(EX_UNAVAILABLE, "%s", path);
}

static void
set_number(const char *node, unsigned number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	set(node, text);
}

static void
wait_for_backend(unsigned state)
{
	for (unsigned i = 0; i < PATIENCE_S * 200; i++) {
		if (get_number(back_dir, "state") == state)
			return;
		usleep(5000);
	}
	errx(EX_UNAVAILABLE, "the backend does not come to state %u", state);
}

/* ---- the connection ---- */

static void
share(void)
{
	void *page = xengntshr_share_pages(shares, back_domid, 1, &ring_gref, 1);

	if (page == NULL)
		err(EX_UNAVAILABLE, "a page for the ring");
	SHARED_RING_INIT((blkif_sring_t *)page);
	FRONT_RING_INIT(&ring, (blkif_sring_t *)page, PAGE);
	if (xengntshr_share_pages(shares, back_domid, (int)(depth * pages), data_grefs, 1) == NULL)
		err(EX_UNAVAILABLE, "pages for data");
	for (unsigned i = 0; i < depth; i++) {
		indirect[i] = xengntshr_share_pages(shares, back_domid, 1, &indirect_grefs[i], 1);
		if (indirect[i] == NULL)
			err(EX_UNAVAILABLE, "pages for descriptors");
		free_slots[nfree++] = i;
	}
}

static void
open_disk(const char *vdev)
{
	char *text;

	snprintf(front_dir, sizeof(front_dir), "device/vbd/%.10s", vdev);
	store = xs_open(0);
	events = xenevtchn_open(NULL, 0);
	shares = xengntshr_open(NULL, 0);
	if (store == NULL || events == NULL || shares == NULL)
		err(EX_UNAVAILABLE, "Xen: run this in a guest: xenloop run --domain guest");
	back_dir = get(front_dir, "backend");
	if (back_dir == NULL)
		errx(EX_UNAVAILABLE, "there is no disk %s", vdev);
	text = get(front_dir, "backend-id");
	back_domid = text != NULL ? (uint32_t)strtoul(text, NULL, 10) : 0;
	free(text);
}

static void
connect_disk(void)
{
	int bound;

	set_number("state", 1);
	wait_for_backend(2);
	if (block > BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE &&
	    get_number(back_dir, "feature-max-indirect-segments") < pages)
		errx(EX_UNAVAILABLE, "the backend takes no requests of %u bytes", block);
	share();
	bound = xenevtchn_bind_unbound_port(events, back_domid);
	if (bound < 0)
		err(EX_UNAVAILABLE, "an event channel");
	port = (evtchn_port_t)bound;
	set_number("ring-ref", ring_gref);
	set_number("event-channel", port);
	set("protocol", XEN_IO_PROTO_ABI_X86_64);
	set_number("feature-persistent", 1);
	set_number("state", 3);
	wait_for_backend(4);
	set_number("state", 4);
	sectors = get_number(back_dir, "sectors");
	if (sectors < block / 512)
		errx(EX_UNAVAILABLE, "the disk is too small");
}

static void
disconnect(void)
{
	set_number("state", 5);
	wait_for_backend(5);
	set_number("state", 6);
	wait_for_backend(6);
}

/* ---- requests ---- */

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t
choose_sector(void)
{
	static uint64_t seed = 88172645463325252;
	uint64_t blocks = sectors / (block / 512), chosen;

	if (workload != RANDREAD) {
		chosen = next_sector++ % blocks;
	} else { /* xorshift */
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		chosen = seed % blocks;
	}
	return chosen * (block / 512);
}

static void
fill_segments(struct blkif_request_segment *segments, unsigned slot)
{
	for (unsigned i = 0; i < pages; i++)
		segments[i] = (struct blkif_request_segment){
		    .gref = data_grefs[slot * pages + i], .first_sect = 0, .last_sect = 7};
}

static void
ask(void)
{
	uint8_t operation = workload == WRITE ? BLKIF_OP_WRITE : BLKIF_OP_READ;
	blkif_request_t *request = RING_GET_REQUEST(&ring, ring.req_prod_pvt++);
	unsigned slot = free_slots[--nfree];

	if (pages <= BLKIF_MAX_SEGMENTS_PER_REQUEST) {
		request->operation = operation;
		request->nr_segments = (uint8_t)pages;
		request->handle = 0;
		request->id = slot;
		request->sector_number = choose_sector();
		fill_segments(request->seg, slot);
	} else {
		blkif_request_indirect_t *long_one = (blkif_request_indirect_t *)request;

		long_one->operation = BLKIF_OP_INDIRECT;
		long_one->indirect_op = operation;
		long_one->nr_segments = (uint16_t)pages;
		long_one->id = slot;
		long_one->sector_number = choose_sector();
		long_one->handle = 0;
		long_one->indirect_grefs[0] = indirect_grefs[slot];
		fill_segments(indirect[slot], slot);
	}
}

static unsigned
take_answers(void)
{
	RING_IDX end = ring.sring->rsp_prod;
	unsigned count = 0;

	xen_rmb();
	for (; ring.rsp_cons != end; ring.rsp_cons++, count++) {
		const blkif_response_t *response = RING_GET_RESPONSE(&ring, ring.rsp_cons);

		if (response->status != BLKIF_RSP_OKAY || response->id >= depth)
			errx(EX_SOFTWARE, "a request failed: %d", response->status);
		free_slots[nfree++] = (unsigned)response->id;
	}
	return count;
}

static void
wait_for_event(void)
{
	struct pollfd fd = {.fd = xenevtchn_fd(events), .events = POLLIN};
	xenevtchn_port_or_error_t pending;

	if (poll(&fd, 1, PATIENCE_S * 1000) != 1)
		errx(EX_SOFTWARE, "no answer within %u s", PATIENCE_S);
	pending = xenevtchn_pending(events);
	if (pending < 0 || xenevtchn_unmask(events, (evtchn_port_t)pending) != 0)
		err(EX_OSERR, "event channel");
}

/* Keeps "depth" requests under way; how many were answered. */
static uint64_t
load(uint64_t duration_ns)
{
	uint64_t begun = now_ns(), answered = 0;
	int notify, more;

	while (now_ns() - begun < duration_ns) {
		while (nfree > 0)
			ask();
		RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);
		if (notify && xenevtchn_notify(events, port) != 0)
			err(EX_OSERR, "notify");
		answered += take_answers();
		if (nfree > 0)
			continue;
		RING_FINAL_CHECK_FOR_RESPONSES(&ring, more);
		if (!more)
			wait_for_event();
	}
	return answered;
}

static void
finish(void)
{
	int more;

	while (nfree < depth) {
		take_answers();
		RING_FINAL_CHECK_FOR_RESPONSES(&ring, more);
		if (!more && nfree < depth)
			wait_for_event();
	}
}

static void
parse(char *argv[])
{
	workload = strcmp(argv[2], "randread") == 0 ? RANDREAD
		   : strcmp(argv[2], "read") == 0   ? READ
						    : WRITE;
	block = (unsigned)strtoul(argv[3], NULL, 10);
	depth = (unsigned)strtoul(argv[4], NULL, 10);
	pages = block / PAGE;
	if (block % PAGE != 0 || pages < 1 || pages > PAGES_MAX || depth < 1 || depth > DEPTH_MAX)
		errx(EX_USAGE, "blocks of 4096 to %u bytes, a depth of 1 to %u", PAGES_MAX * PAGE,
		    DEPTH_MAX);
}

int
main(int argc, char *argv[])
{
	uint64_t begun, answered;

	if (argc != 6)
		errx(EX_USAGE,
		    "usage: blkif_load VDEV randread|read|write BYTES DEPTH MILLISECONDS");
	parse(argv);
	open_disk(argv[1]);
	connect_disk();
	load(UINT64_C(1000000) * WARM_UP_MS);
	begun = now_ns();
	answered = load(strtoull(argv[5], NULL, 10) * 1000000);
	printf("%.0f\n", (double)answered * 1e9 / (double)(now_ns() - begun));
	finish();
	disconnect();
	return EX_OK;
}
