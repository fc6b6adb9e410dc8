/* SPDX-License-Identifier: BSD-2-Clause */

/* Domains in xenstore. Source: docs/misc/xenstore-paths.pandoc; who may write what is as with
 * libxl. */

#include "toolstack.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "session.h"

#define SUSPEND_PATIENCE_MS 5000

struct xs_handle *
toolstack_store(void)
{
	struct xs_handle *xs = xs_open(0);

	if (xs == NULL)
		fprintf(stderr, "xenloop: xenstored of %s: %s\n", session_dir(), strerror(errno));
	return xs;
}

static int
failed(const char *what, const char *name)
{
	fprintf(stderr, "xenloop: %s %s: %s\n", what, name,
	    errno == ESRCH ? "no such domain (xenloop list)" : strerror(errno));
	return errno == ESRCH ? EX_UNAVAILABLE : EX_OSERR;
}

static bool
find_domain(const char *name, struct hv_info *info)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	bool is_number = *name != '\0' && *end == '\0';
	unsigned slot = 0;

	while (session_next_domain(&slot, info))
		if (strcmp(info->name, name) == 0 ||
		    (is_number && !info->suspended && info->domid == number))
			return true;
	errno = ESRCH;
	failed("domain", name);
	return false;
}

bool
toolstack_name(const char *given, char name[HV_NAME_SIZE])
{
	struct hv_info info;

	if (!find_domain(given, &info))
		return false;
	memcpy(name, info.name, HV_NAME_SIZE);
	return true;
}

int64_t
toolstack_domid(const char *name)
{
	struct hv_info info;

	if (!find_domain(name, &info))
		return -1;
	if (!info.suspended)
		return info.domid;
	fprintf(stderr, "xenloop: domain %s is suspended: \"xenloop resume %s\"\n", name, name);
	return -1;
}

static int64_t
domain_call(enum hv_operation operation, const char *name, uint32_t count, uint32_t flags)
{
	struct hv_request request = {.operation = operation, .count = count, .flags = flags};

	snprintf(request.name, sizeof(request.name), "%s", name);
	return loop_simple(request);
}

/* --- what a domain finds in xenstore --- */

/* Whose it is, and what the domain may do there. */
enum access { READS, OWNS };

static bool
put(struct xs_handle *xs, uint32_t domid, enum access access, const char *value, const char *path,
    ...)
{
	struct xs_permissions reads[] = {
	    {.id = 0, .perms = XS_PERM_NONE}, {.id = domid, .perms = XS_PERM_READ}};
	struct xs_permissions owns[] = {{.id = domid, .perms = XS_PERM_NONE}};
	char full[256];
	int n = snprintf(full, sizeof(full), "/local/domain/%u", domid);
	va_list args;

	va_start(args, path);
	vsnprintf(full + n, sizeof(full) - (size_t)n, path, args);
	va_end(args);
	return xs_write(xs, XBT_NULL, full, value, (unsigned)strlen(value)) &&
	       xs_set_permissions(
		   xs, XBT_NULL, full, access == OWNS ? owns : reads, access == OWNS ? 1 : 2);
}

static bool
describe(struct xs_handle *xs, uint32_t domid, const char *name)
{
	static const char *const read[] = {
	    "/device", "/control", "/memory", "/cpu", "/console", "/store"};
	static const char *const owned[] = {"/control/shutdown", "/control/feature-poweroff",
	    "/control/feature-reboot", "/control/feature-suspend", "/control/sysrq", "/data",
	    "/drivers", "/feature", "/attr", "/error"};
	char number[16];
	bool ok;

	snprintf(number, sizeof(number), "%u", domid);
	ok = put(xs, domid, READS, "", "") && put(xs, domid, READS, name, "/name") &&
	     put(xs, domid, READS, number, "/domid");
	for (unsigned i = 0; ok && i < sizeof(read) / sizeof(read[0]); i++)
		ok = put(xs, domid, READS, "", "%s", read[i]);
	for (unsigned i = 0; ok && i < sizeof(owned) / sizeof(owned[0]); i++)
		ok = put(xs, domid, OWNS, "", "%s", owned[i]);
	snprintf(number, sizeof(number), "%u", HV_FRAMES * (HV_PAGE / 1024));
	ok = ok && put(xs, domid, READS, number, "/memory/static-max") &&
	     put(xs, domid, READS, number, "/memory/target");
	snprintf(number, sizeof(number), "%u", HV_STORE_PORT);
	ok = ok && put(xs, domid, READS, number, "/store/port");
	snprintf(number, sizeof(number), "%u", HV_STORE_FRAME);
	ok = ok && put(xs, domid, READS, number, "/store/ring-ref");
	snprintf(number, sizeof(number), "%u", HV_CONSOLE_PORT);
	ok = ok && put(xs, domid, READS, number, "/console/port");
	snprintf(number, sizeof(number), "%u", HV_CONSOLE_FRAME);
	return ok && put(xs, domid, READS, number, "/console/ring-ref") &&
	       put(xs, domid, READS, "xenconsoled", "/console/type") &&
	       put(xs, domid, READS, "1048576", "/console/limit") &&
	       put(xs, domid, READS, "", "/console/tty");
}

