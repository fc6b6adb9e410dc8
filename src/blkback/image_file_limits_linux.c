/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

/* What the kernel says of a file or device. All this is read before the sandbox. */

#define PAGE 4096u

/* ---- direct I/O ---- */

/* False if kernel or file system have nothing to say. */
static bool
ask_alignment(int fd, struct file_alignment *align)
{
#ifdef STATX_DIOALIGN
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) != 0 ||
	    (x.stx_mask & STATX_DIOALIGN) == 0)
		return false;
	align->memory = x.stx_dio_mem_align;
	align->offset = x.stx_dio_offset_align; /* 0: no direct I/O */
	return true;
#else
	return false;
#endif
}

/* Memory that is aligned to "align" and to no more. */
static bool
try_read(int fd, char *page, uint32_t align)
{
	return pread(fd, page + align, align, align) >= 0 || errno != EINVAL;
}

static bool
try_alignment(int fd, struct file_alignment *align)
{
	static const uint32_t usual[] = {VBD_SECTOR_SIZE, PAGE};
	char *memory = aligned_alloc(2 * PAGE, 4 * PAGE);
	bool found = false;

	if (memory == NULL)
		return false;
	for (unsigned i = 0; i < 2 && !found; i++) {
		align->memory = align->offset = usual[i];
		found = try_read(fd, memory, usual[i]);
	}
	free(memory);
	return found;
}

bool
file_find_alignment(int fd, uint32_t sector, struct file_alignment *align)
{
	if (ask_alignment(fd, align))
		return align->offset != 0 && align->memory != 0;
	if (sector == 0)
		return try_alignment(fd, align);
	/* Before Linux 6.0 memory had to be aligned like this, too. */
	align->memory = align->offset = sector;
	return true;
}

/* ---- discard ---- */

/* False if there is no such number. */
static bool
read_number(const char *path, uint64_t *number)
{
	FILE *file = fopen(path, "re");
	unsigned long long value;
	bool ok;

	if (file == NULL)
		return false;
	ok = fscanf(file, "%llu", &value) == 1;
	fclose(file);
	*number = value;
	return ok;
}

/* A file of a block device in sysfs; "queue/..." of a partition is its disk's. */
static bool
read_sysfs(dev_t device, const char *name, uint64_t *number)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(device), minor(device), name);
	if (read_number(path, number))
		return true;
	snprintf(
	    path, sizeof(path), "/sys/dev/block/%u:%u/../%s", major(device), minor(device), name);
	return read_number(path, number);
}

static void
find_device_discard(dev_t device, struct vbd_image_info *info)
{
	uint64_t granularity, alignment, max;

	if (!read_sysfs(device, "queue/discard_granularity", &granularity) || granularity == 0 ||
	    granularity > UINT32_MAX || !read_sysfs(device, "queue/discard_max_bytes", &max) ||
	    max == 0)
		return;
	info->discard_granularity = (uint32_t)granularity;
	if (read_sysfs(device, "discard_alignment", &alignment) && alignment <= UINT32_MAX)
		info->discard_alignment = (uint32_t)alignment;
}

/* Since 5.19 erasing has limits of its own; before, a device without it gives the same answer. */
static bool
kernel_tells_of_erasing(void)
{
	unsigned major_number, minor_number;
	struct utsname name;

	return uname(&name) == 0 &&
	       sscanf(name.release, "%u.%u", &major_number, &minor_number) == 2 &&
	       (major_number > 5 || (major_number == 5 && minor_number >= 19));
}

/*
 * There is no other way to ask than to try. Linux looks whether the device can do it (EOPNOTSUPP)
 * before it looks at the range (EINVAL), which is one that can be erased nowhere: half a sector.
 */
static bool
can_erase(int fd)
{
	const uint64_t range[2] = {1, 1};

	return kernel_tells_of_erasing() && ioctl(fd, BLKSECDISCARD, range) != 0 && errno == EINVAL;
}

/* A hole where no file has anything tells whether there can be one. */
static void
find_file_discard(int fd, const struct stat *st, struct vbd_image_info *info)
{
	const off_t far = INT64_C(1) << 40;
	int rc = fallocate(
	    fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, st->st_size / far * far + far, PAGE);

	if (rc == 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
		info->discard_granularity = st->st_blksize > 0 ? (uint32_t)st->st_blksize : PAGE;
}

void
file_os_find_discard(int fd, const struct stat *st, struct vbd_image_info *info)
{
	info->discard_granularity = info->discard_alignment = 0;
	if (S_ISBLK(st->st_mode))
		find_device_discard(st->st_rdev, info);
	else
		find_file_discard(fd, st, info);
	info->secure_discard =
	    S_ISBLK(st->st_mode) && info->discard_granularity != 0 && can_erase(fd);
}
