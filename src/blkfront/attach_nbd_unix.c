/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_unix.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/shared.h>
#include <xenpv/supervisor.h>

#include "attach.h"
#include "messages.h"
#include "nbd_door.h"
#include "nbd_transfer.h"

/*
 * The supervisor's half of nbd-unix: each disk is an export of one NBD server on a Unix socket. The
 * door (nbd_door.h) brings clients whose handshake is done; they get a slot with a journal, and the
 * disk's worker serves them. Their descriptors stay open here, so that a worker's death breaks
 * nothing. Ours ends the connections; clients that can will come again.
 */

#define PAYLOAD_MIN   (256 * 1024) /* what nbdcopy asks for, whatever the export says */
#define PIPE_BYTES    (256 * 1024)
#define LEAVE_GRACE_S 5 /* for a client that does not take its answers */

struct client {
	bool used;
	bool with_worker;
	int fds[NBD_TRANSFER_FDS];
};

struct attachment {
	struct attachment_nbd_unix shared; /* the worker's part of it */
	LIST_ENTRY(attachment) entry;
	struct attach_params p;
	struct blk_geometry geometry;
	struct xpv_worker *worker; /* that has our BLK_MSG_ATTACH; NULL: none */
	bool offered;		   /* clients can choose it */
	bool removing;
	struct event *removed, *grace;
	struct client clients[NBD_UNIX_SLOTS];
	char node[576];
};

/* One server for all disks. */
static struct {
	struct nbd_door *door;
	LIST_HEAD(, attachment) list;
	char path[512]; /* as in a URI */
} server;

const struct attachment_nbd_unix *
attach_nbd_unix_shared(const struct attachment *a)
{
	return &a->shared;
}

/* ---- clients ---- */

static unsigned
payload_max(const struct attach_params *p)
{
	return p->max_io_bytes > PAYLOAD_MIN ? p->max_io_bytes : PAYLOAD_MIN;
}

static unsigned
count_clients(const struct attachment *a)
{
	unsigned n = 0;

	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++)
		n += a->clients[i].used;
	return n;
}

static void
end_client(struct attachment *a, unsigned slot)
{
	struct client *client = &a->clients[slot];

	if (!client->used)
		return;
	client->used = false;
	shutdown(client->fds[0], SHUT_RDWR);
	for (unsigned i = 0; i < NBD_TRANSFER_FDS; i++)
		close(client->fds[i]);
	/* Unless a worker may still have to send some of it. */
	if (!client->with_worker)
		nbd_journal_forget(a->shared.journals[slot], a->p.depth, payload_max(&a->p));
	if (a->removing && count_clients(a) == 0)
		event_active(a->removed, EV_TIMEOUT, 0);
}

static void
end_all_clients(struct attachment *a)
{
	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++)
		end_client(a, i);
}

static void
give_to_worker(struct attachment *a, unsigned slot)
{
	struct client *client = &a->clients[slot];

	if (!client->used || a->worker == NULL)
		return;
	client->with_worker = true;
	if (nbd_transfer_send(a->worker, slot, client->fds) == 0)
		return;
	/* A dead worker's clients go to the next one; one that lives and does not listen ... */
	if (errno != EPIPE) {
		xpv_warning("%s: its worker takes no client: %s", a->p.name, strerror(errno));
		end_client(a, slot);
	}
}

static bool
take_client(struct attachment *a, unsigned slot, int fd)
{
	struct client *client = &a->clients[slot];
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		return false;
	/* Room for a whole large answer; with less there are more system calls. */
	fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
	if (nbd_journal_reset(a->shared.journals[slot], a->p.depth, payload_max(&a->p), fd, -1) !=
	    0) {
		close(ends[0]);
		close(ends[1]);
		return false;
	}
	*client = (struct client){.used = true, .fds = {fd, ends[0], ends[1]}};
	return true;
}

static struct attachment *
find(uint32_t vdev)
{
	struct attachment *a;

	LIST_FOREACH (a, &server.list, entry) {
		if (a->p.vdev == vdev)
			return a;
	}
	return NULL;
}

/* A client is at the door, and believes itself connected already. */
static void
entered(uint32_t vdev, int fd, void *arg)
{
	struct attachment *a = find(vdev);
	unsigned slot = 0;

	while (a != NULL && slot < NBD_UNIX_SLOTS && a->clients[slot].used)
		slot++;
	if (a == NULL || a->removing || slot == NBD_UNIX_SLOTS || !take_client(a, slot, fd)) {
		if (a != NULL)
			xpv_info("%s: client refused: %s", a->p.name,
			    a->removing		     ? "the disk is being detached"
			    : slot == NBD_UNIX_SLOTS ? "too many connections"
						     : strerror(errno));
		close(fd);
		return;
	}
	xpv_debug("%s: connection %u of a client begins", a->p.name, slot);
	give_to_worker(a, slot);
}

