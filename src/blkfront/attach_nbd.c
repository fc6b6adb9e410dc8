/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>
#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <xenpv/log.h>
#include <xenpv/shared.h>
#include <xenpv/supervisor.h>

#include "helper.h"
#include "messages.h"

/*
 * The supervisor's half of NBD: the kernel's nbd driver is given one end of a socket pair
 * through its netlink interface. Both ends stay open here, so that a worker's death breaks nothing;
 * the journals (nbd_journal.h) tell the next worker where it is in the streams.
 *
 * Our own death closes the sockets. The driver then waits (DEAD_CONN_TIMEOUT) for a new supervisor,
 * which knows the device by its identifier and gives it new sockets; what was in flight is sent
 * again by the driver when its 30 s timeout for a request comes round.
 *
 * A device has one connection. With more, the driver takes one without an answer for 30 s for dead
 * and sends the request again by another, while the first is still on its way: the backend would
 * carry out an old write after a newer one. With one, and no timeout set, it waits and looks again
 * (nbd_xmit_timeout() in Linux).
 */

#define DEAD_CONN_TIMEOUT_S 3600
#define REMOVE_POLL_MS	    20
#define CONNECTIONS	    1
#define MAX_OLD_IO	    (4u << 20)

struct attachment {
	struct attachment_nbd shared; /* the worker's part of it */
	struct attach_params p;
	struct blk_geometry geometry;
	struct nl_sock *netlink;
	int family;
	int index;	  /* of /dev/nbdN; -1: no device */
	bool connected;	  /* the device has our sockets */
	uint64_t sectors; /* the size that the device has; 0: none */
	unsigned sector_size;
	unsigned queues;
	int fds[2 * BLK_MAX_QUEUES];
	struct event *poll; /* until a device that goes has gone */
	char node[32];
};

const struct attachment_nbd *
attach_nbd_shared(const struct attachment *a)
{
	return &a->shared;
}

/* ---- netlink ---- */

static struct nl_sock *
netlink_open(int *family)
{
	struct nl_sock *netlink = nl_socket_alloc();

	if (netlink == NULL)
		return NULL;
	if (genl_connect(netlink) == 0) {
		*family = genl_ctrl_resolve(netlink, NBD_GENL_FAMILY_NAME);
		if (*family >= 0)
			return netlink;
	}
	nl_socket_free(netlink);
	return NULL;
}

static bool
nbd_usable(char *why, size_t size)
{
	struct nl_sock *netlink;
	int family;

	netlink = netlink_open(&family);
	if (netlink == NULL) {
		blk_run_helper((const char *const[]){"modprobe", "-q", "nbd", NULL});
		netlink = netlink_open(&family);
	}
	if (netlink != NULL) {
		nl_socket_free(netlink);
		return true;
	}
	snprintf(why, size,
	    "the kernel's nbd driver is missing: modprobe nbd "
	    "(a kernel with CONFIG_BLK_DEV_NBD)");
	return false;
}

static struct nl_msg *
new_message(const struct attachment *a, uint8_t command)
{
	struct nl_msg *message = nlmsg_alloc();

	if (message != NULL && genlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, a->family, 0, 0,
				   command, NBD_GENL_VERSION) == NULL) {
		nlmsg_free(message);
		return NULL;
	}
	return message;
}

/* The answer to CONNECT names the device the kernel picked. */
static int
take_index(struct nl_msg *message, void *arg)
{
	struct nlattr *attributes[NBD_ATTR_MAX + 1];
	struct attachment *a = arg;

	if (genlmsg_parse(nlmsg_hdr(message), 0, attributes, NBD_ATTR_MAX, NULL) == 0 &&
	    attributes[NBD_ATTR_INDEX] != NULL)
		a->index = (int)nla_get_u32(attributes[NBD_ATTR_INDEX]);
	return NL_OK;
}

/* Sends and waits for the kernel's word, which comes at once. 0 or a negative libnl error. */
static int
transact(struct attachment *a, struct nl_msg *message)
{
	int result = nl_send_auto(a->netlink, message);

	nlmsg_free(message);
	if (result < 0)
		return result;
	nl_socket_modify_cb(a->netlink, NL_CB_VALID, NL_CB_CUSTOM, take_index, a);
	return nl_wait_for_ack(a->netlink);
}

