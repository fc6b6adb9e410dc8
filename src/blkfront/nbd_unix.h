/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_UNIX_H
#define BLKFRONT_NBD_UNIX_H

#include "nbd_connection.h"

struct attachment;

/* Connections of clients per disk, each with a journal of its own. */
#define NBD_UNIX_SLOTS 16

/* What the two halves of the nbd-unix attachment share. */
struct attachment_nbd_unix {
	struct nbd_journal *journals[NBD_UNIX_SLOTS];
	struct nbd_limits *limits;
};

/* For the worker, which has inherited it. */
const struct attachment_nbd_unix *attach_nbd_unix_shared(const struct attachment *a);

#endif
