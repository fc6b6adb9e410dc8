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
	struct blk_queue *queue;
	const struct attach_io_ops *io;
	const struct attach_grant *grant;
	unsigned index, threads;
	int report_fd;
	int command[2]; /* a pipe of commands; the main thread closes its end [1] to quiesce */

	/* The thread's own. */
	struct event_base *base;
	void *host;
	struct event *drained_check, *on_command;
	bool quiescing;
};

static void
report(struct queue_thread *t, enum queue_thread_report what)
{
	char byte = what;

	/* The main thread reads while it lives, and the process ends with it. */
	(void)!write(t->report_fd, &byte, 1);
}

static void
end_if_drained(void *arg)
{
	struct queue_thread *t = arg;

	if (!t->quiescing || blk_queue_inflight(t->queue) != 0)
		return;
	if (t->io->idle(t->host)) {
		event_base_loopbreak(t->base);
	} else {
		/* Answers wait for the host to take them; that has no event of its own. */
		struct timeval soon = {.tv_usec = 5000};

		event_add(t->drained_check, &soon);
	}
}

static void
check_again(evutil_socket_t fd, short events, void *arg)
{
	end_if_drained(arg);
}

static void
quiesce(struct queue_thread *t)
{
	event_del(t->on_command);
	t->quiescing = true;
	t->io->quiesce(t->host);
	blk_queue_quiesce(t->queue);
	blk_queue_on_idle(t->queue, end_if_drained, t);
	end_if_drained(t);
}

static void
on_command(evutil_socket_t fd, short events, void *arg)
{
	struct queue_thread *t = arg;
	struct attach_command command;
	ssize_t n = read(fd, &command, sizeof(command)); /* written at once, so read at once */

	if (n == 0)
		quiesce(t);
	else if (n == sizeof(command) && t->io->command != NULL)
		t->io->command(t->host, &command);
}

static bool
run(struct queue_thread *t)
{
	bool started = false;

	t->base = xpv_loop_new();
	if (t->base == NULL)
		return false;
	t->drained_check = evtimer_new(t->base, check_again, t);
	t->on_command = event_new(t->base, t->command[0], EV_READ | EV_PERSIST, on_command, t);
	if (t->drained_check == NULL || t->on_command == NULL ||
	    event_add(t->on_command, NULL) != 0)
		goto out;
	t->host = t->io->start(t->grant, t->queue, t->base, t->index, t->threads);
	if (t->host == NULL)
		goto out;
	if (blk_queue_listen(t->queue, t->base) != 0)
		goto out;
	started = true;
	report(t, QUEUE_THREAD_STARTED);
	event_base_dispatch(t->base);
out:
	blk_queue_unlisten(t->queue);
	if (t->host != NULL)
		t->io->stop(t->host);
	if (t->on_command != NULL)
		event_free(t->on_command);
	if (t->drained_check != NULL)
		event_free(t->drained_check);
	event_base_free(t->base);
	return started;
}

static void *
thread_main(void *arg)
{
	struct queue_thread *t = arg;
	char name[16];

	snprintf(name, sizeof(name), "queue-%u", t->index);
	xpv_thread_name(name);
	report(t, run(t) ? QUEUE_THREAD_ENDED : QUEUE_THREAD_FAILED);
	return NULL;
}

struct queue_thread *
queue_thread_start(struct blk_queue *queue, const struct attach_io_ops *io,
    const struct attach_grant *grant, unsigned index, unsigned threads, int report_fd)
{
	struct queue_thread *t = calloc(1, sizeof(*t));
	int error;

	if (t == NULL)
		return NULL;
	*t = (struct queue_thread){
	    .queue = queue,
	    .io = io,
	    .grant = grant,
	    .index = index,
	    .threads = threads,
	    .report_fd = report_fd,
	};
	if (pipe2(t->command, O_CLOEXEC) != 0) {
		xpv_err("queue %u: pipe: %s", index, strerror(errno));
		free(t);
		return NULL;
	}
	error = pthread_create(&t->thread, NULL, thread_main, t);
	if (error != 0) {
		xpv_err("queue %u: cannot start its thread: %s", index, strerror(error));
		close(t->command[0]);
		close(t->command[1]);
		free(t);
		return NULL;
	}
	return t;
}

bool
queue_thread_command(struct queue_thread *t, const struct attach_command *command)
{
	return t->command[1] >= 0 &&
	       write(t->command[1], command, sizeof(*command)) == sizeof(*command);
}

void
queue_thread_quiesce(struct queue_thread *t)
{
	if (t->command[1] >= 0)
		close(t->command[1]);
	t->command[1] = -1;
}

void
queue_thread_join(struct queue_thread *t)
{
	if (t == NULL)
		return;
	queue_thread_quiesce(t);
	pthread_join(t->thread, NULL);
	close(t->command[0]);
	free(t);
}