/* ---- what is offered ---- */

static uint32_t
preferred_block(const struct blk_geometry *g, uint32_t largest)
{
	uint32_t block = g->physical_sector_size > 4096 ? g->physical_sector_size : 4096;

	return block < largest ? block : largest;
}

static void
offer(struct attachment *a)
{
	const struct blk_geometry *g = &a->geometry;
	struct nbd_export e = {
	    .id = a->p.vdev,
	    .bytes = g->sectors << BLK_SECTOR_SHIFT,
	    .block_min = g->sector_size,
	    .block_max = payload_max(&a->p),
	    /* Connections share nothing that could differ: what one was answered is in the backend,
	     * and a flush reaches that by way of any ring. Flush: see attach.h. */
	    .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_FLUSH,
	};

	e.block_preferred = preferred_block(g, e.block_max);
	if (g->read_only)
		e.flags |= NBD_FLAG_READ_ONLY;
	if (g->discard_granularity > 0 && !g->read_only)
		e.flags |= NBD_FLAG_SEND_TRIM;
	snprintf(e.name, sizeof(e.name), "%s", a->p.name);
	nbd_door_export(server.door, &e);
	a->offered = true;
}

static void
take_back(struct attachment *a)
{
	if (a->offered)
		nbd_door_unexport(server.door, a->p.vdev);
	a->offered = false;
}

/* ---- the attachment's operations ---- */

static bool
nbd_unix_usable(char *why, size_t size)
{
	return true;
}

static void
escape(const char *path, char *out, size_t size)
{
	size_t n = 0;

	for (const unsigned char *c = (const unsigned char *)path; *c != '\0' && n + 4 < size;
	     c++) {
		if (isalnum(*c) || strchr("/-._~", *c) != NULL)
			out[n++] = (char)*c;
		else
			n += (size_t)snprintf(out + n, size - n, "%%%02X", *c);
	}
	out[n] = '\0';
}

static int
nbd_unix_start(struct event_base *base, const struct blk_config *config)
{
	char empty_dir[256];
	const struct nbd_door_config door = {
	    .path = config->attach_path,
	    .group = config->nbd_group,
	    .user = config->user,
	    .empty_dir = empty_dir,
	    .sandbox = config->sandbox,
	};

	LIST_INIT(&server.list);
	snprintf(empty_dir, sizeof(empty_dir), "%s/empty", config->rundir);
	escape(config->attach_path, server.path, sizeof(server.path));
	server.door = nbd_door_open(base, &door, entered, NULL);
	if (server.door != NULL)
		return EX_OK;
	return errno == EINVAL ? EX_CONFIG : EX_TEMPFAIL;
}

static void
nbd_unix_end(void)
{
	nbd_door_close(server.door);
	server.door = NULL;
}

static void nbd_unix_close(struct attachment *a);

static void
on_removed(evutil_socket_t fd, short events, void *arg)
{
	struct attachment *a = arg;

	if (!a->removing)
		return;
	a->removing = false;
	event_del(a->grace);
	a->p.events->removed(a->p.arg);
}

static void
out_of_grace(evutil_socket_t fd, short events, void *arg)
{
	struct attachment *a = arg;

	xpv_notice("%s: %u NBD clients did not take their answers: their connections end now",
	    a->p.name, count_clients(a));
	end_all_clients(a);
}

static struct attachment *
nbd_unix_open(const struct attach_params *params)
{
	struct attachment *a = calloc(1, sizeof(*a));
	size_t bytes = nbd_journal_size(params->depth, payload_max(params));

	if (a == NULL)
		return NULL;
	a->p = *params;
	LIST_INSERT_HEAD(&server.list, a, entry);
	snprintf(a->node, sizeof(a->node), "nbd+unix:///%s?socket=%s", params->name, server.path);
	a->removed = evtimer_new(params->base, on_removed, a);
	a->grace = evtimer_new(params->base, out_of_grace, a);
	a->shared.limits = xpv_shared_alloc(params->shared, sizeof(*a->shared.limits));
	if (a->removed == NULL || a->grace == NULL || a->shared.limits == NULL)
		goto fail;
	/* Address space: memory is taken as clients write, and given back when they go. */
	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++) {
		a->shared.journals[i] = xpv_shared_alloc(params->shared, bytes);
		if (a->shared.journals[i] == NULL)
			goto fail;
	}
	return a;
