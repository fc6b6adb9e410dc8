/* SPDX-License-Identifier: BSD-2-Clause */
#include "blkfront.h"

static bool
power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

bool
blk_geometry_valid(const struct blk_geometry *g, const char **why)
{
	if (g->sector_size < BLK_SECTOR_SIZE || g->sector_size > XPV_PAGE_SIZE ||
	    !power_of_two(g->sector_size))
		*why = "its sector size is not a power of two from 512 to 4096";
	else if (g->physical_sector_size < g->sector_size || g->physical_sector_size > (1u << 20) ||
		 !power_of_two(g->physical_sector_size))
		*why = "its physical sector size makes no sense";
	else if (g->sectors == 0)
		*why = "it has no sectors (a drive without a medium?)";
	else if (g->sectors > UINT64_MAX >> (BLK_SECTOR_SHIFT + 1))
		*why = "its number of sectors is beyond what a host can address";
	else if (g->sectors % (g->sector_size / BLK_SECTOR_SIZE) != 0)
		*why = "its size is not a multiple of its sector size";
	else if (g->queues == 0 || g->queues > BLK_MAX_QUEUES || g->depth == 0 || g->depth > 4096)
		*why = "its number of queues or their depth is out of range";
	else if (g->max_io_bytes < XPV_PAGE_SIZE || g->max_io_bytes > BLK_MAX_IO_BYTES ||
		 g->max_io_bytes % XPV_PAGE_SIZE != 0)
		*why = "its largest request is out of range";
	else if (g->discard_granularity % g->sector_size != 0 ||
		 g->discard_alignment % g->sector_size != 0)
		*why = "its discard granularity or alignment makes no sense";
	else
		return true;
	return false;
}
