/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_HANDSHAKE_H
#define BLKFRONT_NBD_HANDSHAKE_H

#include "nbd_exports.h"

struct event_base;

/*
 * The server's side of NBD's fixed newstyle handshake with one client, who may be hostile. Memory
 * per client is fixed but for the answers to one option, which all leave before the next option is
 * read. Nothing is read beyond the handshake: what follows it in the socket is for the
 * transmission.
 *
 * There is no TLS (the socket is local) and no structured reply; both are refused as the protocol
 * says, and clients go on without.
 *
 * Source: doc/proto.md of the nbd project, "Handshake", "Option types".
 */
struct nbd_handshake;

/*
 * Called once, from the loop; the handshake is no more then. "chosen" is what the transmission has
 * begun with, "fd" is the callee's; NULL: the client left, broke the protocol or was too slow, and
 * "fd" is closed already.
 */
typedef void nbd_handshake_ended(const struct nbd_export *chosen, int fd, void *arg);

/* "fd" is a connected socket that does not block, and is owned from here on if this succeeds. All
 * must be over in timeout_ms. NULL with errno. */
struct nbd_handshake *nbd_handshake_start(struct event_base *base, int fd,
    const struct nbd_exports *exports, unsigned timeout_ms, nbd_handshake_ended *ended, void *arg);

#endif
