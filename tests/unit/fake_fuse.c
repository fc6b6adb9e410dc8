/* SPDX-License-Identifier: BSD-2-Clause */
#include "fake_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_WRITE 65536

static int device;
static size_t size;
static const char *mount_point;
static pthread_t thread;
static sem_t come;
static struct {
	uint64_t unique;
	uint32_t size;
} held; /* a write */
static char request[MAX_WRITE + 4096] __attribute__((aligned(8)));

static void
answer(uint64_t unique, int error, void *data, size_t length)
{
	struct fuse_out_header header = {
	    .len = (uint32_t)(sizeof(header) + length), .error = -error, .unique = unique};
	struct iovec iov[] = {{&header, sizeof(header)}, {data, length}};

	(void)!writev(device, iov, length > 0 ? 2 : 1);
}

static void
answer_init(uint64_t unique)
{
	/* With asynchronous direct I/O no process waits for it, as with a disk. */
	struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
	    .minor = 31,
	    .flags = FUSE_ASYNC_DIO | FUSE_ASYNC_READ | FUSE_BIG_WRITES,
	    .max_background = 16,
	    .max_write = MAX_WRITE};

	answer(unique, 0, &out, sizeof(out));
}

static void
answer_attributes(uint64_t unique)
{
	struct fuse_attr_out out = {.attr_valid = 3600,
	    .attr = {.ino = 1, .size = size, .mode = S_IFREG | 0600, .nlink = 1, .blksize = 4096}};

	answer(unique, 0, &out, sizeof(out));
}

static void
answer_read(uint64_t unique, const struct fuse_read_in *in)
{
	static char zeros[MAX_WRITE];

	answer(unique, 0, zeros, in->size < sizeof(zeros) ? in->size : sizeof(zeros));
}

/* The answer is fake_fuse_end_write()'s; until then others are served. */
static void
hold_write(uint64_t unique, const struct fuse_write_in *in)
{
	held.unique = unique;
	held.size = in->size;
	sem_post(&come);
}

static void
serve(const struct fuse_in_header *in)
{
	struct fuse_open_out opened = {.open_flags = FOPEN_DIRECT_IO};

	switch (in->opcode) {
	case FUSE_INIT:
		return answer_init(in->unique);
	case FUSE_GETATTR:
		return answer_attributes(in->unique);
	case FUSE_OPEN:
		return answer(in->unique, 0, &opened, sizeof(opened));
	case FUSE_READ:
		return answer_read(in->unique, (const void *)(in + 1));
	case FUSE_WRITE:
		return hold_write(in->unique, (const void *)(in + 1));
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		return answer(in->unique, 0, NULL, 0);
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return; /* they want no answer */
	default:
		return answer(in->unique, ENOSYS, NULL, 0);
	}
}

static void *
serve_all(void *arg)
{
	/* Fails with ENODEV when it is not mounted any more. */
	while (read(device, request, sizeof(request)) > 0 || errno == EINTR || errno == EAGAIN ||
	       errno == ENOENT)
		serve((const struct fuse_in_header *)request);
	return NULL;
}

bool
fake_fuse_mount(const char *path, size_t bytes)
{
	char options[128];

	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device == -1)
		return false;
	snprintf(options, sizeof(options), "fd=%d,rootmode=100600,user_id=0,group_id=0", device);
	if (mount("slow", path, "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
		close(device);
		return false;
	}
	mount_point = path;
	size = bytes;
	sem_init(&come, 0, 0);
	return pthread_create(&thread, NULL, serve_all, NULL) == 0;
}

void
fake_fuse_unmount(void)
{
	if (mount_point == NULL)
		return;
	umount2(mount_point, MNT_FORCE);
	umount2(mount_point, MNT_DETACH);
	pthread_join(thread, NULL);
	close(device);
	mount_point = NULL;
}

bool
fake_fuse_wait_write(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	return sem_timedwait(&come, &until) == 0;
}

void
fake_fuse_end_write(void)
{
	struct fuse_write_out out = {.size = held.size};

	answer(held.unique, 0, &out, sizeof(out));
}