static bool
put_sockets(const struct attachment *a, struct nl_msg *message)
{
	struct nlattr *list = nla_nest_start(message, NBD_ATTR_SOCKETS), *item;

	if (list == NULL)
		return false;
	for (unsigned i = 0; i < a->queues; i++) {
		item = nla_nest_start(message, NBD_SOCK_ITEM);
		if (item == NULL ||
		    nla_put_u32(message, NBD_SOCK_FD, (uint32_t)NBD_KERNELS_END(a->fds, i)) != 0)
			return false;
		nla_nest_end(message, item);
	}
	nla_nest_end(message, list);
	return true;
}

static uint64_t
server_flags(const struct attachment *a)
{
	return NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
	       (a->geometry.read_only ? NBD_FLAG_READ_ONLY : 0) |
	       (a->geometry.discard_granularity > 0 ? NBD_FLAG_SEND_TRIM : 0);
}

/* Names the device as ours; the kernel wants to hear it again with every change. */
static int
put_identifier(const struct attachment *a, struct nl_msg *message)
{
	char identifier[32];

	snprintf(identifier, sizeof(identifier), "xenpv-vbd-%u", a->p.vdev);
	return nla_put_string(message, NBD_ATTR_BACKEND_IDENTIFIER, identifier);
}

static bool
put_geometry(const struct attachment *a, struct nl_msg *message)
{
	return nla_put_u64(message, NBD_ATTR_SIZE_BYTES, a->geometry.sectors << BLK_SECTOR_SHIFT) ==
		   0 &&
	       nla_put_u64(message, NBD_ATTR_BLOCK_SIZE_BYTES, a->geometry.sector_size) == 0;
}

/* A new device, or new sockets for one that is there. That one keeps its size for now: the driver
 * would wait, before it takes the sockets, for requests that only those can answer. */
static int
configure(struct attachment *a)
{
	bool new_device = a->index < 0;
	struct nl_msg *message = new_message(a, new_device ? NBD_CMD_CONNECT : NBD_CMD_RECONFIGURE);

	if (message == NULL)
		return -NLE_NOMEM;
	if ((new_device ? !put_geometry(a, message)
			: nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)a->index) != 0) ||
	    nla_put_u64(message, NBD_ATTR_SERVER_FLAGS, server_flags(a)) != 0 ||
	    nla_put_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_CONN_TIMEOUT_S) != 0 ||
	    put_identifier(a, message) != 0 || !put_sockets(a, message)) {
		nlmsg_free(message);
		return -NLE_NOMEM;
	}
	return transact(a, message);
}

/* ---- sockets ---- */

static void
close_sockets(struct attachment *a)
{
	for (unsigned i = 0; i < 2 * a->queues; i++)
		close(a->fds[i]);
	a->queues = 0;
}

static bool
make_sockets(struct attachment *a)
{
	unsigned wanted = a->geometry.queues;

	for (a->queues = 0; a->queues < wanted; a->queues++) {
		unsigned i = a->queues;

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, &a->fds[2 * i]) != 0)
			return false;
		if (nbd_journal_reset(a->shared.journals[i], a->p.depth, a->p.max_io_bytes,
			NBD_OUR_END(a->fds, i), NBD_KERNELS_END(a->fds, i)) != 0)
			return false;
	}
	return true;
}

static void
hand_over(struct attachment *a, struct xpv_worker *w)
{
	struct blk_msg_attach message = {
	    .host_queues = a->queues,
	    .depth = a->p.depth,
	    .max_io_bytes = a->p.max_io_bytes,
	    .dev_id = (uint32_t)a->index,
	    .sectors = a->geometry.sectors,
	    .nfds = 2 * a->queues,
	};

	/* A worker that does not take them is dead or dying: gone() follows. */
	if (xpv_worker_send(w, BLK_MSG_ATTACH, &message, sizeof(message), -1) != 0)
		return;
	for (unsigned i = 0; i < 2 * a->queues; i++)
		xpv_worker_send(w, BLK_MSG_FD, NULL, 0, a->fds[i]);
}

/* ---- sysfs ---- */

static bool
read_sysfs(int index, const char *file, char *text, size_t size)
{
	char path[64];
	FILE *f;
	bool good;

	snprintf(path, sizeof(path), "/sys/block/nbd%d/%s", index, file);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	good = fgets(text, (int)size, f) != NULL;
	fclose(f);
	if (good)
		text[strcspn(text, "\n")] = '\0';
	return good;
}

