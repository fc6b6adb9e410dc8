/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_GRANT_HANDLE_H
#define XENLOOP_GRANT_HANDLE_H

/* A handle of libxengnttab, of either kind, and the areas of memory it has given to its program. */

#include <pthread.h>

#include "client.h"

struct area {
	struct area *next;
	uint8_t *base;
	uint32_t pages;
	uint32_t id; /* mapping, or first frame */
};

struct xengntdev_handle {
	int fd;
	uint32_t handle;
	pthread_mutex_t mutex;
	struct area *areas;
};

struct xengntdev_handle *grant_handle_open(enum hv_kind kind);
int grant_handle_close(struct xengntdev_handle *h);

static inline void
grant_handle_add(struct xengntdev_handle *h, struct area *area)
{
	pthread_mutex_lock(&h->mutex);
	area->next = h->areas;
	h->areas = area;
	pthread_mutex_unlock(&h->mutex);
}

/* The caller frees it. NULL: no such area. */
static inline struct area *
grant_handle_remove(struct xengntdev_handle *h, const void *base, uint32_t pages)
{
	struct area **at, *area;

	pthread_mutex_lock(&h->mutex);
	for (at = &h->areas; *at != NULL; at = &(*at)->next)
		if ((*at)->base == base && (*at)->pages == pages)
			break;
	area = *at;
	if (area != NULL)
		*at = area->next;
	pthread_mutex_unlock(&h->mutex);
	return area;
}

#endif
