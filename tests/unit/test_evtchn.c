/* SPDX-License-Identifier: BSD-2-Clause */
/* Against a model of the kernel's device: one buffer of ports, a mask per port. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xen/sys/evtchn.h>

#include "xenpv/evtchn.h"
#include "xenpv/log.h"

/* --- the model --- */

#define PORTS 16

struct xenevtchn_handle {
	int fd;
};

static struct {
	bool bound[PORTS], masked[PORTS], pending[PORTS];
	unsigned notified[PORTS];
	int buffer[2];
	unsigned handles;
	uint32_t next_port;
	bool overflow, dead;
	int open_error, bind_error;
} kernel;

static unsigned lines;
static char last_line[512];

xenevtchn_handle *__wrap_xenevtchn_open(struct xentoollog_logger *logger, unsigned flags);
xenevtchn_handle *__wrap_xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags);
int __wrap_xenevtchn_close(xenevtchn_handle *h);
int __wrap_xenevtchn_fd(xenevtchn_handle *h);
int __wrap_xenevtchn_notify(xenevtchn_handle *h, evtchn_port_t port);
int __wrap_xenevtchn_bind_unbound_port(xenevtchn_handle *h, uint32_t domid);
int __wrap_xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domid, evtchn_port_t remote);
int __wrap_xenevtchn_unbind(xenevtchn_handle *h, evtchn_port_t port);
int __wrap_xenevtchn_pending(xenevtchn_handle *h);
int __wrap_xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port);
int __wrap_ioctl(int fd, unsigned long request, ...);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	lines++;
}

static void
deliver(uint32_t port)
{
	kernel.pending[port] = false;
	kernel.masked[port] = true;
	if (!kernel.overflow)
		assert_int_equal(write(kernel.buffer[1], &port, sizeof(port)), sizeof(port));
}

/* The peer notifies. */
static void
event(uint32_t port)
{
	if (!kernel.bound[port])
		return;
	kernel.pending[port] = true;
	if (!kernel.masked[port])
		deliver(port);
}

static xenevtchn_handle *
new_handle(int fd)
{
	xenevtchn_handle *h = malloc(sizeof(*h));

	h->fd = fd;
	kernel.handles++;
	return h;
}

xenevtchn_handle *
__wrap_xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	if (kernel.open_error != 0) {
		errno = kernel.open_error;
		return NULL;
	}
	return new_handle(fcntl(kernel.buffer[0], F_DUPFD_CLOEXEC, 0));
}

xenevtchn_handle *
__wrap_xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags)
{
	if (kernel.open_error != 0) {
		errno = kernel.open_error;
		return NULL;
	}
	return new_handle(fd);
}

int
__wrap_xenevtchn_close(xenevtchn_handle *h)
{
	close(h->fd);
	free(h);
	kernel.handles--;
	return 0;
}

int
__wrap_xenevtchn_fd(xenevtchn_handle *h)
{
	return h->fd;
}

int
__wrap_xenevtchn_notify(xenevtchn_handle *h, evtchn_port_t port)
{
	assert_true(kernel.bound[port]); /* FreeBSD would panic */
	kernel.notified[port]++;
	return 0;
}

static int
bind_port(void)
{
	if (kernel.bind_error != 0) {
		errno = kernel.bind_error;
		return -1;
	}
	kernel.bound[kernel.next_port] = true;
	return (int)kernel.next_port++;
}

int
__wrap_xenevtchn_bind_unbound_port(xenevtchn_handle *h, uint32_t domid)
{
	assert_int_equal(domid, 3);
	return bind_port();
}

int
__wrap_xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domid, evtchn_port_t remote)
{
	assert_int_equal(domid, 3);
	assert_int_equal(remote, 44);
	return bind_port();
}

int
__wrap_xenevtchn_unbind(xenevtchn_handle *h, evtchn_port_t port)
{
	assert_true(kernel.bound[port]); /* FreeBSD would panic */
	kernel.bound[port] = kernel.masked[port] = false;
	return 0;
}

int
__wrap_xenevtchn_pending(xenevtchn_handle *h)
{
	struct pollfd p = {.fd = h->fd, .events = POLLIN};
	uint32_t port;

	assert_int_equal(poll(&p, 1, 0), 1); /* or it would block */
	if (kernel.overflow || kernel.dead) {
		errno = kernel.dead ? ENODEV : EFBIG;
		return -1;
	}
	assert_int_equal(read(h->fd, &port, sizeof(port)), sizeof(port));
	return (int)port;
}

int
__wrap_xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port)
{
	assert_true(kernel.bound[port]);
	kernel.masked[port] = false;
	if (kernel.pending[port])
		deliver(port);
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	char drained[64];

	assert_int_equal(request, IOCTL_EVTCHN_RESET);
	kernel.overflow = false;
	assert_true(read(fd, drained, sizeof(drained)) > 0);
	return 0;
}

