/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_MESSAGES_H
#define BLKBACK_MESSAGES_H

#include "blkback.h"

/* Between a disk's worker and the supervisor, over the worker's channel (xenpv/supervisor.h). */
enum vbd_message {
	/* worker to supervisor */
	VBD_MSG_IMAGE = 1, /* struct vbd_image_info: the image is open, the sandbox entered */
	VBD_MSG_CONNECTED, /* nothing: the rings are mapped, requests are being served */
	VBD_MSG_RESIZED,   /* uint64_t: bytes */
	VBD_MSG_WHY,	   /* text: why the image cannot be opened; its exit follows */
	VBD_MSG_SOCKET,	   /* nothing, with a descriptor: to be held, see held.h; before IMAGE */

	/* supervisor to worker */
	VBD_MSG_CONNECT = 64, /* struct vbd_connection; once in a worker's life, after IMAGE */
	VBD_MSG_LIMITS,	      /* struct vbd_limits; at any time */
	VBD_MSG_LOOK,	      /* nothing: has the image another size? */
};

#endif
