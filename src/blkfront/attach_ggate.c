/* SPDX-License-Identifier: BSD-2-Clause */
#include "attach.h"

#include <stdio.h>

/*
 * ggate: FreeBSD's GEOM Gate. Its place in the choice of attachments; the device itself comes with
 * the FreeBSD port (docs/freebsd.md says what it will do), and until then it says so.
 */
static bool
ggate_usable(char *why, size_t size)
{
	snprintf(why, size, "ggate is FreeBSD's and not part of this version");
	return false;
}

const struct attach_ops attach_ggate = {
    .name = "ggate",
    .usable = ggate_usable,
};