/* Gives a domain that the broker has made to xenstored. */
static int
introduce(const char *name, uint32_t domid)
{
	struct xs_handle *xs = toolstack_store();
	int status = EX_OK;

	if (xs == NULL)
		return EX_OSERR;
	if (!describe(xs, domid, name) ||
	    !xs_introduce_domain(xs, domid, HV_STORE_FRAME, HV_STORE_PORT))
		status = failed("xenstore of domain", name);
	xs_close(xs);
	if (status == EX_OK && domain_call(HV_START_STORE, name, 0, 0) < 0)
		status = failed("domain", name);
	return status;
}

static void
forget(struct xs_handle *xs, uint32_t domid)
{
	char path[64];

	devices_remove_all(xs, domid);
	xs_release_domain(xs, domid);
	snprintf(path, sizeof(path), "/local/domain/%u", domid);
	xs_rm(xs, XBT_NULL, path);
	snprintf(path, sizeof(path), "/libxl/%u", domid);
	xs_rm(xs, XBT_NULL, path);
}

/* --- commands --- */

int
toolstack_create(const char *name, unsigned limit)
{
	int64_t domid;
	int status;

	if (strlen(name) >= HV_NAME_SIZE || name[strspn(name, "0123456789")] == '\0' ||
	    strchr(name, '/') != NULL) {
		fprintf(stderr,
		    "xenloop: %s: a name has up to %u characters, not only digits, no slash\n",
		    name, HV_NAME_SIZE - 1);
		return EX_USAGE;
	}
	domid = domain_call(HV_CREATE, name, limit, 0);
	if (domid < 0)
		return failed("domain", name);
	devices_forget(name);
	status = introduce(name, (uint32_t)domid);
	if (status == EX_OK)
		printf("%u\n", (unsigned)domid);
	else
		domain_call(HV_DESTROY, name, 0, 0);
	return status;
}

int
toolstack_destroy(const char *name)
{
	struct xs_handle *xs;
	struct hv_info info;

	if (!find_domain(name, &info))
		return EX_UNAVAILABLE;
	session_signal(name, SIGKILL);
	devices_forget(name);
	if (domain_call(HV_DESTROY, name, 0, 0) < 0)
		return failed("domain", name);
	xs = !info.suspended ? toolstack_store() : NULL;
	if (xs != NULL) {
		forget(xs, info.domid);
		xs_close(xs);
	}
	return EX_OK;
}

/* With a restored domain's memory no backend of the saved one has anything to do. Here they are the
 * same memory: so nobody may have any of it mapped when the domain goes on. */
static bool
wait_unmapped(uint32_t domid)
{
	for (unsigned i = 0; i < SUSPEND_PATIENCE_MS / 10; i++) {
		unsigned slot = 0;
		struct hv_info info;

		while (session_next_domain(&slot, &info) && info.domid != domid)
			;
		if (info.mapped == 0)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	fprintf(stderr,
	    "xenloop: a backend keeps memory of domain %u mapped: end it before \"xenloop "
	    "resume\"\n",
	    domid);
	return false;
}

int
toolstack_suspend(const char *name)
{
	int64_t domid = toolstack_domid(name);
	struct xs_handle *xs = domid > 0 ? toolstack_store() : NULL;
	int status = EX_OK;

	if (domid == 0)
		fprintf(stderr, "xenloop: domain 0 can not be suspended\n");
	if (xs == NULL)
		return EX_UNAVAILABLE;
	/* As a kernel freezes its processes before it gives up what Xen gave it. */
	session_signal(name, SIGSTOP);
	if (domain_call(HV_QUIESCE, name, 0, 0) < 0) {
		bool others = errno == EBUSY; /* who suspends it now */

		status = failed("domain", name);
		if (!others)
			session_signal(name, SIGCONT);
	} else {
		devices_remove_all(xs, (uint32_t)domid);
		if (!wait_unmapped((uint32_t)domid))
			status = EX_TEMPFAIL;
		domain_call(HV_SUSPEND, name, 0, 0);
		forget(xs, (uint32_t)domid);
	}
	xs_close(xs);
	return status;
}

int
toolstack_resume(const char *name)
{
	int64_t domid = domain_call(HV_RESUME, name, 0, 0);
	int status;

	if (domid < 0)
		return failed("domain", name);
	status = introduce(name, (uint32_t)domid);
	if (status == EX_OK)
		status = devices_bring_back(name);
	session_signal(name, SIGCONT);
	if (status == EX_OK)
		printf("%u\n", (unsigned)domid);
	return status;
}

int
toolstack_shutdown(const char *name, const char *reason)
{
	static const char *const reasons[] = {"poweroff", "reboot", "suspend", "crash", "watchdog"};

	for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (strcmp(reason, reasons[i]) == 0)
			return domain_call(HV_SHUTDOWN, name, 0, i) < 0 ? failed("domain", name)
									: EX_OK;
	fprintf(stderr, "xenloop: %s: a reason is poweroff, reboot, suspend, crash or watchdog\n",
	    reason);
	return EX_USAGE;
}

int
toolstack_list(void)
{
	unsigned slot = 0;
	struct hv_info info;

	printf("%-24s %5s %6s %6s %6s  %s\n", "Name", "ID", "Pages", "Ports", "Maps", "State");
	while (session_next_domain(&slot, &info)) {
		char id[16] = "-";

		if (!info.suspended)
			snprintf(id, sizeof(id), "%u", info.domid);
		printf("%-24s %5s %6u %6u %6u  %s\n", info.name, id, info.frames, info.ports,
		    info.maps,
		    info.suspended	 ? "suspended"
		    : info.shutdown != 0 ? "shutdown"
					 : "running");
	}
	return EX_OK;
}
