/* SPDX-License-Identifier: BSD-2-Clause */
#include "held.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/supervisor.h>

static void
close_from(struct held *h, unsigned first)
{
	while (h->count > first)
		close(h->fds[--h->count]);
}

void
held_add(struct held *h, int fd)
{
	if (fd >= 0 && h->count < HELD_MAX) {
		h->fds[h->count++] = fd;
		return;
	}
	if (fd >= 0)
		close(fd);
	if (h->told)
		return;
	h->told = true;
	xpv_warning("a connection to an NBD server cannot be held: if its worker is killed, a late "
		    "write may undo a newer one");
}

void
held_are_over(struct held *h, struct xpv_worker *worker)
{
	for (unsigned i = 0; i < h->old; i++) {
		xpv_worker_drop_fd(worker, h->fds[i]);
		close(h->fds[i]);
	}
	h->count -= h->old;
	memmove(h->fds, h->fds + h->old, h->count * sizeof(h->fds[0]));
	h->old = 0;
	h->in_use = true;
}

void
held_shut(struct held *h)
{
	for (unsigned i = h->old; i < h->count; i++)
		shutdown(h->fds[i], SHUT_WR);
}

void
held_inherit(struct held *h, struct xpv_worker *worker)
{
	if (!h->in_use)
		close_from(h, h->old);
	h->in_use = h->told = false;
	h->old = h->count;
	for (unsigned i = 0; i < h->old; i++)
		xpv_worker_keep_fd(worker, h->fds[i]);
}

void
held_close(struct held *h)
{
	close_from(h, 0);
	h->old = 0;
}
