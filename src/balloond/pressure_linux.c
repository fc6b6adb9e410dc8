/* SPDX-License-Identifier: BSD-2-Clause */
#include "pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "textfile.h"

struct pressure {
	int trigger;
	/* The trigger is EPOLLPRI, which libevent does not know; a descriptor of epoll that has
	 * something to tell is readable. */
	int epoll;
	struct event *event;
	bool gone; /* the kernel has taken the trigger away */
	pressure_handler *handler;
	void *arg;
};

int64_t
pressure_parse(const char *text)
{
	const char *some = strstr(text, "some "), *total;
	int64_t us;

	if (some == NULL)
		return -1;
	total = strstr(some, "total=");
	if (total == NULL || total[6] < '0' || total[6] > '9')
		return -1;
	errno = 0;
	us = strtoll(total + 6, NULL, 10);
	return errno == 0 ? us : -1;
}

int64_t
pressure_total_us(const struct pressure *p)
{
	char text[256];

	return textfile_read(p->trigger, text, sizeof(text)) > 0 ? pressure_parse(text) : -1;
}

bool
pressure_works(const struct pressure *p)
{
	return p != NULL && !p->gone;
}

static void
on_trigger(evutil_socket_t fd, short events, void *arg)
{
	struct pressure *p = arg;
	struct epoll_event event;

	/* The kernel tells once: the look by which libevent learned of it has used it up, so that
	 * there may be nothing here. What stays is that the trigger has gone. */
	if (epoll_wait(p->epoll, &event, 1, 0) == 1 && (event.events & EPOLLERR)) {
		xpv_warning("the kernel has taken its pressure trigger away");
		p->gone = true;
		event_del(p->event);
		return;
	}
	p->handler(p->arg);
}

static void
explain(const char *procfs, int error)
{
	const char *advice = "boot with psi=1, and a kernel that has CONFIG_PSI";

	if (error == EPERM || error == EACCES)
		advice = "CAP_SYS_RESOURCE is needed";
	xpv_warning("no memory pressure from %s/pressure/memory: %s (%s); available memory and "
		    "refaults are looked at instead",
	    procfs, strerror(error), advice);
}

static int
arm(struct pressure *p, struct event_base *base, long stall_ms, long window_ms)
{
	struct epoll_event event = {.events = EPOLLPRI};
	char text[64];
	int n = snprintf(text, sizeof(text), "some %ld %ld", stall_ms * 1000, window_ms * 1000);

	/* With the closing NUL, as psi.rst does it. */
	if (write(p->trigger, text, (size_t)n + 1) != n + 1)
		return -1;
	p->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (p->epoll < 0 || epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->trigger, &event) != 0)
		return -1;
	p->event = event_new(base, p->epoll, EV_READ | EV_PERSIST, on_trigger, p);
	return p->event != NULL ? event_add(p->event, NULL) : -1;
}

struct pressure *
pressure_open(struct event_base *base, const char *procfs, long stall_ms, long window_ms,
    pressure_handler *handler, void *arg)
{
	struct pressure *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return NULL;
	p->handler = handler;
	p->arg = arg;
	p->epoll = -1;
	p->trigger = textfile_open(procfs, "pressure/memory", O_RDWR | O_NONBLOCK);
	if (p->trigger >= 0 && arm(p, base, stall_ms, window_ms) == 0)
		return p;
	explain(procfs, errno);
	pressure_close(p);
	return NULL;
}

void
pressure_close(struct pressure *p)
{
	if (p == NULL)
		return;
	if (p->event != NULL)
		event_free(p->event);
	if (p->epoll >= 0)
		close(p->epoll);
	if (p->trigger >= 0)
		close(p->trigger);
	free(p);
}
