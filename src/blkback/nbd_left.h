/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_NBD_LEFT_H
#define BLKBACK_NBD_LEFT_H

/*
 * What an NBD server has not finished for clients that are dead. A server closes a connection when
 * the last request of it is over, also if it has shut it down before (qemu-nbd does that at once,
 * nbdkit after half a request); so a connection of a dead client that it holds open may still
 * write.
 */

/* How many of those the server at the other end has, whoever the clients were; -1: the system does
 * not tell, or not of this kind of socket. */
int nbd_left(int fd);

#endif
