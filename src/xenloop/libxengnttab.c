/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * The part of libxengnttab that uses other domains' grants, for a session.
 * Semantics: xen/grant_table.h, and Linux' drivers/xen/gntdev.c for the errors.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xengnttab.h>
#include <xen/grant_table.h>

#include "grant_handle.h"

/* --- handles --- */

struct xengntdev_handle *
grant_handle_open(enum hv_kind kind)
{
	struct xengntdev_handle *h = calloc(1, sizeof(*h));
	int64_t handle;

	if (h == NULL)
		return NULL;
	/* Linux' library opens its nodes without O_CLOEXEC. */
	handle = loop_open(kind, &h->fd, false);
	if (handle < 0) {
		free(h);
		return NULL;
	}
	h->handle = (uint32_t)handle;
	pthread_mutex_init(&h->mutex, NULL);
	return h;
}

int
grant_handle_close(struct xengntdev_handle *h)
{
	int result;

	if (h == NULL)
		return 0;
	/* What is mapped or shared outlives its handle, if not the process. */
	result = h->areas == NULL ? close(h->fd) : loop_hide(h->fd) >= 0 ? 0 : -1;
	while (h->areas != NULL) {
		struct area *next = h->areas->next;

		free(h->areas);
		h->areas = next;
	}
	pthread_mutex_destroy(&h->mutex);
	free(h);
	return result;
}

HV_PUBLIC xengnttab_handle *
xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
	return grant_handle_open(HV_GNTTAB);
}

HV_PUBLIC int
xengnttab_close(xengnttab_handle *xgt)
{
	return grant_handle_close(xgt);
}

HV_PUBLIC int
xengnttab_fd(xengnttab_handle *xgt)
{
	return xgt->fd;
}

HV_PUBLIC int
xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t count)
{
	return (int)loop_simple(
	    (struct hv_request){.operation = HV_MAX_GRANTS, .handle = xgt->handle, .count = count});
}

/* --- maps --- */

static bool
map_pages(uint8_t *at, const struct hv_reply *reply, int prot)
{
	uint32_t pages = reply->count / 2;

	for (uint32_t i = 0; i < pages; i++) {
		struct hv_domain *from = &loop_hv()->domains[reply->list[2 * i] % HV_DOMAINS];
		uint32_t frame = reply->list[2 * i + 1];
		uint32_t run = 1;
		int fd = loop_ram_fd(from, (prot & PROT_WRITE) != 0);

		while (i + run < pages && reply->list[2 * (i + run)] == reply->list[2 * i] &&
		       reply->list[2 * (i + run) + 1] == frame + run)
			run++;
		if (fd < 0 || mmap(at + i * HV_PAGE, run * HV_PAGE, prot, MAP_SHARED | MAP_FIXED,
				  fd, (off_t)frame * HV_PAGE) == MAP_FAILED)
			return false;
		i += run - 1;
	}
	return true;
}

static int
set_notify(xengnttab_handle *xgt, uint32_t mapping, uint32_t offset, evtchn_port_t port)
{
	struct hv_request request = {.operation = HV_MAP_NOTIFY,
	    .handle = xgt->handle,
	    .frame = mapping,
	    .offset = offset,
	    .port = port,
	    .flags = (offset < HV_PAGE ? HV_FLAG_CLEAR_BYTE : 0) |
		     (port != ~0u ? HV_FLAG_SEND_EVENT : 0)};

	return request.flags == 0 ? 0 : (int)loop_simple(request);
}

static void *
place(xengnttab_handle *xgt, const struct hv_reply *reply, int prot, uint32_t offset,
    evtchn_port_t port)
{
	uint32_t pages = reply->count / 2; /* two numbers tell of each */
	size_t size = (size_t)pages * HV_PAGE;
	struct area *area = malloc(sizeof(*area));
	uint8_t *base =
	    mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int error;

	if (area != NULL && base != MAP_FAILED && map_pages(base, reply, prot) &&
	    set_notify(xgt, reply->value, offset, port) == 0) {
		madvise(base, size, MADV_DONTFORK); /* as gntdev's VMAs are */
		*area = (struct area){.base = base, .pages = pages, .id = reply->value};
		grant_handle_add(xgt, area);
		return base;
	}
	error = errno;
	if (base != MAP_FAILED)
		munmap(base, size);
	free(area);
	errno = error;
	return NULL;
}

static void *
map(xengnttab_handle *xgt, uint32_t count, const uint32_t *domids, unsigned stride,
    const uint32_t *refs, int prot, uint32_t offset, evtchn_port_t port)
{
	struct hv_request *request = NULL;
	struct hv_reply *reply = NULL;
	void *base = NULL;
	int error;

	if (count == 0 || count > HV_MAX_REFS) {
		errno = EINVAL;
		return NULL;
	}
	request = calloc(1, sizeof(*request) + count * sizeof(request->refs[0]));
	reply = malloc(sizeof(*reply) + 2 * count * sizeof(reply->list[0]));
	if (request != NULL && reply != NULL) {
		*request = (struct hv_request){.operation = HV_MAP,
		    .handle = xgt->handle,
		    .count = count,
		    .flags = (prot & PROT_WRITE) != 0 ? HV_FLAG_WRITABLE : 0};
		for (uint32_t i = 0; i < count; i++)
			request->refs[i] = (struct hv_ref){domids[i * stride], refs[i]};
		if (loop_call(request, reply, 2 * count, NULL, 0) == 0) {
			base = place(xgt, reply, prot, offset, port);
			if (base == NULL) {
				error = errno;
				loop_simple((struct hv_request){.operation = HV_UNMAP,
				    .handle = xgt->handle,
				    .frame = reply->value});
				errno = error;
			}
		}
	}
	error = errno;
	free(request);
	free(reply);
	errno = error;
	return base;
}

