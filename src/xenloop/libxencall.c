/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * libxencall for a session: the hypercalls that xenstored, xenconsoled and domain listings make
 * through libxenctrl. All others fail with ENOSYS, as on a hypervisor that was built without them.
 */

#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <xencall.h>
#include <xen/domctl.h>
#include <xen/event_channel.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/version.h>
#include <xen/xen.h>

#include "client.h"

struct xencall_handle {
	char unused;
};

HV_PUBLIC xencall_handle *
xencall_open(struct xentoollog_logger *logger, unsigned flags)
{
	return loop_hv() != NULL ? calloc(1, sizeof(struct xencall_handle)) : NULL;
}

HV_PUBLIC int
xencall_close(xencall_handle *xcall)
{
	free(xcall);
	return 0;
}

HV_PUBLIC int
xencall_fd(xencall_handle *xcall)
{
	return -1;
}

/* --- domains --- */

static int
domain_info(uint32_t first, struct hv_info *info)
{
	union {
		struct hv_reply reply;
		char space[sizeof(struct hv_reply) + sizeof(struct hv_info)];
	} u;
	struct hv_request request = {.operation = HV_INFO, .domid = first};

	if (loop_call(&request, &u.reply, sizeof(*info) / sizeof(uint32_t), NULL, 0) != 0)
		return -errno;
	memcpy(info, u.reply.list, sizeof(*info));
	return 0;
}

static void
fill(struct xen_domctl_getdomaininfo *out, const struct hv_info *info)
{
	memset(out, 0, sizeof(*out));
	out->domain = (domid_t)info->domid;
	out->flags = info->shutdown == 0
			 ? XEN_DOMINF_running
			 : XEN_DOMINF_shutdown | (info->shutdown - 1) << XEN_DOMINF_shutdownshift;
	out->tot_pages = info->frames;
	out->max_pages = HV_FRAMES;
	out->nr_online_vcpus = 1;
	/* So that tools can tell them apart; Xen gives domain 0 no handle. */
	memcpy(out->handle, &info->domid, sizeof(info->domid));
}

static int
domctl(struct xen_domctl *op)
{
	struct hv_info info;
	int result;

	if (op->cmd != XEN_DOMCTL_getdomaininfo)
		return -ENOSYS;
	result = domain_info(op->domain, &info);
	if (result != 0)
		return result;
	op->domain = (domid_t)info.domid;
	fill(&op->u.getdomaininfo, &info);
	return 0;
}

static int
list_domains(struct xen_sysctl_getdomaininfolist *op)
{
	uint32_t next = op->first_domain;
	struct hv_info info;

	op->num_domains = 0;
	while (op->num_domains < op->max_domains && domain_info(next, &info) == 0) {
		fill(&op->buffer.p[op->num_domains++], &info);
		next = info.domid + 1;
	}
	return 0;
}

static int
host(struct xen_sysctl_physinfo *out)
{
	memset(out, 0, sizeof(*out));
	out->threads_per_core = out->cores_per_socket = out->nr_cpus = 1;
	out->nr_nodes = 1;
	out->cpu_khz = 1000000;
	out->total_pages = (uint64_t)HV_DOMAINS * HV_FRAMES;
	out->free_pages = out->total_pages;
	return 0;
}

static int
sysctl(struct xen_sysctl *op)
{
	switch (op->cmd) {
	case XEN_SYSCTL_getdomaininfolist:
		return list_domains(&op->u.getdomaininfolist);
	case XEN_SYSCTL_physinfo:
		return host(&op->u.physinfo);
	case XEN_SYSCTL_readconsole:
		op->u.readconsole.count = 0;
		return 0;
	default:
		return -ENOSYS;
	}
}

static int
version(unsigned what, void *out)
{
	switch (what) {
	case XENVER_version:
		return 4 << 16 | 17;
	case XENVER_extraversion:
		snprintf(out, sizeof(xen_extraversion_t), ".xenloop");
		return 0;
	case XENVER_capabilities:
		memset(out, 0, sizeof(xen_capabilities_info_t));
		return 0;
	case XENVER_pagesize:
		return HV_PAGE;
	default:
		return -ENOSYS;
	}
}

static int
shut_down(const struct sched_remote_shutdown *op)
{
	struct hv_request request = {.operation = HV_SHUTDOWN, .flags = op->reason};

	snprintf(request.name, sizeof(request.name), "%u", op->domain_id);
	return loop_simple(request) < 0 ? -errno : 0;
}

static long
hypercall(unsigned op, uint64_t arg1, uint64_t arg2)
{
	switch (op) {
	case __HYPERVISOR_domctl:
		return domctl((struct xen_domctl *)(uintptr_t)arg1);
	case __HYPERVISOR_sysctl:
		return sysctl((struct xen_sysctl *)(uintptr_t)arg1);
	case __HYPERVISOR_xen_version:
		return version((unsigned)arg1, (void *)(uintptr_t)arg2);
	case __HYPERVISOR_sched_op:
		if (arg1 == SCHEDOP_remote_shutdown)
			return shut_down((const struct sched_remote_shutdown *)(uintptr_t)arg2);
		return -ENOSYS;
	default:
		return -ENOSYS;
	}
}

static long
result(long value)
{
	if (value >= 0)
		return value;
	errno = (int)-value;
	return -1;
}

/* --- calls --- */

HV_PUBLIC int
xencall0(xencall_handle *xcall, unsigned op)
{
	return (int)result(hypercall(op, 0, 0));
}

HV_PUBLIC int
xencall1(xencall_handle *xcall, unsigned op, uint64_t arg1)
{
	return (int)result(hypercall(op, arg1, 0));
}

HV_PUBLIC int
xencall2(xencall_handle *xcall, unsigned op, uint64_t arg1, uint64_t arg2)
{
	return (int)result(hypercall(op, arg1, arg2));
}

HV_PUBLIC int
xencall3(xencall_handle *xcall, unsigned op, uint64_t arg1, uint64_t arg2, uint64_t arg3)
{
	return (int)result(hypercall(op, arg1, arg2));
}

HV_PUBLIC int
xencall4(
    xencall_handle *xcall, unsigned op, uint64_t arg1, uint64_t arg2, uint64_t arg3, uint64_t arg4)
{
	return (int)result(hypercall(op, arg1, arg2));
}

HV_PUBLIC int
xencall5(xencall_handle *xcall, unsigned op, uint64_t arg1, uint64_t arg2, uint64_t arg3,
    uint64_t arg4, uint64_t arg5)
{
	return (int)result(hypercall(op, arg1, arg2));
}

HV_PUBLIC long
xencall2L(xencall_handle *xcall, unsigned op, uint64_t arg1, uint64_t arg2)
{
	return result(hypercall(op, arg1, arg2));
}

/* --- buffers: what is called runs in this process --- */

HV_PUBLIC void *
xencall_alloc_buffer_pages(xencall_handle *xcall, size_t pages)
{
	return aligned_alloc(HV_PAGE, pages * HV_PAGE);
}

HV_PUBLIC void
xencall_free_buffer_pages(xencall_handle *xcall, void *p, size_t pages)
{
	free(p);
}

HV_PUBLIC void *
xencall_alloc_buffer(xencall_handle *xcall, size_t size)
{
	return calloc(1, size);
}

HV_PUBLIC void
xencall_free_buffer(xencall_handle *xcall, void *p)
{
	free(p);
}

HV_PUBLIC int
xencall_buffers_never_fault(xencall_handle *xcall)
{
	return 1;
}
