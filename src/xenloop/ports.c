/* SPDX-License-Identifier: BSD-2-Clause */

/* Event channels. Source: xen/event_channel.h; the errors are those of Xen and of Linux' evtchn. */

#include <errno.h>

#include "broker.h"

#include <xen/xen.h>

/* What Linux' FIFO events grow by: a page of them. */
#define ROOM 1024

static struct hv_port *
shared(const struct broker *b, const struct domain *d, uint32_t port)
{
	return &b->hv->domains[d->slot].ports[port];
}

static uint32_t
address(const struct domain *d, uint32_t port)
{
	return d->slot * HV_PORTS + port;
}

static uint32_t
free_port(const struct domain *d)
{
	for (uint32_t i = HV_CONSOLE_PORT + 1; i < HV_PORTS; i++)
		if (d->ports[i].type == PORT_FREE)
			return i;
	return 0;
}

static void
open_port(struct broker *b, struct handle *h, uint32_t port, enum port_type type, uint32_t remote)
{
	struct hv_port *p = shared(b, h->domain, port);

	if (port >= h->domain->port_room)
		h->domain->port_room = (port / ROOM + 1) * ROOM;
	h->domain->ports[port] =
	    (struct port_info){.type = type, .remote = remote, .serial = ++b->next_serial};
	atomic_store(&p->peer, HV_PEER_NONE);
	atomic_store(&p->handle, h->id);
	atomic_store(&p->state, HV_PORT_OPEN);
}

static void
close_port(struct broker *b, struct domain *d, uint32_t port)
{
	struct hv_port *p = shared(b, d, port), *far;
	uint32_t peer = atomic_load(&p->peer);

	if (d->ports[port].type == PORT_INTERDOMAIN && peer != HV_PEER_NONE) {
		struct domain *peers = &b->domains[peer / HV_PORTS];

		far = shared(b, peers, peer % HV_PORTS);
		atomic_store(&far->peer, HV_PEER_NONE);
		peers->ports[peer % HV_PORTS].type = PORT_UNBOUND;
		peers->ports[peer % HV_PORTS].remote = d->domid;
	}
	d->ports[port] = (struct port_info){.type = PORT_FREE};
	atomic_store(&p->state, 0);
	atomic_store(&p->peer, HV_PEER_NONE);
	atomic_store(&p->handle, 0);
}

/* Its handle has no use for it any more. */
static void
disown_port(struct broker *b, struct domain *d, uint32_t port)
{
	struct hv_port *p = shared(b, d, port);

	if (port == HV_CONSOLE_PORT && d->console != 0) {
		/* The channel is the domain's; the next program that wants it finds it there. */
		d->console = 0;
		atomic_store(&p->handle, d->kernel);
		atomic_store(&p->state, HV_PORT_OPEN);
		return;
	}
	if (d->ports[port].holds == 0) {
		close_port(b, d, port);
		return;
	}
	atomic_store(&p->handle, 0);
	atomic_store(&p->state, 0);
}

int
port_hold(struct broker *b, struct domain *d, uint32_t port, uint32_t *serial)
{
	struct port_info *info = &d->ports[port % HV_PORTS];

	if (port >= HV_PORTS || info->type == PORT_FREE || info->type == PORT_DEAD ||
	    atomic_load(&shared(b, d, port)->handle) == d->kernel)
		return EINVAL;
	info->holds++;
	*serial = info->serial;
	return 0;
}

void
port_release(struct broker *b, struct domain *d, uint32_t port, uint32_t serial, bool send)
{
	if (d->ports[port].serial != serial)
		return; /* it has gone with its domain */
	if (send)
		port_notify(b, d, port);
	if (--d->ports[port].holds == 0 && atomic_load(&shared(b, d, port)->handle) == 0)
		close_port(b, d, port);
}

int
port_alloc_at(struct broker *b, struct handle *h, uint32_t domid, uint32_t port)
{
	if (h->domain->ports[port].type != PORT_FREE)
		return EEXIST;
	open_port(b, h, port, PORT_UNBOUND, domid);
	return 0;
}

int
port_alloc_unbound(struct broker *b, struct handle *h, uint32_t domid, uint32_t *port)
{
	if (h->restricted != HV_NO_DOMID)
		return EACCES;
	if (domid == DOMID_SELF)
		domid = h->domain->domid;
	*port = free_port(h->domain);
	if (*port == 0)
		return ENOSPC;
	open_port(b, h, *port, PORT_UNBOUND, domid);
	return 0;
}

int
port_bind_interdomain(
    struct broker *b, struct handle *h, uint32_t domid, uint32_t remote_port, uint32_t *port)
{
	struct domain *remote = domid == DOMID_SELF ? h->domain : domain_find(b, domid);
	struct port_info *info;

	if (h->restricted != HV_NO_DOMID && h->restricted != domid)
		return EACCES;
	if (remote == NULL)
		return ESRCH;
	if (remote_port == 0 || remote_port >= HV_PORTS)
		return EINVAL;
	info = &remote->ports[remote_port];
	if (info->type != PORT_UNBOUND || info->remote != h->domain->domid)
		return EINVAL;
	*port = free_port(h->domain);
	if (*port == 0)
		return ENOSPC;
	open_port(b, h, *port, PORT_INTERDOMAIN, remote->domid);
	info->type = PORT_INTERDOMAIN;
	info->remote = h->domain->domid;
	atomic_store(&shared(b, h->domain, *port)->peer, address(remote, remote_port));
	atomic_store(&shared(b, remote, remote_port)->peer, address(h->domain, *port));
	/* As Xen does: the other side may have sent an event before this one was there. */
	hv_raise(shared(b, h->domain, *port), *port, handle_deliver, b);
	return 0;
}

