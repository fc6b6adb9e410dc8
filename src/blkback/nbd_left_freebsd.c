/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_left.h"

int
nbd_left(int fd)
{
	return -1;
}
