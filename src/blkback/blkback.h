/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_H
#define BLKBACK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <xenpv/grant.h>
#include <xenpv/stats.h>

/*
 * What the parts of xen-blkbackd share. See main.c for who runs where: disks.c and offer.c run in
 * the supervisor, device.c, queue.c and the image_*.c files in a disk's worker.
 */

#define VBD_SECTOR_SIZE                                                                            \
	512u /* blkif counts in these, whatever the disk's sector size is                          \
	      */
#define VBD_SECTOR_SHIFT   9
#define VBD_MAX_QUEUES	   16u
#define VBD_MAX_RING_ORDER 4u
#define VBD_MAX_RING_PAGES (1u << VBD_MAX_RING_ORDER)
#define VBD_MAX_REQUESTS   512u /* entries of the largest ring */
#define VBD_MAX_SEGMENTS   256u /* of one request: one page each */

/* The layout of a ring's entries, which is the frontend's choice ("protocol"). */
enum vbd_abi { VBD_ABI_X86_64, VBD_ABI_X86_32 };

/* xen-blkbackd(8) explains each. */
struct vbd_config {
	char *classes;	      /* directories of vbds below "backend", with commas: "vbd,vbd3" */
	int take;	      /* enum vbd_take */
	long queues;	      /* offered; 0: one per CPU, at most 4 */
	long ring_page_order; /* largest offered */
	long max_indirect;    /* segments of an indirect request; 0: not offered */
	bool persistent;      /* offer to keep grants mapped */
	long cache_pages;     /* of persistent grants kept mapped, per queue */
	int transfer;	      /* enum vbd_transfer */
	long buffer_pages;    /* for data that is copied, or mapped for one request, per queue */
	long poll_us;	      /* spin this long for requests before sleeping */
	bool direct;	      /* bypass the host's page cache */
	int io;		      /* enum vbd_io */
	bool discard;	      /* offer it where the image can */
	long nbd_connections;
	long iops, bytes_per_s, burst_ms; /* limits of each disk; 0: none */
	bool sandbox;
	char *user;
	char *rundir;
};

enum vbd_take {
	VBD_TAKE_SCRIPT, /* disks with script=block-xenpv */
	VBD_TAKE_ALL,
};

/* How data gets to and from pages that are not kept mapped. */
enum vbd_transfer {
	VBD_TRANSFER_COPY, /* where the kernel can; else as the other */
	VBD_TRANSFER_MAP,
};

/* Who does the I/O of files and devices. */
enum vbd_io {
	VBD_IO_AUTO,	/* the kernel if it may be, else threads */
	VBD_IO_KERNEL,	/* io_uring, or FreeBSD's AIO */
	VBD_IO_THREADS, /* of the worker's, which wait for it */
};

/* An opened image, as its worker found it. Checked by the supervisor. */
struct vbd_image_info {
	uint64_t bytes; /* a multiple of the sector size; 0: no medium */
	uint32_t sector_size, physical_sector_size;
	uint32_t discard_granularity; /* bytes; 0: no discard */
	uint32_t discard_alignment;   /* bytes */
	uint32_t max_queues;	      /* 1 to VBD_MAX_QUEUES; more cannot be started */
	bool secure_discard;
	bool flush; /* writes may sit in a cache until a flush */
	bool read_only;
};

/* What a frontend has published, checked by offer.c. */
struct vbd_connection {
	uint32_t domid;
	uint8_t abi; /* enum vbd_abi */
	bool persistent;
	bool live; /* both ends are Connected: the rings are in use, go on with them */
	uint16_t queues;
	uint16_t ring_order;
	/* What this frontend was offered: it may use no more. */
	uint16_t max_indirect; /* segments; 0: no indirect requests */
	bool discard, secure_discard;
	struct {
		uint32_t port;
		uint32_t grefs[VBD_MAX_RING_PAGES];
	} queue[VBD_MAX_QUEUES];
};

/* Of one disk, all its queues together; 0: no limit. */
struct vbd_limits {
	uint64_t iops, bytes_per_s;
	uint32_t burst_ms; /* how much unused allowance is saved up */
};

/* Counters of one queue; in memory shared with the supervisor. */
struct vbd_stats {
	xpv_counter reads, writes, flushes, barriers, discards;
	xpv_counter read_bytes, write_bytes;
	xpv_counter errors;	      /* requests the image failed */
	xpv_counter refused;	      /* requests that make no sense */
	xpv_counter inflight;	      /* gauge: taken from the ring, not answered */
	xpv_counter events, notifies; /* event channel: received, sent */
	xpv_counter mapped;	      /* gauge: pages of the frontend that are kept mapped */
	xpv_counter copied;	      /* pages copied to or from the frontend */
	xpv_counter lent;	      /* pages mapped for one request */
	xpv_counter throttled;	      /* times a limit made requests wait */
	struct xpv_histogram latency; /* taken from the ring to answered */
};

#endif
