/* SPDX-License-Identifier: BSD-2-Clause */
#include "attach.h"

#include <stddef.h>

#include <xenpv/log.h>

#include "build_config.h"

/* In order of preference; the last one only if asked for. */
static const struct attach_ops *const attachments[BLK_ATTACH_NBD_UNIX + 1] = {
#if HAVE_UBLK
    [BLK_ATTACH_UBLK] = &attach_ublk,
#endif
#if HAVE_NBD
    [BLK_ATTACH_NBD] = &attach_nbd,
#endif
    [BLK_ATTACH_GGATE] = &attach_ggate,
#if HAVE_NBD_UNIX
    [BLK_ATTACH_NBD_UNIX] = &attach_nbd_unix,
#endif
};

static const struct attach_ops *
choose_automatically(void)
{
	const struct attach_ops *spare = NULL;
	char why[256];

	for (int i = BLK_ATTACH_UBLK; i <= BLK_ATTACH_GGATE; i++) {
		const struct attach_ops *ops = attachments[i];

		if (ops == NULL)
			continue;
		if (!ops->usable(why, sizeof(why))) {
			xpv_notice("%s cannot be used: %s", ops->name, why);
			continue;
		}
		if (ops->sound == NULL || ops->sound(why, sizeof(why)))
			return ops;
		xpv_notice("%s is not taken unless asked for: %s", ops->name, why);
		if (spare == NULL)
			spare = ops;
	}
	if (spare == NULL)
		xpv_err("no way to make block devices on this host: see the lines above");
	else
		xpv_warning("there is nothing better: using %s", spare->name);
	return spare;
}

const struct attach_ops *
attach_choose(int choice)
{
	const struct attach_ops *ops;
	char why[256];

	if (choice == BLK_ATTACH_AUTO)
		return choose_automatically();
	ops = attachments[choice];
	if (ops == NULL) {
		xpv_err(
		    "this xen-blkfrontd was built without the attachment that --attach asks for");
		return NULL;
	}
	if (!ops->usable(why, sizeof(why))) {
		xpv_err("--attach %s: %s", ops->name, why);
		return NULL;
	}
	return ops;
}
