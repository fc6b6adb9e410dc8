/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * A process that shares its handles with others is killed in the middle of an event, so that no
 * handle is closed: the event comes all the same.
 *
 *     lost STEP
 *
 *     pending  the sender had marked it
 *     queued   the sender had taken on to write the port's number
 *     unmask   the receiver had unmasked a port with the next event waiting
 *     taken    the receiver had read the number
 */

#include <err.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xen/xen.h>
#include <xenevtchn.h>

#include "client.h"

#define PATIENCE_MS 30000

static xenevtchn_handle *sender, *receiver;
static evtchn_port_t near, far;

static void
die(void *arg, uint32_t handle, uint32_t port)
{
	raise(SIGKILL);
}

static void
act(const char *step)
{
	struct hv_port *port = &loop_domain()->ports[far];
	uint32_t number;

	if (strcmp(step, "pending") == 0) {
		atomic_fetch_or(&port->state, HV_PORT_PENDING);
	} else if (strcmp(step, "queued") == 0) {
		hv_send(loop_hv(), &loop_domain()->ports[near], die, NULL);
	} else if (strcmp(step, "unmask") == 0) {
		xenevtchn_notify(sender, near);
		xenevtchn_pending(receiver);
		xenevtchn_notify(sender, near);
		atomic_fetch_and(&port->state, ~HV_PORT_MASKED);
	} else if (strcmp(step, "taken") == 0) {
		xenevtchn_notify(sender, near);
		if (read(xenevtchn_fd(receiver), &number, sizeof(number)) != sizeof(number))
			_exit(1);
	} else {
		_exit(64);
	}
	raise(SIGKILL);
}

static bool
take(void)
{
	struct pollfd fd = {.fd = xenevtchn_fd(receiver), .events = POLLIN};

	return poll(&fd, 1, PATIENCE_MS) == 1 && xenevtchn_pending(receiver) == (int)far &&
	       xenevtchn_unmask(receiver, far) == 0;
}

int
main(int argc, char *argv[])
{
	int status;
	pid_t pid;

	sender = xenevtchn_open(NULL, 0);
	receiver = xenevtchn_open(NULL, 0);
	if (argc != 2 || sender == NULL || receiver == NULL)
		return 64;
	near = (evtchn_port_t)xenevtchn_bind_unbound_port(sender, DOMID_SELF);
	far = (evtchn_port_t)xenevtchn_bind_interdomain(receiver, DOMID_SELF, near);
	if (!take())
		errx(1, "no event of the binding");
	pid = fork();
	if (pid == 0)
		act(argv[1]);
	if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		errx(1, "the child has ended by itself");
	if (!take())
		errx(1, "the event is lost");
	/* And the port is as ever. */
	xenevtchn_notify(sender, near);
	if (!take())
		errx(1, "the next event is lost");
	return 0;
}
