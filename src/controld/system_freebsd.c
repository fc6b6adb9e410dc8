/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>

#include <net/if_dl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include "system.h"

const char *
system_action(enum request request)
{
	switch (request) {
	case REQUEST_POWEROFF:
		return "shutdown -p now";
	case REQUEST_REBOOT:
		return "shutdown -r now";
	case REQUEST_HALT:
		return "shutdown -h now";
	case REQUEST_CRASH:
		return "sysctl debug.kdb.panic=1";
	default:
		return NULL;
	}
}

/* sys/dev/xen/control reads, and answers, without a transaction: what we took it would do as well.
 * "devctl detach xctrl0" takes it away; nothing is then done before the grace has passed. */
bool
system_goes_first(enum request request)
{
	return request < REQUEST_S3;
}

bool
system_kernel_takes(enum request request)
{
	return request < REQUEST_S3;
}

bool
system_has_sysrq(void)
{
	return false;
}

enum request
system_untold(bool diverted)
{
	return REQUEST_SHUTDOWN;
}

const char *
system_stopping_check(void)
{
	return NULL;
}

/* It makes init shut the system down, and asks nobody. */
bool
system_divert(const char *rundir)
{
	return false;
}

void
system_undivert(void)
{
}

bool
system_reboot_asks(void)
{
	return true;
}

int64_t
system_slept_ns(void)
{
	return 0;
}

static bool
get(const char *name, uint64_t *value)
{
	unsigned int narrow;
	unsigned char both[8];
	size_t size = sizeof(both);

	if (sysctlbyname(name, both, &size, NULL, 0) != 0)
		return false;
	if (size == sizeof(*value)) {
		memcpy(value, both, sizeof(*value));
		return true;
	}
	memcpy(&narrow, both, sizeof(narrow));
	*value = narrow;
	return size == sizeof(narrow);
}

bool
system_memory(uint64_t *total, uint64_t *available)
{
	uint64_t bytes, unused, inactive;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE) / 1024;

	if (!get("hw.physmem", &bytes) || !get("vm.stats.vm.v_free_count", &unused) ||
	    !get("vm.stats.vm.v_inactive_count", &inactive))
		return false;
	*total = bytes / 1024;
	*available = (unused + inactive) * page;
	return true;
}

bool
system_mac(const struct sockaddr *address, uint8_t mac[6])
{
	const struct sockaddr_dl *dl = (const struct sockaddr_dl *)(const void *)address;

	if (address->sa_family != AF_LINK || dl->sdl_alen != 6)
		return false;
	memcpy(mac, dl->sdl_data + dl->sdl_nlen, 6);
	return true;
}
