/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>
#include <sys/sysctl.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "xenpv/xenbus.h"

struct class_driver {
	const char *dev_class, *driver;
};

static const struct class_driver frontends[] = {
    {"vbd", "xbd"},
    {"vif", "xn"},
    {NULL},
};

static const struct class_driver backends[] = {
    {"vbd", "xbbd"},
    {"vif", "xnb"},
    {NULL},
};

#define UNITS 256

/* The path in xenstore of the device that the kernel has made unit "unit" of "driver". */
static bool
unit_path(const char *driver, unsigned unit, char *path, size_t size)
{
	char name[64];

	snprintf(name, sizeof(name), "dev.%s.%u.xenstore_path", driver, unit);
	return sysctlbyname(name, path, &size, NULL, 0) == 0 && size > 0;
}

/*
 * To detach a device from a running kernel is no way out here: it leaves the device half attached,
 * and the next write under device/ panics. Only the next boot can leave it to us.
 */
static bool
kernel_driver(const struct class_driver *d, const char *parent, const char *bus_id, char *driver,
    size_t driver_size, char *release, size_t release_size)
{
	char wanted[64], path[256];

	for (; d->dev_class != NULL; d++) {
		size_t length = strlen(d->dev_class);

		if (strncmp(bus_id, d->dev_class, length) != 0 || bus_id[length] != '-')
			continue;
		snprintf(
		    wanted, sizeof(wanted), "%s/%s/%s", parent, d->dev_class, bus_id + length + 1);
		/* "vbd-3-51712" is backend/vbd/3/51712. */
		for (char *c = wanted; *c != '\0'; c++)
			if (*c == '-')
				*c = '/';
		for (unsigned unit = 0; unit < UNITS; unit++) {
			if (!unit_path(d->driver, unit, path, sizeof(path)) ||
			    strcmp(path, wanted) != 0)
				continue;
			snprintf(driver, driver_size, "%s%u", d->driver, unit);
			snprintf(release, release_size,
			    "hint.%s.%u.disabled=\"1\" in /boot/loader.conf (also keeps away all "
			    "later ones), then reboot",
			    d->driver, unit);
			return true;
		}
	}
	return false;
}

bool
xpv_kernel_driver(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size)
{
	return kernel_driver(
	    frontends, "device", bus_id, driver, driver_size, release, release_size);
}

bool
xpv_kernel_backend(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size)
{
	return kernel_driver(
	    backends, "backend", bus_id, driver, driver_size, release, release_size);
}

bool
xpv_kernel_backend_loaded(const char *dev_class)
{
	return false;
}

int
xpv_kernel_backend_release(const char *bus_id)
{
	errno = ENOTSUP;
	return -1;
}
