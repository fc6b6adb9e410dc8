/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_LIST_H
#define BLKBACK_IMAGE_LIST_H

#include "image.h"

/* Operations in a row, for the kinds of images. One is in one list at a time. */
struct image_list {
	struct image_io *first, **last;
};

static inline void
image_list_clear(struct image_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static inline void
image_list_append(struct image_list *list, struct image_io *io)
{
	io->next = NULL;
	*list->last = io;
	list->last = &io->next;
}

/* NULL: the list is empty. */
static inline struct image_io *
image_list_take(struct image_list *list)
{
	struct image_io *io = list->first;

	if (io == NULL)
		return NULL;
	list->first = io->next;
	if (list->first == NULL)
		image_list_clear(list);
	return io;
}

/* The whole list, which becomes empty: linked by "next". */
static inline struct image_io *
image_list_take_all(struct image_list *list)
{
	struct image_io *io = list->first;

	image_list_clear(list);
	return io;
}

#endif
