/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_MMAN_H
#define STUB_SYS_MMAN_H

#include <sys/types.h>

#define PROT_NONE  0
#define PROT_READ  1
#define PROT_WRITE 2

#define MAP_SHARED    0x0001
#define MAP_PRIVATE   0x0002
#define MAP_FIXED     0x0010
#define MAP_ANON      0x1000
#define MAP_ANONYMOUS MAP_ANON
#define MAP_FAILED    ((void *)-1)

void *mmap(void *where, size_t length, int protection, int flags, int fd, off_t offset);
int munmap(void *where, size_t length);

#endif
