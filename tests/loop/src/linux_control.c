/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * What Linux's kernel does with control/shutdown (drivers/xen/manage.c), as a program: takes
 * "poweroff", "reboot" and "halt" in a transaction, and runs a helper program for it.
 *
 *     linux_control PROGRAM [ARGUMENT...]     gets the request as its last argument
 */

#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xenstore.h>

#define NODE "control/shutdown"

extern char **environ;

static bool
is_ours(const char *request)
{
	return strcmp(request, "poweroff") == 0 || strcmp(request, "reboot") == 0 ||
	       strcmp(request, "halt") == 0;
}

/* What was taken, or NULL. */
static char *
take(struct xs_handle *xs)
{
	for (;;) {
		xs_transaction_t t = xs_transaction_start(xs);
		char *request = xs_read(xs, t, NODE, &(unsigned){0});
		bool ours = request != NULL && is_ours(request) && xs_write(xs, t, NODE, "", 0);

		if (xs_transaction_end(xs, t, !ours) && ours)
			return request;
		free(request);
		if (!ours || errno != EAGAIN)
			return NULL;
	}
}

static void
run(int argc, char **argv, char *request)
{
	char *command[16] = {NULL};
	pid_t pid;

	for (int i = 1; i < argc; i++)
		command[i - 1] = argv[i];
	command[argc - 1] = request;
	if (posix_spawn(&pid, command[0], NULL, NULL, command, environ) != 0 ||
	    waitpid(pid, NULL, 0) != pid)
		exit(71);
}

int
main(int argc, char **argv)
{
	struct xs_handle *xs = xs_open(0);

	if (argc < 2 || argc > 14 || xs == NULL || !xs_watch(xs, NODE, "w"))
		return 64;
	for (;;) {
		unsigned n;
		char **event = xs_read_watch(xs, &n);
		char *request;

		if (event == NULL)
			return 69;
		free(event);
		request = take(xs);
		if (request != NULL)
			run(argc, argv, request);
		free(request);
	}
}
