/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_H
#define BLKFRONT_NBD_H

#include "attach.h"
#include "nbd_journal.h"

/* What the two halves of the NBD attachment share. A connection is a socket pair; the kernel's nbd
 * driver has one end, the worker the other, and the supervisor keeps both open. */
struct attachment_nbd {
	struct nbd_journal *journals[BLK_MAX_QUEUES];
};

/* The shared part of the attachment, for the worker that has inherited it. */
const struct attachment_nbd *attach_nbd_shared(const struct attachment *a);

/* Descriptors in the order they are sent: our end and the kernel's of each connection. */
#define NBD_OUR_END(fds, queue)	    ((fds)[2 * (queue)])
#define NBD_KERNELS_END(fds, queue) ((fds)[2 * (queue) + 1])

#endif
