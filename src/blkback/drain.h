/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_DRAIN_H
#define BLKBACK_DRAIN_H

#include <stdbool.h>

/*
 * Waits until a server is done with what a dead worker has sent to it, before the next one does it
 * again: an old write that comes late must not land on a newer one. Neither waits for ever: after a
 * minute they say what may happen, and go on.
 */

/* For connections that the supervisor has kept, and whose sending side it has shut down: reads to
 * their ends, and closes them. */
void drain_connections(const int *fds, unsigned count);

/* For the server at the other end of a new connection, if nbd_left() can tell; says whether. */
bool drain_server(int fd);

#endif
