/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_SESSION_H
#define XENLOOP_SESSION_H

/* A session: its folder, its broker, its xenstored, and the programs that run in it. */

#include <stdbool.h>

#include "hv.h"

/* Takes the folder from --dir, $XENLOOP_DIR or a default, and exports $XENLOOP_DIR. */
void session_choose(const char *dir);
const char *session_dir(void);

/* These return exit statuses and have said what is wrong. */
int session_start(const char *xenstored);
int session_stop(void);
/* The folder and its logs, when the session has ended. */
void session_remove(void);

/* Sets the environment of a program of a domain, by name or number. Exits if there is no such
 * session or domain. */
void session_enter(const char *domain);
/* Runs a program in a domain; console: with the domain's console as its terminal. Without, it does
 * not return if the program can be run. */
int session_exec(const char *domain, bool console, char *const argv[]);

/* Visits every domain, suspended or not, once the session is entered; begin with slot 0. */
bool session_next_domain(unsigned *slot, struct hv_info *info);

/* Sends a signal to every process that was started in a domain; their number. */
unsigned session_signal(const char *domain, int number);

#endif
