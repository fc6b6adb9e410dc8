/* SPDX-License-Identifier: BSD-2-Clause */

/* Domains: what the domain builder makes, and how they end. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker.h"

#define VIRQ_DOM_EXC 3 /* xen.h */

struct domain *
domain_find(struct broker *b, uint32_t domid)
{
	for (unsigned i = 0; i < HV_DOMAINS; i++)
		if (b->domains[i].exists && b->domains[i].domid == domid)
			return &b->domains[i];
	return NULL;
}

struct domain *
domain_by_name(struct broker *b, const char *name)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);

	for (unsigned i = 0; i < HV_DOMAINS; i++)
		if (b->domains[i].exists && strcmp(b->domains[i].name, name) == 0)
			return &b->domains[i];
	return *name != '\0' && *end == '\0' ? domain_find(b, (uint32_t)number) : NULL;
}

static int
make_memory(struct domain *d)
{
	char path[64];

	d->ram = memfd_create("xenloop-memory", MFD_CLOEXEC);
	if (d->ram < 0 || ftruncate(d->ram, (off_t)HV_FRAMES * HV_PAGE) != 0)
		return errno;
	/* For maps of read-only grants, which nothing shall make writable. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", d->ram);
	d->ram_ro = open(path, O_RDONLY | O_CLOEXEC);
	return d->ram_ro < 0 ? errno : 0;
}

/* Ports and grants for xenstored and xenconsoled. */
static int
build(struct broker *b, struct domain *d)
{
	struct handle *kernel = handle_find(b, d->kernel), *console = handle_find(b, d->console);
	int error = port_alloc_at(b, kernel, 0, HV_STORE_PORT);

	if (error == 0)
		error = port_alloc_at(b, kernel, 0, HV_CONSOLE_PORT);
	d->console = 0;
	if (error == 0 && console != NULL)
		error = port_take_console(b, console);
	if (error != 0)
		return error;
	grants_reserved(b, d, HV_RESERVED_XENSTORE, HV_STORE_FRAME);
	grants_reserved(b, d, HV_RESERVED_CONSOLE, HV_CONSOLE_FRAME);
	atomic_store(&b->hv->domains[d->slot].domid, d->domid);
	return 0;
}

int
domain_create(struct broker *b, const char *name, uint32_t limit, struct domain **domain)
{
	struct domain *d = NULL;
	struct handle *kernel;
	int error, events = -1;

	if (name[0] == '\0' || domain_by_name(b, name) != NULL)
		return EEXIST;
	for (unsigned i = 0; i < HV_DOMAINS && d == NULL; i++)
		if (!b->domains[i].exists)
			d = &b->domains[i];
	if (d == NULL)
		return ENOSPC;
	*d = (struct domain){.slot = (unsigned)(d - b->domains),
	    .domid = b->next_domid,
	    .exists = true,
	    .ram = -1,
	    .ram_ro = -1,
	    .limit = limit};
	snprintf(d->name, sizeof(d->name), "%s", name);
	error = make_memory(d);
	if (error == 0)
		error = handle_open(b, d, HV_EVTCHN, &events, &kernel);
	if (error == 0) {
		d->kernel = kernel->id;
		error = build(b, d);
	}
	if (error == 0) {
		/* Domain 0's programs talk to xenstored's own socket. */
		d->store = guest_store_open(b, d, events);
		if (d->store == NULL)
			error = errno;
		events = -1;
	}
	if (error != 0) {
		if (events >= 0)
			close(events);
		domain_destroy(b, d);
		return error;
	}
	b->next_domid++;
	*domain = d;
	return 0;
}

static void
leave(struct broker *b, struct domain *d)
{
	atomic_store(&b->hv->domains[d->slot].domid, HV_NO_DOMID);
	grants_of_domain_revoke(b, d);
	d->domid = HV_NO_DOMID;
	port_raise_virq(b, VIRQ_DOM_EXC);
}

void
domain_destroy(struct broker *b, struct domain *d)
{
	guest_store_close(d->store);
	d->store = NULL;
	for (unsigned i = 1; i < HV_HANDLES; i++)
		if (b->handles[i].id != 0 && b->handles[i].domain == d)
			handle_close(b, &b->handles[i]);
	ports_of_domain_close(b, d, false);
	leave(b, d);
	if (d->ram >= 0)
		close(d->ram);
	if (d->ram_ro >= 0)
		close(d->ram_ro);
	d->exists = false;
}

void
domain_shutdown(struct broker *b, struct domain *d, uint32_t reason)
{
	d->shutdown = 1 + reason;
	port_raise_virq(b, VIRQ_DOM_EXC);
}

void
domain_suspend(struct broker *b, struct domain *d)
{
	ports_of_domain_close(b, d, true);
	leave(b, d);
	d->suspended = true;
}

int
domain_resume(struct broker *b, struct domain *d)
{
	static const uint8_t zeros[2 * HV_PAGE];
	int error;

	if (!d->suspended)
		return EINVAL;
	if (pwrite(d->ram, zeros, sizeof(zeros), 0) != sizeof(zeros))
		return EIO;
	d->domid = b->next_domid++;
	d->shutdown = 0;
	d->suspended = false;
	error = build(b, d);
	if (error != 0)
		domain_suspend(b, d);
	return error;
}

void
domain_info(const struct broker *b, const struct domain *d, struct hv_info *info)
{
	*info = (struct hv_info){.domid = d->domid,
	    .shutdown = d->shutdown,
	    .suspended = d->suspended,
	    .frames = grants_frames_used(d),
	    .mapped = grants_mapped(d),
	    .ports = ports_open(b, d),
	    .maps = grants_maps(b, d)};
	snprintf(info->name, sizeof(info->name), "%s", d->name);
}
