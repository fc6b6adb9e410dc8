/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/evtchn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenevtchn.h>
#include <xen/sys/evtchn.h>

#include "../lib/process.h"
#include "xenpv/log.h"
#include "xenpv/shared.h"

struct xpv_evtchn {
	xenevtchn_handle *xce;
	/* Bound on this descriptor. FreeBSD's kernel locks up when asked to notify or unbind any
	 * other port, so the library never sees one. */
	uint32_t *ports;
	size_t nports;
	struct event *readable;
	xpv_evtchn_handler *handler;
	void *arg;
	bool *closed; /* not NULL while the handler runs: tells that it closed the handle */
};

static void
log_open_failure(void)
{
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		xpv_err("/dev/xen/evtchn is missing: is this a Xen guest? (Linux: modprobe "
			"xen-evtchn)");
		break;
	case EACCES:
	case EPERM:
		xpv_err("/dev/xen/evtchn: %s: must run as root", strerror(errno));
		break;
	default:
		xpv_err("/dev/xen/evtchn: %s", strerror(errno));
		break;
	}
}

struct xpv_evtchn *
xpv_evtchn_open(void)
{
	struct xpv_evtchn *e = calloc(1, sizeof(*e));
	int error;

	if (e == NULL)
		return NULL;
	e->xce = xenevtchn_open(NULL, 0);
	if (e->xce == NULL) {
		error = errno;
		log_open_failure();
		free(e);
		errno = error;
		return NULL;
	}
	return e;
}

static int
copy_ports(struct xpv_evtchn *e, const struct xpv_evtchn *from)
{
	if (from->nports == 0)
		return 0;
	e->ports = malloc(from->nports * sizeof(*e->ports));
	if (e->ports == NULL)
		return -1;
	memcpy(e->ports, from->ports, from->nports * sizeof(*e->ports));
	e->nports = from->nports;
	return 0;
}

struct xpv_evtchn *
xpv_evtchn_inherit(const struct xpv_evtchn *parents)
{
	struct xpv_evtchn *e = calloc(1, sizeof(*e));
	int fd = -1, error;

	if (e == NULL)
		return NULL;
	fd = fcntl(xpv_evtchn_fd(parents), F_DUPFD_CLOEXEC, 0);
	if (fd >= 0 && copy_ports(e, parents) == 0)
		e->xce = xenevtchn_fdopen(NULL, fd, 0);
	if (e->xce == NULL) {
		error = errno;
		xpv_err("cannot inherit the event channel handle: %s", strerror(error));
		if (fd >= 0)
			close(fd);
		free(e->ports);
		free(e);
		errno = error;
		return NULL;
	}
	return e;
}

void
xpv_evtchn_close(struct xpv_evtchn *e)
{
	if (e == NULL)
		return;
	xpv_evtchn_unlisten(e);
	if (e->closed != NULL)
		*e->closed = true;
	xenevtchn_close(e->xce);
	free(e->ports);
	free(e);
}

static void __attribute__((noreturn)) hold_for_good(int fd)
{
	sigset_t all;

	if (fd != 0)
		dup2(fd, 0);
	xpv_process_close(1, INT32_MAX);
	(void)!chdir("/");
	xpv_shared_keep_only(NULL);
	setsid();
	xpv_process_name("evtchn-holder");
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (;;)
		pause();
}

