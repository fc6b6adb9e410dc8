/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "textfile.h"

bool
guest_is_pv(const char *sysfs)
{
	int fd = textfile_open(sysfs, "hypervisor/guest_type", O_RDONLY);
	char type[16] = "";

	if (fd < 0)
		return false;
	textfile_read(fd, type, sizeof(type));
	close(fd);
	return strcmp(type, "PV\n") == 0 || strcmp(type, "PV") == 0;
}
