/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <fcntl.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "door.h"
#include "system.h"

#define POWEROFF_CMD "/proc/sys/kernel/poweroff_cmd"
#define COMMAND_MAX  256 /* POWEROFF_CMD_PATH_LEN, with the terminating byte */
#define CLOCK_TRIES  10

static char *before; /* what poweroff_cmd was, while it is ours */

/* ---- commands ---- */

static bool
is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

static const char *
pick(const char *systemd, const char *shutdown, const char *simple)
{
	if (is_there("/run/systemd/system"))
		return systemd;
	return is_there("/sbin/shutdown") ? shutdown : simple;
}

const char *
system_action(enum request request)
{
	switch (request) {
	case REQUEST_POWEROFF:
		return pick("systemctl poweroff", "shutdown -h -P now", "poweroff");
	case REQUEST_REBOOT:
		return pick("systemctl reboot", "shutdown -r now", "reboot");
	case REQUEST_HALT:
		return pick("systemctl halt", "shutdown -h -H now", "halt");
	case REQUEST_CRASH:
		return "echo c >/proc/sysrq-trigger";
	default:
		return NULL;
	}
}

/* ---- the kernel's handler, drivers/xen/manage.c ---- */

/* It takes a request in a transaction, as we do, so that there is always one who has it. But only
 * the kernel can make the hypercall that suspends. */
bool
system_goes_first(enum request request)
{
	return request == REQUEST_SUSPEND;
}

bool
system_kernel_takes(enum request request)
{
	return request == REQUEST_POWEROFF || request == REQUEST_REBOOT ||
	       request == REQUEST_HALT || request == REQUEST_SUSPEND;
}

bool
system_has_sysrq(void)
{
	return is_there("/proc/sysrq-trigger");
}

/* For all but a reboot it asks us, if it can be made to. */
enum request
system_untold(bool diverted)
{
	return diverted ? REQUEST_REBOOT : REQUEST_SHUTDOWN;
}

/* Only what is certain counts: in doubt hooks run. */
const char *
system_stopping_check(void)
{
	if (!is_there("/run/systemd/system"))
		return NULL;
	return "case $(systemctl is-system-running) in running|degraded) exit 1 ;; esac";
}

static bool
read_line(const char *path, char *line, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f != NULL && fgets(line, (int)size, f) != NULL;

	if (f != NULL)
		fclose(f);
	if (ok)
		line[strcspn(line, "\n")] = '\0';
	return ok;
}

static bool
write_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line);

	if (!ok)
		xpv_err("%s: cannot write: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool
is_xen(void)
{
	char type[16];

	return read_line("/sys/hypervisor/type", type, sizeof(type)) && strcmp(type, "xen") == 0;
}

/* Without what a daemon that was killed has left in front of it. */
static const char *
undiverted(const char *command)
{
	const char *rest = strstr(command, DOOR_OPTION) != NULL ? strstr(command, " -- ") : NULL;

	return rest != NULL ? rest + strlen(" -- ") : command;
}

bool
system_divert(const char *rundir)
{
	char now[COMMAND_MAX], program[COMMAND_MAX] = "", ours[COMMAND_MAX];
	int length;

	/* xenloop's domains have the machine's kernel, which is not theirs. */
	if (!is_xen() || !read_line(POWEROFF_CMD, now, sizeof(now)))
		return false;
	if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0)
		return false;
	before = strdup(undiverted(now));
	if (before == NULL)
		return false;
	length = snprintf(
	    ours, sizeof(ours), "%s " DOOR_OPTION " poweroff %s -- %s", program, rundir, before);
	/* The kernel splits it at blanks. */
	if (length < (int)sizeof(ours) && strpbrk(program, " \t") == NULL &&
	    strpbrk(rundir, " \t") == NULL && write_line(POWEROFF_CMD, ours))
		return true;
	xpv_warning("the kernel cannot be made to ask this daemon before it powers off");
	free(before);
	before = NULL;
	return false;
}

void
system_undivert(void)
{
	char now[COMMAND_MAX];

	/* Not if somebody has set it to something else meanwhile. */
	if (before != NULL && read_line(POWEROFF_CMD, now, sizeof(now)) &&
	    strcmp(undiverted(now), before) == 0)
		write_line(POWEROFF_CMD, before);
	free(before);
	before = NULL;
}

bool
system_reboot_asks(void)
{
	char text[4097] = "";
	int fd;
	ssize_t n;

	if (!is_xen())
		return true;
	fd = open("/sbin/reboot", O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
	if (fd >= 0)
		close(fd);
	return n > 0 && strncmp(text, "#!", 2) == 0 && strstr(text, DOOR_OPTION) != NULL;
}

/* ---- clocks, memory, addresses ---- */

static int64_t
clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The clocks are read one after the other: the pair that lies closest together counts. */
int64_t
system_slept_ns(void)
{
	int64_t slept = 0, best = INT64_MAX;

	for (unsigned i = 0; i < CLOCK_TRIES; i++) {
		int64_t first = clock_ns(CLOCK_MONOTONIC);
		int64_t boot = clock_ns(CLOCK_BOOTTIME);
		int64_t took = clock_ns(CLOCK_MONOTONIC) - first;

		if (took < best) {
			best = took;
			slept = boot - first;
		}
	}
	return slept;
}

bool
system_memory(uint64_t *total, uint64_t *available)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned found = 0;

	if (f == NULL)
		return false;
	while (fgets(line, sizeof(line), f) != NULL) {
		unsigned long long kib;

		if (sscanf(line, "MemTotal: %llu kB", &kib) == 1) {
			*total = kib;
			found |= 1;
		} else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) {
			*available = kib;
			found |= 2;
		}
	}
	fclose(f);
	return found == 3;
}

bool
system_mac(const struct sockaddr *address, uint8_t mac[6])
{
	const struct sockaddr_ll *ll = (const struct sockaddr_ll *)(const void *)address;

	if (address->sa_family != AF_PACKET || ll->sll_halen != 6)
		return false;
	memcpy(mac, ll->sll_addr, 6);
	return true;
}