/* --- the scene --- */

struct scene {
	struct event_base *base;
	struct xpv_evtchn *e;
	unsigned runs[PORTS];
	void (*action)(struct scene *s, uint32_t port);
	uint32_t other;
};

static int
setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	memset(&kernel, 0, sizeof(kernel));
	kernel.next_port = 5;
	lines = 0;
	if (pipe2(kernel.buffer, O_CLOEXEC) != 0)
		return -1;
	s->base = event_base_new();
	s->e = xpv_evtchn_open();
	*state = s;
	return s->e == NULL;
}

static int
teardown(void **state)
{
	struct scene *s = *state;

	xpv_evtchn_close(s->e);
	assert_int_equal(kernel.handles, 0);
	close(kernel.buffer[0]);
	close(kernel.buffer[1]);
	event_base_free(s->base);
	free(s);
	return 0;
}

static void
on_event(uint32_t port, void *arg)
{
	struct scene *s = arg;

	s->runs[port]++;
	if (s->action != NULL)
		s->action(s, port);
}

static uint32_t
listening_port(struct scene *s)
{
	int port = xpv_evtchn_bind_unbound(s->e, 3);

	assert_true(port > 0);
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, (uint32_t)port, on_event, s), 0);
	return (uint32_t)port;
}

static void
turn(struct scene *s)
{
	event_base_loop(s->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

static void
opening_says_what_to_do(void **state)
{
	kernel.open_error = ENOENT;
	assert_null(xpv_evtchn_open());
	assert_int_equal(errno, ENOENT);
	assert_non_null(strstr(last_line, "modprobe xen-evtchn"));
	kernel.open_error = EACCES;
	assert_null(xpv_evtchn_open());
	assert_int_equal(errno, EACCES);
	assert_non_null(strstr(last_line, "root"));
	assert_int_equal(lines, 2);
	kernel.open_error = 0;
	xpv_evtchn_close(NULL);
}

static void
binds_and_notifies(void **state)
{
	struct scene *s = *state;
	int a = xpv_evtchn_bind_unbound(s->e, 3), b = xpv_evtchn_bind_interdomain(s->e, 3, 44);

	assert_int_equal(a, 5);
	assert_int_equal(b, 6);
	assert_int_equal(xpv_evtchn_notify(s->e, 5), 0);
	assert_int_equal(xpv_evtchn_notify(s->e, 6), 0);
	assert_int_equal(kernel.notified[5], 1);
	assert_int_equal(kernel.notified[6], 1);

	kernel.bind_error = ENOSPC;
	assert_int_equal(xpv_evtchn_bind_unbound(s->e, 3), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(lines, 1);
}

static void
refuses_ports_not_bound(void **state)
{
	struct scene *s = *state;

	assert_int_equal(xpv_evtchn_notify(s->e, 7), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(xpv_evtchn_unbind(s->e, 7), -1);
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, 7, on_event, s), -1);
	assert_int_equal(errno, EINVAL);

	xpv_evtchn_bind_unbound(s->e, 3);
	xpv_evtchn_bind_unbound(s->e, 3);
	assert_int_equal(xpv_evtchn_unbind(s->e, 5), 0);
	assert_int_equal(xpv_evtchn_unbind(s->e, 5), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(xpv_evtchn_notify(s->e, 5), -1);
	assert_int_equal(xpv_evtchn_notify(s->e, 6), 0);
	assert_int_equal(lines, 0);
}

static void
event_again(struct scene *s, uint32_t port)
{
	assert_true(kernel.masked[port]);
	event(port);
}

static void
delivers(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	turn(s);
	assert_int_equal(s->runs[port], 0);
	event(port);
	turn(s);
	assert_int_equal(s->runs[port], 1);
	assert_false(kernel.masked[port]);
	turn(s);
	assert_int_equal(s->runs[port], 1);
}

static void
an_event_during_the_handler_comes_again(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	s->action = event_again; /* a flood: one run each turn */
	event(port);
	for (unsigned i = 1; i <= 10; i++) {
		turn(s);
		assert_int_equal(s->runs[port], i);
	}
	s->action = NULL;
	turn(s);
	turn(s);
	assert_int_equal(s->runs[port], 11);
}

static void
serves_several_ports(void **state)
{
	struct scene *s = *state;
	uint32_t a = listening_port(s), b = (uint32_t)xpv_evtchn_bind_unbound(s->e, 3);

	event(a);
	event(b);
	turn(s);
	turn(s);
	assert_int_equal(s->runs[a], 1);
	assert_int_equal(s->runs[b], 1);
}

static void
stale_events_of_unbound_ports_are_dropped(void **state)
{
	struct scene *s = *state;
	uint32_t a = listening_port(s), b = (uint32_t)xpv_evtchn_bind_unbound(s->e, 3);

	event(b);
	event(a);
	assert_int_equal(xpv_evtchn_unbind(s->e, b), 0);
	turn(s);
	turn(s);
	assert_int_equal(s->runs[b], 0);
	assert_int_equal(s->runs[a], 1);
}

static void
unlistens_and_listens_again(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	xpv_evtchn_unlisten(s->e);
	xpv_evtchn_unlisten(s->e);
	event(port);
	turn(s);
	assert_int_equal(s->runs[port], 0);
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, port, on_event, s), 0);
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, 0, on_event, s), 0); /* replaces */
	turn(s);
	assert_int_equal(s->runs[port], 1);
}

