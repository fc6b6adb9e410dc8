/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_SOCKET_H
#define STUB_SYS_SOCKET_H

#include <sys/types.h>

#define AF_LINK 18

typedef uint8_t sa_family_t;

struct sockaddr {
	uint8_t sa_len;
	sa_family_t sa_family;
	char sa_data[14];
};

#endif
