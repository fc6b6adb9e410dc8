/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "build_config.h"

/* What Linux has its own words for; image_file_limits_linux.c has more of it. */

/* O_EXCL does it all. */
const bool file_os_locks_devices = false;

bool
file_os_is_device(const struct stat *st)
{
	return S_ISBLK(st->st_mode);
}

/* Nobody else opens a block device with O_EXCL, nor mounts it. */
int
file_os_open(const char *path, int mode, const struct stat *st)
{
	bool exclusive = S_ISBLK(st->st_mode) && mode == O_RDWR;

	return file_open_same(path, mode | (exclusive ? O_EXCL : 0), st);
}

bool
file_os_device_size(int fd, uint64_t *bytes)
{
	return ioctl(fd, BLKGETSIZE64, bytes) == 0;
}

bool
file_os_device_sectors(int fd, uint32_t *logical, uint32_t *physical)
{
	unsigned of_medium = 0;
	int size = 0;

	if (ioctl(fd, BLKSSZGET, &size) != 0)
		return false;
	*logical = (uint32_t)size;
	if (ioctl(fd, BLKPBSZGET, &of_medium) == 0)
		*physical = of_medium;
	return true;
}

void
file_os_open_direct(struct file_image *image, const char *path, int mode, const struct stat *st)
{
	int fd = file_open_same(path, mode | O_DIRECT, st);

	if (fd == -1) {
		xpv_info("%s: no direct I/O, using the page cache: %s", path, strerror(errno));
		return;
	}
	if (!file_find_alignment(fd, image->device ? image->sector_size : 0, &image->align)) {
		xpv_info("%s: no direct I/O here, using the page cache", path);
		image->align = (struct file_alignment){1, 1};
		close(fd);
		return;
	}
	image->direct_fd = fd;
}

static int
discard_device(const struct file_image *image, const struct image_io *io)
{
	uint64_t range[2] = {io->offset, io->length};

	return ioctl(image->buffered_fd, io->secure ? BLKSECDISCARD : BLKDISCARD, range);
}

int
file_os_discard(const struct file_image *image, const struct image_io *io)
{
	int rc = image->device
		     ? discard_device(image, io)
		     : fallocate(image->buffered_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)io->offset, (off_t)io->length);

	return rc == 0 ? 0 : -errno;
}

/* Of the inode, through whichever descriptor it was written. */
int
file_os_flush(const struct file_image *image)
{
	return fdatasync(image->buffered_fd) == 0 ? 0 : -errno;
}

const struct image_ops *
file_os_way(enum vbd_io io, const char *path)
{
#if HAVE_IO_URING
	return io == VBD_IO_THREADS ? &image_file_threads_ops : &image_file_uring_ops;
#else
	if (io == VBD_IO_KERNEL) {
		xpv_err("%s: built without liburing: use io = threads", path);
		return NULL;
	}
	return &image_file_threads_ops;
#endif
}
