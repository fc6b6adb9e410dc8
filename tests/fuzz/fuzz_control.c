/* SPDX-License-Identifier: BSD-2-Clause */

/* A client of the control socket sends the input. */

#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/event.h>

#include <xenpv/control.h>
#include <xenpv/log.h>

#include "fuzz.h"

static struct event_base *base;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void
write_page(struct evbuffer *out, void *arg)
{
	evbuffer_add_printf(out, "[]\n");
}

static const struct xpv_control_page pages[] = {{"/devices", "application/json", write_page}, {0}};

static void
remove_socket(void)
{
	char *slash = strrchr(address.sun_path, '/');

	unlink(address.sun_path);
	*slash = '\0';
	rmdir(address.sun_path);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char dir[] = "/tmp/xenpv-fuzz.XXXXXX";

	xpv_log_open("fuzz", XPV_LOG_ERR, false);
	base = event_base_new();
	check(mkdtemp(dir) != NULL);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/sock", dir);
	check(xpv_control_open(base, address.sun_path, pages, NULL) != NULL);
	atexit(remove_socket);
	return 0;
}

static void
run(int fd)
{
	char bytes[65536];

	event_base_loop(base, EVLOOP_NONBLOCK);
	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	check(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	run(fd);
	while (size > 0) {
		size_t n = size < 256 ? size : 256;

		if (send(fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		data += n;
		size -= n;
		run(fd);
	}
	close(fd);
	for (unsigned i = 0; i < 3; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
	return 0;
}
