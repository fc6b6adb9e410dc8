/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_DISK_H
#define STUB_SYS_DISK_H

#include <sys/ioccom.h>
#include <sys/types.h>

#define DIOCGSECTORSIZE _IOR('d', 128, u_int)
#define DIOCGMEDIASIZE	_IOR('d', 129, off_t)
#define DIOCGFLUSH	_IO('d', 135)
#define DIOCGDELETE	_IOW('d', 136, off_t[2])
#define DIOCGSTRIPESIZE _IOR('d', 139, off_t)

struct diocgattr_arg {
	char name[64];
	int len;
	union {
		char str[256];
		off_t off;
		int i;
		uint16_t u16;
	} value;
};
#define DIOCGATTR _IOWR('d', 142, struct diocgattr_arg)

#endif