fail:
	xpv_err("%s: NBD: %s", params->name, strerror(errno));
	nbd_unix_close(a);
	return NULL;
}

/* Any number of queues will do: connections are spread over what there is. */
static bool
nbd_unix_existing(
    const struct attachment *a, unsigned *queues, unsigned *depth, unsigned *max_io_bytes)
{
	return false;
}

static void
nbd_unix_serve(struct attachment *a, const struct blk_geometry *g, struct xpv_worker *w)
{
	const struct blk_msg_attach message = {
	    .host_queues = BLK_MAX_QUEUES,
	    .depth = a->p.depth,
	    .max_io_bytes = a->p.max_io_bytes,
	    .sectors = g->sectors,
	};

	/* Clients were told otherwise. */
	if (g->read_only != a->geometry.read_only || g->sector_size != a->geometry.sector_size)
		end_all_clients(a);
	a->geometry = *g;
	a->shared.limits->sectors = g->sectors;
	a->shared.limits->block = g->sector_size;
	a->shared.limits->read_only = g->read_only;
	/* A worker that does not take it is dead or dying: gone() follows. */
	if (xpv_worker_send(w, BLK_MSG_ATTACH, &message, sizeof(message), -1) != 0)
		return;
	a->worker = w;
	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++)
		give_to_worker(a, i);
	if (a->removing)
		xpv_worker_send(w, BLK_MSG_LEAVE, NULL, 0, -1);
}

static void
nbd_unix_serving(struct attachment *a, pid_t worker)
{
	if (a->removing)
		return;
	offer(a);
	a->p.events->ready(a->p.arg, a->node);
}

/* The connections are open still, the journals say the rest. */
static void
nbd_unix_gone(struct attachment *a)
{
	a->worker = NULL;
	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++)
		a->clients[i].with_worker = false;
}

/* Clients cannot be told. Those that come from now on see it, the others may use it. */
static int
nbd_unix_resize(struct attachment *a, uint64_t sectors, char *why, size_t size)
{
	a->geometry.sectors = sectors;
	a->shared.limits->sectors = sectors;
	if (a->offered)
		offer(a);
	return 0;
}

static const char *
nbd_unix_node(const struct attachment *a)
{
	return a->offered ? a->node : NULL;
}

static void
nbd_unix_message(struct attachment *a, uint32_t type, const void *data, size_t length)
{
	uint32_t slot;

	if (type != BLK_MSG_DISCONNECTED || length != sizeof(slot))
		return;
	memcpy(&slot, data, sizeof(slot));
	if (slot >= NBD_UNIX_SLOTS || !a->clients[slot].with_worker)
		return;
	xpv_debug("%s: connection %u of a client is over", a->p.name, slot);
	a->clients[slot].with_worker = false;
	end_client(a, slot);
}

static void
nbd_unix_cut(struct attachment *a)
{
	take_back(a);
	end_all_clients(a);
}

static void
nbd_unix_remove(struct attachment *a)
{
	take_back(a);
	a->removing = true;
	/* By way of the loop, as every callback. */
	if (count_clients(a) == 0) {
		event_active(a->removed, EV_TIMEOUT, 0);
		return;
	}
	event_add(a->grace, &(struct timeval){.tv_sec = LEAVE_GRACE_S});
	if (a->worker != NULL)
		xpv_worker_send(a->worker, BLK_MSG_LEAVE, NULL, 0, -1);
}

static void
nbd_unix_close(struct attachment *a)
{
	take_back(a);
	end_all_clients(a);
	LIST_REMOVE(a, entry);
	if (a->removed != NULL)
		event_free(a->removed);
	if (a->grace != NULL)
		event_free(a->grace);
	free(a);
}

const struct attach_ops attach_nbd_unix = {
    .name = "nbd-unix",
    .usable = nbd_unix_usable,
    .start = nbd_unix_start,
    .end = nbd_unix_end,
    .open = nbd_unix_open,
    .existing = nbd_unix_existing,
    .serve = nbd_unix_serve,
    .serving = nbd_unix_serving,
    .gone = nbd_unix_gone,
    .resize = nbd_unix_resize,
    .node = nbd_unix_node,
    .message = nbd_unix_message,
    .cut = nbd_unix_cut,
    .remove = nbd_unix_remove,
    .close = nbd_unix_close,
    .io = &io_nbd_unix,
};
