/* SPDX-License-Identifier: BSD-2-Clause */
/* Both open() and open64() are made here. */
#undef _FILE_OFFSET_BITS

#include "hidden.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIMIT 65536

static _Atomic uint64_t hidden[LIMIT / 64];

static int (*libc_close)(int);
static int (*libc_open)(const char *, int, ...);

/* The libc's, or a sanitizer's in front of it. */
static void __attribute__((constructor)) find_libc(void)
{
	*(void **)&libc_close = dlsym(RTLD_NEXT, "close");
	*(void **)&libc_open = dlsym(RTLD_NEXT, "open");
}

static bool
is_hidden(int fd)
{
	return fd >= 0 && fd < LIMIT && (atomic_load(&hidden[fd / 64]) >> (fd % 64) & 1) != 0;
}

/* High, so that the program's descriptors have the numbers they would have. */
static int
first_number(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > 8192)
		return 4096;
	return (int)limit.rlim_cur / 2;
}

int
loop_hide(int fd)
{
	int number = fcntl(fd, F_DUPFD_CLOEXEC, first_number());
	int error = errno;

	syscall(SYS_close, fd);
	if (number >= LIMIT) {
		syscall(SYS_close, number);
		number = -1;
		error = EMFILE;
	}
	if (number >= 0)
		atomic_fetch_or(&hidden[number / 64], 1ull << (number % 64));
	errno = error;
	return number;
}

void
loop_reveal(int fd)
{
	if (!is_hidden(fd))
		return;
	atomic_fetch_and(&hidden[fd / 64], ~(1ull << (fd % 64)));
	syscall(SYS_close, fd);
}

/* --- instead of libc's --- */

HV_PUBLIC int
close(int fd)
{
	if (is_hidden(fd)) {
		errno = EBADF;
		return -1;
	}
	return libc_close != NULL ? libc_close(fd) : (int)syscall(SYS_close, fd);
}

HV_PUBLIC int
close_range(unsigned first, unsigned last, int flags)
{
	for (unsigned word = first / 64; first <= last && word < LIMIT / 64; word++) {
		uint64_t bits = atomic_load(&hidden[word]);

		for (; bits != 0; bits &= bits - 1) {
			unsigned fd = word * 64 + (unsigned)__builtin_ctzll(bits);

			if (fd < first || fd > last)
				continue;
			if (fd > first && syscall(SYS_close_range, first, fd - 1, flags) != 0)
				return -1;
			first = fd + 1;
		}
	}
	return first <= last ? (int)syscall(SYS_close_range, first, last, flags) : 0;
}

HV_PUBLIC void
closefrom(int first)
{
	close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

static int
port_file(void)
{
	int fd = memfd_create("xsd_port", MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	dprintf(fd, "%d\n", HV_STORE_PORT);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static int
open_node(const char *path, int flags, mode_t mode)
{
	if (strcmp(path, "/proc/xen/xsd_port") == 0 && loop_hv() != NULL)
		return port_file();
	/* The store's page is the first of the domain's memory. */
	if (strcmp(path, "/proc/xen/xsd_kva") == 0 && loop_hv() != NULL)
		return fcntl(loop_ram_fd(loop_domain(), true), F_DUPFD_CLOEXEC, 0);
	if (libc_open != NULL)
		return libc_open(path, flags, mode);
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define MODE(flags, last)                                                                          \
	({                                                                                         \
		mode_t mode_ = 0;                                                                  \
		va_list args_;                                                                     \
		if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                      \
			va_start(args_, last);                                                     \
			mode_ = va_arg(args_, mode_t);                                             \
			va_end(args_);                                                             \
		}                                                                                  \
		mode_;                                                                             \
	})

HV_PUBLIC int
open(const char *path, int flags, ...)
{
	return open_node(path, flags, MODE(flags, flags));
}

HV_PUBLIC int
open64(const char *path, int flags, ...)
{
	return open_node(path, flags | O_LARGEFILE, MODE(flags, flags));
}
