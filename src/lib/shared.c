/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/shared.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <unistd.h>

#include "xenpv/log.h"

struct region {
	void *base;
	size_t bytes; /* whole pages */
	bool ours;    /* made by xpv_shared_alloc() */
};

struct xpv_shared {
	LIST_ENTRY(xpv_shared) entry;
	struct region *regions;
	size_t count;
};

static LIST_HEAD(, xpv_shared) sets = LIST_HEAD_INITIALIZER(sets);

static size_t
page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* 0 for a size that has no whole pages. */
static size_t
whole_pages(size_t bytes)
{
	size_t page = page_size();

	return bytes > SIZE_MAX - page ? 0 : (bytes + page - 1) / page * page;
}

static int
append(struct xpv_shared *set, struct region region)
{
	struct region *more = realloc(set->regions, (set->count + 1) * sizeof(*more));

	if (more == NULL)
		return -1;
	set->regions = more;
	set->regions[set->count++] = region;
	return 0;
}

struct xpv_shared *
xpv_shared_new(void)
{
	struct xpv_shared *set = calloc(1, sizeof(*set));

	if (set != NULL)
		LIST_INSERT_HEAD(&sets, set, entry);
	return set;
}

void
xpv_shared_free(struct xpv_shared *set)
{
	if (set == NULL)
		return;
	for (size_t i = 0; i < set->count; i++)
		if (set->regions[i].ours)
			munmap(set->regions[i].base, set->regions[i].bytes);
	LIST_REMOVE(set, entry);
	free(set->regions);
	free(set);
}

void *
xpv_shared_alloc(struct xpv_shared *set, size_t bytes)
{
	struct region region = {.bytes = whole_pages(bytes), .ours = true};
	int failed;

	if (region.bytes == 0) {
		errno = EINVAL;
		return NULL;
	}
	region.base =
	    mmap(NULL, region.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (region.base == MAP_FAILED)
		return NULL;
	if (append(set, region) != 0) {
		failed = errno;
		munmap(region.base, region.bytes);
		errno = failed;
		return NULL;
	}
	return region.base;
}

int
xpv_shared_add(struct xpv_shared *set, void *base, size_t bytes)
{
	struct region region = {.base = base, .bytes = whole_pages(bytes)};

	if (region.bytes == 0 || (uintptr_t)base % page_size() != 0) {
		errno = EINVAL;
		return -1;
	}
	return append(set, region);
}

void
xpv_shared_remove(struct xpv_shared *set, void *base)
{
	for (size_t i = 0; i < set->count; i++) {
		if (set->regions[i].base != base || set->regions[i].ours)
			continue;
		set->count--;
		memmove(&set->regions[i], &set->regions[i + 1],
		    (set->count - i) * sizeof(*set->regions));
		return;
	}
}

int
xpv_shared_keep_only(const struct xpv_shared *kept)
{
	const struct xpv_shared *set;

	LIST_FOREACH (set, &sets, entry) {
		for (size_t i = 0; set != kept && i < set->count; i++) {
			if (munmap(set->regions[i].base, set->regions[i].bytes) == 0)
				continue;
			xpv_err("cannot let go of another device's memory: %s", strerror(errno));
			return -1;
		}
	}
	return 0;
}
