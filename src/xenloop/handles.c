/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * A handle is a FIFO without a name. The program reads from it: that end is what its library's
 * _fd() function returns, and numbers of ports come through it. The broker and whoever sends events
 * have it open for both, so that nobody ever writes to a FIFO without a reader. When the last copy
 * of the program's end is closed, by whatever death, inotify(7) tells the broker, which takes back
 * what the handle had.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker.h"

#define PIPE_SIZE 65536 /* Linux' default; holds each port of a domain several times */

void
handles_take_closed(struct broker *b)
{
	union {
		struct inotify_event event;
		char space[4096];
	} u;
	ssize_t n, at;

	while ((n = read(b->inotify, &u, sizeof(u))) > 0)
		for (at = 0; at < n;) {
			const struct inotify_event *e =
			    (const struct inotify_event *)(void *)(u.space + at);

			at += (ssize_t)(sizeof(*e) + e->len);
			for (unsigned i = 1; i < HV_HANDLES; i++)
				if (b->handles[i].id != 0 && b->handles[i].watch == e->wd &&
				    (e->mask & IN_CLOSE_NOWRITE) != 0)
					handle_close(b, &b->handles[i]);
		}
}

static void
on_closed(evutil_socket_t fd, short events, void *arg)
{
	handles_take_closed(arg);
}

int
handles_init(struct broker *b)
{
	b->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (b->inotify < 0 || pipe2(b->peek, O_NONBLOCK | O_CLOEXEC) != 0)
		return errno;
	b->on_inotify = event_new(b->base, b->inotify, EV_READ | EV_PERSIST, on_closed, b);
	if (b->on_inotify == NULL)
		broker_give_up("memory");
	event_add(b->on_inotify, NULL);
	return 0;
}

static int
make_fifo(struct broker *b, struct handle *h, int *read_end)
{
	char path[PATH_MAX];
	struct stat st;
	int error;

	snprintf(path, sizeof(path), "%s/handle", b->dir);
	unlink(path);
	if (mkfifo(path, 0600) != 0)
		return errno;
	h->pipe = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	*read_end = open(path, O_RDONLY | O_CLOEXEC);
	h->watch = inotify_add_watch(b->inotify, path, IN_CLOSE_NOWRITE);
	error = errno;
	unlink(path);
	if (h->pipe < 0 || *read_end < 0 || h->watch < 0 || fstat(h->pipe, &st) != 0) {
		close(h->pipe);
		close(*read_end);
		return error;
	}
	h->inode = st.st_ino;
	return 0;
}

static struct handle *
free_handle(struct broker *b)
{
	/* 0 is no handle's number. */
	for (unsigned i = 1; i < HV_HANDLES; i++)
		if (b->handles[i].id == 0)
			return &b->handles[i];
	return NULL;
}

int
handle_open(
    struct broker *b, struct domain *d, enum hv_kind kind, int *read_end, struct handle **handle)
{
	struct handle *h = free_handle(b);
	int error;

	if (h == NULL)
		return EMFILE;
	error = make_fifo(b, h, read_end);
	if (error != 0)
		return error;
	h->generation++;
	h->id = (uint32_t)(h - b->handles) + h->generation % (UINT32_MAX / HV_HANDLES) * HV_HANDLES;
	h->kind = kind;
	h->domain = d;
	h->restricted = HV_NO_DOMID;
	h->mappings = NULL;
	*handle = h;
	return 0;
}

void
handle_close(struct broker *b, struct handle *h)
{
	switch (h->kind) {
	case HV_EVTCHN:
		ports_of_handle_close(b, h);
		break;
	case HV_GNTTAB:
	case HV_GNTSHR:
		grants_of_handle_close(b, h);
		break;
	}
	inotify_rm_watch(b->inotify, h->watch);
	close(h->pipe);
	h->id = 0;
}

struct handle *
handle_find(struct broker *b, uint32_t id)
{
	struct handle *h = &b->handles[id % HV_HANDLES];

	return id != 0 && h->id == id ? h : NULL;
}

struct handle *
handle_by_inode(struct broker *b, ino_t inode)
{
	for (unsigned i = 1; i < HV_HANDLES; i++)
		if (b->handles[i].id != 0 && b->handles[i].inode == inode)
			return &b->handles[i];
	return NULL;
}

void
handle_deliver(void *broker, uint32_t handle, uint32_t port)
{
	struct handle *h = handle_find(broker, handle);

	if (h != NULL)
		(void)!write(h->pipe, &port, sizeof(port));
}

bool
handle_holds(struct broker *b, uint32_t handle, uint32_t port)
{
	uint32_t numbers[1024];
	struct handle *h = handle_find(b, handle);
	bool found = false;
	ssize_t n;

	if (h == NULL || tee(h->pipe, b->peek[1], PIPE_SIZE, SPLICE_F_NONBLOCK) <= 0)
		return false;
	while ((n = read(b->peek[0], numbers, sizeof(numbers))) > 0)
		for (size_t i = 0; i < (size_t)n / sizeof(numbers[0]); i++)
			found = found || numbers[i] == port;
	return found;
}
