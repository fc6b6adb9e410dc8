/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * Grants: pages that domains let others use. Source: xen/grant_table.h; what is limited and what
 * fails how is that of Linux' gntalloc and gntdev.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker.h"

static struct hv_grant *
shared(const struct broker *b, const struct domain *d, uint32_t ref)
{
	return &b->hv->domains[d->slot].grants[ref];
}

/* owner: NULL if it has ended. */
static void
notify(struct broker *b, struct domain *user, const struct domain *owner, uint32_t frame,
    struct notify *n)
{
	static const uint8_t zero;

	if ((n->flags & HV_FLAG_CLEAR_BYTE) != 0 && owner != NULL)
		(void)!pwrite(owner->ram, &zero, 1, (off_t)frame * HV_PAGE + n->offset);
	if ((n->flags & HV_FLAG_SEND_EVENT) != 0)
		port_release(b, user, n->port, n->serial, true);
	n->flags = 0;
}

/* The port stays open for it: a program's end may close the port's handle first. */
static int
set_notify(struct broker *b, struct domain *user, struct notify *n, struct notify wanted)
{
	if ((wanted.flags & HV_FLAG_CLEAR_BYTE) != 0 && wanted.offset >= HV_PAGE)
		return EINVAL;
	if ((wanted.flags & HV_FLAG_SEND_EVENT) != 0 &&
	    port_hold(b, user, wanted.port, &wanted.serial) != 0)
		return EINVAL;
	if ((n->flags & HV_FLAG_SEND_EVENT) != 0)
		port_release(b, user, n->port, n->serial, false);
	*n = wanted;
	return 0;
}

/* --- giving --- */

static uint32_t
free_frames(const struct domain *d, uint32_t count)
{
	uint32_t run = 0;

	for (uint32_t i = HV_CONSOLE_FRAME + 1; i < HV_FRAMES; i++) {
		run = d->frames[i].used ? 0 : run + 1;
		if (run == count)
			return i + 1 - count;
	}
	return 0;
}

static uint32_t
free_ref(const struct domain *d, uint32_t from)
{
	while (from < HV_GRANTS && d->grants[from].used)
		from++;
	return from;
}

static void
give(struct broker *b, struct domain *d, uint32_t ref, uint32_t frame, uint32_t domid,
    uint32_t handle, bool writable)
{
	struct hv_grant *g = shared(b, d, ref);

	d->grants[ref] = (struct grant_info){.used = true, .handle = handle};
	d->frames[frame] = (struct frame_info){.used = true, .ref = ref};
	atomic_store(&g->frame, frame);
	atomic_store(&g->word,
	    HV_GRANT_VALID | (writable ? 0 : HV_GRANT_READONLY) | (domid & HV_GRANT_DOMID));
}

static void
take_back(struct broker *b, struct domain *d, uint32_t ref)
{
	struct hv_grant *g = shared(b, d, ref);
	uint32_t frame = atomic_load(&g->frame);

	atomic_store(&g->word, 0);
	d->grants[ref].used = false;
	d->frames[frame].used = false;
	/* The next user finds zeros, as from a kernel. */
	fallocate(
	    d->ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)frame * HV_PAGE, HV_PAGE);
}

int
grants_share(struct broker *b, struct handle *h, uint32_t domid, uint32_t count, bool writable,
    uint32_t *frame, uint32_t *refs)
{
	struct domain *d = h->domain;
	uint32_t ref = HV_FIRST_FREE_GRANT;

	if (h->kind != HV_GNTSHR || count == 0)
		return EINVAL;
	if (count > HV_MAX_REFS || d->shared + count > d->limit)
		return ENOSPC;
	*frame = free_frames(d, count);
	if (*frame == 0)
		return ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		ref = free_ref(d, ref);
		if (ref == HV_GRANTS)
			return ENOSPC;
		refs[i] = ref++;
	}
	for (uint32_t i = 0; i < count; i++)
		give(b, d, refs[i], *frame + i, domid, h->id, writable);
	d->shared += count;
	return 0;
}

void
grants_reserved(struct broker *b, struct domain *d, uint32_t ref, uint32_t frame)
{
	give(b, d, ref, frame, 0, d->kernel, true);
}

/* Of a page this handle has shared; NULL: there is none. */
static struct frame_info *
shared_frame(const struct handle *h, uint32_t frame)
{
	struct frame_info *f;

	if (frame >= HV_FRAMES)
		return NULL;
	f = &h->domain->frames[frame];
	return f->used && h->domain->grants[f->ref].handle == h->id ? f : NULL;
}

int
grants_share_notify(struct broker *b, struct handle *h, uint32_t frame, const struct notify *wanted)
{
	struct frame_info *f = shared_frame(h, frame);

	if (f == NULL)
		return ENOENT;
	return set_notify(b, h->domain, &f->notify, *wanted);
}

static void
end_share(struct broker *b, struct domain *d, uint32_t frame)
{
	struct frame_info *f = &d->frames[frame];
	struct grant_info *g = &d->grants[f->ref];

	notify(b, d, d, frame, &f->notify);
	d->shared--;
	g->handle = 0;
	/* Whoever has it mapped keeps it until the unmap. */
	if (g->maps == 0)
		take_back(b, d, f->ref);
}

