/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "lock.h"

/* Opens a regular file or a block device, and keeps others from writing to it. */

#define LARGEST_SECTOR 4096u /* a frontend's segments are pages */

/* The last worker's descriptors may still be closing. Not long: libxl gives a backend ten seconds
 * in all, and then says nothing of why. */
#define BUSY_TRIES   30
#define BUSY_WAIT_MS 100

static const char *
open_error(int error)
{
	switch (error) {
	case ENOENT:
	case ENOTDIR:
		return "there is no such file";
	case EACCES:
	case EPERM:
	case EROFS:
		return "this may not be opened, or only read-only (mode \"r\")";
#ifdef ENOMEDIUM /* else it is ENXIO */
	case ENOMEDIUM:
		return "there is no medium in the drive";
#endif
	case ENXIO:
		return "there is no such device";
	case EBUSY:
		return "in use: it is mounted, part of another device, or another program has it";
	default:
		return strerror(error);
	}
}

/* NULL if it can be served. */
static const char *
unsuitable(const struct stat *st)
{
	if (S_ISREG(st->st_mode) || file_os_is_device(st))
		return NULL;
	return S_ISDIR(st->st_mode) ? "this is a directory; a file or a disk is needed"
				    : "this is neither a regular file nor a disk";
}

static void
wait_while_busy(void)
{
	const struct timespec wait = {.tv_nsec = BUSY_WAIT_MS * 1000000L};

	nanosleep(&wait, NULL);
}

/* ---- opening ---- */

int
file_open_same(const char *path, int flags, const struct stat *wanted)
{
	struct stat st;
	int fd = open(path, flags | O_CLOEXEC);

	if (fd == -1)
		return -1;
	if (fstat(fd, &st) == 0 && st.st_dev == wanted->st_dev && st.st_ino == wanted->st_ino)
		return fd;
	close(fd);
	errno = ESTALE;
	return -1;
}

static int
open_when_free(const char *path, int mode, const struct stat *st)
{
	int fd = -1;

	for (int i = 0; i < BUSY_TRIES; i++) {
		fd = file_os_open(path, mode, st);
		if (fd != -1 || errno != EBUSY)
			break;
		if (i == 0)
			xpv_info("%s is in use, waiting for it", path);
		wait_while_busy();
	}
	if (fd == -1)
		xpv_err("%s: %s", path, open_error(errno));
	return fd;
}

/* ---- locking ---- */

static void
log_locked(int fd, const char *path, bool exclusive)
{
	pid_t holder = open_file_lock_holder(fd, exclusive);

	if (holder != 0)
		xpv_err("%s: in use: process %d has locked it", path, (int)holder);
	else
		xpv_err("%s: in use: another program has locked it", path);
}

static bool
lock_file(const struct file_image *image, const char *path)
{
	bool exclusive = !image->read_only;

	for (int i = 0; i < BUSY_TRIES; i++) {
		if (open_file_lock(image->buffered_fd, exclusive) == 0)
			return true;
		if (errno != EAGAIN) {
			/* Such file systems exist. */
			xpv_warning(
			    "%s: cannot be locked against others: %s", path, strerror(errno));
			return true;
		}
		if (i == 0)
			xpv_info("%s is locked, waiting for it", path);
		wait_while_busy();
	}
	log_locked(image->buffered_fd, path, exclusive);
	return false;
}

/* ---- size and kind ---- */

uint64_t
file_size(struct image *base)
{
	const struct file_image *image = (const struct file_image *)base;
	uint64_t bytes = 0;
	struct stat st;

	if (image->device) {
		if (!file_os_device_size(image->buffered_fd, &bytes))
			return 0;
	} else if (fstat(image->buffered_fd, &st) == 0 && st.st_size > 0) {
		bytes = (uint64_t)st.st_size;
	}
	return bytes - bytes % image->sector_size;
}

