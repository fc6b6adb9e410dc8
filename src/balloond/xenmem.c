/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xen/hvm/hvm_op.h>
#include <xen/memory.h>
#include <xen/xen.h>
#include <xencall.h>
#include <xenpv/log.h>

struct xenmem {
	xencall_handle *call;
	/* Memory that hypercalls may be given. */
	struct xen_memory_reservation *reservation;
	struct xen_hvm_get_mem_type *type;
	domid_t *domid;
	xen_pfn_t *frame;
};

static void *
buffer(struct xenmem *x, size_t size)
{
	void *memory = xencall_alloc_buffer(x->call, size);

	if (memory != NULL)
		memset(memory, 0, size);
	return memory;
}

static void
explain(int error)
{
	if (error == EPERM || error == EACCES)
		xpv_err("the kernel does not allow programs hypercalls (%s): Linux does since "
			"XSA-482 in no guest, unless it is booted with xen_privcmd.unrestricted=1; "
			"whoever is root can then do what the kernel can: see xen-balloond(8)",
		    strerror(error));
	else if (error == ENOENT)
		xpv_err("/dev/xen/privcmd is missing: load the module xen-privcmd");
	else
		xpv_err("no hypercalls: %s", strerror(error));
}

static bool
is_for_good(int error)
{
	return error == EPERM || error == EACCES || error == ENOENT || error == ENOSYS ||
	       error == ENXIO;
}

static bool
make_buffers(struct xenmem *x)
{
	x->reservation = buffer(x, sizeof(*x->reservation));
	x->type = buffer(x, sizeof(*x->type));
	x->domid = buffer(x, sizeof(*x->domid));
	x->frame = buffer(x, sizeof(*x->frame));
	return x->reservation != NULL && x->type != NULL && x->domid != NULL && x->frame != NULL;
}

/* The simplest of them, to see whether there are any. */
static int
try_one(struct xenmem *x)
{
	*x->domid = DOMID_SELF;
	return xencall2(x->call, __HYPERVISOR_memory_op, XENMEM_current_reservation,
		   (uint64_t)(uintptr_t)x->domid) > 0
		   ? 0
		   : -1;
}

struct xenmem *
xenmem_open(void)
{
	struct xenmem *x = calloc(1, sizeof(*x));
	int error = ENOMEM;

	if (x == NULL)
		return NULL;
	errno = ENOENT;
	x->call = xencall_open(NULL, 0);
	if (x->call != NULL && make_buffers(x) && try_one(x) == 0)
		return x;
	error = errno;
	explain(error);
	xenmem_close(x);
	errno = is_for_good(error) ? ENODEV : error;
	return NULL;
}

void
xenmem_close(struct xenmem *x)
{
	void *buffers[] = {x != NULL ? x->reservation : NULL, x != NULL ? x->type : NULL,
	    x != NULL ? x->domid : NULL, x != NULL ? x->frame : NULL};

	if (x == NULL)
		return;
	for (unsigned i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
		if (buffers[i] != NULL)
			xencall_free_buffer(x->call, buffers[i]);
	if (x->call != NULL)
		xencall_close(x->call);
	free(x);
}

/* These answer with the number of extents that were done: 1, or 0 without a reason. */
static int
change(struct xenmem *x, unsigned op, uint64_t frame, unsigned order)
{
	int done;

	*x->frame = frame;
	*x->reservation = (struct xen_memory_reservation){
	    .nr_extents = 1, .extent_order = order, .domid = DOMID_SELF};
	set_xen_guest_handle(x->reservation->extent_start, x->frame);
	done = xencall2(x->call, __HYPERVISOR_memory_op, op, (uint64_t)(uintptr_t)x->reservation);
	if (done == 1)
		return 0;
	if (done >= 0)
		errno = ENOMEM;
	return -1;
}

int
xenmem_give(struct xenmem *x, uint64_t frame, unsigned order)
{
	return change(x, XENMEM_decrease_reservation, frame, order);
}

int
xenmem_take(struct xenmem *x, uint64_t frame, unsigned order)
{
	return change(x, XENMEM_populate_physmap, frame, order);
}

int
xenmem_is_there(struct xenmem *x, uint64_t frame)
{
	*x->type = (struct xen_hvm_get_mem_type){.domid = DOMID_SELF, .pfn = frame};
	if (xencall2(
		x->call, __HYPERVISOR_hvm_op, HVMOP_get_mem_type, (uint64_t)(uintptr_t)x->type) < 0)
		return -1;
	return x->type->mem_type != HVMMEM_mmio_dm;
}
