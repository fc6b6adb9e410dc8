/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * Devices in xenstore, as libxl writes them. Sources: xen/io/blkif.h, xen/io/netif.h,
 * docs/misc/xenstore-paths.pandoc.
 */

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include <xen/io/xenbus.h>

#include "session.h"
#include "toolstack.h"

#define CLOSE_PATIENCE_MS   10000
#define REMOVE_PATIENCE_MS  10000
#define UNTAKEN_PATIENCE_MS 1000 /* nobody may serve a disk that is in its first state */
#define KEY_SIZE	    64

/* A device's folders. */
struct device {
	char front[128];
	char back[128];
	char kept[128]; /* the toolstack's own: xl reads here what it wrote for the backend */
	uint32_t domid, backend;
};

/* Where they are written: all at once. */
struct writer {
	struct xs_handle *xs;
	xs_transaction_t transaction;
	const struct device *device;
};

static bool
put(const struct writer *w, const char *folder, const char *key, const char *format, ...)
{
	char path[512], value[PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(value, sizeof(value), format, args);
	va_end(args);
	snprintf(path, sizeof(path), "%s/%s", folder, key);
	return xs_write(w->xs, w->transaction, path, value, (unsigned)strlen(value));
}

static bool
put_back(const struct writer *w, const char *key, const char *value)
{
	return put(w, w->device->back, key, "%s", value) &&
	       put(w, w->device->kept, key, "%s", value);
}

static char *
get(struct xs_handle *xs, const char *folder, const char *key)
{
	char path[512];
	unsigned length;

	snprintf(path, sizeof(path), "%s/%s", folder, key);
	return xs_read(xs, XBT_NULL, path, &length);
}

static bool
make_folder(const struct writer *w, const char *path, uint32_t owner, uint32_t reader)
{
	struct xs_permissions perms[] = {
	    {.id = owner, .perms = XS_PERM_NONE}, {.id = reader, .perms = XS_PERM_READ}};

	return xs_mkdir(w->xs, w->transaction, path) &&
	       xs_set_permissions(w->xs, w->transaction, path, perms, 2);
}

/* xvda -> 51712, xvdb3 -> 51731, a number as it is. Source: docs/man/xen-vbd-interface.7. */
static long
disk_number(const char *vdev)
{
	char letter, end;
	unsigned partition = 0;
	int n = sscanf(vdev, "xvd%c%u%c", &letter, &partition, &end);

	if ((n == 1 || n == 2) && letter >= 'a' && letter <= 'p' && partition < 16)
		return (202L << 8) + (letter - 'a') * 16 + (long)partition;
	n = sscanf(vdev, "%u%c", &partition, &end);
	return n == 1 ? (long)partition : -1;
}

static long
interface_number(const char *text)
{
	unsigned number;
	char end;

	return sscanf(text, "%u%c", &number, &end) == 1 && number <= 255 ? (long)number : -1;
}

static void
set_paths(struct device *d, const char *kind, long number)
{
	snprintf(
	    d->front, sizeof(d->front), "/local/domain/%u/device/%s/%ld", d->domid, kind, number);
	snprintf(d->kept, sizeof(d->kept), "/libxl/%u/device/%s/%ld", d->domid, kind, number);
}

static bool
locate(struct device *d, const char *domain, const char *kind, const char *backend_kind,
    long number, const char *backend)
{
	int64_t domid = toolstack_domid(domain), back = toolstack_domid(backend);

	if (domid < 0 || back < 0)
		return false;
	d->domid = (uint32_t)domid;
	d->backend = (uint32_t)back;
	set_paths(d, kind, number);
	snprintf(d->back, sizeof(d->back), "/local/domain/%u/backend/%s/%u/%ld", d->backend,
	    backend_kind, d->domid, number);
	return true;
}

static bool
put_common(const struct writer *w)
{
	const struct device *d = w->device;
	char domid[16];

	snprintf(domid, sizeof(domid), "%u", d->domid);
	return make_folder(w, d->back, d->backend, d->domid) &&
	       make_folder(w, d->front, d->domid, d->backend) &&
	       put(w, d->kept, "backend", "%s", d->back) && put_back(w, "frontend", d->front) &&
	       put_back(w, "frontend-id", domid) && put_back(w, "online", "1") &&
	       put(w, d->front, "backend", "%s", d->back) &&
	       put(w, d->front, "backend-id", "%u", d->backend);
}

static bool
are_settings(char *const settings[])
{
	for (; *settings != NULL; settings++) {
		const char *equals = strchr(*settings, '=');

		if (equals == NULL || equals == *settings || equals - *settings >= KEY_SIZE) {
			fprintf(stderr, "xenloop: %s: not key=value\n", *settings);
			return false;
		}
	}
	return true;
}

static bool
put_settings(const struct writer *w, char *const settings[])
{
	for (; *settings != NULL; settings++) {
		const char *equals = strchr(*settings, '=');
		char key[KEY_SIZE];

		snprintf(key, sizeof(key), "%.*s", (int)(equals - *settings), *settings);
		if (!put_back(w, key, equals + 1))
			return false;
	}
	return true;
}

static bool
put_states(const struct writer *w)
{
	return put(w, w->device->kept, "state", "%d", XenbusStateInitialising) &&
	       put(w, w->device->back, "state", "%d", XenbusStateInitialising) &&
	       put(w, w->device->front, "state", "%d", XenbusStateInitialising);
}

/* --- attach --- */

struct disk {
	long number;
	const char *vdev, *target, *type;
};

static bool
put_disk(const struct writer *w, const void *arg)
{
	const struct disk *disk = arg;
	bool qdisk = strcmp(disk->type, "qdisk") == 0;
	char params[PATH_MAX + 8];

	/* "aio" is libxl's word for a raw image. */
	snprintf(params, sizeof(params), "%s%s", qdisk ? "aio:" : "", disk->target);
	return put_back(w, "params", params) &&
	       (qdisk || put_back(w, "script", "/etc/xen/scripts/block")) &&
	       put_back(w, "type", strcmp(disk->type, "vbd") == 0 ? "phy" : disk->type) &&
	       put_back(w, "dev", disk->vdev) && put_back(w, "mode", "w") &&
	       put_back(w, "device-type", "disk") && put_back(w, "removable", "0") &&
	       put_back(w, "bootable", "1") && put_back(w, "discard-enable", "1") &&
	       put(w, w->device->front, "virtual-device", "%ld", disk->number) &&
	       put(w, w->device->front, "device-type", "disk");
}

struct interface {
	unsigned handle;
	const char *mac; /* NULL: one that we make */
};

/* The frontend is told of it, too. */
static const char *
mac_among(char *const settings[])
{
	for (; *settings != NULL; settings++)
		if (strncmp(*settings, "mac=", 4) == 0)
			return *settings + 4;
	return NULL;
}

static bool
put_interface(const struct writer *w, const void *arg)
{
	const struct device *d = w->device;
	const struct interface *i = arg;
	char number[16], mac[64];

	snprintf(number, sizeof(number), "%u", i->handle);
	if (i->mac != NULL)
		snprintf(mac, sizeof(mac), "%s", i->mac);
	else /* with Xen's prefix */
		snprintf(mac, sizeof(mac), "00:16:3e:%02x:%02x:%02x", d->domid >> 8 & 0x7f,
		    d->domid & 0xff, i->handle);
	return put_back(w, "handle", number) && put_back(w, "mac", mac) &&
	       put_back(w, "type", "vif") && put_back(w, "script", "/etc/xen/scripts/vif-bridge") &&
	       put(w, d->front, "handle", "%s", number) && put(w, d->front, "mac", "%s", mac) &&
	       put(w, d->front, "mtu", "1500");
}

/* What a device of this kind has besides what all have. */
typedef bool put_kind(const struct writer *w, const void *arg);

static bool
put_device(const struct writer *w, put_kind *put_its, const void *arg, char *const settings[])
{
	unsigned length;
	char *there = NULL, path[512];

	/* libxl asks this folder, too. */
	snprintf(path, sizeof(path), "%s/backend", w->device->kept);
	there = xs_read(w->xs, w->transaction, path, &length);
	free(there);
	if (there != NULL) {
		errno = EEXIST;
		return false;
	}
	return put_common(w) && put_its(w, arg) && put_settings(w, settings) && put_states(w);
}

static int
attach(const struct device *d, put_kind *put_its, const void *arg, char *const settings[])
{
	struct writer w = {.xs = toolstack_store(), .device = d};
	bool done, again;

	if (w.xs == NULL)
		return EX_OSERR;
	do {
		w.transaction = xs_transaction_start(w.xs);
		done = w.transaction != XBT_NULL && put_device(&w, put_its, arg, settings);
		again = false;
		if (done) {
			done = xs_transaction_end(w.xs, w.transaction, false);
			again = !done && errno == EAGAIN;
		} else if (w.transaction != XBT_NULL) {
			int error = errno;

			xs_transaction_end(w.xs, w.transaction, true);
			errno = error;
		}
	} while (again);
	if (!done)
		fprintf(stderr, "xenloop: %s: %s\n", d->front, strerror(errno));
	xs_close(w.xs);
	return done ? EX_OK : EX_OSERR;
}

static int
attach_disk(const char *domain, const char *vdev, const char *target, const char *backend,
    const char *type, char *const settings[])
{
	const struct disk disk = {disk_number(vdev), vdev, target, type};
	struct device d;

	if (disk.number < 0) {
		fprintf(stderr, "xenloop: %s: a disk is xvda to xvdp, xvda1, or a number\n", vdev);
		return EX_USAGE;
	}
	if (!are_settings(settings))
		return EX_USAGE;
	if (!locate(&d, domain, "vbd", type, disk.number, backend))
		return EX_UNAVAILABLE;
	return attach(&d, put_disk, &disk, settings);
}

static int
attach_net(const char *domain, const char *number, const char *backend, char *const settings[])
{
	long wanted = interface_number(number);
	const struct interface interface = {(unsigned)wanted, mac_among(settings)};
	struct device d;

	if (wanted < 0) {
		fprintf(stderr, "xenloop: %s: an interface is a number from 0 to 255\n", number);
		return EX_USAGE;
	}
	if (!are_settings(settings))
		return EX_USAGE;
	if (!locate(&d, domain, "vif", "vif", wanted, backend))
		return EX_UNAVAILABLE;
	return attach(&d, put_interface, &interface, settings);
}

/* --- what comes back after a resume: a line for each device, its words parted by tabs --- */

#define MAX_WORDS 32

static void
record_path(char *path, size_t size, const char *domain, const char *suffix)
{
	snprintf(path, size, "%s/devices-%s%s", session_dir(), domain, suffix);
}

static bool
record_add(const char *domain, const char *const words[], char *const settings[])
{
	char path[PATH_MAX];
	FILE *f;

	record_path(path, sizeof(path), domain, "");
	f = fopen(path, "ae");
	if (f == NULL) {
		fprintf(stderr, "xenloop: %s: %s\n", path, strerror(errno));
		return false;
	}
	for (; *words != NULL; words++)
		fprintf(f, "%s\t", *words);
	for (; *settings != NULL; settings++)
		fprintf(f, "%s\t", *settings);
	fprintf(f, "\n");
	return fclose(f) == 0;
}

static unsigned
split(char *line, char *words[MAX_WORDS])
{
	unsigned n = 0;
	char *word;

	line[strcspn(line, "\n")] = '\0';
	while (n < MAX_WORDS - 1 && (word = strsep(&line, "\t")) != NULL)
		if (*word != '\0')
			words[n++] = word;
	words[n] = NULL;
	return n;
}

/* A device has several names, but one number. */
static long
device_number(const char *kind, const char *name)
{
	return strcmp(kind, "vbd") == 0 ? disk_number(name) : interface_number(name);
}

static void
record_remove(const char *domain, const char *kind, long number)
{
	char path[PATH_MAX], fresh[PATH_MAX], line[4096], copy[4096], *words[MAX_WORDS];
	FILE *from, *to;

	record_path(path, sizeof(path), domain, "");
	record_path(fresh, sizeof(fresh), domain, ".new");
	from = fopen(path, "re");
	to = fopen(fresh, "we");
	while (from != NULL && to != NULL && fgets(line, sizeof(line), from) != NULL) {
		memcpy(copy, line, sizeof(copy));
		if (split(copy, words) < 2 || strcmp(words[0], kind) != 0 ||
		    device_number(kind, words[1]) != number)
			fputs(line, to);
	}
	if (from != NULL)
		fclose(from);
	if (to != NULL && fclose(to) == 0 && from != NULL)
		rename(fresh, path);
}

void
devices_forget(const char *domain)
{
	char path[PATH_MAX];

	record_path(path, sizeof(path), domain, "");
	unlink(path);
}

int
devices_attach_disk(const char *domain, const char *vdev, const char *target, const char *backend,
    const char *type, char *const settings[])
{
	int status = attach_disk(domain, vdev, target, backend, type, settings);

	if (status == EX_OK &&
	    !record_add(
		domain, (const char *const[]){"vbd", vdev, target, backend, type, NULL}, settings))
		status = EX_CANTCREAT;
	return status;
}

int
devices_attach_net(
    const char *domain, const char *number, const char *backend, char *const settings[])
{
	int status = attach_net(domain, number, backend, settings);

	if (status == EX_OK &&
	    !record_add(domain, (const char *const[]){"vif", number, backend, NULL}, settings))
		status = EX_CANTCREAT;
	return status;
}

int
devices_bring_back(const char *domain)
{
	char path[PATH_MAX], line[4096], *w[MAX_WORDS];
	int status = EX_OK, result;
	FILE *f;

	record_path(path, sizeof(path), domain, "");
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		unsigned n = split(line, w);

		if (n >= 5 && strcmp(w[0], "vbd") == 0)
			result = attach_disk(domain, w[1], w[2], w[3], w[4], w + 5);
		else if (n >= 3 && strcmp(w[0], "vif") == 0)
			result = attach_net(domain, w[1], w[2], w + 3);
		else
			continue;
		if (result != EX_OK)
			status = result;
	}
	if (f != NULL)
		fclose(f);
	return status;
}