static unsigned long
read_sysfs_number(int index, const char *file)
{
	char text[32];

	return read_sysfs(index, file, text, sizeof(text)) ? strtoul(text, NULL, 10) : 0;
}

static void
write_sysfs(const struct attachment *a, const char *file, unsigned long value)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/nbd%d/%s", a->index, file);
	f = fopen(path, "we");
	if (f == NULL || fprintf(f, "%lu\n", value) < 0 || fflush(f) != 0)
		xpv_info("%s: cannot set %s: %s", a->p.name, path, strerror(errno));
	if (f != NULL)
		fclose(f);
}

/* Requests wait in it that were made before us, as large as they were allowed to be. */
static void
take_limits(struct attachment *a)
{
	unsigned long max_io = read_sysfs_number(a->index, "queue/max_sectors_kb") * 1024;

	a->sectors = read_sysfs_number(a->index, "size");
	a->sector_size = (unsigned)read_sysfs_number(a->index, "queue/logical_block_size");
	if (max_io > MAX_OLD_IO)
		max_io = MAX_OLD_IO;
	if (max_io > a->p.max_io_bytes)
		a->p.max_io_bytes = (unsigned)max_io;
}

/* A device that an earlier supervisor left: Linux 5.14 and newer tell whose it is. */
static void
find_left_over(struct attachment *a)
{
	char wanted[32], text[64];
	struct dirent *entry;
	DIR *dir = opendir("/sys/block");
	int index;

	snprintf(wanted, sizeof(wanted), "xenpv-vbd-%u", a->p.vdev);
	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL) {
		if (sscanf(entry->d_name, "nbd%d", &index) == 1 &&
		    read_sysfs(index, "backend", text, sizeof(text)) && strcmp(text, wanted) == 0) {
			a->index = index;
			snprintf(a->node, sizeof(a->node), "/dev/nbd%d", index);
			take_limits(a);
			xpv_info(
			    "%s: %s is here from an earlier xen-blkfrontd", a->p.name, a->node);
		}
	}
	closedir(dir);
}

/* ---- the attachment's operations ---- */

static void nbd_close(struct attachment *a);
static void poll_removed(evutil_socket_t fd, short events, void *arg);

static struct attachment *
nbd_open(const struct attach_params *params)
{
	struct attachment *a = calloc(1, sizeof(*a));

	if (a == NULL)
		return NULL;
	a->p = *params;
	a->index = -1;
	a->netlink = netlink_open(&a->family);
	a->poll = evtimer_new(params->base, poll_removed, a);
	if (a->netlink == NULL || a->poll == NULL)
		goto fail;
	find_left_over(a);
	for (unsigned i = 0; i < params->queues; i++) {
		a->shared.journals[i] = xpv_shared_alloc(
		    params->shared, nbd_journal_size(params->depth, a->p.max_io_bytes));
		if (a->shared.journals[i] == NULL)
			goto fail;
	}
	return a;
fail:
	xpv_err("%s: NBD: %s", params->name, strerror(errno));
	nbd_close(a);
	return NULL;
}

static bool
nbd_existing(const struct attachment *a, unsigned *queues, unsigned *depth, unsigned *max_io_bytes)
{
	*queues = a->queues;
	*depth = a->p.depth;
	*max_io_bytes = a->p.max_io_bytes;
	return a->queues > 0;
}

static void
nbd_serve(struct attachment *a, const struct blk_geometry *g, struct xpv_worker *w)
{
	if ((a->connected && g->read_only != a->geometry.read_only) ||
	    (a->sector_size != 0 && g->sector_size != a->sector_size)) {
		a->p.events->failed(a->p.arg,
		    "the disk came back read-only or writable or with another sector size than "
		    "before: detach it and attach it again");
		return;
	}
	a->geometry = *g;
	if (a->queues == 0 && !make_sockets(a)) {
		a->p.events->failed(a->p.arg, strerror(errno));
		return;
	}
	hand_over(a, w);
}

