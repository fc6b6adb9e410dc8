/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_HVC_H
#define XENLOOP_HVC_H

/* Runs a program with the console of this process' domain as its terminal, as a guest's kernel does
 * with hvc0. Returns the program's exit status. */
int hvc_run(char *const argv[]);

#endif