/* --- detach --- */

static int
state(struct xs_handle *xs, const char *folder)
{
	char *text = get(xs, folder, "state");
	int value = text != NULL ? atoi(text) : XenbusStateUnknown;

	free(text);
	return value;
}

static bool
both_closed(struct xs_handle *xs, const struct device *d)
{
	int front = state(xs, d->front), back = state(xs, d->back);

	return (front == XenbusStateUnknown || front == XenbusStateClosed ||
		   front == XenbusStateInitialising) &&
	       (back == XenbusStateUnknown || back == XenbusStateClosed ||
		   back == XenbusStateInitialising);
}

/* QEMU removes the folder of a backend that is done with; whoever makes a new one there before
 * would lose it. */
static bool
back_is_gone(struct xs_handle *xs, const struct device *d)
{
	return strstr(d->back, "/backend/qdisk/") == NULL ||
	       state(xs, d->back) == XenbusStateUnknown;
}

static bool
wait_until(struct xs_handle *xs, const struct device *d, int patience_ms,
    bool (*done)(struct xs_handle *xs, const struct device *d))
{
	struct pollfd fd = {.fd = xs_fileno(xs), .events = POLLIN};
	char **event;

	while (!done(xs, d)) {
		if (poll(&fd, 1, patience_ms) <= 0)
			return false;
		while ((event = xs_check_watch(xs)) != NULL)
			free(event);
	}
	return true;
}