/* 0, or -1 with "why". */
static int
connect_device(struct attachment *a, char *why, size_t size)
{
	bool new_device = a->index < 0;
	int result = configure(a);

	if (result != 0 || a->index < 0) {
		snprintf(why, size, "the kernel's nbd driver refuses: %s", nl_geterror(result));
		return -1;
	}
	a->connected = true;
	if (new_device) {
		a->sectors = a->geometry.sectors;
		a->sector_size = a->geometry.sector_size;
	}
	snprintf(a->node, sizeof(a->node), "/dev/nbd%d", a->index);
	write_sysfs(a, "queue/max_sectors_kb", a->p.max_io_bytes / 1024);
	write_sysfs(a, "queue/rotational", 0);
	/* The first to open the device has the kernel read its partition table. */
	blk_start_helper((const char *const[]){"partx", "--show", a->node, NULL});
	return 0;
}

static void
nbd_serving(struct attachment *a, pid_t worker)
{
	char why[256];

	if (!a->connected && connect_device(a, why, sizeof(why)) != 0) {
		a->p.events->failed(a->p.arg, why);
		return;
	}
	/* Not before somebody answers: the driver waits for all that is under way. */
	if (a->geometry.sectors != a->sectors &&
	    attach_nbd.resize(a, a->geometry.sectors, why, sizeof(why)) != 0)
		xpv_warning("%s: came back with another size: %s", a->p.name, why);
	a->p.events->ready(a->p.arg, a->node);
}

static void
nbd_gone(struct attachment *a)
{
	/* The sockets are open still, the journals say the rest. */
}

static int
nbd_resize(struct attachment *a, uint64_t sectors, char *why, size_t size)
{
	struct nl_msg *message = new_message(a, NBD_CMD_RECONFIGURE);
	int result;

	if (message == NULL || nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)a->index) != 0 ||
	    nla_put_u64(message, NBD_ATTR_SIZE_BYTES, sectors << BLK_SECTOR_SHIFT) != 0 ||
	    put_identifier(a, message) != 0) {
		nlmsg_free(message);
		snprintf(why, size, "no memory");
		return -1;
	}
	result = transact(a, message);
	if (result != 0) {
		snprintf(why, size, "the kernel's nbd driver refuses: %s", nl_geterror(result));
		return -1;
	}
	a->geometry.sectors = a->sectors = sectors;
	return 0;
}

static const char *
nbd_node(const struct attachment *a)
{
	return a->index >= 0 ? a->node : NULL;
}

static void
poll_removed(evutil_socket_t fd, short events, void *arg)
{
	struct attachment *a = arg;
	char pid[32];

	if (a->index >= 0 && read_sysfs(a->index, "pid", pid, sizeof(pid))) {
		event_add(a->poll, &(struct timeval){.tv_usec = REMOVE_POLL_MS * 1000});
		return;
	}
	a->index = -1;
	a->connected = false;
	a->sectors = a->sector_size = 0;
	close_sockets(a);
	a->p.events->removed(a->p.arg);
}

/* The driver, which may be writing to a socket that nobody reads, stops waiting for it. */
static void
nbd_cut(struct attachment *a)
{
	for (unsigned i = 0; i < a->queues; i++)
		shutdown(NBD_OUR_END(a->fds, i), SHUT_RDWR);
}

static void
nbd_remove(struct attachment *a)
{
	struct nl_msg *message;

	if (a->index >= 0) {
		message = new_message(a, NBD_CMD_DISCONNECT);
		if (message != NULL &&
		    nla_put_u32(message, NBD_ATTR_INDEX, (uint32_t)a->index) == 0)
			transact(a, message);
		else
			nlmsg_free(message);
	}
	/* By way of the loop, as every callback. */
	event_active(a->poll, EV_TIMEOUT, 0);
}

static void
nbd_close(struct attachment *a)
{
	close_sockets(a);
	if (a->poll != NULL)
		event_free(a->poll);
	if (a->netlink != NULL)
		nl_socket_free(a->netlink);
	free(a);
}

const struct attach_ops attach_nbd = {
    .name = "nbd",
    .max_queues = CONNECTIONS,
    .usable = nbd_usable,
    .open = nbd_open,
    .existing = nbd_existing,
    .serve = nbd_serve,
    .serving = nbd_serving,
    .gone = nbd_gone,
    .resize = nbd_resize,
    .node = nbd_node,
    .cut = nbd_cut,
    .remove = nbd_remove,
    .close = nbd_close,
    .io = &io_nbd,
};