HV_PUBLIC void *
xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
	return map(xgt, 1, &domid, 0, &ref, prot, ~0u, ~0u);
}

HV_PUBLIC void *
xengnttab_map_grant_refs(
    xengnttab_handle *xgt, uint32_t count, uint32_t *domids, uint32_t *refs, int prot)
{
	return map(xgt, count, domids, 1, refs, prot, ~0u, ~0u);
}

HV_PUBLIC void *
xengnttab_map_domain_grant_refs(
    xengnttab_handle *xgt, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
	return map(xgt, count, &domid, 0, refs, prot, ~0u, ~0u);
}

HV_PUBLIC void *
xengnttab_map_grant_ref_notify(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot,
    uint32_t notify_offset, evtchn_port_t notify_port)
{
	return map(xgt, 1, &domid, 0, &ref, prot, notify_offset, notify_port);
}

HV_PUBLIC int
xengnttab_unmap(xengnttab_handle *xgt, void *start, uint32_t count)
{
	struct area *area = grant_handle_remove(xgt, start, count);
	int64_t result;

	if (area == NULL) {
		errno = EINVAL;
		return -1;
	}
	/* Its notification is sent first: it clears a byte of the page. */
	result = loop_simple(
	    (struct hv_request){.operation = HV_UNMAP, .handle = xgt->handle, .frame = area->id});
	munmap(start, (size_t)count * HV_PAGE);
	free(area);
	return (int)result;
}

/* --- copies --- */

/* Where a grant's bytes are, or NULL and a status. */
static uint8_t *
grant_bytes(uint16_t domid, uint32_t ref, unsigned offset, bool write, int16_t *status)
{
	uint32_t granter_id = domid == DOMID_SELF ? atomic_load(&loop_domain()->domid) : domid,
		 word;
	struct hv_domain *granter = hv_domain(loop_hv(), granter_id);
	struct hv_grant *grant;
	uint8_t *ram;

	*status = GNTST_bad_domain;
	if (granter == NULL)
		return NULL;
	grant = hv_grant(granter, ref, atomic_load(&loop_domain()->domid), &word);
	/* A number that could be a grant's, and is none for this domain, is a general error. */
	*status = ref < HV_GRANTS ? GNTST_general_error : GNTST_bad_gntref;
	if (grant == NULL || (write && (word & HV_GRANT_READONLY) != 0))
		return NULL;
	ram = loop_ram(granter);
	if (ram == NULL)
		return NULL;
	*status = GNTST_okay;
	return ram + (size_t)(atomic_load(&grant->frame) % HV_FRAMES) * HV_PAGE + offset;
}

static void
copy_segment(struct xengnttab_grant_copy_segment *s)
{
	uint8_t *from = s->source.virt, *to = s->dest.virt;

	s->status = GNTST_okay;
	if ((s->flags & GNTCOPY_source_gref) != 0)
		from = grant_bytes(s->source.foreign.domid, s->source.foreign.ref,
		    s->source.foreign.offset, false, &s->status);
	if (s->status == GNTST_okay && (s->flags & GNTCOPY_dest_gref) != 0)
		to = grant_bytes(s->dest.foreign.domid, s->dest.foreign.ref, s->dest.foreign.offset,
		    true, &s->status);
	if (s->status == GNTST_okay)
		memcpy(to, from, s->len);
}

/* What gntdev asks of a segment before it asks the hypervisor. */
static bool
may_copy(const struct xengnttab_grant_copy_segment *s)
{
	bool from = (s->flags & GNTCOPY_source_gref) != 0, to = (s->flags & GNTCOPY_dest_gref) != 0;

	return (from || to) && (!from || s->source.foreign.offset + s->len <= HV_PAGE) &&
	       (!to || s->dest.foreign.offset + s->len <= HV_PAGE);
}

HV_PUBLIC int
xengnttab_grant_copy(
    xengnttab_handle *xgt, uint32_t count, struct xengnttab_grant_copy_segment *segments)
{
	if (loop_hv() == NULL)
		return -1;
	for (uint32_t i = 0; i < count; i++) {
		if (!may_copy(&segments[i])) {
			errno = EINVAL;
			return -1;
		}
		segments[i].status = GNTST_okay;
	}
	for (uint32_t i = 0; i < count; i++)
		copy_segment(&segments[i]);
	return 0;
}

/* --- DMA buffers: no hypervisor's matter --- */

static int
no_dmabuf(void)
{
	errno = ENOTTY;
	return -1;
}

HV_PUBLIC int
xengnttab_dmabuf_exp_from_refs(xengnttab_handle *xgt, uint32_t domid, uint32_t flags,
    uint32_t count, const uint32_t *refs, uint32_t *fd)
{
	return no_dmabuf();
}

HV_PUBLIC int
xengnttab_dmabuf_exp_wait_released(xengnttab_handle *xgt, uint32_t fd, uint32_t wait_to_ms)
{
	return no_dmabuf();
}

HV_PUBLIC int
xengnttab_dmabuf_imp_to_refs(
    xengnttab_handle *xgt, uint32_t domid, uint32_t fd, uint32_t count, uint32_t *refs)
{
	return no_dmabuf();
}

HV_PUBLIC int
xengnttab_dmabuf_imp_release(xengnttab_handle *xgt, uint32_t fd)
{
	return no_dmabuf();
}
