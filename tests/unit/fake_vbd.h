/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FAKE_VBD_H
#define FAKE_VBD_H

#include <setjmp.h>

#include <event2/event.h>
#include <xenpv/evtchn.h>

#include "queue.h"
#include "request.h"

/*
 * What a queue of xen-blkbackd stands on: a guest's memory, its event channel, a disk. A test
 * defines the wraps in meson.build's vbd_queue_wraps to be these. What the queue must never do ends
 * the program.
 */

#define FAKE_PAGES 640u /* of the guest; the ring's are the first */
#define FAKE_GREF  7000u
#define FAKE_DOMID 12u
#define FAKE_PORT  9u

#define FAKE_DISK_BYTES (UINT64_C(4) << 20)

#define must(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fake_vbd_fail(__FILE__, __LINE__, #condition);                             \
	} while (0)

struct fake_setup {
	enum vbd_abi abi;
	unsigned ring_order;
	bool persistent, read_only;
	bool lending;			    /* the kernel has no grant copy */
	bool less;			    /* neither indirect requests nor discard are offered */
	unsigned cache_pages, buffer_pages; /* 0: 512 and 300 */
	unsigned poll_us;
	uint32_t sector_size; /* 0: 512 */
	struct vbd_limits limits;
	uint32_t start; /* index of a live ring */
	bool live;
};

struct fake_vbd {
	struct fake_setup setup;
	uint8_t *memory;
	bool revoked[FAKE_PAGES], read_only[FAKE_PAGES];
	unsigned mapped;       /* pages now, but for the ring */
	unsigned maps, copies; /* calls */

	bool listening;
	xpv_evtchn_handler *handler;
	void *handler_arg;
	unsigned notifies, log_lines; /* warnings and errors */
	uint64_t now;

	uint8_t *disk;
	_Atomic uint64_t bytes;
	struct image_io *submitted[VBD_MAX_REQUESTS], *running[VBD_MAX_REQUESTS];
	unsigned nsubmitted, nrunning;
	/* How a test has its say; each may be NULL. */
	unsigned (*choose)(unsigned below);
	int (*status)(const struct image_io *io);
	void (*performed)(const struct image_io *io);
	unsigned push_ends, poll_ends; /* so many end as soon as pushed, or in each image_poll() */
	unsigned at_once;	       /* have been pushed and can end */

	/* After so many calls the worker is killed: back to "killed". 0: it lives. */
	unsigned dies_after;
	jmp_buf killed;

	struct vbd_queue *queue;
	struct event_base *base;
	struct journal *journal;
	struct vbd_config config;
	struct vbd_connection connection;
	struct vbd_image_info info;
	struct throttle throttle;
	struct vbd_stats stats;
	atomic_bool complained;
	unsigned broken, drained, looks;
	const char *why;
};

extern struct fake_vbd fake;

void fake_vbd_fail(const char *file, int line, const char *what) __attribute__((noreturn));

/* A new guest with a new ring; the worker is not there yet. */
void fake_vbd_begin(const struct fake_setup *setup);
/* A worker takes over; false if it refuses to. Its image is idle. */
bool fake_vbd_start(bool live);
/* It is gone, at once. Its I/O is over, and was done if "io_done". */
void fake_vbd_stop(bool io_done);
void fake_vbd_end(void);

blkif_sring_t *fake_sring(void);
unsigned fake_ring_size(void);
uint8_t *fake_entry(uint32_t index);
static inline uint8_t *
fake_page(unsigned page)
{
	return fake.memory + (size_t)page * XPV_PAGE_SIZE;
}
static inline uint32_t
fake_gref(unsigned page)
{
	return FAKE_GREF + page;
}

/* Writes an entry in the guest's layout. */
void fake_write_request(uint8_t *entry, const struct vbd_request *r);

/* An event for the worker, if it listens. */
void fake_event(void);
/* Up to "count" operations end, in any order. */
void fake_image_ends(unsigned count);
/* All ends, and what follows from it, until nothing is under way. */
void fake_settle(void);

#endif
