/* SPDX-License-Identifier: BSD-2-Clause */

/* What toolstacks and backends do to devices in xenstore, in lines:
 *
 *     PATH=VALUE   writes a node
 *     -PATH        removes it and all below
 *     @N=STATE     our driver sets the state of the Nth device it has
 *     .            all that has happened is seen
 *
 * As soon as all is seen, we know what there is, no more and no less. */

#include <ctype.h>
#include <stdbool.h>

#include <event2/event.h>
#include <xen/xen.h>

#include <xenpv/log.h>
#include <xenpv/xenbus.h>

#include "../unit/fake_store.h"
#include "fuzz.h"

#define DEVICES 16

static struct device {
	uint32_t id;
	bool known;
	struct xpv_frontend *f; /* NULL: what the toolstack wrote makes no sense */
} devices[DEVICES];

static struct xpv_store *store;
static struct event_base *base;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

/* --- our driver --- */

static void
on_backend(enum xpv_state state, void *arg)
{
	struct device *d = arg;

	check(state <= XPV_STATE_RECONFIGURED);
	check(d->known && xpv_frontend_backend_state(d->f) == state);
}

static void
on_touched(enum xpv_state state, void *arg)
{
	check(state != XPV_STATE_UNKNOWN);
	on_backend(state, arg);
}

static void
on_own(enum xpv_state state, void *arg)
{
	struct device *d = arg;

	check(state <= XPV_STATE_RECONFIGURED);
	check(d->known && xpv_frontend_state(d->f) == state);
}

static const struct xpv_frontend_ops frontend_ops = {
    .backend_changed = on_backend,
    .backend_touched = on_touched,
    .own_changed = on_own,
};

static struct device *
find(uint32_t id)
{
	for (unsigned i = 0; i < DEVICES; i++)
		if (devices[i].known && devices[i].id == id)
			return &devices[i];
	return NULL;
}

static void
check_backend(const struct device *d)
{
	const char *dir = xpv_frontend_backend_dir(d->f);
	uint32_t domid = xpv_frontend_backend_id(d->f);
	char prefix[64];

	snprintf(prefix, sizeof(prefix), "/local/domain/%u/backend/", domid);
	check(domid < DOMID_FIRST_RESERVED);
	check(strncmp(dir, prefix, strlen(prefix)) == 0);
	check(strlen(dir) < XPV_STORE_PATH && strstr(dir, "..") == NULL);
}

static void
open_device(struct device *d, const char *dir)
{
	d->f = xpv_frontend_open(store, dir, &frontend_ops, d);
	if (d->f != NULL)
		check_backend(d);
}

static void
on_found(const char *dir, uint32_t id, void *arg)
{
	char expected[64];

	snprintf(expected, sizeof(expected), "device/vbd/%u", id);
	check(strcmp(dir, expected) == 0);
	check(id <= UINT32_C(1) << 31);
	check(find(id) == NULL);
	for (unsigned i = 0; i < DEVICES; i++)
		if (!devices[i].known) {
			devices[i] = (struct device){.id = id, .known = true};
			open_device(&devices[i], dir);
			return;
		}
	check(false); /* there are no paths for so many */
}

static void
on_changed(const char *dir, uint32_t id, void *arg)
{
	struct device *d = find(id);

	check(d != NULL);
	if (d->f == NULL)
		open_device(d, dir);
}

static void
on_lost(const char *dir, uint32_t id, void *arg)
{
	struct device *d = find(id);

	check(d != NULL);
	xpv_frontend_close(d->f);
	*d = (struct device){0};
}

static const struct xpv_discovery_ops discovery_ops = {
    .found = on_found,
    .changed = on_changed,
    .lost = on_lost,
};

/* --- what there is --- */

