/* SPDX-License-Identifier: BSD-2-Clause */

/* How much of xenstore a guest may have: xenstored's quotas, as it is started without options. */

#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define WATCHES 128
#define NODES	1000
#define SOME	800 /* of them domain 0 makes, which is faster: they are the guest's all the same */

static const char *
path_of(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", sync_dir(), name);
	return path;
}

static bool
node(unsigned number)
{
	char path[32];

	/* A folder with so many names would be too large itself. */
	snprintf(path, sizeof(path), "n/%u/%u", number / 100, number % 100);
	return xs_write(store, XBT_NULL, path_of(path), "", 0);
}

static void
quotas(void)
{
	unsigned count = 0;
	char token[16];
	struct xs_handle *other = xs_open(0);

	/* Of no use after it: see store.c. */
	for (; count < 2 * WATCHES; count++) {
		snprintf(token, sizeof(token), "%u", count);
		if (!xs_watch(other, path_of("q"), token))
			break;
	}
	fails(count == 2 * WATCHES ? 0 : -1, E2BIG, "too many watches");
	ok(count > WATCHES - 16 && count <= WATCHES + 1, "that is how many");
	printf("# %u\n", count);
	xs_close(other);
	ok(xs_watch(store, path_of("q"), "x"), "one more when these have gone");
	xs_unwatch(store, path_of("q"), "x");
	while (readable(xs_fileno(store), QUIET_MS))
		free(xs_check_watch(store));
	tell("some", 1);
	hear("some");
	for (count = SOME; count < 2 * NODES && node(count);)
		count++;
	fails(count == 2 * NODES ? 0 : -1, ENOSPC, "too many nodes");
	ok(count > NODES - 200 && count <= NODES, "that is how many");
	printf("# %u\n", count);
	ok(xs_rm(store, XBT_NULL, path_of("n")), "remove them");
	ok(xs_write(store, XBT_NULL, path_of("n"), "", 0), "one more when these have gone");
}

static void
role(char role)
{
	bool made = true;

	if (self != 0) {
		quotas();
		return;
	}
	hear("some");
	for (unsigned i = 0; i < SOME; i++)
		made = made && node(i);
	ok(made, "domain 0 makes nodes for the guest");
	tell("some", 1);
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