int
port_bind_virq(struct broker *b, struct handle *h, uint32_t virq, uint32_t *port)
{
	if (h->restricted != HV_NO_DOMID)
		return EACCES;
	if (virq >= NR_VIRQS)
		return EINVAL;
	for (uint32_t i = 1; i < HV_PORTS; i++)
		if (h->domain->ports[i].type == PORT_VIRQ && h->domain->ports[i].remote == virq)
			return EEXIST;
	*port = free_port(h->domain);
	if (*port == 0)
		return ENOSPC;
	open_port(b, h, *port, PORT_VIRQ, virq);
	return 0;
}

int
port_unbind(struct broker *b, struct handle *h, uint32_t port)
{
	if (port >= h->domain->port_room)
		return EINVAL;
	if (h->domain->ports[port].type == PORT_FREE ||
	    atomic_load(&shared(b, h->domain, port)->handle) != h->id)
		return ENOTCONN;
	disown_port(b, h->domain, port);
	return 0;
}

int
port_take_console(struct broker *b, struct handle *h)
{
	struct domain *d = h->domain;
	struct hv_port *p = shared(b, d, HV_CONSOLE_PORT);

	if (d->ports[HV_CONSOLE_PORT].type == PORT_FREE)
		return ENOTCONN;
	if (atomic_load(&p->handle) != d->kernel)
		return EBUSY;
	d->console = h->id;
	atomic_store(&p->handle, h->id);
	/* What the other side has sent already was for nobody. */
	atomic_fetch_and(&p->state, ~HV_PORT_MASKED);
	hv_raise(p, HV_CONSOLE_PORT, handle_deliver, b);
	return 0;
}

void
ports_of_handle_close(struct broker *b, const struct handle *h)
{
	for (uint32_t i = 1; i < HV_PORTS; i++)
		if (h->domain->ports[i].type != PORT_FREE &&
		    atomic_load(&shared(b, h->domain, i)->handle) == h->id)
			disown_port(b, h->domain, i);
}

void
ports_of_domain_close(struct broker *b, struct domain *d, bool ghosts)
{
	for (uint32_t i = 1; i < HV_PORTS; i++) {
		struct hv_port *p = shared(b, d, i);
		uint32_t handle = atomic_load(&p->handle);

		if (d->ports[i].type == PORT_FREE || d->ports[i].type == PORT_DEAD)
			continue;
		close_port(b, d, i);
		if (ghosts && handle != d->kernel && i != HV_CONSOLE_PORT) {
			/* The number stays taken: the handle may still unbind it. */
			d->ports[i].type = PORT_DEAD;
			atomic_store(&p->handle, handle);
			atomic_store(&p->state, HV_PORT_GHOST);
		}
	}
}

void
port_notify(struct broker *b, const struct domain *d, uint32_t port)
{
	if (port < HV_PORTS)
		hv_send(b->hv, shared(b, d, port), handle_deliver, b);
}

void
port_raise_virq(struct broker *b, uint32_t virq)
{
	struct domain *dom0 = &b->domains[0];

	for (uint32_t i = 1; i < HV_PORTS; i++)
		if (dom0->ports[i].type == PORT_VIRQ && dom0->ports[i].remote == virq)
			hv_raise(shared(b, dom0, i), i, handle_deliver, b);
}

uint32_t
ports_open(const struct broker *b, const struct domain *d)
{
	uint32_t open = 0;

	for (uint32_t i = 1; i < d->port_room; i++)
		open += d->ports[i].type != PORT_FREE &&
			atomic_load(&shared(b, d, i)->handle) != d->kernel;
	return open;
}

/*
 * A process may be killed between two steps of sending or taking an event, also one that shares its
 * handles with others, so that none is closed: the port would be silent for good. A port whose
 * number is in no pipe gets it again, unless the number is just on its way: then it is in the pipe
 * when the port is looked at once more.
 */

static const struct timeval recheck_interval = {.tv_usec = 250000};

static void
recheck(struct broker *b, struct domain *d, uint32_t port)
{
	struct hv_port *p = shared(b, d, port);
	struct port_info *info = &d->ports[port];
	uint32_t state = atomic_load(&p->state), round = state / HV_PORT_ROUND + 1;

	if ((state & HV_PORT_QUEUED) == 0) {
		info->missing = 0;
		hv_kick(p, port, handle_deliver, b);
	} else if (handle_holds(b, atomic_load(&p->handle), port)) {
		info->missing = 0;
	} else if (info->missing == round) {
		handle_deliver(b, atomic_load(&p->handle), port);
	} else {
		info->missing = round;
	}
}

static void
on_recheck(evutil_socket_t fd, short events, void *arg)
{
	struct broker *b = arg;

	for (unsigned slot = 0; slot < HV_DOMAINS; slot++) {
		struct domain *d = &b->domains[slot];

		for (uint32_t i = 1; d->exists && i < d->port_room; i++)
			if (d->ports[i].type != PORT_FREE && d->ports[i].type != PORT_DEAD)
				recheck(b, d, i);
	}
}

int
ports_init(struct broker *b)
{
	b->recheck = event_new(b->base, -1, EV_PERSIST, on_recheck, b);
	return b->recheck == NULL || event_add(b->recheck, &recheck_interval) != 0 ? ENOMEM : 0;
}
