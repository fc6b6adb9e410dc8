/* SPDX-License-Identifier: BSD-2-Clause */

/* Event channels. a allocates ports, b binds to them. */

#include "conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <xen/xen.h>

#define NO_PORT	  0x7ffffff0u /* more than any ABI has */
#define FREE_PORT 1000u	      /* one of those that Linux makes room for at once, and nobody's */
#define FAR_PORT  4000u	      /* one of those it has made no room for */

static xenevtchn_handle *
open_handle(void)
{
	xenevtchn_handle *xce = xenevtchn_open(NULL, 0);

	if (xce == NULL)
		bail("event channels: %s", strerror(errno));
	nonblocking(xenevtchn_fd(xce));
	return xce;
}

static void
quiet(xenevtchn_handle *xce, const char *name)
{
	is(next_event(xce, QUIET_MS), -1, "%s", name);
}

static void
unmask(xenevtchn_handle *xce, int64_t port)
{
	is(xenevtchn_unmask(xce, (evtchn_port_t)port), 0, "unmask");
}

/* --- within one domain --- */

static void
handles(void)
{
	xenevtchn_handle *xce;
	int fd;

	fails_null(xenevtchn_open(NULL, 1u << 5), EINVAL, "open with an unknown flag");
	xce = xenevtchn_open(NULL, 0);
	is(fcntl(xenevtchn_fd(xce), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC,
	    "a handle is closed on exec");
	is(fcntl(xenevtchn_fd(xce), F_GETFL) & O_NONBLOCK, 0, "a handle is blocking");
	xenevtchn_close(xce);
	xce = xenevtchn_open(NULL, XENEVTCHN_NO_CLOEXEC);
	is(fcntl(xenevtchn_fd(xce), F_GETFD) & FD_CLOEXEC, 0, "or not closed on exec");
	is(xenevtchn_close(xce), 0, "close");
	is(xenevtchn_close(NULL), 0, "close nothing");

	xce = open_handle();
	fd = xenevtchn_fd(xce);
	fails(xenevtchn_pending(xce), EAGAIN, "pending: there is none");
	fails(xenevtchn_notify(xce, FREE_PORT), ENOTCONN, "notify on a port that is nobody's");
	fails(xenevtchn_notify(xce, NO_PORT), ENOTCONN, "notify on an impossible port");
	fails(xenevtchn_unbind(xce, FREE_PORT), ENOTCONN, "unbind a port that is nobody's");
	fails(xenevtchn_unbind(xce, FAR_PORT), EINVAL, "unbind a port that there is no room for");
	fails(xenevtchn_unbind(xce, NO_PORT), EINVAL, "unbind an impossible port");
	is(xenevtchn_unmask(xce, FREE_PORT), 0, "unmask a port that is nobody's");
	is(xenevtchn_unmask(xce, NO_PORT), 0, "unmask an impossible port");
	fails_null(xenevtchn_fdopen(NULL, fd, XENEVTCHN_NO_CLOEXEC), EINVAL, "fdopen with a flag");
	xenevtchn_close(xce);
}

/* Both ends of a channel in one process. */
static void
loopback(void)
{
	xenevtchn_handle *one = open_handle(), *two = open_handle(), *copy;
	int64_t near = xenevtchn_bind_unbound_port(one, DOMID_SELF), far;

	ok(near > 0, "a port for the domain itself");
	far = xenevtchn_bind_interdomain(two, DOMID_SELF, (evtchn_port_t)near);
	if (!ok(far > 0, "bound by the domain itself"))
		return;
	settle(one);
	settle(two);
	is(xenevtchn_notify(one, (evtchn_port_t)near), 0, "notify within a domain");
	is(next_event(two, SOON_MS), far, "the other handle's port has the event");
	quiet(one, "not the sender's");
	fails(xenevtchn_notify(one, (evtchn_port_t)far), ENOTCONN,
	    "notify on a port of another handle");
	fails(
	    xenevtchn_unbind(one, (evtchn_port_t)far), ENOTCONN, "unbind a port of another handle");
	is(xenevtchn_unmask(one, (evtchn_port_t)far), 0, "unmask a port of another handle");
	xenevtchn_notify(one, (evtchn_port_t)near);
	quiet(two, "that unmasks nothing");
	unmask(two, far);
	is(next_event(two, SOON_MS), far, "its own handle does");
	unmask(two, far);

	copy = xenevtchn_fdopen(NULL, dup(xenevtchn_fd(two)), 0);
	ok(copy != NULL, "fdopen of a copy of the descriptor");
	xenevtchn_notify(one, (evtchn_port_t)near);
	is(next_event(copy, SOON_MS), far, "has the events");
	is(xenevtchn_unmask(copy, (evtchn_port_t)far), 0, "and unmasks");
	is(xenevtchn_notify(copy, (evtchn_port_t)far), 0, "and notifies");
	is(next_event(one, SOON_MS), near, "as the original does");
	unmask(one, near);
	xenevtchn_close(two);
	is(xenevtchn_notify(copy, (evtchn_port_t)far), 0, "and lives on without it");
	is(next_event(one, SOON_MS), near, "in fact");
	unmask(one, near);
	xenevtchn_close(copy);
	is(xenevtchn_notify(one, (evtchn_port_t)near), 0, "notify once the other end is closed");
	quiet(one, "gives nothing");
	xenevtchn_close(one);
}

struct channel {
	xenevtchn_handle *one, *two;
	int64_t near, far;
};

static void
use_in_child(void *arg)
{
	const struct channel *c = arg;
	int64_t got = next_event(c->two, SOON_MS);

	child_says(got == c->far);
	child_says(xenevtchn_unmask(c->two, (evtchn_port_t)c->far) == 0);
	child_says(xenevtchn_notify(c->two, (evtchn_port_t)c->far) == 0);
	child_waits();
}

/* What a process has opened is its child's, too. */
static void
forked(void)
{
	struct channel c = {.one = open_handle(), .two = open_handle()};
	struct child child;

	c.near = xenevtchn_bind_unbound_port(c.one, DOMID_SELF);
	c.far = xenevtchn_bind_interdomain(c.two, DOMID_SELF, (evtchn_port_t)c.near);
	settle(c.one);
	settle(c.two);
	child = child_start(use_in_child, &c);
	is(xenevtchn_notify(c.one, (evtchn_port_t)c.near), 0, "notify when there is a child");
	ok(child_hear(&child) == 1, "the child takes the event");
	ok(child_hear(&child) == 1, "and unmasks");
	ok(child_hear(&child) == 1, "and notifies");
	is(next_event(c.one, SOON_MS), c.near, "which the parent sees");
	unmask(c.one, c.near);
	quiet(c.two, "the child's event is not the parent's, too");
	child_kill(&child);
	quiet(c.one, "a child's end is no event");
	is(xenevtchn_notify(c.one, (evtchn_port_t)c.near), 0, "notify when it has been killed");
	is(next_event(c.two, SOON_MS), c.far, "the parent has what both had");
	xenevtchn_close(c.two);
	xenevtchn_close(c.one);
}

static void
two_ports(void)
{
	xenevtchn_handle *sender = open_handle(), *xce = open_handle();
	int64_t near[2], far[2];

	for (unsigned i = 0; i < 2; i++) {
		near[i] = xenevtchn_bind_unbound_port(sender, self);
		far[i] = xenevtchn_bind_interdomain(xce, self, (evtchn_port_t)near[i]);
	}
	ok(far[0] > 0 && far[1] > 0 && far[0] != far[1], "two ports on one handle");
	settle(xce);
	settle(sender);
	for (unsigned i = 2; i-- > 0;) {
		xenevtchn_notify(sender, (evtchn_port_t)near[i]);
		ok(readable(xenevtchn_fd(xce), SOON_MS), "an event of port %u", i);
		usleep(QUIET_MS * 1000);
	}
	is(next_event(xce, 0), far[1], "the first that was sent");
	is(next_event(xce, 0), far[0], "then the second");
	quiet(xce, "no third");
	is(xenevtchn_unbind(xce, (evtchn_port_t)far[0]), 0, "unbind one");
	unmask(xce, far[1]);
	xenevtchn_notify(sender, (evtchn_port_t)near[0]);
	quiet(xce, "it is silent");
	xenevtchn_notify(sender, (evtchn_port_t)near[1]);
	is(next_event(xce, SOON_MS), far[1], "the other one is not");
	unmask(xce, far[1]);
	fails(xenevtchn_unbind(xce, (evtchn_port_t)far[0]), ENOTCONN, "unbind it again");
	fails(xenevtchn_notify(xce, (evtchn_port_t)far[0]), ENOTCONN, "notify on it");
	/* What is pending when a port goes is of no interest any more. */
	xenevtchn_notify(sender, (evtchn_port_t)near[1]);
	ok(readable(xenevtchn_fd(xce), SOON_MS), "an event that nobody takes");
	is(xenevtchn_unbind(xce, (evtchn_port_t)far[1]), 0, "before its port is unbound");
	is(next_event(xce, QUIET_MS), far[1], "is in the handle still");
	xenevtchn_close(xce);
	xenevtchn_close(sender);
}

static void
virqs(void)
{
	xenevtchn_handle *xce = open_handle(), *other = open_handle();
	int64_t port = xenevtchn_bind_virq(xce, VIRQ_TBUF);

	ok(port > 0, "bind a VIRQ");
	quiet(xce, "it is silent");
	fails(xenevtchn_bind_virq(xce, VIRQ_TBUF), EEXIST, "bind it twice");
	fails(xenevtchn_bind_virq(other, VIRQ_TBUF), EEXIST, "bind it to another handle");
	fails(xenevtchn_bind_virq(xce, NR_VIRQS), EINVAL, "bind one that does not exist");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify on a VIRQ");
	quiet(xce, "has no effect");
	is(xenevtchn_unbind(xce, (evtchn_port_t)port), 0, "unbind it");
	port = xenevtchn_bind_virq(other, VIRQ_TBUF);
	ok(port > 0, "then another handle may bind it");
	xenevtchn_close(other);
	port = xenevtchn_bind_virq(xce, VIRQ_TBUF);
	ok(port > 0, "and the first again when that is closed");
	xenevtchn_close(xce);
}

static void
restricted(uint32_t remote_port)
{
	xenevtchn_handle *xce = open_handle();
	int64_t port;

	fails(xenevtchn_restrict(xce, DOMID_SELF), EINVAL, "restrict to no domain");
	fails(xenevtchn_restrict(xce, 0), EINVAL, "restrict to domain 0");
	if (peer == 0) {
		xenevtchn_close(xce);
		return;
	}
	is(xenevtchn_restrict(xce, (domid_t)peer), 0, "restrict to the peer");
	fails(xenevtchn_restrict(xce, (domid_t)peer), EACCES, "restrict again");
	fails(xenevtchn_bind_virq(xce, VIRQ_TBUF), EACCES, "then a VIRQ");
	fails(xenevtchn_bind_unbound_port(xce, peer), EACCES, "then a new port, even for the peer");
	fails(xenevtchn_bind_interdomain(xce, NOBODY, 1), EACCES, "then a port of another domain");
	port = xenevtchn_bind_interdomain(xce, peer, remote_port);
	ok(port > 0, "then a port of the peer");
	xenevtchn_close(xce);
}

/* --- a --- */

static void
allocates(void)
{
	xenevtchn_handle *xce = open_handle();
	int64_t port, other, second;

	port = xenevtchn_bind_unbound_port(xce, peer);
	ok(port > 0, "a port for the peer");
	second = xenevtchn_bind_unbound_port(xce, peer);
	other = xenevtchn_bind_unbound_port(xce, NOBODY);
	ok(other > 0, "a port for a domain that does not exist");
	quiet(xce, "a new port has no event");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify before the peer is there");
	quiet(xce, "gives the sender no event");
	tell("other", (uint32_t)other);
	tell("port", (uint32_t)port);
	hear("bound");
	quiet(xce, "that the peer binds is no event");

	/* b sends. */
	meet("send1");
	is(next_event(xce, SOON_MS), port, "an event");
	fails(xenevtchn_pending(xce), EAGAIN, "just one");
	meet("taken1");
	/* Now it is masked. */
	meet("sent2");
	quiet(xce, "masked: no event");
	unmask(xce, port);
	is(next_event(xce, SOON_MS), port, "it comes when unmasked");
	meet("sent-many");
	quiet(xce, "masked: many are sent");
	unmask(xce, port);
	is(next_event(xce, SOON_MS), port, "they come as one");
	unmask(xce, port);
	quiet(xce, "as one");
	unmask(xce, port);
	quiet(xce, "to unmask twice does nothing");

	/* a sends. */
	meet("reply");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify");
	hear("got-reply");

	/* b unbinds; the port waits for it again. */
	hear("unbound");
	quiet(xce, "that the peer unbinds is no event");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify when the peer has unbound");
	tell("notified", 1);
	hear("rebound");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify when it has bound again");
	tell("notified-again", 1);
	hear("unbind");
	is(xenevtchn_unbind(xce, (evtchn_port_t)port), 0, "unbind");
	tell("gone", 1);

	/* b's process dies. */
	tell("second", (uint32_t)second);
	hear("died");
	quiet(xce, "that the peer's process dies is no event");
	is(xenevtchn_notify(xce, (evtchn_port_t)second), 0, "notify when the peer has died");
	tell("notified2", 1);
	hear("rebound2");
	settle(xce);
	meet("from-new");
	is(next_event(xce, SOON_MS), second, "an event of the peer's next process");
	unmask(xce, second);

	/* And this process' end. */
	xenevtchn_close(xce);
	tell("closed", 1);
}

/* --- b --- */

static void
bind_in_child(void *port)
{
	xenevtchn_handle *xce = open_handle();

	child_says((uint32_t)xenevtchn_bind_interdomain(xce, peer, *(uint32_t *)port));
	child_waits();
}

static void
binds(void)
{
	xenevtchn_handle *xce = open_handle();
	uint32_t remote = hear("port"), other = hear("other");
	struct child child;
	int64_t port, again;

	fails(xenevtchn_bind_interdomain(xce, peer, NO_PORT), EINVAL, "bind to an impossible port");
	fails(
	    xenevtchn_bind_interdomain(xce, peer, FREE_PORT), EINVAL, "bind to a port nobody has");
	fails(xenevtchn_bind_interdomain(xce, peer, 0), EINVAL, "bind to port 0");
	fails(xenevtchn_bind_interdomain(xce, NOBODY, remote), ESRCH,
	    "bind to a domain that does not exist");
	fails(xenevtchn_bind_interdomain(xce, peer, other), EINVAL,
	    "bind to a port for another domain");
	port = xenevtchn_bind_interdomain(xce, peer, remote);
	ok(port > 0, "bind");
	is(next_event(xce, SOON_MS), port, "it is pending right away");
	quiet(xce, "once");
	unmask(xce, port);
	quiet(xce, "and not again when unmasked");
	fails(xenevtchn_bind_interdomain(xce, peer, remote), EINVAL, "bind to it again");
	tell("bound", 1);

	meet("send1");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify");
	meet("taken1");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify a masked port");
	meet("sent2");
	hear("sent-many");
	for (unsigned i = 0; i < 5; i++)
		xenevtchn_notify(xce, (evtchn_port_t)port);
	tell("sent-many", 1);

	meet("reply");
	is(next_event(xce, SOON_MS), port, "an event back");
	tell("got-reply", 1);
	unmask(xce, port);

	is(xenevtchn_unbind(xce, (evtchn_port_t)port), 0, "unbind");
	tell("unbound", 1);
	hear("notified");
	quiet(xce, "no event when unbound");
	again = xenevtchn_bind_interdomain(xce, peer, remote);
	ok(again > 0, "bind again");
	tell("rebound", 1);
	is(next_event(xce, SOON_MS), again, "an event again");
	unmask(xce, again);
	/* That may have been the one of binding; then the peer's is still to come. */
	hear("notified-again");
	settle(xce);
	tell("unbind", 1);
	hear("gone");
	quiet(xce, "that the other end is unbound is no event");
	is(xenevtchn_notify(xce, (evtchn_port_t)again), 0, "notify when the other end is unbound");
	fails(xenevtchn_bind_interdomain(xce, peer, remote), EINVAL, "bind to what has gone");
	is(xenevtchn_unbind(xce, (evtchn_port_t)again), 0, "unbind when the other end has gone");

	remote = hear("second");
	child = child_start(bind_in_child, &remote);
	ok((int32_t)child_hear(&child) > 0, "a child binds");
	fails(xenevtchn_bind_interdomain(xce, peer, remote), EINVAL, "then the parent cannot");
	child_kill(&child);
	tell("died", 1);
	hear("notified2");
	port = xenevtchn_bind_interdomain(xce, peer, remote);
	ok(port > 0, "bind when the child was killed");
	settle(xce);
	tell("rebound2", 1);
	meet("from-new");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify from the new process");
	hear("closed");
	quiet(xce, "that the other handle is closed is no event");
	is(xenevtchn_notify(xce, (evtchn_port_t)port), 0, "notify when the other handle is closed");
	xenevtchn_close(xce);
}

static void
role(char role)
{
	int64_t port;

	handles();
	loopback();
	forked();
	two_ports();
	meet("local");
	if (role == 'a') {
		xenevtchn_handle *xce = open_handle();

		allocates();
		port = xenevtchn_bind_unbound_port(xce, peer);
		tell("restricted", (uint32_t)port);
		hear("tried");
		xenevtchn_close(xce);
		virqs();
	} else {
		binds();
		restricted(hear("restricted"));
		tell("tried", 1);
	}
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
