/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>

#include "xenpv/xenbus.h"

#define VDEV_EXTENDED (1u << 28) /* from 2 << 28 on numbers are reserved */
#define VDEV_MAJOR(v) ((v) >> 8)
#define MAJOR_XVD     202u
#define MAJOR_SD      8u
#define MAJOR_HDA     3u
#define MAJOR_HDC     22u

/* 0: "a", 25: "z", 26: "aa", as Linux counts disks. */
static const char *
disk_letters(uint32_t disk, char buffer[8])
{
	char *p = buffer + 7;

	*p = '\0';
	for (;;) {
		*--p = 'a' + disk % 26;
		if (disk < 26)
			return p;
		disk = disk / 26 - 1;
	}
}

static void
format_name(char *name, size_t size, const char *prefix, uint32_t disk, uint32_t partition)
{
	char letters[8];

	if (partition == 0)
		snprintf(name, size, "%s%s", prefix, disk_letters(disk, letters));
	else
		snprintf(name, size, "%s%s%u", prefix, disk_letters(disk, letters), partition);
}

void
xpv_vbd_name(uint32_t vdev, char *name, size_t size)
{
	uint32_t minor = vdev & 0xff;

	if (vdev >> 28 == VDEV_EXTENDED >> 28) {
		format_name(name, size, "xvd", (vdev & ~VDEV_EXTENDED) >> 8, minor);
		return;
	}
	switch (VDEV_MAJOR(vdev)) {
	case MAJOR_XVD:
		format_name(name, size, "xvd", minor >> 4, minor & 15);
		return;
	case MAJOR_SD:
		format_name(name, size, "sd", minor >> 4, minor & 15);
		return;
	case MAJOR_HDA:
	case MAJOR_HDC:
		if (minor >> 6 > 1) /* two disks each */
			break;
		format_name(name, size, "hd",
		    (VDEV_MAJOR(vdev) == MAJOR_HDC ? 2 : 0) + (minor >> 6), minor & 63);
		return;
	default:
		break;
	}
	snprintf(name, size, "vbd-%u", vdev);
}