int
grants_unshare(struct broker *b, struct handle *h, uint32_t frame, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (shared_frame(h, frame + i) == NULL)
			return ENOENT;
	for (uint32_t i = 0; i < count; i++)
		end_share(b, h->domain, frame + i);
	return 0;
}

/* --- using --- */

static struct domain *
granter_of(struct broker *b, const struct handle *h, const struct hv_ref *ref)
{
	return domain_find(b, ref->domid == 0x7ff0 ? h->domain->domid : ref->domid);
}

static bool
may_map(struct broker *b, const struct handle *h, const struct hv_ref *ref, bool writable)
{
	struct domain *granter = granter_of(b, h, ref);
	uint32_t word;

	return granter != NULL &&
	       hv_grant(&b->hv->domains[granter->slot], ref->ref, h->domain->domid, &word) !=
		   NULL &&
	       (!writable || (word & HV_GRANT_READONLY) == 0);
}

int
grants_map(struct broker *b, struct handle *h, const struct hv_ref *refs, uint32_t count,
    bool writable, uint32_t *mapping, uint32_t *slots_and_frames)
{
	struct mapping *m;

	if (h->kind != HV_GNTTAB)
		return EINVAL;
	for (uint32_t i = 0; i < count; i++) {
		if (h->restricted != HV_NO_DOMID && refs[i].domid != h->restricted)
			return EACCES;
		if (!may_map(b, h, &refs[i], writable))
			return EINVAL;
	}
	m = malloc(sizeof(*m) + count * sizeof(m->refs[0]));
	if (m == NULL)
		return ENOMEM;
	*m = (struct mapping){
	    .id = ++b->next_mapping, .count = count, .writable = writable, .next = h->mappings};
	h->mappings = m;
	for (uint32_t i = 0; i < count; i++) {
		struct domain *granter = granter_of(b, h, &refs[i]);

		granter->grants[refs[i].ref].maps++;
		m->refs[i] = (struct hv_ref){granter->domid, refs[i].ref};
		slots_and_frames[2 * i] = granter->slot;
		slots_and_frames[2 * i + 1] = atomic_load(&shared(b, granter, refs[i].ref)->frame);
	}
	*mapping = m->id;
	return 0;
}

static struct mapping **
find_mapping(struct handle *h, uint32_t id)
{
	struct mapping **at = &h->mappings;

	while (*at != NULL && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

int
grants_map_notify(struct broker *b, struct handle *h, uint32_t mapping, const struct notify *wanted)
{
	struct mapping *m = *find_mapping(h, mapping);

	if (m == NULL)
		return ENOENT;
	if ((wanted->flags & HV_FLAG_CLEAR_BYTE) != 0 && !m->writable)
		return EINVAL;
	return set_notify(b, h->domain, &m->notify, *wanted);
}

static void
unmap(struct broker *b, struct handle *h, struct mapping *m)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct domain *granter = domain_find(b, m->refs[i].domid);
		struct grant_info *g;

		if (i == 0)
			notify(b, h->domain, granter,
			    granter != NULL
				? atomic_load(&shared(b, granter, m->refs[i].ref)->frame)
				: 0,
			    &m->notify);
		if (granter == NULL)
			continue; /* ended before us */
		g = &granter->grants[m->refs[i].ref];
		if (g->maps > 0 && --g->maps == 0 && g->used && g->handle == 0)
			take_back(b, granter, m->refs[i].ref);
	}
	free(m);
}

int
grants_unmap(struct broker *b, struct handle *h, uint32_t mapping)
{
	struct mapping **at = find_mapping(h, mapping), *m = *at;

	if (m == NULL)
		return ENOENT;
	*at = m->next;
	unmap(b, h, m);
	return 0;
}

/* --- ends --- */

void
grants_of_handle_close(struct broker *b, struct handle *h)
{
	while (h->mappings != NULL) {
		struct mapping *m = h->mappings;

		h->mappings = m->next;
		unmap(b, h, m);
	}
	if (h->kind == HV_GNTSHR)
		for (uint32_t i = 0; i < HV_FRAMES; i++)
			if (shared_frame(h, i) != NULL)
				end_share(b, h->domain, i);
}

void
grants_of_domain_revoke(struct broker *b, struct domain *d)
{
	for (uint32_t i = 0; i < HV_GRANTS; i++) {
		struct grant_info *g = &d->grants[i];

		if (!g->used)
			continue;
		atomic_store(&shared(b, d, i)->word, 0);
		/* The pages are still the programs' who shared them. */
		g->maps = 0;
	}
}

uint32_t
grants_frames_used(const struct domain *d)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < HV_FRAMES; i++)
		used += d->frames[i].used;
	return used;
}

uint32_t
grants_mapped(const struct domain *d)
{
	uint32_t mapped = 0;

	for (uint32_t i = HV_FIRST_FREE_GRANT; i < HV_GRANTS; i++)
		mapped += d->grants[i].maps != 0;
	return mapped;
}

uint32_t
grants_maps(const struct broker *b, const struct domain *d)
{
	uint32_t maps = 0;

	for (unsigned i = 1; i < HV_HANDLES; i++)
		if (b->handles[i].id != 0 && b->handles[i].domain == d)
			for (const struct mapping *m = b->handles[i].mappings; m != NULL;
			     m = m->next)
				maps += m->count;
	return maps;
}
