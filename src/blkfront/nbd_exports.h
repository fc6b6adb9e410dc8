/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_EXPORTS_H
#define BLKFRONT_NBD_EXPORTS_H

#include <stddef.h>
#include <stdint.h>

/* What an NBD server offers: the table that a handshake chooses from. */
struct nbd_export {
	uint32_t id;	/* the owner's */
	uint16_t flags; /* NBD_FLAG_...: of the transmission */
	uint64_t bytes;
	uint32_t block_min, block_preferred, block_max; /* of a request, bytes */
	char name[32];
};

struct nbd_exports {
	struct nbd_export *list;
	size_t count;
};

/* Adds, or replaces the one with this id. 0 or -1 with errno. */
int nbd_exports_set(struct nbd_exports *all, const struct nbd_export *one);
void nbd_exports_remove(struct nbd_exports *all, uint32_t id);

/* By name; an empty name is the only export, if there is just one. NULL: none. */
const struct nbd_export *nbd_exports_find(
    const struct nbd_exports *all, const char *name, size_t length);

void nbd_exports_free(struct nbd_exports *all);

#endif