void
xpv_evtchn_abandon(struct xpv_evtchn *e)
{
	pid_t pid = fork(), holder;
	int status = 0;

	/* A grandchild: nobody has to wait for it. */
	if (pid == 0) {
		holder = fork();
		if (holder == 0)
			hold_for_good(xpv_evtchn_fd(e));
		_exit(holder < 0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid < 0 || status != 0) {
		xpv_warning("event channels of before the resume stay open: %s",
		    pid < 0 ? strerror(errno) : "no process could be made to hold them");
		xpv_evtchn_unlisten(e);
		return;
	}
	xpv_evtchn_close(e);
}

int
xpv_evtchn_fd(const struct xpv_evtchn *e)
{
	return xenevtchn_fd(e->xce);
}

/* ---- ports ---- */

static bool
bound(const struct xpv_evtchn *e, uint32_t port)
{
	for (size_t i = 0; i < e->nports; i++) {
		if (e->ports[i] == port)
			return true;
	}
	errno = EINVAL;
	return false;
}

/* Before the bind, so that a port is never bound and forgotten. */
static bool
make_room(struct xpv_evtchn *e)
{
	uint32_t *more = realloc(e->ports, (e->nports + 1) * sizeof(*more));

	if (more != NULL)
		e->ports = more;
	return more != NULL;
}

static int
remember(struct xpv_evtchn *e, int port, uint32_t remote_domid)
{
	int error = errno;

	if (port < 0) {
		xpv_err("cannot bind an event channel to domain %u: %s%s", remote_domid,
		    strerror(error), error == ENOSPC ? ": this domain has no port left" : "");
		errno = error;
		return -1;
	}
	e->ports[e->nports++] = (uint32_t)port;
	return port;
}

int
xpv_evtchn_bind_unbound(struct xpv_evtchn *e, uint32_t remote_domid)
{
	if (!make_room(e))
		return -1;
	return remember(e, xenevtchn_bind_unbound_port(e->xce, remote_domid), remote_domid);
}

int
xpv_evtchn_bind_interdomain(struct xpv_evtchn *e, uint32_t remote_domid, uint32_t remote_port)
{
	if (!make_room(e))
		return -1;
	return remember(
	    e, xenevtchn_bind_interdomain(e->xce, remote_domid, remote_port), remote_domid);
}

int
xpv_evtchn_restrict(struct xpv_evtchn *e, uint32_t domid)
{
	if (xenevtchn_restrict(e->xce, (domid_t)domid) == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENOTTY) {
		xpv_debug(
		    "event channels are not restricted to domain %u: %s", domid, strerror(errno));
		return 0;
	}
	xpv_err("cannot restrict event channels to domain %u: %s", domid, strerror(errno));
	return -1;
}

int
xpv_evtchn_unbind(struct xpv_evtchn *e, uint32_t port)
{
	if (!bound(e, port))
		return -1;
	for (size_t i = 0; i < e->nports; i++) {
		if (e->ports[i] == port) {
			e->ports[i] = e->ports[--e->nports];
			break;
		}
	}
	return xenevtchn_unbind(e->xce, port);
}

int
xpv_evtchn_notify(struct xpv_evtchn *e, uint32_t port)
{
	return bound(e, port) ? xenevtchn_notify(e->xce, port) : -1;
}

/* ---- events ---- */

/* False if the handler closed the handle. */
static bool
deliver(struct xpv_evtchn *e, uint32_t port)
{
	bool closed = false;

	if (!bound(e, port))
		return true; /* was in the kernel's buffer when it was unbound */
	e->closed = &closed;
	e->handler(port, e->arg);
	if (closed)
		return false;
	e->closed = NULL;
	/* Pairs with the mask that the kernel set with the event: what came meanwhile is pending
	 * in the hypervisor and is delivered now. Also after unlisten: the next listener wants it.
	 */
	if (bound(e, port))
		xenevtchn_unmask(e->xce, port);
	return true;
}

static void
give_up(struct xpv_evtchn *e)
{
	xpv_err("reading event channels: %s: no more events", strerror(errno));
	xpv_evtchn_unlisten(e);
}

/* The kernel's buffer was full: some ports are masked, their events are gone. Any may have had one.
 */
static void
recover(struct xpv_evtchn *e)
{
	if (ioctl(xpv_evtchn_fd(e), IOCTL_EVTCHN_RESET) != 0) {
		give_up(e);
		return;
	}
	xpv_warning("the kernel's event channel buffer was full: looking at all ports");
	for (size_t i = e->nports; i-- > 0;) {
		if (i < e->nports && !deliver(e, e->ports[i]))
			return;
		if (e->readable == NULL)
			return;
	}
}

/*
 * One port each time: a read of a descriptor that is not known to be readable blocks, and some
 * kernels ignore O_NONBLOCK (xenevtchn.h). With one port per handle there is nothing to gain.
 */
static void
on_readable(evutil_socket_t fd, short events, void *arg)
{
	struct xpv_evtchn *e = arg;
	int port = xenevtchn_pending(e->xce);

	if (port >= 0)
		deliver(e, (uint32_t)port);
	else if (errno == EFBIG)
		recover(e);
	else if (errno != EAGAIN && errno != EINTR)
		give_up(e);
}

int
xpv_evtchn_listen(struct xpv_evtchn *e, struct event_base *base, uint32_t port,
    xpv_evtchn_handler *handler, void *arg)
{
	if (port != 0 && !bound(e, port))
		return -1;
	xpv_evtchn_unlisten(e);
	e->handler = handler;
	e->arg = arg;
	e->readable = event_new(base, xpv_evtchn_fd(e), EV_READ | EV_PERSIST, on_readable, e);
	if (e->readable == NULL || event_add(e->readable, NULL) != 0) {
		xpv_evtchn_unlisten(e);
		xpv_err("cannot wait for event channels: no memory, or the event loop does not "
			"take this descriptor (FreeBSD: use poll, not kqueue)");
		errno = ENOMEM;
		return -1;
	}
	return port != 0 ? xenevtchn_unmask(e->xce, port) : 0;
}

void
xpv_evtchn_unlisten(struct xpv_evtchn *e)
{
	if (e->readable == NULL)
		return;
	event_free(e->readable);
	e->readable = NULL;
}
