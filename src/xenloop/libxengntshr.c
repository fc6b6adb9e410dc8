/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * The part of libxengnttab that grants memory to other domains, for a session.
 * Semantics: Linux' drivers/xen/gntalloc.c. What is unshared while a peer has it mapped goes on to
 * be a grant until the peer unmaps it.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <xengnttab.h>

#include "grant_handle.h"

HV_PUBLIC xengntshr_handle *
xengntshr_open(struct xentoollog_logger *logger, unsigned flags)
{
	return grant_handle_open(HV_GNTSHR);
}

HV_PUBLIC int
xengntshr_close(xengntshr_handle *xgs)
{
	return grant_handle_close(xgs);
}

HV_PUBLIC int
xengntshr_fd(xengntshr_handle *xgs)
{
	return xgs->fd;
}

static int64_t
end_share(xengntshr_handle *xgs, uint32_t frame, uint32_t count)
{
	return loop_simple((struct hv_request){
	    .operation = HV_UNSHARE, .handle = xgs->handle, .frame = frame, .count = count});
}

static bool
set_notify(xengntshr_handle *xgs, uint32_t frame, uint32_t offset, evtchn_port_t port)
{
	struct hv_request request = {.operation = HV_SHARE_NOTIFY,
	    .handle = xgs->handle,
	    .frame = frame,
	    .offset = offset,
	    .port = port,
	    .flags = (offset < HV_PAGE ? HV_FLAG_CLEAR_BYTE : 0) |
		     (port != ~0u ? HV_FLAG_SEND_EVENT : 0)};

	return request.flags == 0 || loop_simple(request) >= 0;
}

static void *
place(xengntshr_handle *xgs, uint32_t frame, uint32_t count, uint32_t offset, evtchn_port_t port)
{
	struct area *area = malloc(sizeof(*area));
	int fd = loop_ram_fd(loop_domain(), true);
	void *base = MAP_FAILED;

	if (area != NULL && fd >= 0 && set_notify(xgs, frame, offset, port))
		base = mmap(NULL, (size_t)count * HV_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    (off_t)frame * HV_PAGE);
	if (base == MAP_FAILED) {
		free(area);
		return NULL;
	}
	*area = (struct area){.base = base, .pages = count, .id = frame};
	grant_handle_add(xgs, area);
	return base;
}

static void *
share(xengntshr_handle *xgs, uint32_t domid, uint32_t count, uint32_t *refs, int writable,
    uint32_t offset, evtchn_port_t port)
{
	struct hv_request request = {.operation = HV_SHARE,
	    .handle = xgs->handle,
	    .domid = domid,
	    .count = count,
	    .flags = writable != 0 ? HV_FLAG_WRITABLE : 0};
	struct hv_reply *reply;
	void *base = NULL;
	int error;

	if (count == 0 || count > HV_MAX_REFS) {
		errno = count == 0 ? EINVAL : ENOSPC;
		return NULL;
	}
	reply = malloc(sizeof(*reply) + count * sizeof(reply->list[0]));
	if (reply == NULL)
		return NULL;
	if (loop_call(&request, reply, count, NULL, 0) == 0) {
		base = place(xgs, reply->value, count, offset, port);
		error = errno;
		if (base != NULL)
			memcpy(refs, reply->list, count * sizeof(*refs));
		else
			end_share(xgs, reply->value, count);
		errno = error;
	}
	error = errno;
	free(reply);
	errno = error;
	return base;
}

HV_PUBLIC void *
xengntshr_share_pages(
    xengntshr_handle *xgs, uint32_t domid, int count, uint32_t *refs, int writable)
{
	return share(xgs, domid, (uint32_t)count, refs, writable, ~0u, ~0u);
}

HV_PUBLIC void *
xengntshr_share_page_notify(xengntshr_handle *xgs, uint32_t domid, uint32_t *ref, int writable,
    uint32_t notify_offset, evtchn_port_t notify_port)
{
	return share(xgs, domid, 1, ref, writable, notify_offset, notify_port);
}

HV_PUBLIC int
xengntshr_unshare(xengntshr_handle *xgs, void *start, uint32_t count)
{
	struct area *area = grant_handle_remove(xgs, start, count);

	if (munmap(start, (size_t)count * HV_PAGE) != 0)
		return -1;
	if (area != NULL)
		end_share(xgs, area->id, count);
	free(area);
	return 0;
}
