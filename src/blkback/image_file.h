/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_IMAGE_FILE_H
#define BLKBACK_IMAGE_FILE_H

#include "image.h"

/*
 * Between the files of images that are regular files or block devices. image_file.c opens them; I/O
 * is done in one of these ways, each with its image_ops:
 *
 *  image_file_uring_linux.c   io_uring
 *  image_file_aio.c           POSIX AIO with kqueue (FreeBSD)
 *  image_file_threads.c       threads that wait for it, wherever the kernel lets us have neither
 */

/* What direct I/O asks of a request. 1: nothing. */
struct file_alignment {
	uint32_t memory; /* address and length of each part */
	uint32_t offset; /* and the length of the whole */
};

struct file_image {
	struct image base;
	/*
	 * Two open files of one inode, which Linux keeps coherent: direct I/O for what is aligned
	 * for it, the page cache for the rest. Both are the same if there is no direct I/O, or if
	 * one does for both.
	 */
	int buffered_fd, direct_fd;
	int keep_fd; /* or -1 */
	struct file_alignment align;
	uint32_t sector_size;
	bool device;
	bool read_only;
	bool discard, secure_discard;
	bool may_fall_back;    /* to threads */
	atomic_bool fell_back; /* and the log says so */
};

extern const struct image_ops image_file_uring_ops, image_file_aio_ops, image_file_threads_ops;

struct stat;

/* ---- image_file.c ---- */

/* Like open(2), if it is still the same file. */
int file_open_same(const char *path, int flags, const struct stat *wanted);

/* image_ops.size of all ways. */
uint64_t file_size(struct image *image);

/* "way" cannot be had for a queue, for this negative errno: one by threads instead, if that may be.
 * NULL after a log line. */
struct image_queue *file_fall_back(struct image *image, const struct image_queue_config *config,
    const char *way, int error, const char *hint);

/* ---- by system: image_file_linux.c, image_file_freebsd.c ---- */

bool file_os_is_device(const struct stat *st);

/* Opens it so that nobody else writes to it, if opening can do that. -1 with errno; EBUSY if
 * another one has it. */
int file_os_open(const char *path, int mode, const struct stat *st);
/* What opening does not do for devices. */
extern const bool file_os_locks_devices;

/* False with errno. */
bool file_os_device_size(int fd, uint64_t *bytes);
bool file_os_device_sectors(int fd, uint32_t *logical, uint32_t *physical);

/* Has the page cache bypassed where that is possible; else the log says that it is not. */
void file_os_open_direct(
    struct file_image *image, const char *path, int mode, const struct stat *st);

/* Fills in what discards are possible, none if there are none. */
void file_os_find_discard(int fd, const struct stat *st, struct vbd_image_info *info);

/* Both block: 0 or a negative errno. */
int file_os_discard(const struct file_image *image, const struct image_io *io);
int file_os_flush(const struct file_image *image);

/* The way for an image; NULL after a log line. */
const struct image_ops *file_os_way(enum vbd_io io, const char *path);

/* ---- Linux: image_file_limits_linux.c ---- */

/* Direct I/O through "fd"; "sector" is a block device's, 0 a regular file. False if it is not
 * possible. */
bool file_find_alignment(int fd, uint32_t sector, struct file_alignment *align);

#endif
