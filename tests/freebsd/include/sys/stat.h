/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_STAT_H
#define STUB_SYS_STAT_H

#include <sys/types.h>

struct stat {
	dev_t st_dev;
	ino_t st_ino;
	mode_t st_mode;
	off_t st_size;
	int32_t st_blksize;
};
#define S_ISDIR(mode) (((mode)&0170000) == 0040000)
#define S_ISCHR(mode) (((mode)&0170000) == 0020000)
#define S_ISBLK(mode) (((mode)&0170000) == 0060000)
#define S_ISREG(mode) (((mode)&0170000) == 0100000)

int stat(const char *path, struct stat *st);
int fstat(int fd, struct stat *st);

#endif
