/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_BROKER_MAIN_H
#define XENLOOP_BROKER_MAIN_H

/* Runs a session's broker in dir until SIGTERM or HV_QUIT. Writes a byte to "ready" when programs
 * may connect. Returns an exit status. */
int broker_main(const char *dir, int ready);

#endif