static enum xpv_state
state_at(const char *dir)
{
	char path[XPV_STORE_PATH + 16];
	const char *value;

	snprintf(path, sizeof(path), "%s/state", dir);
	value = fake_store_get(path);
	if (value == NULL || *value == '\0' || strspn(value, "0123456789") != strlen(value))
		return XPV_STATE_UNKNOWN;
	while (value[0] == '0' && value[1] != '\0')
		value++;
	return value[1] == '\0' && value[0] <= '8' ? (enum xpv_state)(value[0] - '0')
						   : XPV_STATE_UNKNOWN;
}

static void
check_all(void)
{
	char path[64];

	for (unsigned i = 0; i < DEVICES; i++) {
		const struct device *d = &devices[i];

		if (!d->known)
			continue;
		snprintf(path, sizeof(path), "device/vbd/%u/backend", d->id);
		check(fake_store_get(path) != NULL);
		if (d->f == NULL)
			continue;
		check(xpv_frontend_state(d->f) == state_at(xpv_frontend_dir(d->f)));
		check(xpv_frontend_backend_state(d->f) == state_at(xpv_frontend_backend_dir(d->f)));
	}
	for (uint32_t id = 0; id < DEVICES; id++) {
		snprintf(path, sizeof(path), "device/vbd/%u/backend", id);
		check((fake_store_get(path) != NULL) == (find(id) != NULL));
	}
}

static void
see(void)
{
	fake_store_settle(base);
	check_all();
}

/* --- the input --- */

static void
set_own(const char *what)
{
	unsigned number, state;
	struct device *d;
	char path[64];

	if (sscanf(what, "%u=%u", &number, &state) != 2 || state > XPV_STATE_RECONFIGURED)
		return;
	d = &devices[number % DEVICES];
	if (!d->known || d->f == NULL)
		return;
	snprintf(path, sizeof(path), "device/vbd/%u/state", d->id);
	if (xpv_frontend_set_state(d->f, (enum xpv_state)state) == 0)
		check(xpv_frontend_state(d->f) == (enum xpv_state)state);
	else
		check(xpv_frontend_state(d->f) != state_at(xpv_frontend_dir(d->f)) ||
		      fake_store_get(path) == NULL);
}

/* Of no more devices than we keep, with whatever names else; xenstored lets no other paths in. */
static bool
valid(const char *path)
{
	const char *number = strstr(path, "device/vbd/");
	size_t length = strlen(path);

	if (length == 0 || path[length - 1] == '/' || strstr(path, "//") != NULL)
		return false;
	for (const char *c = path; *c != '\0'; c++)
		if (!isalnum((unsigned char)*c) && strchr("-/_@", *c) == NULL)
			return false;
	if (number == NULL)
		return true;
	number += strlen("device/vbd/");
	return !isdigit((unsigned char)number[0]) || strspn(number, "0123456789") > 9 ||
	       strtoul(number, NULL, 10) < DEVICES;
}

static void
do_line(char *line)
{
	char *equals = strchr(line, '=');

	if (strcmp(line, ".") == 0) {
		see();
	} else if (line[0] == '@') {
		set_own(line + 1);
	} else if (line[0] == '-') {
		if (valid(line + 1))
			fake_store_remove(line + 1);
	} else if (equals != NULL) {
		*equals = '\0';
		if (valid(line))
			fake_store_set(line, equals + 1);
	}
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	base = event_base_new();
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	struct xpv_discovery *discovery;
	char line[512];

	fake_store_reset();
	memset(devices, 0, sizeof(devices));
	store = xpv_store_open(base);
	check(store != NULL);
	discovery = xpv_discovery_start(store, "vbd", &discovery_ops, NULL);
	check(discovery != NULL);
	while (in.left > 0) {
		take_line(&in, line, sizeof(line));
		do_line(line);
	}
	see();
	for (unsigned i = 0; i < DEVICES; i++)
		xpv_frontend_close(devices[i].f);
	xpv_discovery_stop(discovery);
	check(fake_store_watches() == 0 && fake_store_transactions() == 0);
	xpv_store_close(store);
	fake_store_reset();
	return 0;
}
