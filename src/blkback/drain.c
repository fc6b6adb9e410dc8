/* SPDX-License-Identifier: BSD-2-Clause */
#include "drain.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/stats.h>

#include "nbd_left.h"

#define LOOK_MS	   10
#define MAX_READS  64 /* a look */
#define TELL_S	   10
#define PATIENCE_S 60

struct wait {
	uint64_t begun_ns, told_ns;
};

/* False: that was long enough. */
static bool
wait_a_little(struct wait *wait)
{
	uint64_t now = xpv_now_ns();
	unsigned seconds;

	if (wait->begun_ns == 0) {
		wait->begun_ns = wait->told_ns = now;
		xpv_info("waiting until the NBD server has finished the last worker's requests");
	}
	seconds = (unsigned)((now - wait->begun_ns) / 1000000000);
	if (seconds >= PATIENCE_S) {
		xpv_warning("the NBD server has not finished the last worker's requests in %u s: "
			    "going on; if one of their writes is done yet, it may undo a newer one",
		    PATIENCE_S);
		return false;
	}
	if (now - wait->told_ns > TELL_S * UINT64_C(1000000000)) {
		xpv_notice("waiting for the NBD server to finish the last worker's requests, for "
			   "%u s now",
		    seconds);
		wait->told_ns = now;
	}
	nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000}, NULL);
	return true;
}

/* Nobody wants the answers; a server that sends without end is not read without end. */
static bool
has_ended(int fd)
{
	char answers[65536];
	ssize_t n = 1;

	for (unsigned i = 0; i < MAX_READS && n > 0; i++)
		n = recv(fd, answers, sizeof(answers), MSG_DONTWAIT);
	if (n > 0)
		return false;
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return false;
	if (n < 0 && errno != ECONNRESET && errno != EPIPE)
		xpv_warning("a connection of the last worker to the NBD server broke (%s): if the "
			    "server goes on with its writes, one may undo a newer one",
		    strerror(errno));
	return true;
}

void
drain_connections(const int *fds, unsigned count)
{
	struct wait wait = {0};
	unsigned ended = 0;

	while (ended < count) {
		if (has_ended(fds[ended]))
			ended++;
		else if (!wait_a_little(&wait))
			break;
	}
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

bool
drain_server(int fd)
{
	struct wait wait = {0};
	int left;

	do {
		left = nbd_left(fd);
		/* The list is not made at one moment, and can lack one if others go meanwhile. */
		if (left == 0)
			left = nbd_left(fd);
	} while (left > 0 && wait_a_little(&wait));
	return left >= 0;
}
