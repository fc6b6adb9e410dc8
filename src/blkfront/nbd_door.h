/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_DOOR_H
#define BLKFRONT_NBD_DOOR_H

#include <stdbool.h>

#include "nbd_exports.h"

struct event_base;

/*
 * Where NBD clients come in: a socket that the supervisor listens on, and a confined process that
 * accepts them and does the handshake (nbd_handshake.h), so that no byte of a client's is read with
 * the supervisor's rights. The supervisor gets clients whose handshake is done. When that process
 * dies, another one goes on; only clients in the middle of their handshake have to come again.
 */
struct nbd_door;

struct nbd_door_config {	      /* all is copied */
	const char *path;	      /* of the socket */
	const char *group;	      /* that may connect besides its owner; or NULL */
	const char *user, *empty_dir; /* see xenpv/sandbox.h */
	bool sandbox;
};

/* A client has chosen export "id", the transmission begins; "fd" is the callee's. */
typedef void nbd_door_entered(uint32_t id, int fd, void *arg);

/* NULL after logging; errno as nbd_listen_open() has it. */
struct nbd_door *nbd_door_open(struct event_base *base, const struct nbd_door_config *config,
    nbd_door_entered *entered, void *arg);

/* What clients can choose from now on. */
void nbd_door_export(struct nbd_door *door, const struct nbd_export *e);
void nbd_door_unexport(struct nbd_door *door, uint32_t id);

void nbd_door_close(struct nbd_door *door);

#endif
