/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_UNISTD_H
#define STUB_UNISTD_H

#include <sys/types.h>

#define _PC_DEALLOC_PRESENT 65
#define _SC_PAGESIZE	    47
#define SEEK_SET	    0

ssize_t read(int fd, void *data, size_t length);
ssize_t write(int fd, const void *data, size_t length);
int close(int fd);
int pipe2(int fds[2], int flags);
int ftruncate(int fd, off_t length);
int fdatasync(int fd);
long fpathconf(int fd, int name);
long sysconf(int name);
int chroot(const char *path);
int chdir(const char *path);
uid_t geteuid(void);
int setresuid(uid_t real, uid_t effective, uid_t saved);
int setresgid(gid_t real, gid_t effective, gid_t saved);
void setproctitle(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
