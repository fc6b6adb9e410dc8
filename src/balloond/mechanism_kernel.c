/* SPDX-License-Identifier: BSD-2-Clause */

/* Linux's own balloon driver, by its files in sysfs. It works in the background, gives only pages
 * that nobody uses, and tries again for ever (at most every 32 s) what it can not have. */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "mechanism.h"
#include "textfile.h"

#define FOLDER	"devices/system/xen_memory/xen_memory0/"
#define CURRENT FOLDER "info/current_kb"
#define TARGET	FOLDER "target_kb"

struct kernel {
	struct mechanism mechanism;
	int current, target;
};

static int
current(struct mechanism *m, int64_t *kib)
{
	return textfile_read_number(((struct kernel *)m)->current, kib);
}

static int
target(struct mechanism *m, int64_t *kib)
{
	return textfile_read_number(((struct kernel *)m)->target, kib);
}

static int
set(struct mechanism *m, int64_t kib)
{
	return textfile_write_number(((struct kernel *)m)->target, kib);
}

static void
close_kernel(struct mechanism *m)
{
	struct kernel *k = (struct kernel *)m;

	if (k->current >= 0)
		close(k->current);
	if (k->target >= 0)
		close(k->target);
	free(k);
}

int
mechanism_kernel_current(const char *sysfs, int64_t *kib)
{
	return textfile_number(sysfs, CURRENT, kib);
}

struct mechanism *
mechanism_kernel_open(const char *sysfs, bool dry_run)
{
	struct kernel *k = calloc(1, sizeof(*k));
	int64_t kib;
	int error;

	if (k == NULL)
		return NULL;
	k->mechanism = (struct mechanism){.name = "kernel",
	    .current = current,
	    .target = target,
	    .set = set,
	    .close = close_kernel,
	    .step_kib = 4};
	k->current = textfile_open(sysfs, CURRENT, O_RDONLY);
	k->target = textfile_open(sysfs, TARGET, dry_run ? O_RDONLY : O_RDWR);
	if (k->current >= 0 && k->target >= 0 && current(&k->mechanism, &kib) == 0 &&
	    target(&k->mechanism, &kib) == 0)
		return &k->mechanism;
	error = errno == ENOENT ? ENODEV : errno;
	if (error == ENODEV)
		xpv_err("%s/%s is not there: the kernel has no balloon driver "
			"(CONFIG_XEN_BALLOON), or this is no Xen guest; mechanism = privcmd does "
			"without it, see xen-balloond(8)",
		    sysfs, TARGET);
	else
		xpv_err("%s/%s: %s", sysfs, TARGET, strerror(errno));
	close_kernel(&k->mechanism);
	errno = error;
	return NULL;
}
