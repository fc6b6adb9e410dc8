/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_MESSAGES_H
#define BLKFRONT_MESSAGES_H

#include "blkfront.h"

/* Between a disk's worker and the supervisor, over the worker's channel (xenpv/supervisor.h). */
enum blk_message {
	/* worker to supervisor */
	BLK_MSG_CONNECTED = 1, /* struct blk_geometry: the backend is connected, rings are empty */
	BLK_MSG_SERVING,       /* nothing: host requests are being taken */
	BLK_MSG_RESIZED,       /* uint64_t: sectors */
	BLK_MSG_DETACH,	       /* nothing: the toolstack asks to close the device */
	BLK_MSG_DISCONNECTED,  /* uint32_t: slot of a client's connection that is over */

	/* supervisor to worker */
	BLK_MSG_ATTACH = 64, /* struct blk_msg_attach, then nfds times BLK_MSG_FD */
	BLK_MSG_FD,	     /* nothing, with a descriptor */
	BLK_MSG_CLOSE,	     /* nothing: the host device is gone, close the vbd */
	BLK_MSG_CONNECTION,  /* struct blk_msg_connection, with a descriptor: a client's */
	BLK_MSG_LEAVE,	     /* nothing: end all clients' connections after their answers */
};

struct blk_msg_connection {
	uint32_t slot;
	uint32_t part; /* which descriptor: nbd_transfer.h */
};

struct blk_msg_attach {
	uint32_t host_queues, depth, max_io_bytes;
	uint32_t dev_id;
	uint64_t sectors;
	uint32_t nfds;
};

#endif
