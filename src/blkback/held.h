/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_HELD_H
#define BLKBACK_HELD_H

#include <stdbool.h>

struct xpv_worker;

/*
 * A worker's connections to its image's server, which the supervisor holds too: when the worker
 * dies, the server's answers still go somewhere, and their end tells that the server is done with
 * what the worker had sent. The next worker waits for it (drain.h).
 *
 * Only those whose server the next worker cannot ask in another way (nbd_left.h).
 */

#define HELD_MAX 64 /* what a worker can inherit */

struct held {
	int fds[HELD_MAX]; /* those of earlier workers come first */
	unsigned old, count;
	bool in_use; /* the present worker's may have carried requests */
	bool told;   /* of this worker's that cannot be held: once, however many it sends */
};

/* One more, of the present worker. It is the callee's. */
void held_add(struct held *h, int fd);

/* The present worker may begin: what earlier ones left is over. */
void held_are_over(struct held *h, struct xpv_worker *worker);

/* It has ended: nothing more is sent. */
void held_shut(struct held *h);

/* Another is about to be forked: it inherits the first "old". */
void held_inherit(struct held *h, struct xpv_worker *worker);

void held_close(struct held *h);

#endif
