/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_MEMINFO_H
#define BALLOON_MEMINFO_H

#include <stdint.h>

/* What the guest's kernel says of its memory, in KiB. */
struct meminfo {
	int64_t total, free, available, cached; /* cached: with buffers */
	int64_t swap_used;
	/* Pages since the boot that were needed again soon after they had been given up, or that
	 * came back from swap. */
	int64_t refaults;
};

struct meminfo_source;

/* "procfs" is where that is mounted. NULL after a log line. */
struct meminfo_source *meminfo_open(const char *procfs);
void meminfo_close(struct meminfo_source *s); /* NULL is allowed */

/* 0, or -1 after a log line (not more than one a minute): the values make no sense. */
int meminfo_read(struct meminfo_source *s, struct meminfo *m);

/* The parts of it, for text of any origin. 0 or -1. */
int meminfo_parse(const char *meminfo, struct meminfo *m);
int64_t meminfo_parse_refaults(const char *vmstat);

/* Memory the kernel had when it was booted, in KiB, from the text of /proc/zoneinfo; 0: not there.
 */
int64_t meminfo_parse_present(const char *zoneinfo);
int64_t meminfo_boot_kib(const char *procfs);

#endif
