/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * gntalloc_used: how many pages the programs of this guest have granted, exactly. The kernel does
 * not tell, so it is asked for one more under lower and lower limits. Root only; nobody else may
 * grant pages meanwhile.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <xen/gntalloc.h>

#define LIMIT "/sys/module/xen_gntalloc/parameters/limit"

static long
limit(const char *mode, long value)
{
	FILE *f = fopen(LIMIT, mode);

	if (f == NULL ||
	    (mode[0] == 'r' ? fscanf(f, "%ld", &value) != 1 : fprintf(f, "%ld\n", value) < 0))
		value = -1;
	if (f != NULL && fclose(f) != 0)
		value = -1;
	return value;
}

/* Is there room for one more? What is granted goes with the descriptor. -1: not known. */
static int
room(void)
{
	struct ioctl_gntalloc_alloc_gref page = {.domid = 0, .flags = 0, .count = 1};
	int fd = open("/dev/xen/gntalloc", O_RDWR | O_CLOEXEC);
	int result = fd < 0 ? -1 : ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, &page);
	bool full = result != 0 && errno == ENOSPC;

	if (fd >= 0)
		close(fd);
	return result == 0 ? 1 : full ? 0 : -1;
}

int
main(void)
{
	long before = limit("r", 0), low = 0, high = before; /* low <= used <= high */
	int result = before < 0 ? -1 : 0;

	while (result >= 0 && low < high) {
		long middle = low + (high - low) / 2;

		/* One more is under middle + 1 if what is used is not more than middle. */
		result = limit("w", middle + 1) < 0 ? -1 : room();
		if (result == 1)
			high = middle;
		else
			low = middle + 1;
	}
	if (before >= 0 && limit("w", before) < 0)
		result = -1;
	if (result < 0) {
		perror("gntalloc_used");
		return 1;
	}
	printf("%ld\n", low);
	return 0;
}
