/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * libxenforeignmemory for a session: domain 0 maps pages of other domains. The frames of a domain
 * are the pages it has for grants, its store's and its console's page first.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <xenforeignmemory.h>

#include "client.h"

struct xenforeignmemory_handle {
	uint32_t restricted;
};

HV_PUBLIC xenforeignmemory_handle *
xenforeignmemory_open(struct xentoollog_logger *logger, unsigned flags)
{
	xenforeignmemory_handle *fmem;

	if (loop_hv() == NULL)
		return NULL;
	fmem = malloc(sizeof(*fmem));
	if (fmem != NULL)
		fmem->restricted = HV_NO_DOMID;
	return fmem;
}

HV_PUBLIC int
xenforeignmemory_close(xenforeignmemory_handle *fmem)
{
	free(fmem);
	return 0;
}

static int
map_frame(struct hv_domain *domain, uint8_t *at, int prot, xen_pfn_t frame)
{
	int fd;

	if (domain == NULL)
		return ESRCH;
	fd = loop_ram_fd(domain, (prot & PROT_WRITE) != 0);
	if (fd < 0)
		return errno;
	if (frame >= HV_FRAMES)
		return EINVAL;
	return mmap(at, HV_PAGE, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)frame * HV_PAGE) ==
		       MAP_FAILED
		   ? errno
		   : 0;
}

HV_PUBLIC void *
xenforeignmemory_map2(xenforeignmemory_handle *fmem, uint32_t domid, void *addr, int prot,
    int flags, size_t pages, const xen_pfn_t *frames, int *errors)
{
	struct hv_domain *domain = hv_domain(loop_hv(), domid);
	uint8_t *base;
	int error = 0;

	/* A domain without privileges may map no other's memory. */
	if (atomic_load(&loop_domain()->domid) != 0 ||
	    (fmem->restricted != HV_NO_DOMID && fmem->restricted != domid)) {
		errno = EPERM;
		return NULL;
	}
	if (pages == 0) {
		errno = EINVAL;
		return NULL;
	}
	base = mmap(addr, pages * HV_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	for (size_t i = 0; i < pages; i++) {
		int result = map_frame(domain, base + i * HV_PAGE, prot, frames[i]);

		if (errors != NULL)
			errors[i] = -result;
		else if (result != 0)
			error = result;
	}
	if (error == 0)
		return base;
	munmap(base, pages * HV_PAGE);
	errno = error;
	return NULL;
}

HV_PUBLIC void *
xenforeignmemory_map(xenforeignmemory_handle *fmem, uint32_t domid, int prot, size_t pages,
    const xen_pfn_t *frames, int *errors)
{
	return xenforeignmemory_map2(fmem, domid, NULL, prot, 0, pages, frames, errors);
}

HV_PUBLIC int
xenforeignmemory_unmap(xenforeignmemory_handle *fmem, void *addr, size_t pages)
{
	return munmap(addr, pages * HV_PAGE);
}

HV_PUBLIC int
xenforeignmemory_restrict(xenforeignmemory_handle *fmem, domid_t domid)
{
	if (fmem->restricted != HV_NO_DOMID && fmem->restricted != domid) {
		errno = EINVAL;
		return -1;
	}
	fmem->restricted = domid;
	return 0;
}

/* --- resources: there are none --- */

HV_PUBLIC xenforeignmemory_resource_handle *
xenforeignmemory_map_resource(xenforeignmemory_handle *fmem, domid_t domid, unsigned type,
    unsigned id, unsigned long frame, unsigned long nr_frames, void **paddr, int prot, int flags)
{
	errno = EOPNOTSUPP;
	return NULL;
}

HV_PUBLIC int
xenforeignmemory_unmap_resource(
    xenforeignmemory_handle *fmem, xenforeignmemory_resource_handle *fres)
{
	errno = EOPNOTSUPP;
	return -1;
}

HV_PUBLIC int
xenforeignmemory_resource_size(
    xenforeignmemory_handle *fmem, domid_t domid, unsigned type, unsigned id, size_t *size)
{
	errno = EOPNOTSUPP;
	return -1;
}