/* False after a log line. */
static bool
find_sectors(struct file_image *image, const char *path, struct vbd_image_info *info)
{
	uint32_t logical = VBD_SECTOR_SIZE, physical = 0;

	if (image->device && !file_os_device_sectors(image->buffered_fd, &logical, &physical)) {
		xpv_err("%s: cannot tell its sectors: %s", path, strerror(errno));
		return false;
	}
	if (logical < VBD_SECTOR_SIZE || logical > LARGEST_SECTOR) {
		xpv_err("%s: sectors of %u bytes cannot be served, at most %u", path, logical,
		    LARGEST_SECTOR);
		return false;
	}
	image->sector_size = logical;
	info->physical_sector_size = physical > logical ? physical : logical;
	return true;
}

static void
close_files(struct file_image *image)
{
	if (image->direct_fd != image->buffered_fd)
		close(image->direct_fd);
	if (image->buffered_fd != -1)
		close(image->buffered_fd);
	free(image);
}

static bool
set_up(struct file_image *image, const struct image_params *params, const struct stat *st,
    struct vbd_image_info *info)
{
	const char *path = params->target;
	int mode = params->read_only ? O_RDONLY : O_RDWR;

	image->buffered_fd = image->direct_fd = open_when_free(path, mode, st);
	if (image->buffered_fd == -1 ||
	    ((!image->device || file_os_locks_devices) && !lock_file(image, path)) ||
	    !find_sectors(image, path, info))
		return false;
	if (params->direct)
		file_os_open_direct(image, path, mode, st);
	if (!image->device && image->align.offset > info->physical_sector_size)
		info->physical_sector_size = image->align.offset;
	info->sector_size = image->sector_size;
	info->bytes = file_size(&image->base);
	if (info->bytes == 0) {
		xpv_err("%s: it is empty; \"truncate -s 10G FILE\" makes a disk of a file", path);
		return false;
	}
	if (params->discard && !image->read_only)
		file_os_find_discard(image->buffered_fd, st, info);
	image->discard = info->discard_granularity != 0;
	image->secure_discard = info->secure_discard;
	info->read_only = image->read_only;
	info->flush = !image->read_only;
	return true;
}

static struct image *
file_open(const struct image_params *params, struct vbd_image_info *info)
{
	const struct image_ops *way = file_os_way(params->io, params->target);
	struct file_image *image;
	struct stat st;
	const char *why;

	if (way == NULL)
		return NULL;
	*info = (struct vbd_image_info){.max_queues = VBD_MAX_QUEUES};
	why = stat(params->target, &st) != 0 ? open_error(errno) : unsuitable(&st);
	if (why != NULL) {
		xpv_err("%s: %s", params->target, why);
		return NULL;
	}
	image = calloc(1, sizeof(*image));
	if (image == NULL) {
		xpv_err("%s: no memory", params->target);
		return NULL;
	}
	image->base.ops = way;
	image->keep_fd = params->keep_fd;
	image->align = (struct file_alignment){1, 1};
	image->device = file_os_is_device(&st);
	image->may_fall_back = params->io == VBD_IO_AUTO;
	image->read_only = params->read_only;
	if (set_up(image, params, &st, info))
		return &image->base;
	close_files(image);
	return NULL;
}

struct image_queue *
file_fall_back(struct image *base, const struct image_queue_config *config, const char *way,
    int error, const char *hint)
{
	struct file_image *image = (struct file_image *)base;

	if (!image->may_fall_back) {
		xpv_err("queue %u: cannot do I/O through %s: %s%s", config->index, way,
		    strerror(-error), hint);
		return NULL;
	}
	if (!atomic_exchange(&image->fell_back, true))
		xpv_notice(
		    "no %s: %s%s: falling back to threads for I/O", way, strerror(-error), hint);
	return image_file_threads_ops.start(base, config);
}

/* The rest is the way's. */
const struct image_ops image_file_ops = {.open = file_open};
