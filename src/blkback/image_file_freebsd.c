/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_file.h"

#include <sys/types.h>
#include <sys/disk.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <xenpv/log.h>

/* What FreeBSD has its own words for. Its disks are character devices, which have no cache. */

#define LARGEST_STRIPE (1u << 20)

/* Opening a disk to write keeps it from being mounted, but GEOM heeds no O_EXCL. */
const bool file_os_locks_devices = true;

bool
file_os_is_device(const struct stat *st)
{
	return S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
}

/* GEOM's word for a disk that is mounted, or has partitions that are, is EPERM. */
int
file_os_open(const char *path, int mode, const struct stat *st)
{
	int fd = file_open_same(path, mode, st);

	if (fd == -1 && errno == EPERM && mode == O_RDWR && file_os_is_device(st))
		errno = EBUSY;
	return fd;
}

bool
file_os_device_size(int fd, uint64_t *bytes)
{
	off_t size;

	if (ioctl(fd, DIOCGMEDIASIZE, &size) != 0 || size < 0)
		return false;
	*bytes = (uint64_t)size;
	return true;
}

bool
file_os_device_sectors(int fd, uint32_t *logical, uint32_t *physical)
{
	off_t stripe;
	u_int size;

	if (ioctl(fd, DIOCGSECTORSIZE, &size) != 0)
		return false;
	*logical = size;
	if (ioctl(fd, DIOCGSTRIPESIZE, &stripe) == 0 && stripe > 0 && stripe <= LARGEST_STRIPE &&
	    (stripe & (stripe - 1)) == 0)
		*physical = (uint32_t)stripe;
	return true;
}

/* One descriptor does for all: what O_DIRECT cannot do goes through the cache by itself. */
void
file_os_open_direct(struct file_image *image, const char *path, int mode, const struct stat *st)
{
	int flags = fcntl(image->buffered_fd, F_GETFL);

	if (!image->device &&
	    (flags == -1 || fcntl(image->buffered_fd, F_SETFL, flags | O_DIRECT) == -1))
		xpv_info("%s: no direct I/O, using the page cache: %s", path, strerror(errno));
}

/* ---- discard ---- */

static void
find_device_discard(int fd, struct vbd_image_info *info)
{
	struct diocgattr_arg arg = {.name = "GEOM::candelete", .len = sizeof(arg.value.i)};

	if (ioctl(fd, DIOCGATTR, &arg) == 0 && arg.value.i != 0)
		info->discard_granularity = info->physical_sector_size;
}

#ifdef SPACECTL_DEALLOC /* FreeBSD 14 */

/* Else the kernel would write zeroes. */
static void
find_file_discard(int fd, const struct stat *st, struct vbd_image_info *info)
{
	if (fpathconf(fd, _PC_DEALLOC_PRESENT) == 1 && st->st_blksize > 0)
		info->discard_granularity = (uint32_t)st->st_blksize;
}

static int
discard_file(int fd, const struct image_io *io)
{
	struct spacectl_range range = {.r_offset = (off_t)io->offset, .r_len = (off_t)io->length};

	/* Each call may do a part; "range" is what is left. */
	while (range.r_len > 0) {
		if (fspacectl(fd, SPACECTL_DEALLOC, &range, 0, &range) != 0)
			return -errno;
	}
	return 0;
}

#else

static void
find_file_discard(int fd, const struct stat *st, struct vbd_image_info *info)
{
}

static int
discard_file(int fd, const struct image_io *io)
{
	return -EOPNOTSUPP;
}

#endif

void
file_os_find_discard(int fd, const struct stat *st, struct vbd_image_info *info)
{
	info->discard_granularity = info->discard_alignment = 0;
	info->secure_discard = false; /* GEOM has none */
	if (file_os_is_device(st))
		find_device_discard(fd, info);
	else
		find_file_discard(fd, st, info);
}

int
file_os_discard(const struct file_image *image, const struct image_io *io)
{
	off_t range[2] = {(off_t)io->offset, (off_t)io->length};

	if (!image->device)
		return discard_file(image->buffered_fd, io);
	return ioctl(image->buffered_fd, DIOCGDELETE, range) == 0 ? 0 : -errno;
}

/* fsync(2) of a device does not reach the disk's own cache. One that knows no flush has none. */
int
file_os_flush(const struct file_image *image)
{
	int rc =
	    image->device ? ioctl(image->buffered_fd, DIOCGFLUSH) : fdatasync(image->buffered_fd);

	return rc == 0 || (image->device && errno == EOPNOTSUPP) ? 0 : -errno;
}

const struct image_ops *
file_os_way(enum vbd_io io, const char *path)
{
	return io == VBD_IO_THREADS ? &image_file_threads_ops : &image_file_aio_ops;
}
