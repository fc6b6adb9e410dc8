/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_unix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/supervisor.h>

#include "attach.h"
#include "messages.h"
#include "nbd_transfer.h"

/* The worker's half of nbd-unix: connections of clients, which come from the supervisor at any time
 * and go when the client does. */

struct nbd_unix_io;

struct client {
	struct nbd_unix_io *io;
	uint32_t slot;
	int fds[NBD_TRANSFER_FDS];
	struct nbd_connection *connection; /* NULL: none in this slot */
};

struct nbd_unix_io {
	struct blk_queue *q;
	struct event_base *base;
	int channel;
	const struct attachment_nbd_unix *shared;
	bool quiet;
	struct client clients[NBD_UNIX_SLOTS];
};

static void
nbd_unix_flush(void *host)
{
	struct nbd_unix_io *io = host;

	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++) {
		if (io->clients[i].connection != NULL)
			nbd_connection_send(io->clients[i].connection);
	}
}

static void
close_fds(const int fds[NBD_TRANSFER_FDS])
{
	for (unsigned i = 0; i < NBD_TRANSFER_FDS; i++)
		close(fds[i]);
}

/* The supervisor may give the slot to another client when it hears this. */
static void
tell_over(struct nbd_unix_io *io, uint32_t slot)
{
	if (xpv_channel_send(io->channel, BLK_MSG_DISCONNECTED, &slot, sizeof(slot), -1) != 0)
		xpv_debug("no word to the supervisor of connection %u: %s", slot, strerror(errno));
}

static void
on_over(void *arg)
{
	struct client *client = arg;

	nbd_connection_free(client->connection);
	client->connection = NULL;
	close_fds(client->fds);
	tell_over(client->io, client->slot);
}

static void
connect_client(struct nbd_unix_io *io, const struct attach_command *command)
{
	struct client *client = &io->clients[command->slot % NBD_UNIX_SLOTS];
	const struct nbd_connection_config config = {
	    .journal = io->shared->journals[client - io->clients],
	    .limits = io->shared->limits,
	    .q = io->q,
	    .base = io->base,
	    .fd = command->fds[0],
	    .kernels_end = -1,
	    .pipe = {command->fds[1], command->fds[2]},
	    .over = on_over,
	    .arg = client,
	};

	/* When quiet, the next worker will have it. */
	if (io->quiet || client->connection != NULL) {
		close_fds(command->fds);
		return;
	}
	client->io = io;
	client->slot = command->slot;
	memcpy(client->fds, command->fds, sizeof(client->fds));
	client->connection = nbd_connection_start(&config);
	if (client->connection == NULL) {
		xpv_err("a client's connection: %s", strerror(errno));
		close_fds(command->fds);
		tell_over(io, command->slot);
		return;
	}
	blk_queue_push(io->q);
}

static void
nbd_unix_command(void *host, const struct attach_command *command)
{
	struct nbd_unix_io *io = host;

	switch (command->what) {
	case ATTACH_CONNECT:
		connect_client(io, command);
		break;
	case ATTACH_LEAVE:
		for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++) {
			if (io->clients[i].connection != NULL)
				nbd_connection_leave(io->clients[i].connection);
		}
		break;
	}
}

static void *
nbd_unix_start(const struct attach_grant *grant, struct blk_queue *q, struct event_base *base,
    unsigned thread, unsigned threads)
{
	struct nbd_unix_io *io = calloc(1, sizeof(*io));

	if (io == NULL)
		return NULL;
	io->q = q;
	io->base = base;
	io->channel = grant->channel;
	io->shared = attach_nbd_unix_shared(grant->attachment);
	blk_queue_attach(q, &io_nbd_unix.host, io);
	return io;
}

static void
nbd_unix_quiesce(void *host)
{
	struct nbd_unix_io *io = host;

	io->quiet = true;
	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++) {
		if (io->clients[i].connection != NULL)
			nbd_connection_quiesce(io->clients[i].connection);
	}
}

/* Not when all answers have left: a client need not take them, and the next worker has them. */
static bool
nbd_unix_idle(const void *host)
{
	return true;
}

static void
nbd_unix_stop(void *host)
{
	struct nbd_unix_io *io = host;

	for (unsigned i = 0; i < NBD_UNIX_SLOTS; i++) {
		if (io->clients[i].connection == NULL)
			continue;
		nbd_connection_free(io->clients[i].connection);
		close_fds(io->clients[i].fds);
	}
	free(io);
}

const struct attach_io_ops io_nbd_unix = {
    .host = {.pull = nbd_connection_pull, .done = nbd_connection_done, .flush = nbd_unix_flush},
    .start = nbd_unix_start,
    .command = nbd_unix_command,
    .quiesce = nbd_unix_quiesce,
    .idle = nbd_unix_idle,
    .stop = nbd_unix_stop,
};
