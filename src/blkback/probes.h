/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_PROBES_H
#define BLKBACK_PROBES_H

#include "build_config.h"

/* USDT probes of provider "xen_blkbackd": a nop until a tracer attaches. */
#if HAVE_SDT
#include <sys/sdt.h>
#define PROBE3(name, a, b, c) DTRACE_PROBE3(xen_blkbackd, name, a, b, c)
#else
#define PROBE3(name, a, b, c) ((void)0)
#endif

#endif
