/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_later.h"

#include <stddef.h>

#include <event2/event.h>

static void
on_wake(evutil_socket_t fd, short events, void *arg)
{
	image_later_deliver(arg);
}

int
image_later_init(struct image_later *later, const struct image_queue_config *config)
{
	later->config = config;
	image_list_clear(&later->over);
	later->event = event_new(config->base, -1, 0, on_wake, later);
	return later->event != NULL ? 0 : -1;
}

void
image_later_free(struct image_later *later)
{
	if (later->event != NULL)
		event_free(later->event);
}

void
image_later_add(struct image_later *later, struct image_io *io, int status)
{
	io->status = status;
	image_list_append(&later->over, io);
}

void
image_later_wake(struct image_later *later)
{
	if (later->over.first != NULL)
		event_active(later->event, EV_TIMEOUT, 0);
}

bool
image_later_deliver(struct image_later *later)
{
	/* All at once: what done() submits may be over at once, too, and is for the next time. */
	struct image_io *io = image_list_take_all(&later->over), *next;

	if (io == NULL)
		return false;
	for (; io != NULL; io = next) {
		next = io->next;
		later->config->done(io, later->config->arg);
	}
	later->config->batch_done(later->config->arg);
	return true;
}