static void
a_new_worker_takes_over(void **state)
{
	struct scene *s = *state;
	struct xpv_evtchn *parents = s->e;
	uint32_t port = listening_port(s);

	/* The old worker died inside its handler: masked, and the peer has notified since. */
	xpv_evtchn_unlisten(parents);
	kernel.masked[port] = kernel.pending[port] = true;
	s->e = xpv_evtchn_inherit(parents);
	assert_non_null(s->e);
	assert_int_not_equal(xpv_evtchn_fd(s->e), xpv_evtchn_fd(parents));
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, port, on_event, s), 0);
	turn(s);
	assert_int_equal(s->runs[port], 1);
	assert_int_equal(xpv_evtchn_notify(s->e, port), 0);
	xpv_evtchn_close(parents);
	event(port);
	turn(s);
	assert_int_equal(s->runs[port], 2);

	kernel.open_error = ENOMEM;
	assert_null(xpv_evtchn_inherit(s->e));
	assert_int_equal(errno, ENOMEM);
}

static void
close_it(struct scene *s, uint32_t port)
{
	xpv_evtchn_close(s->e);
	s->e = NULL;
}

static void
unlisten_it(struct scene *s, uint32_t port)
{
	xpv_evtchn_unlisten(s->e);
}

static void
unbind_it(struct scene *s, uint32_t port)
{
	assert_int_equal(xpv_evtchn_unbind(s->e, port), 0);
}

static void
the_handler_may_close(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	s->action = close_it;
	event(port);
	turn(s);
	assert_int_equal(s->runs[port], 1);
	assert_int_equal(kernel.handles, 0);
}

static void
the_handler_may_unlisten_and_unbind(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	s->action = unlisten_it;
	event(port);
	turn(s);
	assert_false(kernel.masked[port]);
	event(port); /* waits for the next listener */
	turn(s);
	assert_int_equal(s->runs[port], 1);
	s->action = unbind_it;
	assert_int_equal(xpv_evtchn_listen(s->e, s->base, port, on_event, s), 0);
	turn(s);
	assert_int_equal(s->runs[port], 2);
	assert_false(kernel.bound[port]);
}

static void
overflow_loses_nothing(void **state)
{
	struct scene *s = *state;
	uint32_t a = listening_port(s), b = (uint32_t)xpv_evtchn_bind_unbound(s->e, 3);

	event(a);
	kernel.overflow = true;
	event(b);
	turn(s);
	assert_int_equal(s->runs[a], 1);
	assert_int_equal(s->runs[b], 1);
	assert_int_equal(lines, 1);
	event(a);
	event(b);
	turn(s);
	turn(s);
	assert_int_equal(s->runs[a], 2);
	assert_int_equal(s->runs[b], 2);
}

static void
overflow_and_close(void **state)
{
	struct scene *s = *state;
	uint32_t a = listening_port(s), b = (uint32_t)xpv_evtchn_bind_unbound(s->e, 3);

	event(a);
	kernel.overflow = true;
	event(b);
	s->action = close_it;
	turn(s);
	assert_int_equal(s->runs[a] + s->runs[b], 1);
}

static void
a_dead_device_does_not_spin(void **state)
{
	struct scene *s = *state;
	uint32_t port = listening_port(s);

	event(port);
	kernel.dead = true;
	turn(s);
	assert_int_equal(lines, 1);
	assert_int_equal(event_base_loop(s->base, EVLOOP_NONBLOCK), 1); /* nothing to wait for */
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(opening_says_what_to_do),
	    test(binds_and_notifies),
	    test(refuses_ports_not_bound),
	    test(delivers),
	    test(an_event_during_the_handler_comes_again),
	    test(serves_several_ports),
	    test(stale_events_of_unbound_ports_are_dropped),
	    test(unlistens_and_listens_again),
	    test(a_new_worker_takes_over),
	    test(the_handler_may_close),
	    test(the_handler_may_unlisten_and_unbind),
	    test(overflow_loses_nothing),
	    test(overflow_and_close),
	    test(a_dead_device_does_not_spin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
