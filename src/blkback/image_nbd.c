/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_nbd.h"

#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <xenpv/log.h>
#include <xenpv/stats.h>

#include "drain.h"

/* Connects to an NBD server, and finds out what it can do. */

#define CONNECT_S	30 /* the first connection, in all */
#define CONNECT_MORE_S	3  /* each further one: a server that has enough may just not answer */
#define LOG_EVERY_S	10
#define LARGEST_SECTOR	4096u /* a frontend's segments are pages */
#define DEFAULT_PAYLOAD (32u << 20)

#define NS_PER_S UINT64_C(1000000000)

/* ---- connecting ---- */

static void
wait_ready(struct nbd_handle *h, uint64_t until)
{
	uint64_t now;

	while (nbd_aio_is_connecting(h) && (now = xpv_now_ns()) < until) {
		if (nbd_poll(h, (int)((until - now) / 1000000) + 1) == -1)
			return;
	}
}

static bool
configure(struct nbd_handle *h)
{
	/* The sandbox has no files for certificates. What a failed read leaves in the buffer
	 * reaches nobody, so it need not be zeroed before. */
	return nbd_set_uri_allow_tls(h, LIBNBD_TLS_DISABLE) == 0 &&
	       nbd_set_pread_initialize(h, false) == 0;
}

/* A server that is gone without a word is noticed in half a minute. Unix sockets need none of this.
 */
static void
notice_silence(int fd)
{
	static const struct {
		int level, option, value;
	} options[] = {
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, 10},
	    {IPPROTO_TCP, TCP_KEEPINTVL, 5},
	    {IPPROTO_TCP, TCP_KEEPCNT, 4},
#ifdef TCP_USER_TIMEOUT
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, 30000},
#endif
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(int));
}

/* NULL; nbd_get_error() tells why, if it is not that time was up. */
static struct nbd_handle *
connect_once(const char *uri, uint64_t until)
{
	struct nbd_handle *h = nbd_create();

	if (h == NULL)
		return NULL;
	if (configure(h) && nbd_aio_connect_uri(h, uri) == 0) {
		wait_ready(h, until);
		if (nbd_aio_is_ready(h)) {
			notice_silence(nbd_aio_get_fd(h));
			return h;
		}
	}
	nbd_close(h);
	return NULL;
}

static const char *
nbd_error(void)
{
	const char *error = nbd_get_error();

	return error != NULL ? error : "no answer";
}

static bool
is_uri_wrong(void)
{
	return nbd_get_errno() == EINVAL;
}

static struct nbd_handle *
connect_first(const char *uri)
{
	const struct timespec wait = {.tv_sec = 1};
	uint64_t until = xpv_now_ns() + CONNECT_S * NS_PER_S;
	struct nbd_handle *h;

	for (int tries = 0;; tries++) {
		h = connect_once(uri, until);
		if (h != NULL)
			return h;
		if (is_uri_wrong() || tries == CONNECT_S || xpv_now_ns() >= until)
			break;
		if (tries % LOG_EVERY_S == 0)
			xpv_notice("%s: not connected yet, trying again: %s", uri, nbd_error());
		nanosleep(&wait, NULL);
	}
	xpv_err("%s: cannot connect: %s", uri, nbd_error());
	return NULL;
}

static void
connect_more(struct nbd_image *image, const char *uri, unsigned wanted)
{
	while (image->count < wanted) {
		struct nbd_handle *h = connect_once(uri, xpv_now_ns() + CONNECT_MORE_S * NS_PER_S);

		if (h != NULL && (uint64_t)nbd_get_size(h) != image->bytes) {
			nbd_close(h); /* not the same any more */
			h = NULL;
		}
		if (h == NULL) {
			xpv_notice("%s: %u connections instead of %u: the server has no more", uri,
			    image->count, wanted);
			return;
		}
		image->connections[image->count++] = h;
	}
}

/* ---- what it is ---- */

/* 0: the server has not said. */
static uint32_t
block_size(struct nbd_handle *h, int which)
{
	int64_t size = nbd_get_block_size(h, which);

	return size > 0 && size <= UINT32_MAX ? (uint32_t)size : 0;
}

