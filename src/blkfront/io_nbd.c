/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/log.h>

#include "nbd_connection.h"

/* The worker's half of NBD with the kernel's driver: one connection per host queue, all from the
 * start to the end. */

struct nbd_io {
	unsigned nconnections;
	struct nbd_connection **connections;
};

static void
nbd_flush(void *host)
{
	struct nbd_io *io = host;

	for (unsigned i = 0; i < io->nconnections; i++)
		nbd_connection_send(io->connections[i]);
}

static void
nbd_stop(void *host)
{
	struct nbd_io *io = host;

	for (unsigned i = 0; io->connections != NULL && i < io->nconnections; i++)
		nbd_connection_free(io->connections[i]);
	free(io->connections);
	free(io);
}

static void *
nbd_start(const struct attach_grant *grant, struct blk_queue *q, struct event_base *base,
    unsigned thread, unsigned threads)
{
	struct nbd_io *io = calloc(1, sizeof(*io));
	unsigned wanted = (grant->host_queues - thread + threads - 1) / threads;

	if (io == NULL)
		return NULL;
	io->connections = calloc(wanted, sizeof(struct nbd_connection *));
	if (io->connections == NULL)
		goto fail;
	blk_queue_attach(q, &io_nbd.host, io);
	for (unsigned queue = thread; io->nconnections < wanted; queue += threads) {
		struct nbd_connection_config config = {
		    .journal = attach_nbd_shared(grant->attachment)->journals[queue],
		    .q = q,
		    .base = base,
		    .fd = NBD_OUR_END(grant->fds, queue),
		    .kernels_end = NBD_KERNELS_END(grant->fds, queue),
		    .pipe = {-1, -1},
		};
		struct nbd_connection *c = nbd_connection_start(&config);

		if (c == NULL)
			goto fail;
		io->connections[io->nconnections++] = c;
	}
	blk_queue_push(q);
	return io;
fail:
	xpv_err("queue %u: cannot take requests from NBD: %s", thread, strerror(errno));
	nbd_stop(io);
	return NULL;
}

static void
nbd_quiesce(void *host)
{
	struct nbd_io *io = host;

	for (unsigned i = 0; i < io->nconnections; i++)
		nbd_connection_quiesce(io->connections[i]);
}

static bool
nbd_idle(const void *host)
{
	const struct nbd_io *io = host;

	for (unsigned i = 0; i < io->nconnections; i++) {
		if (nbd_connection_waits(io->connections[i]))
			return false;
	}
	return true;
}

const struct attach_io_ops io_nbd = {
    .host = {.pull = nbd_connection_pull, .done = nbd_connection_done, .flush = nbd_flush},
    .start = nbd_start,
    .quiesce = nbd_quiesce,
    .idle = nbd_idle,
    .stop = nbd_stop,
};
