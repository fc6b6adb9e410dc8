/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_DISK_H
#define BLKBACK_DISK_H

#include <sys/queue.h>

#include <xenpv/supervisor.h>
#include <xenpv/xenbus.h>

#include "blkback.h"
#include "claim.h"
#include "device.h"
#include "held.h"
#include "offer.h"
#include "settings.h"

struct event;

/* Between disk.c, which leads one disk through its life, and disks.c, which has them all. */

enum worker_phase {
	WORKER_NONE,
	WORKER_OPENING, /* or about to be restarted */
	WORKER_OPEN,
	WORKER_CONNECTING,
	WORKER_SERVING,
};

enum failure {
	NOT_FAILED,
	FAILED_IMAGE,	 /* before it ever served: the toolstack is told, and takes it away */
	FAILED_FRONTEND, /* what it offered: closed, until it begins anew (Initialising) */
	FAILED,		 /* closed, until it is offered anew */
};

struct disk {
	TAILQ_ENTRY(disk) entry;
	struct disks *all;
	const struct vbd_class *class;
	uint32_t domid, vdev;
	char name[48]; /* "3/xvda" */
	char dir[96];
	char journal[256];

	struct xpv_backend *backend;
	struct claim *claim;
	struct vbd_settings settings;
	struct vbd_settings served;  /* those that the frontend was last served by */
	struct vbd_settings refused; /* the toolstack's wish that this frontend cannot have */
	struct vbd_limits limits;
	struct vbd_medium medium;
	/* As the frontend knows them. */
	uint64_t described_bytes;
	uint32_t described_sector_size;

	bool ours;	 /* not the kernel's any more */
	bool offered;	 /* what this image can is in xenstore */
	bool live;	 /* the frontend uses its rings with us, or with whom we go on for */
	bool known;	 /* "connection" is of the frontend's present rings */
	bool proven;	 /* was Connected: an image that is away is waited for */
	bool renew;	 /* the worker is of yesterday: another one is needed */
	bool ending;	 /* the worker was told to stop */
	bool lost;	 /* the toolstack removed the directory */
	bool made_anew;	 /* and made it again */
	bool held;	 /* a timer is set for the next start of a worker */
	bool complained; /* about an image that does not fit */
	enum failure failure;
	char why[256]; /* the image cannot be opened, if the worker has said so */
	struct vbd_connection connection;

	struct xpv_shared *shared;
	struct vbd_stats *stats;
	struct xpv_worker *worker;
	enum worker_phase phase;
	struct held sockets;
	struct vbd_device_args args;
	uint64_t started_ns, peer_logged_ns;
	unsigned fresh_starts; /* of the frontend, after FAILED_FRONTEND */
	struct event *step, *hold;
};

struct vbd_class {
	struct disks *all;
	char name[32];
	struct xpv_discovery *discovery;
};

#define CLASSES_MAX 4

struct disks {
	struct event_base *base;
	struct xpv_store *store;
	const struct vbd_config *config;
	struct vbd_class classes[CLASSES_MAX];
	unsigned nclasses;
	TAILQ_HEAD(, disk) list;

	bool stopping;
	void (*stopped)(void *arg);
	void *stopped_arg;
};

/* ---- disk.c ---- */

/* A disk in the list of all; nothing happens with it before disk_begin(). NULL: no memory. */
struct disk *disk_new(
    const struct vbd_class *class, const char *dir, uint32_t domid, uint32_t vdev);

/* The directory is there, for the first time or made anew. */
void disk_begin(struct disk *disk);
void disk_free(struct disk *disk);

/* Have the disk's next step done: not at once, since the callbacks that lead here come from what
 * that may free. */
void disk_look_again(struct disk *disk);

/* The toolstack has written something. */
void disk_refresh_settings(struct disk *disk);
void disk_refresh_limits(struct disk *disk);

void disk_end_worker(struct disk *disk);

/* For people. */
const char *disk_state(const struct disk *disk);

/* ---- disks.c ---- */

void disks_tell_systemd(const struct disks *all);

/* A disk has no worker any more: was it the last? */
void disks_stop_if_done(struct disks *all);

#endif
