/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_exports.h"

#include <stdlib.h>
#include <string.h>

static struct nbd_export *
by_id(const struct nbd_exports *all, uint32_t id)
{
	for (size_t i = 0; i < all->count; i++) {
		if (all->list[i].id == id)
			return &all->list[i];
	}
	return NULL;
}

int
nbd_exports_set(struct nbd_exports *all, const struct nbd_export *one)
{
	struct nbd_export *place = by_id(all, one->id);

	if (place == NULL) {
		struct nbd_export *list = realloc(all->list, (all->count + 1) * sizeof(*all->list));

		if (list == NULL)
			return -1;
		all->list = list;
		place = &list[all->count++];
	}
	*place = *one;
	place->name[sizeof(place->name) - 1] = '\0';
	return 0;
}

void
nbd_exports_remove(struct nbd_exports *all, uint32_t id)
{
	struct nbd_export *place = by_id(all, id);

	if (place != NULL)
		*place = all->list[--all->count];
}

const struct nbd_export *
nbd_exports_find(const struct nbd_exports *all, const char *name, size_t length)
{
	if (length == 0)
		return all->count == 1 ? &all->list[0] : NULL;
	for (size_t i = 0; i < all->count; i++) {
		if (strlen(all->list[i].name) == length &&
		    memcmp(all->list[i].name, name, length) == 0)
			return &all->list[i];
	}
	return NULL;
}

void
nbd_exports_free(struct nbd_exports *all)
{
	free(all->list);
	*all = (struct nbd_exports){0};
}
