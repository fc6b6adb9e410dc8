/* SPDX-License-Identifier: BSD-2-Clause */

/* The guest's end of the console ring. Source: xen/io/console.h. */

#include "hvc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <xen/io/console.h>

#include "client.h"

struct console {
	struct xencons_interface *ring;
	struct hv_port *port;
	int events;
	int terminal;
};

static bool
open_console(struct console *c)
{
	struct hv_request take = {.operation = HV_TAKE_CONSOLE};
	int64_t handle;
	uint8_t *ram;

	if (loop_hv() == NULL)
		return false;
	ram = loop_ram(loop_domain());
	handle = loop_open(HV_EVTCHN, &c->events, true);
	take.handle = (uint32_t)handle;
	if (ram == NULL || handle < 0 || loop_simple(take) < 0)
		return false;
	c->ring = (struct xencons_interface *)(void *)(ram + HV_CONSOLE_FRAME * HV_PAGE);
	c->port = &loop_domain()->ports[HV_CONSOLE_PORT];
	return true;
}

static pid_t
run_in_terminal(struct console *c, char *const argv[])
{
	pid_t pid;

	c->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (c->terminal < 0 || grantpt(c->terminal) != 0 || unlockpt(c->terminal) != 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		int fd;

		setsid();
		fd = open(ptsname(c->terminal), O_RDWR);
		ioctl(fd, TIOCSCTTY, 0);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
		execvp(argv[0], argv);
		fprintf(stderr, "xenloop: %s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? 127 : 126);
	}
	return pid;
}

/* False: the program has closed its terminal. */
static bool
from_program(struct console *c)
{
	struct xencons_interface *r = c->ring;
	uint32_t prod = r->out_prod;
	char bytes[sizeof(r->out)];
	size_t room = sizeof(r->out) - (prod - (uint32_t)r->out_cons);
	ssize_t n = room <= sizeof(bytes) ? read(c->terminal, bytes, room) : 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	for (ssize_t i = 0; i < n; i++)
		r->out[MASK_XENCONS_IDX(prod + (uint32_t)i, r->out)] = bytes[i];
	atomic_thread_fence(memory_order_release); /* the bytes before out_prod */
	r->out_prod = prod + (uint32_t)n;
	if (n > 0)
		hv_send(loop_hv(), c->port, loop_deliver, NULL);
	return true;
}

static void
to_program(struct console *c)
{
	struct xencons_interface *r = c->ring;
	uint32_t cons = r->in_cons, prod = r->in_prod;
	bool moved = false;

	atomic_thread_fence(memory_order_acquire); /* in_prod before the bytes */
	while (cons != prod) {
		size_t at = MASK_XENCONS_IDX(cons, r->in), size = prod - cons;
		ssize_t n;

		size = size < sizeof(r->in) - at ? size : sizeof(r->in) - at;
		n = write(c->terminal, r->in + at, size);
		if (n <= 0)
			break;
		cons += (uint32_t)n;
		moved = true;
	}
	atomic_thread_fence(memory_order_release);
	r->in_cons = cons;
	if (moved)
		hv_send(loop_hv(), c->port, loop_deliver, NULL);
}

static bool
has_input(const struct console *c)
{
	return c->ring->in_cons != c->ring->in_prod;
}

/* Not while the domain is suspended: then the ring is nobody's. */
static bool
is_open(const struct console *c)
{
	return (atomic_load(&c->port->state) & HV_PORT_OPEN) != 0;
}

static void
take_events(const struct console *c)
{
	uint32_t port;

	if (read(c->events, &port, sizeof(port)) == sizeof(port)) {
		atomic_fetch_and(&c->port->state, ~(HV_PORT_QUEUED | HV_PORT_MASKED));
		hv_kick(c->port, HV_CONSOLE_PORT, loop_deliver, NULL);
	}
}

int
hvc_run(char *const argv[])
{
	struct console c = {0};
	bool open = true;
	int status;
	pid_t pid;

	if (!open_console(&c)) {
		fprintf(stderr, "xenloop: the console: %s\n", strerror(errno));
		return EX_UNAVAILABLE;
	}
	pid = run_in_terminal(&c, argv);
	if (pid < 0) {
		fprintf(stderr, "xenloop: a terminal: %s\n", strerror(errno));
		return EX_OSERR;
	}
	while (open) {
		struct pollfd fds[] = {{.fd = c.events, .events = POLLIN}, {.fd = c.terminal}};

		/* Nobody may have the other end of the ring: then the program waits. */
		if ((uint32_t)(c.ring->out_prod - c.ring->out_cons) < sizeof(c.ring->out))
			fds[1].events = POLLIN;
		/* What the terminal has had no room for. */
		if (has_input(&c))
			fds[1].events |= POLLOUT;
		if (!is_open(&c) || fds[1].events == 0)
			fds[1].fd = -1;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[0].revents != 0)
			take_events(&c);
		if (!is_open(&c))
			continue;
		to_program(&c);
		if ((fds[1].revents & ~POLLOUT) != 0)
			open = from_program(&c);
	}
	if (waitpid(pid, &status, 0) != pid)
		return EX_OSERR;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
