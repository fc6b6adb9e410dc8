/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * libxenevtchn for a session. As with Linux's /dev/xen/evtchn, reading a handle's descriptor gives
 * the number of a port, which is then masked until the program unmasks it.
 * Semantics: xen/event_channel.h, and Linux' drivers/xen/evtchn.c for the errors.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xenevtchn.h>

#include "client.h"

struct xenevtchn_handle {
	int fd;
	uint32_t handle;
};

static xenevtchn_handle *
new_handle(int fd, int64_t handle)
{
	xenevtchn_handle *xce;

	if (handle < 0)
		return NULL;
	xce = malloc(sizeof(*xce));
	if (xce != NULL)
		*xce = (xenevtchn_handle){.fd = fd, .handle = (uint32_t)handle};
	return xce;
}

HV_PUBLIC xenevtchn_handle *
xenevtchn_open(struct xentoollog_logger *logger, unsigned flags)
{
	xenevtchn_handle *xce;
	int64_t handle;
	int fd = -1;

	if ((flags & ~XENEVTCHN_NO_CLOEXEC) != 0) {
		errno = EINVAL;
		return NULL;
	}
	handle = loop_open(HV_EVTCHN, &fd, (flags & XENEVTCHN_NO_CLOEXEC) == 0);
	xce = new_handle(fd, handle);
	if (xce == NULL && handle >= 0)
		close(fd);
	return xce;
}

HV_PUBLIC xenevtchn_handle *
xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned flags)
{
	struct hv_request request = {.operation = HV_FIND};
	struct stat st;

	if (flags != 0) {
		errno = EINVAL;
		return NULL;
	}
	if (fstat(fd, &st) != 0)
		return NULL;
	request.inode = st.st_ino;
	return new_handle(fd, loop_simple(request));
}

HV_PUBLIC int
xenevtchn_close(xenevtchn_handle *xce)
{
	int result;

	if (xce == NULL)
		return 0;
	result = close(xce->fd);
	free(xce);
	return result;
}

HV_PUBLIC int
xenevtchn_fd(xenevtchn_handle *xce)
{
	return xce->fd;
}

/* NULL: no port of this handle. */
static struct hv_port *
own_port(const xenevtchn_handle *xce, evtchn_port_t number)
{
	struct hv_port *port;

	if (loop_hv() == NULL || number >= HV_PORTS)
		return NULL;
	port = &loop_domain()->ports[number];
	return (atomic_load(&port->state) & (HV_PORT_OPEN | HV_PORT_GHOST)) != 0 &&
		       atomic_load(&port->handle) == xce->handle
		   ? port
		   : NULL;
}

HV_PUBLIC int
xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t number)
{
	struct hv_port *port = own_port(xce, number);

	if (port == NULL) {
		errno = ENOTCONN;
		return -1;
	}
	hv_send(loop_hv(), port, loop_deliver, NULL);
	return 0;
}

HV_PUBLIC xenevtchn_port_or_error_t
xenevtchn_bind_unbound_port(xenevtchn_handle *xce, uint32_t domid)
{
	return (xenevtchn_port_or_error_t)loop_simple((struct hv_request){
	    .operation = HV_ALLOC_UNBOUND, .handle = xce->handle, .domid = domid});
}

HV_PUBLIC xenevtchn_port_or_error_t
xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t remote_port)
{
	return (xenevtchn_port_or_error_t)loop_simple((struct hv_request){
	    .operation = HV_BIND_INTERDOMAIN,
	    .handle = xce->handle,
	    .domid = domid,
	    .port = remote_port,
	});
}

HV_PUBLIC xenevtchn_port_or_error_t
xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
	return (xenevtchn_port_or_error_t)loop_simple(
	    (struct hv_request){.operation = HV_BIND_VIRQ, .handle = xce->handle, .port = virq});
}

HV_PUBLIC int
xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
	return (int)loop_simple(
	    (struct hv_request){.operation = HV_UNBIND, .handle = xce->handle, .port = port});
}

HV_PUBLIC xenevtchn_port_or_error_t
xenevtchn_pending(xenevtchn_handle *xce)
{
	uint32_t number;
	ssize_t n = read(xce->fd, &number, sizeof(number));

	if (n != sizeof(number)) {
		if (n >= 0)
			errno = EIO;
		return -1;
	}
	if (loop_hv() != NULL && number < HV_PORTS)
		atomic_fetch_and(&loop_domain()->ports[number].state, ~HV_PORT_QUEUED);
	return (xenevtchn_port_or_error_t)number;
}

HV_PUBLIC int
xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t number)
{
	struct hv_port *port = own_port(xce, number);

	/* The kernel ignores those that are not the handle's. */
	if (port != NULL) {
		atomic_fetch_and(&port->state, ~HV_PORT_MASKED);
		hv_kick(port, number, loop_deliver, NULL);
	}
	return 0;
}

HV_PUBLIC int
xenevtchn_restrict(xenevtchn_handle *xce, domid_t domid)
{
	return (int)loop_simple(
	    (struct hv_request){.operation = HV_RESTRICT, .handle = xce->handle, .domid = domid});
}