static int
detach(struct xs_handle *xs, const struct device *d, bool force)
{
	const struct writer w = {.xs = xs, .transaction = XBT_NULL, .device = d};

	if (!force) {
		if (!put(&w, d->back, "online", "0") ||
		    (state(xs, d->back) != XenbusStateInitialising &&
			!put(&w, d->back, "state", "%d", XenbusStateClosing))) {
			fprintf(stderr, "xenloop: %s: %s\n", d->back, strerror(errno));
			return EX_OSERR;
		}
		if (!xs_watch(xs, d->front, "front") || !xs_watch(xs, d->back, "back") ||
		    !wait_until(xs, d, CLOSE_PATIENCE_MS, both_closed)) {
			fprintf(stderr,
			    "xenloop: %s is still in use (frontend %d, backend %d); --force takes "
			    "it "
			    "away\n",
			    d->front, state(xs, d->front), state(xs, d->back));
			return EX_TEMPFAIL;
		}
		if (!wait_until(xs, d,
			state(xs, d->back) == XenbusStateInitialising ? UNTAKEN_PATIENCE_MS
								      : REMOVE_PATIENCE_MS,
			back_is_gone) &&
		    state(xs, d->back) != XenbusStateInitialising) {
			fprintf(stderr,
			    "xenloop: %s is closed, but QEMU has not removed it; --force takes it "
			    "away\n",
			    d->back);
			return EX_TEMPFAIL;
		}
	}
	xs_rm(xs, XBT_NULL, d->front);
	xs_rm(xs, XBT_NULL, d->back);
	xs_rm(xs, XBT_NULL, d->kept);
	return EX_OK;
}

