/* SPDX-License-Identifier: BSD-2-Clause */
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/store.h>

#define SCRIPT "block-xenpv"

bool
vbd_is_ours(struct xpv_store *store, const char *dir, const struct vbd_config *config)
{
	const char *name;
	char *script;
	bool ours;

	if (config->take == VBD_TAKE_ALL)
		return true;
	script = xpv_store_read(store, "%s/script", dir);
	if (script == NULL)
		return false;
	name = strrchr(script, '/');
	ours = strcmp(name != NULL ? name + 1 : script, SCRIPT) == 0;
	free(script);
	return ours;
}

static bool
begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static bool
is_uri(const char *target)
{
	return begins(target, "nbd://") || begins(target, "nbds://") ||
	       begins(target, "nbd+unix://") || begins(target, "nbds+unix://") ||
	       begins(target, "nbd+vsock://") || begins(target, "nbds+vsock://");
}

/* Words that toolstacks put in front of what is but a file of the disk's bytes. */
static const char *
without_format(const char *params)
{
	static const char *const formats[] = {"raw:", "aio:", "file:", "phy:"};

	for (unsigned i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (begins(params, formats[i]))
			return without_format(params + strlen(formats[i]));
	}
	return params;
}

/* NULL with "why". */
static char *
target_of(const char *params, bool cdrom, const char **why)
{
	const char *target = without_format(params);
	char *path;

	if (target[0] == '\0' && !cdrom) {
		*why = "it has no target";
		return NULL;
	}
	if (target[0] == '\0' || target[0] == '/' || is_uri(target))
		return strdup(target);
	if (strchr(target, ':') != NULL) {
		*why = "its target is neither a path nor an NBD URI; other formats than raw are "
		       "for an NBD server: see xen-blkbackd(8)";
		return NULL;
	}
	/* "vg/disk", as Xen's own script has it. */
	return asprintf(&path, "/dev/%s", target) >= 0 ? path : NULL;
}

int
vbd_settings_read(
    struct xpv_store *store, const char *dir, struct vbd_settings *settings, const char **why)
{
	char *params = xpv_store_read(store, "%s/params", dir);
	char *mode = xpv_store_read(store, "%s/mode", dir);
	char *type = xpv_store_read(store, "%s/device-type", dir);
	char state[XPV_STORE_PATH];

	*settings = (struct vbd_settings){
	    .cdrom = type != NULL && strcmp(type, "cdrom") == 0,
	    .removable = xpv_store_read_flag(store, "%s/removable", dir),
	};
	/* "w!": although others write to it; nothing to us, whose images are locked. */
	settings->read_only = settings->cdrom || mode == NULL || mode[0] != 'w';
	*why = "out of memory";
	settings->target = target_of(params != NULL ? params : "", settings->cdrom, why);
	free(params);
	free(mode);
	free(type);
	/* Removed between two of these reads, or not yet complete: what was read is of no disk. */
	snprintf(state, sizeof(state), "%s/state", dir);
	if (!xpv_store_exists(store, state)) {
		*why = NULL;
		vbd_settings_free(settings);
	}
	return settings->target != NULL ? 0 : -1;
}

void
vbd_settings_free(struct vbd_settings *settings)
{
	free(settings->target);
	settings->target = NULL;
}

void
vbd_settings_copy(struct vbd_settings *to, const struct vbd_settings *from)
{
	vbd_settings_free(to);
	*to = *from;
	to->target = from->target != NULL ? strdup(from->target) : NULL;
}

bool
vbd_settings_equal(const struct vbd_settings *a, const struct vbd_settings *b)
{
	if (a->target == NULL || b->target == NULL)
		return a->target == b->target;
	return strcmp(a->target, b->target) == 0 && a->read_only == b->read_only &&
	       a->cdrom == b->cdrom && a->removable == b->removable;
}

static uint64_t
limit(struct xpv_store *store, const char *dir, const char *node, long configured)
{
	uint64_t value;

	return xpv_store_read_u64(store, &value, "%s/%s", dir, node) == 0 ? value
									  : (uint64_t)configured;
}

struct vbd_limits
vbd_limits_read(struct xpv_store *store, const char *dir, const struct vbd_config *config)
{
	return (struct vbd_limits){
	    .iops = limit(store, dir, "xenpv-iops", config->iops),
	    .bytes_per_s = limit(store, dir, "xenpv-bytes-per-second", config->bytes_per_s),
	    .burst_ms = (uint32_t)config->burst_ms,
	};
}
