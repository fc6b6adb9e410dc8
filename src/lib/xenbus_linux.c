/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "xenpv/xenbus.h"

/* The driver a device of "bus" is bound to; false: none. */
static bool
bound_driver(const char *bus, const char *bus_id, char *driver, size_t driver_size)
{
	char path[128], target[256];
	const char *name;
	ssize_t length;

	if (strchr(bus_id, '/') != NULL ||
	    snprintf(path, sizeof(path), "/sys/bus/%s/devices/%s/driver", bus, bus_id) >=
		(int)sizeof(path))
		return false;
	length = readlink(path, target, sizeof(target) - 1);
	if (length <= 0)
		return false;
	target[length] = '\0';
	name = strrchr(target, '/');
	name = name != NULL ? name + 1 : target;
	snprintf(driver, driver_size, "%s", name);
	return true;
}

static bool
kernel_driver(const char *bus, const char *bus_id, char *driver, size_t driver_size, char *release,
    size_t release_size)
{
	if (!bound_driver(bus, bus_id, driver, driver_size))
		return false;
	snprintf(
	    release, release_size, "echo %s > /sys/bus/%s/drivers/%s/unbind", bus_id, bus, driver);
	return true;
}

bool
xpv_kernel_driver(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size)
{
	return kernel_driver("xen", bus_id, driver, driver_size, release, release_size);
}

bool
xpv_kernel_backend(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size)
{
	return kernel_driver("xen-backend", bus_id, driver, driver_size, release, release_size);
}

bool
xpv_kernel_backend_loaded(const char *dev_class)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/xen-backend/drivers/%s", dev_class);
	return access(path, F_OK) == 0;
}

int
xpv_kernel_backend_release(const char *bus_id)
{
	char driver[64], path[160];
	ssize_t length = (ssize_t)strlen(bus_id);
	int fd, error = 0;

	if (!bound_driver("xen-backend", bus_id, driver, sizeof(driver))) {
		errno = ENODEV;
		return -1;
	}
	snprintf(path, sizeof(path), "/sys/bus/xen-backend/drivers/%s/unbind", driver);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (write(fd, bus_id, (size_t)length) != length)
		error = errno;
	close(fd);
	errno = error;
	return error == 0 ? 0 : -1;
}
