/* SPDX-License-Identifier: BSD-2-Clause */

/* A client of the NBD server's handshake sends the input, in pieces of any size. */

#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include <xenpv/log.h>

#include "fuzz.h"
#include "nbd_handshake.h"

static struct event_base *base;
static struct nbd_exports exports;
static bool ended;
static const struct nbd_export disk = {.id = 1,
    .bytes = 1 << 20,
    .block_min = 512,
    .block_preferred = 4096,
    .block_max = 1 << 17,
    .name = "xvda"};

static void
on_ended(const struct nbd_export *chosen, int fd, void *arg)
{
	check(!ended);
	check((chosen != NULL) == (fd >= 0));
	ended = true;
	if (fd >= 0)
		close(fd);
}

static void
swallow(int fd)
{
	char bytes[65536];

	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	base = event_base_new();
	xpv_log_open("fuzz", XPV_LOG_ERR, false);
	check(nbd_exports_set(&exports, &disk) == 0);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	int pair[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	ended = false;
	check(nbd_handshake_start(base, pair[1], &exports, 10000, on_ended, NULL) != NULL);
	while (!ended && in.left > 0) {
		static const uint8_t zeros[64 * 256];
		unsigned kind = take_byte(&in);
		size_t n = 1 + kind % 64;
		bool bulk = kind >= 192; /* more than an input has */

		n = bulk ? n * 256 : n < in.left ? n : in.left;
		if (send(pair[0], bulk ? zeros : in.at, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			break;
		if (!bulk) {
			in.at += n;
			in.left -= n;
		}
		event_base_loop(base, EVLOOP_NONBLOCK);
		swallow(pair[0]);
	}
	close(pair[0]);
	while (!ended)
		event_base_loop(base, EVLOOP_ONCE);
	return 0;
}
