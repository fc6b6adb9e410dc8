/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_BUILD_CONFIG_H
#define STUB_BUILD_CONFIG_H

/* As Meson writes it on FreeBSD. */
#define HAVE_SECCOMP	  0
#define HAVE_LIBNBD	  1
#define HAVE_IO_URING	  0
#define HAVE_PTHREAD_NP_H 1

#endif
