/* SPDX-License-Identifier: BSD-2-Clause */

/* libxendevicemodel for a session, which has no machines to model: libxenctrl wants it to open. */

#include <errno.h>
#include <stdlib.h>

#include "client.h"

HV_PUBLIC void *xendevicemodel_open(void *logger, unsigned flags);
HV_PUBLIC int xendevicemodel_close(void *dmod);

void *
xendevicemodel_open(void *logger, unsigned flags)
{
	return loop_hv() != NULL ? malloc(1) : NULL;
}

int
xendevicemodel_close(void *dmod)
{
	free(dmod);
	return 0;
}

/* What they take does not matter: they look at none of it. */
#define ABSENT(name)                                                                               \
	HV_PUBLIC int name(void);                                                                  \
	int name(void)                                                                             \
	{                                                                                          \
		errno = ENOSYS;                                                                    \
		return -1;                                                                         \
	}

ABSENT(xendevicemodel_create_ioreq_server)
ABSENT(xendevicemodel_destroy_ioreq_server)
ABSENT(xendevicemodel_get_ioreq_server_info)
ABSENT(xendevicemodel_inject_event)
ABSENT(xendevicemodel_inject_msi)
ABSENT(xendevicemodel_map_io_range_to_ioreq_server)
ABSENT(xendevicemodel_map_mem_type_to_ioreq_server)
ABSENT(xendevicemodel_map_pcidev_to_ioreq_server)
ABSENT(xendevicemodel_modified_memory)
ABSENT(xendevicemodel_modified_memory_bulk)
ABSENT(xendevicemodel_nr_vcpus)
ABSENT(xendevicemodel_pin_memory_cacheattr)
ABSENT(xendevicemodel_relocate_memory)
ABSENT(xendevicemodel_restrict)
ABSENT(xendevicemodel_set_ioreq_server_state)
ABSENT(xendevicemodel_set_irq_level)
ABSENT(xendevicemodel_set_isa_irq_level)
ABSENT(xendevicemodel_set_mem_type)
ABSENT(xendevicemodel_set_pci_intx_level)
ABSENT(xendevicemodel_set_pci_link_route)
ABSENT(xendevicemodel_shutdown)
ABSENT(xendevicemodel_track_dirty_vram)
ABSENT(xendevicemodel_unmap_io_range_from_ioreq_server)
ABSENT(xendevicemodel_unmap_pcidev_from_ioreq_server)
