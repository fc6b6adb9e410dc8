/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_COMMAND_H
#define CONTROL_COMMAND_H

#include <stdbool.h>

struct event_base;
struct command;

/*
 * One program, run in a process group of its own, with what it prints in our log. One that takes
 * too long is told to end and then killed, with all of its group; if even that does not end it, it
 * is left to die when it can. One that ends in time may leave processes behind, but they have lost
 * their output; SIGPIPE is ignored there, if it is here.
 */

enum command_end {
	COMMAND_OK, /* status 0 */
	COMMAND_FAILED,
	COMMAND_TIMED_OUT,
};

/* "text" tells how it ended: "status 3". */
typedef void command_ended(enum command_end end, const char *text, void *arg);

/* "name" is for the log and copied, "env" ends with NULL and is used here only. NULL after a log
 * line. The handler is called once, from the event loop, after which there is no command. */
struct command *command_start(struct event_base *base, const char *name, char *const argv[],
    char *const env[], unsigned timeout_ms, command_ended *ended, void *arg);

/* Tells the service manager, should it be about to stop us, how long one with this limit may take;
 * command_start() does so by itself. */
void command_announce(unsigned timeout_ms);

/* Kills it, with its group, without a call and without waiting: it is reaped when it is dead. */
void command_kill(struct command *c);
/* Forgets it without a call, and lets it run. */
void command_leave(struct command *c);

#endif
