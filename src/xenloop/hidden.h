/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_HIDDEN_H
#define XENLOOP_HIDDEN_H

/*
 * With the real libraries what stands behind a handle is in the kernel, where no close_range(2) of
 * the program reaches it. Here it is descriptors; close(2), close_range(2) and closefrom(3) are
 * replaced by functions that leave these alone.
 *
 * open(2) is replaced too: /proc/xen/xsd_port and xsd_kva, which xenstored reads to find domain
 * 0's ring, are given by the session.
 */

#include "client.h"

#endif
