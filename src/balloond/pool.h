/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_POOL_H
#define BALLOON_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Pages of 2 MiB that nothing uses, for the hypervisor to have the memory behind them.
 *
 * Each is a file on a hugetlbfs of our own, named by the number of its first frame. It belongs to
 * the filesystem, not to a process: when all of xenpv is killed it stays where it is, and is found
 * again. The kernel does not swap, compact or write such pages, they are mapped nowhere, and the
 * folder is root's.
 */
struct pool;

#define POOL_PAGE_KIB 2048
#define POOL_ORDER    9

/* Mounts it at "folder" if it is not yet. NULL after a log line, with errno as of mechanism_open().
 */
struct pool *pool_open(const char *folder);
void pool_close(struct pool *p); /* the pages stay; NULL is allowed */

/* The pages that are there, the number of the first frame of each: of an earlier process, then
 * what pool_take() and pool_return() have changed. */
size_t pool_count(const struct pool *p);
uint64_t pool_page(const struct pool *p, size_t i);

/* One more page, at the end, from the kernel. 0, or -1 with errno: ENOSPC if it has none to spare,
 * EBUSY (after a log line) while it would be one that it keeps for others. */
int pool_take(struct pool *p);

/* Gives page i back to the kernel, which uses it from then on: its memory must be there. The last
 * one takes its place. 0, or -1 with errno. */
int pool_return(struct pool *p, size_t i);

/* Whether the kernel has free pages that are promised to nobody, by its folder in sysfs. */
bool pool_others_are_free(const char *hugepages);

#endif
