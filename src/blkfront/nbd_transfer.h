/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_TRANSFER_H
#define BLKFRONT_NBD_TRANSFER_H

#include "attach.h"

/* How a client's connection gets from the supervisor to the disk's worker: three descriptors, one
 * message each. */

enum { NBD_TRANSFER_FDS = 3 }; /* the socket, the pipe's two ends */

/* 0 or -1 with errno: the worker did not get all of it. */
int nbd_transfer_send(struct xpv_worker *w, uint32_t slot, const int fds[NBD_TRANSFER_FDS]);

/* The worker's side. */
struct nbd_transfer {
	struct attach_command command; /* being collected */
	unsigned have;
};

/* A BLK_MSG_CONNECTION came. True when "command" is whole; its descriptors are the caller's. */
bool nbd_transfer_take(struct nbd_transfer *t, const void *data, size_t length, int fd);

#endif
