/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xen/xen.h>

#include "xenpv/log.h"
#include "xenpv/xenbus.h"

#define ID_MAX (UINT32_C(1) << 31)

/* Which directories are devices, below the one that is watched. */
struct shape {
	const char *parent; /* "device": device/vbd/51712 */
	bool by_domain;	    /* backend/vbd/3/51712 */
	const char *proof;  /* the node that makes a directory a device */
};

struct device {
	uint32_t domid; /* 0 if not by domain */
	uint32_t id;
};

struct xpv_discovery {
	struct xpv_store *store;
	const struct shape *shape;
	const struct xpv_discovery_ops *ops;
	void *arg;
	struct xpv_watch *watch;
	struct device *known;
	size_t count;
	bool odd_name_logged;
	char dir[64]; /* "device/vbd" */
};

/* Only as toolstacks write it: "051712" would be a second directory for the same device. */
static bool
parse_id(const char *name, size_t length, uint32_t max, uint32_t *id)
{
	uint64_t n = 0;

	if (length == 0 || length > 10 || (name[0] == '0' && length > 1))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (name[i] < '0' || name[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(name[i] - '0');
	}
	*id = (uint32_t)n;
	return n <= max;
}

static bool
name_to_id(struct xpv_discovery *d, const char *name, size_t length, uint32_t max, const char *what,
    uint32_t *id)
{
	if (parse_id(name, length, max, id))
		return true;
	if (!d->odd_name_logged)
		xpv_warning("%s: %.*s is not the number of a %s: ignored, like all others that "
			    "are not",
		    d->dir, (int)(length < 64 ? length : 64), name, what);
	d->odd_name_logged = true;
	return false;
}

static bool
device_number(struct xpv_discovery *d, const char *name, size_t length, uint32_t *id)
{
	return name_to_id(d, name, length, ID_MAX, "device", id);
}

static bool
domain_number(struct xpv_discovery *d, const char *name, size_t length, uint32_t *domid)
{
	return name_to_id(d, name, length, DOMID_FIRST_RESERVED - 1, "domain", domid);
}

/* The index of a known device; d->count if it is not known. */
static size_t
find(const struct xpv_discovery *d, struct device device)
{
	size_t i;

	for (i = 0; i < d->count; i++) {
		if (d->known[i].domid == device.domid && d->known[i].id == device.id)
			break;
	}
	return i;
}

static bool
add(struct xpv_discovery *d, struct device device)
{
	struct device *more = realloc(d->known, (d->count + 1) * sizeof(*more));

	if (more == NULL)
		return false;
	d->known = more;
	d->known[d->count++] = device;
	return true;
}

#define DEVICE_DIR_MAX (sizeof(((struct xpv_discovery *)NULL)->dir) + sizeof("/32751/4294967295"))

static void
device_dir(const struct xpv_discovery *d, struct device device, char dir[DEVICE_DIR_MAX])
{
	if (d->shape->by_domain)
		snprintf(dir, DEVICE_DIR_MAX, "%s/%u/%u", d->dir, device.domid, device.id);
	else
		snprintf(dir, DEVICE_DIR_MAX, "%s/%u", d->dir, device.id);
}

/* Compares one device with what we know of it. */
static void
look_at(struct xpv_discovery *d, struct device device)
{
	size_t i = find(d, device);
	char dir[DEVICE_DIR_MAX], node[sizeof(dir) + sizeof("/frontend")];

	device_dir(d, device, dir);
	snprintf(node, sizeof(node), "%s/%s", dir, d->shape->proof);
	if (xpv_store_exists(d->store, node)) {
		if (i < d->count)
			d->ops->changed(dir, device.id, d->arg);
		else if (add(d, device))
			d->ops->found(dir, device.id, d->arg);
	} else if (errno == ENOENT && i < d->count) {
		d->known[i] = d->known[--d->count];
		d->ops->lost(dir, device.id, d->arg);
	}
}

static void
look_for_new(struct xpv_discovery *d, const char *dir, uint32_t domid)
{
	char **names = xpv_store_list(d->store, dir);
	struct device device = {.domid = domid};

	for (char **name = names; name != NULL && *name != NULL; name++) {
		if (device_number(d, *name, strlen(*name), &device.id) &&
		    find(d, device) == d->count)
			look_at(d, device);
	}
	free(names);
}

static void
look_for_new_of_all(struct xpv_discovery *d)
{
	char **names = xpv_store_list(d->store, d->dir);
	char dir[DEVICE_DIR_MAX];
	uint32_t domid;

	for (char **name = names; name != NULL && *name != NULL; name++) {
		if (!domain_number(d, *name, strlen(*name), &domid))
			continue;
		snprintf(dir, sizeof(dir), "%s/%u", d->dir, domid);
		look_for_new(d, dir, domid);
	}
	free(names);
}

static void
look_at_all(struct xpv_discovery *d)
{
	/* Backwards: the last one takes the place of one that is lost. */
	for (size_t i = d->count; i-- > 0;)
		look_at(d, d->known[i]);
	if (d->shape->by_domain)
		look_for_new_of_all(d);
	else
		look_for_new(d, d->dir, 0);
}

/* The device's part of a changed path, "51712/state"; NULL when it is of no single device. */
static const char *
below(const struct xpv_discovery *d, const char *changed)
{
	const char *place = strstr(changed, d->dir);

	if (place == NULL || (place != changed && place[-1] != '/'))
		return NULL;
	place += strlen(d->dir);
	return *place == '/' ? place + 1 : NULL;
}

static void
on_change(struct xpv_watch *w, const char *changed, void *arg)
{
	struct xpv_discovery *d = arg;
	const char *name = below(d, changed);
	struct device device = {0};

	if (name != NULL && d->shape->by_domain) {
		size_t length = strcspn(name, "/");

		if (!domain_number(d, name, length, &device.domid))
			return;
		name = name[length] == '/' ? name + length + 1 : NULL;
	}
	if (name == NULL)
		look_at_all(d);
	else if (device_number(d, name, strcspn(name, "/"), &device.id))
		look_at(d, device);
}

static struct xpv_discovery *
discovery_start(struct xpv_store *store, const struct shape *shape, const char *dev_class,
    const struct xpv_discovery_ops *ops, void *arg)
{
	struct xpv_discovery *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	d->store = store;
	d->shape = shape;
	d->ops = ops;
	d->arg = arg;
	if (snprintf(d->dir, sizeof(d->dir), "%s/%s", shape->parent, dev_class) >=
	    (int)sizeof(d->dir))
		errno = ENAMETOOLONG;
	else
		d->watch = xpv_store_watch(store, on_change, d, "%s", d->dir);
	if (d->watch == NULL) {
		free(d);
		return NULL;
	}
	return d;
}

struct xpv_discovery *
xpv_discovery_start(
    struct xpv_store *store, const char *dev_class, const struct xpv_discovery_ops *ops, void *arg)
{
	static const struct shape frontends = {.parent = "device", .proof = "backend"};

	return discovery_start(store, &frontends, dev_class, ops, arg);
}

struct xpv_discovery *
xpv_backend_discovery_start(
    struct xpv_store *store, const char *dev_class, const struct xpv_discovery_ops *ops, void *arg)
{
	static const struct shape backends = {
	    .parent = "backend", .by_domain = true, .proof = "frontend"};

	return discovery_start(store, &backends, dev_class, ops, arg);
}

void
xpv_discovery_stop(struct xpv_discovery *d)
{
	if (d == NULL)
		return;
	xpv_store_unwatch(d->watch);
	free(d->known);
	free(d);
}
