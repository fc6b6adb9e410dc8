/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xengnttab.h>

#include "grant_os.h"
#include "xenpv/log.h"

#define LIMIT "/sys/module/xen_gntalloc/parameters/limit"

const char grant_os_share_node[] = "/dev/xen/gntalloc";

struct xpv_pool_handle {
	xengntshr_handle *xgs;
};

/*
 * The kernel's limit (1024 pages by default) is one for the whole machine, and how much of it is
 * used can not be read. "spare" is what this process made room for and has not taken. It may be
 * wrong, as others allocate too: a share that fails all the same raises the limit once more.
 */
static struct {
	pthread_mutex_t mutex;
	unsigned spare;
} room = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static long
read_limit(int fd)
{
	char text[16] = "", *end;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	long limit;

	if (n < 0)
		return -1;
	limit = strtol(text, &end, 10);
	if (end == text || limit < 0 || limit > INT_MAX) {
		errno = EINVAL;
		return -1;
	}
	return limit;
}

static int
write_limit(int fd, long limit)
{
	char text[16];
	int n;

	if (limit < 0 || limit > INT_MAX) {
		errno = ERANGE;
		return -1;
	}
	n = snprintf(text, sizeof(text), "%ld\n", limit);
	return pwrite(fd, text, n, 0) == n ? 0 : -1;
}

/* Of two processes that do this at once one may lose its step: its next share fails and it comes
 * here again. */
static int
change_limit(long by)
{
	int fd = open(LIMIT, O_RDWR | O_CLOEXEC);
	long limit = fd < 0 ? -1 : read_limit(fd);
	int result = limit < 0 ? -1 : write_limit(fd, limit + by), error = errno;

	if (fd >= 0)
		close(fd);
	errno = error;
	return result;
}

static int
raise_limit(unsigned pages)
{
	if (change_limit(pages) == 0)
		return 0;
	xpv_err("no room for %u more granted pages and the limit cannot be raised: %s: %s; add at "
		"least %u to it as root, or for good in /etc/modprobe.d: options xen-gntalloc "
		"limit=N",
	    pages, LIMIT, strerror(errno), pages);
	return -1;
}

int
xpv_grant_reserve(unsigned pages)
{
	int result = 0;

	pthread_mutex_lock(&room.mutex);
	if (pages > room.spare) {
		result = raise_limit(pages - room.spare);
		if (result == 0)
			room.spare = pages;
	}
	pthread_mutex_unlock(&room.mutex);
	return result;
}

/* With room.mutex held. */
static void *
share(xengntshr_handle *xgs, uint32_t domid, unsigned pages, uint32_t *grefs)
{
	void *base = xengntshr_share_pages(xgs, domid, (int)pages, grefs, 1);

	if (base == NULL && errno == ENOSPC) {
		if (raise_limit(pages) != 0) {
			errno = ENOSPC;
			return NULL;
		}
		base = xengntshr_share_pages(xgs, domid, (int)pages, grefs, 1);
		if (base == NULL) {
			int error = errno;

			change_limit(-(long)pages); /* it was not for the limit */
			errno = error;
		}
	} else if (base != NULL) {
		room.spare -= room.spare < pages ? room.spare : pages;
	}
	return base;
}

struct xpv_pool_handle *
grant_os_share(uint32_t domid, unsigned pages, uint8_t **base, uint32_t *grefs)
{
	struct xpv_pool_handle *h = calloc(1, sizeof(*h));
	int error;

	if (h == NULL)
		return NULL;
	h->xgs = xengntshr_open(&grant_logger, 0);
	if (h->xgs != NULL) {
		fcntl(xengntshr_fd(h->xgs), F_SETFD, FD_CLOEXEC); /* the library does not */
		pthread_mutex_lock(&room.mutex);
		*base = share(h->xgs, domid, pages, grefs);
		error = errno;
		pthread_mutex_unlock(&room.mutex);
		if (*base != NULL)
			return h;
		xengntshr_close(h->xgs);
		errno = error;
	}
	free(h);
	return NULL;
}

void
grant_os_unshare(struct xpv_pool_handle *h, uint8_t *base, unsigned pages)
{
	xengntshr_unshare(h->xgs, base, pages);
	xengntshr_close(h->xgs);
	free(h);
	pthread_mutex_lock(&room.mutex);
	room.spare += pages;
	pthread_mutex_unlock(&room.mutex);
}