static bool
is_power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* False after a log line. */
static bool
find_sizes(struct nbd_image *image, const char *uri, struct vbd_image_info *info)
{
	struct nbd_handle *h = image->connections[0];
	uint32_t minimum = block_size(h, LIBNBD_SIZE_MINIMUM);
	uint32_t preferred = block_size(h, LIBNBD_SIZE_PREFERRED);
	uint32_t payload = block_size(h, LIBNBD_SIZE_MAXIMUM);
	int64_t bytes = nbd_get_size(h);

	if (minimum > LARGEST_SECTOR || (minimum != 0 && !is_power_of_two(minimum))) {
		xpv_err("%s: blocks of %u bytes cannot be served, at most %u", uri, minimum,
		    LARGEST_SECTOR);
		return false;
	}
	image->sector_size = minimum > VBD_SECTOR_SIZE ? minimum : VBD_SECTOR_SIZE;
	image->bytes = bytes > 0 ? (uint64_t)bytes : 0;
	if (payload < image->sector_size || payload > DEFAULT_PAYLOAD)
		payload = DEFAULT_PAYLOAD;
	image->max_payload = payload - payload % image->sector_size;

	info->sector_size = info->physical_sector_size = image->sector_size;
	if (is_power_of_two(preferred) && preferred > image->sector_size)
		info->physical_sector_size =
		    preferred < LARGEST_SECTOR ? preferred : LARGEST_SECTOR;
	info->bytes = image->bytes - image->bytes % image->sector_size;
	if (info->bytes == 0)
		xpv_err("%s: the export is empty", uri);
	return info->bytes != 0;
}

static bool
find_abilities(
    struct nbd_image *image, const struct image_params *params, struct vbd_image_info *info)
{
	struct nbd_handle *h = image->connections[0];

	if (nbd_is_read_only(h) > 0 && !params->read_only) {
		xpv_err(
		    "%s: the export is read-only: attach the disk with mode \"r\"", params->target);
		return false;
	}
	image->read_only = info->read_only = params->read_only;
	image->can_flush = nbd_can_flush(h) > 0;
	info->flush = image->can_flush && !image->read_only;
	image->can_trim = params->discard && !image->read_only && nbd_can_trim(h) > 0;
	if (image->can_trim)
		info->discard_granularity = info->physical_sector_size;
	return true;
}

static void
find_connections(
    struct nbd_image *image, const struct image_params *params, struct vbd_image_info *info)
{
	unsigned wanted =
	    params->nbd_connections > params->queues ? params->nbd_connections : params->queues;

	if (wanted > NBD_MAX_CONNECTIONS)
		wanted = NBD_MAX_CONNECTIONS;
	/* Without that promise a flush through one says nothing of writes through another. */
	if (nbd_can_multi_conn(image->connections[0]) > 0)
		connect_more(image, params->target, wanted);
	info->max_queues = image->count < VBD_MAX_QUEUES ? image->count : VBD_MAX_QUEUES;
	image->queues = params->queues < info->max_queues ? params->queues : info->max_queues;
}

/* ---- the image ---- */

static bool
set_up(struct nbd_image *image, const struct image_params *params, struct vbd_image_info *info)
{
	image->connections[0] = connect_first(params->target);
	if (image->connections[0] == NULL)
		return false;
	image->count = 1;
	image->drained = drain_server(nbd_aio_get_fd(image->connections[0]));
	if (!find_sizes(image, params->target, info) || !find_abilities(image, params, info))
		return false;
	find_connections(image, params, info);
	return true;
}

static struct image *
nbd_image_open(const struct image_params *params, struct vbd_image_info *info)
{
	struct nbd_image *image;

	*info = (struct vbd_image_info){.sector_size = 0};
	if (strncmp(params->target, "nbds", 4) == 0) {
		xpv_err("%s: TLS is not supported; use a tunnel, or nbdkit's nbd plugin, and a "
			"Unix socket",
		    params->target);
		return NULL;
	}
	image = calloc(1, sizeof(*image));
	if (image == NULL) {
		xpv_err("%s: no memory", params->target);
		return NULL;
	}
	image->base.ops = &image_nbd_ops;
	if (set_up(image, params, info))
		return &image->base;
	if (image->count > 0)
		nbd_close(image->connections[0]);
	free(image);
	return NULL;
}

/* An export does not change its size while there is a connection. */
static uint64_t
nbd_image_size(struct image *base)
{
	const struct nbd_image *image = (const struct nbd_image *)base;

	return image->bytes - image->bytes % image->sector_size;
}

static unsigned
nbd_image_sockets(const struct image *base, int *fds, unsigned max)
{
	const struct nbd_image *image = (const struct nbd_image *)base;
	unsigned count = image->drained ? 0 : image->count;

	if (count > max)
		count = max;
	for (unsigned i = 0; i < count; i++)
		fds[i] = nbd_aio_get_fd(image->connections[i]);
	return count;
}

const struct image_ops image_nbd_ops = {
    .open = nbd_image_open,
    .size = nbd_image_size,
    .sockets = nbd_image_sockets,
    .start = nbd_queue_start,
    .submit = nbd_queue_submit,
    .push = nbd_queue_push,
    .poll = nbd_queue_poll,
    .stop = nbd_queue_stop,
};