int
devices_detach(const char *domain, const char *kind, const char *name, bool force)
{
	long number = device_number(kind, name);
	int64_t domid = toolstack_domid(domain);
	struct xs_handle *xs = domid >= 0 ? toolstack_store() : NULL;
	struct device d;
	char *back;
	int status = EX_UNAVAILABLE;

	if (xs == NULL)
		return EX_UNAVAILABLE;
	d.domid = (uint32_t)domid;
	set_paths(&d, kind, number);
	/* As libxl does: its own folder tells, not what the guest can write or remove. */
	back = get(xs, d.kept, "backend");
	if (back == NULL) {
		fprintf(stderr, "xenloop: %s has no %s %s\n", domain, kind, name);
	} else {
		snprintf(d.back, sizeof(d.back), "%s", back);
		status = detach(xs, &d, force);
	}
	if (status == EX_OK)
		record_remove(domain, kind, number);
	free(back);
	xs_close(xs);
	return status;
}

void
devices_remove_all(struct xs_handle *xs, uint32_t domid)
{
	static const char *const kinds[] = {"vbd", "vif"};

	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		char folder[128], front[256], *back;
		unsigned n = 0;
		char **numbers;

		snprintf(folder, sizeof(folder), "/local/domain/%u/device/%s", domid, kinds[k]);
		numbers = xs_directory(xs, XBT_NULL, folder, &n);
		for (unsigned i = 0; numbers != NULL && i < n; i++) {
			snprintf(front, sizeof(front), "%s/%s", folder, numbers[i]);
			back = get(xs, front, "backend");
			xs_rm(xs, XBT_NULL, front);
			if (back != NULL)
				xs_rm(xs, XBT_NULL, back);
			free(back);
		}
		free(numbers);
	}
}
