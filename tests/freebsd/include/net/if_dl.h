/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_NET_IF_DL_H
#define STUB_NET_IF_DL_H

#include <sys/socket.h>

struct sockaddr_dl {
	uint8_t sdl_len;
	sa_family_t sdl_family;
	uint16_t sdl_index;
	uint8_t sdl_type, sdl_nlen, sdl_alen, sdl_slen;
	char sdl_data[46];
};

#endif
