/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_H
#define BLKFRONT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <xenpv/evtchn.h>
#include <xenpv/grant.h>
#include <xenpv/stats.h>

/*
 * What the parts of xen-blkfrontd share. See main.c for who runs where: disks.c and the attach_*.c
 * files run in the supervisor, device.c, queue.c and the io_*.c files in a disk's worker.
 */

#define BLK_SECTOR_SIZE                                                                            \
	512u /* sectors are counted in these, whatever the disk's sector size is                   \
	      */
#define BLK_SECTOR_SHIFT   9
#define BLK_MAX_QUEUES	   16u
#define BLK_MAX_RING_ORDER 4u
#define BLK_MAX_RING_PAGES (1u << BLK_MAX_RING_ORDER)
#define BLK_MAX_IO_BYTES   (1024u * 1024u)
#define BLK_MAX_IO_PAGES   (BLK_MAX_IO_BYTES / XPV_PAGE_SIZE)

enum blk_attach_choice {
	BLK_ATTACH_AUTO,
	BLK_ATTACH_UBLK,
	BLK_ATTACH_NBD,
	BLK_ATTACH_GGATE,
	BLK_ATTACH_NBD_UNIX,
};

/* xen-blkfrontd(8) explains each. */
struct blk_config {
	int attach;	   /* enum blk_attach_choice */
	char *attach_path; /* BLK_ATTACH_NBD_UNIX: of the socket */
	char *nbd_group;   /* that may connect to it; NULL: none */
	long queues;	   /* 0: one per CPU, at most 4 */
	long depth;	   /* host requests in flight per queue */
	long ring_page_order;
	long pool_pages;     /* granted data pages per queue */
	long max_io_kb;	     /* largest host request */
	long max_indirect;   /* segments per indirect request; 0: no indirect requests */
	long poll_us;	     /* spin this long for an answer before sleeping */
	bool persistent;     /* tell the backend that it may keep our grants mapped */
	bool secure_discard; /* make every discard a secure one, where the backend can */
	bool sandbox;
	char *user;
	char *rundir;
	char *devdir; /* stable names go here: /dev/xenpv */
};

/* A negotiated disk as the host is to see it. Checked by blk_geometry_valid() on both sides. */
struct blk_geometry {
	uint64_t sectors;     /* 512-byte units */
	uint32_t sector_size; /* logical, bytes */
	uint32_t physical_sector_size;
	uint32_t discard_granularity; /* bytes; 0: no discard */
	uint32_t discard_alignment;   /* bytes */
	uint16_t queues;
	uint16_t depth; /* per queue */
	uint32_t max_io_bytes;
	bool read_only;
	bool removable;
	bool cdrom;
};

/* Counters of one queue; in memory shared with the supervisor. */
struct blk_stats {
	xpv_counter reads, writes, flushes, discards;
	xpv_counter read_bytes, write_bytes;
	xpv_counter errors;	      /* requests that ended with an error */
	xpv_counter inflight;	      /* gauge: ring requests without an answer */
	xpv_counter waiting;	      /* gauge: host requests waiting for ring slots or pages */
	xpv_counter events, notifies; /* event channel: received, sent */
	struct xpv_histogram latency; /* host request accepted to answered */
};

/*
 * The connection to the backend as it outlives a worker: in memory shared by supervisor and worker.
 * While "live", rings and grants are in use by the backend, and a new worker goes on with them.
 */
struct blk_link {
	bool live;
	bool resumed; /* the domain was suspended and resumed: its ports and grants are no more */
	char backend_dir[256];
	uint16_t queues;
	uint16_t ring_order;
	uint32_t max_indirect; /* negotiated; 0: none */
	/* Any queue's thread may learn that the backend cannot do it after all. */
	atomic_bool flush, barrier, discard;
	bool secure_discard;
	bool persistent;
	struct blk_geometry geometry;
	/*
	 * Requests published per ring. Written before the ring's own index, which the peer can
	 * write too: a new worker trusts only this one.
	 */
	uint32_t req_prod[BLK_MAX_QUEUES];
};

/* What one queue gets from the supervisor; survives workers with the link. */
struct blk_queue_grants {
	struct xpv_pool pool;	   /* first BLK ring pages, then data pages */
	struct xpv_evtchn *evtchn; /* the supervisor's handle */
	uint32_t port;
};

/* False, and why, if a geometry is impossible or beyond what we serve. */
bool blk_geometry_valid(const struct blk_geometry *g, const char **why);

#endif
