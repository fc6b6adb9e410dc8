/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_LISTEN_H
#define BLKFRONT_NBD_LISTEN_H

#include <sys/types.h>
#include <sys/un.h>

/* A listening Unix socket in the file system. */
struct nbd_listen {
	int fd; /* not blocking */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	dev_t device; /* of the file that we made */
	ino_t inode;
};

/*
 * Makes the socket with mode 0600, or for a group (may be NULL) of this system with 0660. A socket
 * that a dead process left there is replaced if it is ours; one that is listened to, or anything
 * else, is left alone. 0, or -1 after logging why;
 * errno is EINVAL if path or group are no good, something else if another time may do.
 */
int nbd_listen_open(struct nbd_listen *l, const char *path, const char *group);

/* Closes it and removes the file, if it is still the one we made. */
void nbd_listen_close(struct nbd_listen *l);

#endif
