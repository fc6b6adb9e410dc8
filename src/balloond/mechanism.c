/* SPDX-License-Identifier: BSD-2-Clause */
#include "mechanism.h"

#include <stddef.h>

struct mechanism *
mechanism_open(enum mechanism_choice choice, const struct mechanism_where *where)
{
	if (choice == MECHANISM_PRIVCMD)
		return mechanism_privcmd_open(where);
	return mechanism_kernel_open(where->sysfs, where->dry_run);
}

void
mechanism_close(struct mechanism *m)
{
	if (m != NULL)
		m->close(m);
}
