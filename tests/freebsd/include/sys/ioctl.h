/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_IOCTL_H
#define STUB_SYS_IOCTL_H

#include <sys/ioccom.h>

int ioctl(int fd, unsigned long request, ...);

#endif
