/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_transfer.h"

#include <string.h>
#include <unistd.h>

#include <xenpv/supervisor.h>

#include "messages.h"

int
nbd_transfer_send(struct xpv_worker *w, uint32_t slot, const int fds[NBD_TRANSFER_FDS])
{
	for (uint32_t part = 0; part < NBD_TRANSFER_FDS; part++) {
		const struct blk_msg_connection message = {.slot = slot, .part = part};

		if (xpv_worker_send(w, BLK_MSG_CONNECTION, &message, sizeof(message), fds[part]) !=
		    0)
			return -1;
	}
	return 0;
}

bool
nbd_transfer_take(struct nbd_transfer *t, const void *data, size_t length, int fd)
{
	struct blk_msg_connection message;

	if (fd < 0 || length != sizeof(message))
		return false;
	memcpy(&message, data, sizeof(message));
	/* A new one begins: what was sent of the last one is all there will be of it. */
	if (message.part == 0) {
		while (t->have > 0)
			close(t->command.fds[--t->have]);
		t->command.slot = message.slot;
		t->command.what = ATTACH_CONNECT;
	}
	if (message.part != t->have || message.slot != t->command.slot) {
		close(fd);
		return false;
	}
	t->command.fds[t->have++] = fd;
	if (t->have < NBD_TRANSFER_FDS)
		return false;
	t->have = 0;
	return true;
}
