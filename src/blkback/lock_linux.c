/* SPDX-License-Identifier: BSD-2-Clause */
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static struct flock
whole_file(bool exclusive)
{
	return (struct flock){.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
}

int
open_file_lock(int fd, bool exclusive)
{
	struct flock lock = whole_file(exclusive);

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EACCES)
		errno = EAGAIN;
	return -1;
}

/* Locks of open files have no owner; those of the old kind have. */
pid_t
open_file_lock_holder(int fd, bool exclusive)
{
	struct flock lock = whole_file(exclusive);

	if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK || lock.l_pid < 0)
		return 0;
	return lock.l_pid;
}
