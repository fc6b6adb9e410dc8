/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_XENMEM_H
#define BALLOON_XENMEM_H

#include <stdbool.h>
#include <stdint.h>

/* A guest's hypercalls on its own memory, by way of privcmd. Frames are 4 KiB, numbers are the
 * guest's own (which makes no sense in a PV guest); "order" 9 is 2 MiB. Source: xen/memory.h,
 * xen/hvm/hvm_op.h. */
struct xenmem;

/* NULL after a log line that says what to do, with errno as of mechanism_open(). */
struct xenmem *xenmem_open(void);
void xenmem_close(struct xenmem *x); /* NULL is allowed */

/* Give the frames to the hypervisor; take new ones in their place. 0, or -1 with errno. Taking is
 * all or nothing; giving may stop half way, from the front. */
int xenmem_give(struct xenmem *x, uint64_t frame, unsigned order);
int xenmem_take(struct xenmem *x, uint64_t frame, unsigned order);

/* Is there memory behind this frame? 1, 0, or -1 with errno. Touches nothing. */
int xenmem_is_there(struct xenmem *x, uint64_t frame);

#endif
