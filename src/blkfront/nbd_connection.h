/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_CONNECTION_H
#define BLKFRONT_NBD_CONNECTION_H

#include "nbd_journal.h"
#include "queue.h"

struct event_base;

/*
 * The transmission phase of one NBD connection, in the worker: requests go from the socket into the
 * journal and to the queue, answers from the granted pages to the socket. nbd_journal.h says what
 * survives this process. Everything runs in the queue's thread.
 *
 * The peer is the kernel's nbd driver, which is trusted, or a client, which is not: then "limits"
 * is there and every request is checked.
 *
 * Source: doc/proto.md of the nbd project, "Transmission phase".
 */
struct nbd_connection;

/* What a client may ask. In memory that outlives the worker; the supervisor changes the size. */
struct nbd_limits {
	_Atomic uint64_t sectors; /* 512-byte units */
	uint32_t block;		  /* requests are multiples of this, bytes */
	bool read_only;
};

struct nbd_connection_config {
	struct nbd_journal *journal;
	const struct nbd_limits *limits; /* NULL: the peer is the kernel */
	struct blk_queue *q;
	struct event_base *base;
	int fd, kernels_end, pipe[2]; /* as in nbd_out.h; all stay the caller's */
	/* Clients only: the connection is over and nothing of it is in flight. It may be freed from
	 * here. */
	void (*over)(void *arg);
	void *arg;
};

/* Goes on where the last worker was, if there was one. NULL with errno. */
struct nbd_connection *nbd_connection_start(const struct nbd_connection_config *config);

/* Reads nothing more. What is read and not answered stays in the journal for the next worker. */
void nbd_connection_quiesce(struct nbd_connection *c);

/* A client's: takes no more requests, answers those it has, then is over. */
void nbd_connection_leave(struct nbd_connection *c);

/* Answers wait for the peer to take them. */
bool nbd_connection_waits(const struct nbd_connection *c);

/* Sends the answers given since the last time. */
void nbd_connection_send(struct nbd_connection *c);

/* Not while requests of it are in the queue. */
void nbd_connection_free(struct nbd_connection *c);

/* For struct blk_host_ops; "host" is not used. */
int nbd_connection_pull(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt);
void nbd_connection_done(
    void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt);

#endif
