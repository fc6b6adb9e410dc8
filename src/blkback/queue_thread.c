/* SPDX-License-Identifier: BSD-2-Clause */
#include "queue_thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/loop.h>

struct queue_thread {
	pthread_t thread;
	struct vbd_queue_config config;
	struct image *image;
	int report_fd;
	int quiesce[2]; /* a pipe: the main thread closes its end [1] to quiesce */
	const char *volatile why;

	/* The thread's own. */
	struct event_base *base;
	struct event *on_quiesce;
	struct vbd_queue *queue;
	struct image_queue *image_queue;
	bool over; /* nothing more is to be done, whatever the loop still brings */
};

static void
report(struct queue_thread *t, enum queue_report what)
{
	char byte = what;

	/* The main thread reads while it lives, and the process ends with it. */
	(void)!write(t->report_fd, &byte, 1);
}

static void
end(struct queue_thread *t, enum queue_report what, const char *why)
{
	if (t->over)
		return;
	t->over = true;
	t->why = why;
	event_base_loopbreak(t->base);
	report(t, what);
}

static void
on_broken(void *arg, const char *why)
{
	end(arg, QUEUE_BROKEN, why);
}

static void
on_lost(void *arg, const char *why)
{
	end(arg, QUEUE_LOST, why);
}

static void
on_drained(void *arg)
{
	end(arg, QUEUE_ENDED, NULL);
}

static void
on_look(void *arg)
{
	report(arg, QUEUE_LOOK);
}

static void
on_quiesce(evutil_socket_t fd, short events, void *arg)
{
	struct queue_thread *t = arg;

	event_del(t->on_quiesce);
	if (!t->over)
		vbd_queue_quiesce(t->queue);
}

static bool
set_up(struct queue_thread *t)
{
	struct image_queue_config image = {
	    .index = t->config.index,
	    .queues = t->config.connection->queues,
	    .done = vbd_queue_image_done,
	    .batch_done = vbd_queue_image_batch_done,
	    .lost = on_lost,
	};

	t->base = xpv_loop_new();
	if (t->base == NULL)
		return false;
	t->on_quiesce = event_new(t->base, t->quiesce[0], EV_READ | EV_PERSIST, on_quiesce, t);
	if (t->on_quiesce == NULL || event_add(t->on_quiesce, NULL) != 0)
		return false;
	t->queue = vbd_queue_new(&t->config);
	if (t->queue == NULL) {
		xpv_err("queue %u: %s", t->config.index, strerror(errno));
		return false;
	}
	image.base = t->base;
	image.depth = vbd_queue_depth(t->queue);
	image.arg = t->queue;
	image.lost_arg = t;
	t->image_queue = image_queue_start(t->image, &image);
	return t->image_queue != NULL;
}

static void *
thread_main(void *arg)
{
	struct queue_thread *t = arg;
	char name[16];

	snprintf(name, sizeof(name), "queue-%u", t->config.index);
	xpv_thread_name(name);
	if (!set_up(t)) {
		report(t, QUEUE_FAILED);
		return NULL;
	}
	if (vbd_queue_start(t->queue, t->image_queue, t->base) != 0)
		end(t, QUEUE_FAILED, NULL);
	else if (!t->over)
		report(t, QUEUE_STARTED);
	/* A loop that has not begun cannot be broken. */
	if (!t->over)
		event_base_dispatch(t->base);
	/* The process ends soon, and all goes with it; what is in flight on an image that was lost
	 * or for a frontend that broke its ring must not be freed before. */
	return NULL;
}

struct queue_thread *
queue_thread_start(const struct vbd_queue_config *config, struct image *image, int report_fd)
{
	struct queue_thread *t = calloc(1, sizeof(*t));
	int error;

	if (t == NULL)
		return NULL;
	*t = (struct queue_thread){.config = *config, .image = image, .report_fd = report_fd};
	t->config.broken = on_broken;
	t->config.drained = on_drained;
	t->config.look = on_look;
	t->config.arg = t;
	if (pipe2(t->quiesce, O_CLOEXEC) != 0) {
		xpv_err("queue %u: pipe: %s", config->index, strerror(errno));
		free(t);
		return NULL;
	}
	error = pthread_create(&t->thread, NULL, thread_main, t);
	if (error != 0) {
		xpv_err("queue %u: cannot start its thread: %s", config->index, strerror(error));
		close(t->quiesce[0]);
		close(t->quiesce[1]);
		free(t);
		return NULL;
	}
	return t;
}

void
queue_thread_quiesce(struct queue_thread *t)
{
	if (t->quiesce[1] >= 0)
		close(t->quiesce[1]);
	t->quiesce[1] = -1;
}

const char *
queue_thread_why(const struct queue_thread *t)
{
	return t->why;
}
