/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xenpv/sandbox.h>

#include "fake_fuse.h"
#include "image_file.h"
#include "image_run.h"

#define MIB    (1u << 20)
#define PAGE   4096u
#define DEPTH  64
#define MINUTE 600 /* in tenths of a second */

static char dir[] = "/tmp/test_image_file.XXXXXX", memory_dir[] = "/dev/shm/test_image.XXXXXX";
static char *page, *other; /* two aligned ones */

#define SKIP_UNLESS(condition, why)                                                                \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			print_message("# skipped: %s: %s\n", __func__, why);                       \
			skip();                                                                    \
		}                                                                                  \
	} while (0)

/* A new file; the name is good until the one after the next. */
static const char *
make_file(const char *where, off_t bytes)
{
	static char names[2][128];
	static unsigned number;
	char *name = names[number++ % 2];
	int fd;

	snprintf(name, sizeof(names[0]), "%s/%u", where, number);
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_not_equal(fd, -1);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
	return name;
}

static void
start(struct image_run *run, const char *name, const struct image_params *params)
{
	assert_true(run_open(run, name, params));
	assert_true(run_start(run, DEPTH));
}

static void
pattern(char *data, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (char)((i / 512) * 7 + i + seed);
}

/* ---- faults of the ring ---- */

static int submit_fails; /* so many times */
static int ring_fails;	 /* to be made, with this */
static int fault;	 /* this result, instead of the next one's */

int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);
unsigned __real_io_uring_peek_batch_cqe(
    struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count);
unsigned __wrap_io_uring_peek_batch_cqe(
    struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count);

int __real_io_uring_queue_init_params(
    unsigned entries, struct io_uring *ring, struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(
    unsigned entries, struct io_uring *ring, struct io_uring_params *params);

int
__wrap_io_uring_queue_init_params(
    unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
	return ring_fails != 0 ? ring_fails
			       : __real_io_uring_queue_init_params(entries, ring, params);
}

int
__wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
	return submit_fails > 0 ? (submit_fails--, -EAGAIN)
				: __real_io_uring_submit_and_get_events(ring);
}

unsigned
__wrap_io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count)
{
	unsigned got = __real_io_uring_peek_batch_cqe(ring, cqes, count);

	if (got > 0 && fault != 0) {
		cqes[0]->res = fault;
		fault = 0;
	}
	return got;
}

/* ---- a device that can erase ---- */

static bool can_erase;
static uint64_t erased[2], erased_badly;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

/* In Linux' order: can it be done, then the range. */
static int
erase(const uint64_t *range)
{
	if (!can_erase) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if ((range[0] | range[1]) % 512 != 0) {
		errno = EINVAL;
		return -1;
	}
	if (erased[1] != 0)
		erased_badly++;
	memcpy(erased, range, sizeof(erased));
	return 0;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	return request == BLKSECDISCARD && can_erase ? erase(arg) : __real_ioctl(fd, request, arg);
}

/* ---- ways of I/O ---- */

static int
by_threads(void **state)
{
	run_io = VBD_IO_THREADS;
	return 0;
}

static int
by_io_uring(void **state)
{
	run_io = VBD_IO_AUTO;
	ring_fails = 0;
	return 0;
}

/* In the words of Linux with kernel.io_uring_disabled=2, and of one without io_uring. */
static void
falls_back_to_threads(void **state)
{
	static const struct {
		int error;
		const char *words;
	} kernels[] = {{-EPERM, "io_uring_disabled"}, {-ENOSYS, "falling back to threads"}};

	for (unsigned i = 0; i < 2; i++) {
		struct image_params params = run_params;
		struct image_run run, second;

		ring_fails = kernels[i].error;
		*run_log = '\0';
		start(&run, make_file(dir, 4 * MIB), NULL);
		assert_non_null(strstr(run_log, kernels[i].words));
		assert_non_null(strstr(run_log, "falling back to threads"));
		assert_int_equal(run_storm(&run, 4 * MIB, 300, 512), 0);
		assert_int_equal(run_flush(&run), 0);
		/* Each further queue does so in silence. */
		*run_log = '\0';
		second = run;
		assert_true(run_start(&second, DEPTH));
		assert_string_equal(run_log, "");
		assert_int_equal(run_read(&second, 0, page, PAGE), 0);
		run_stop(&second);
		run_stop(&run);
		/* Not if it must be io_uring. */
		params.io = VBD_IO_KERNEL;
		assert_true(run_open(&run, make_file(dir, MIB), &params));
		assert_false(run_start(&run, DEPTH));
		assert_non_null(strstr(run_log, "cannot do I/O through io_uring"));
		run_stop(&run);
	}
}

/* ---- opening ---- */

static void
what_cannot_be_opened_is_explained(void **state)
{
	assert_true(run_refuses("disk.img", NULL, "absolute path"));
	assert_true(run_refuses("http://example.org/disk", NULL, "absolute path"));
	assert_true(run_refuses("/nonexistent/disk", NULL, "no such file"));
	assert_true(run_refuses(dir, NULL, "directory"));
	assert_true(run_refuses("/dev/null", NULL, "neither"));
	assert_true(run_refuses(make_file(dir, 0), NULL, "empty"));
	assert_true(run_refuses(make_file(dir, 511), NULL, "empty"));
}

static void
an_empty_drive(void **state)
{
	struct image_run run;

	start(&run, "", NULL);
	assert_false(image_uses_io_uring(run.image));
	assert_int_equal(run.info.bytes, 0);
	assert_int_equal(image_size(run.image), 0);
	assert_int_equal(run_read(&run, 0, page, 512), -ENXIO);
	assert_int_equal(run_write(&run, 0, page, 512), -ENXIO);
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(run.batches, 3);
	run_stop(&run);
}

static void
a_file_is_described(void **state)
{
	const struct image_params read_only = {.read_only = true, .direct = true, .keep_fd = -1};
	const char *name = make_file(dir, 5000);
	struct image_run run;

	assert_true(run_open(&run, name, &read_only));
	assert_true(image_uses_io_uring(run.image));
	assert_true(run.info.read_only);
	assert_false(run.info.flush);
	assert_int_equal(run.info.discard_granularity, 0);

	name = make_file(dir, 5000);
	assert_true(run_open(&run, name, NULL));
	assert_int_equal(run.info.bytes, 9 * 512);
	assert_int_equal(run.info.sector_size, 512);
	assert_true(run.info.physical_sector_size >= 512);
	assert_int_equal(run.info.max_queues, VBD_MAX_QUEUES);
	assert_true(run.info.flush);
	assert_false(run.info.read_only);
	assert_false(run.info.secure_discard);
	assert_int_equal(truncate(name, 6000), 0);
	assert_int_equal(image_size(run.image), 11 * 512);
}

/* ---- data ---- */

static void
storm(const char *where, bool direct, const struct file_alignment *align)
{
	struct image_params params = run_params;
	struct image_run run;
	const char *name = make_file(where, 4 * MIB);
	char *data = malloc(4 * MIB);
	int fd;

	params.direct = direct;
	assert_true(run_open(&run, name, &params));
	if (align != NULL)
		((struct file_image *)run.image)->align = *align;
	assert_true(run_start(&run, DEPTH));
	assert_int_equal(run_storm(&run, 4 * MIB, 1500, 512), 0);
	assert_int_equal(run_flush(&run), 0);

	/* Others see the same. */
	fd = open(name, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, data, 4 * MIB, 0), 4 * MIB);
	for (size_t at = 0; at < 4 * MIB; at += PAGE) {
		assert_int_equal(run_read(&run, at, page, PAGE), 0);
		assert_memory_equal(page, data + at, PAGE);
	}
	close(fd);
	free(data);
	run_stop(&run);
}

static void
direct(void **state)
{
	storm(dir, true, NULL);
}

static void
through_the_page_cache(void **state)
{
	storm(dir, false, NULL);
}

static void
in_memory(void **state)
{
	storm(memory_dir, true, NULL);
}

/* As if the file system had large blocks: both descriptors are in use. */
static void
direct_and_page_cache_mixed(void **state)
{
	storm(dir, true, &(struct file_alignment){.memory = 512, .offset = PAGE});
}

static void
misaligned_memory(void **state)
{
	struct image_run run;

	start(&run, make_file(dir, MIB), NULL);
	pattern(page, 1024, 1);
	memmove(page + 3, page, 1024);
	assert_int_equal(run_write(&run, 512, page + 3, 1024), 0);
	assert_int_equal(run_read(&run, 512, other, 1024), 0);
	assert_memory_equal(page + 3, other, 1024);
	run_stop(&run);
}

static void
a_file_that_becomes_shorter(void **state)
{
	const char *name = make_file(dir, MIB);
	struct image_run run;

	start(&run, name, NULL);
	assert_int_equal(truncate(name, 2 * PAGE), 0);
	assert_int_equal(image_size(run.image), 2 * PAGE);
	assert_int_equal(run_read(&run, PAGE, page, PAGE), 0);
	assert_int_equal(run_read(&run, 2 * PAGE, page, PAGE), -EIO);
	{
		struct iovec iov[] = {{page, PAGE}, {other, PAGE}};

		assert_int_equal(run_iov(&run, IMAGE_READ, PAGE, iov, 2), -EIO);
	}
	run_stop(&run);
}

static void
short_and_interrupted_io_goes_on(void **state)
{
	struct image_run run;

	start(&run, make_file(dir, MIB), NULL);
	pattern(page, PAGE, 3);
	fault = -EAGAIN;
	assert_int_equal(run_write(&run, 0, page, PAGE), 0);
	fault = -EINTR;
	assert_int_equal(run_flush(&run), 0);
	for (int part = 1; part < (int)PAGE; part += 509) {
		struct iovec iov[] = {{other, 512}, {other + 512, 1024}, {other + 1536, 2560}};

		memset(other, 0, PAGE);
		fault = part;
		assert_int_equal(run_iov(&run, IMAGE_READ, 0, iov, 3), 0);
		/* The first read has filled all: show that the second came to the right place. */
		assert_memory_equal(page, other, PAGE);
		assert_int_equal(fault, 0);
		memset(other, 0, PAGE);
		fault = part;
		assert_int_equal(run_write(&run, 8192, page, PAGE), 0);
		assert_int_equal(run_read(&run, 8192, other, PAGE), 0);
		assert_memory_equal(page, other, PAGE);
	}
	fault = -ENOSPC;
	assert_int_equal(run_write(&run, 0, page, PAGE), -ENOSPC);
	run_stop(&run);
}

static void
nothing_is_lost_when_the_kernel_takes_nothing(void **state)
{
	struct image_io ios[DEPTH];
	struct iovec iov[DEPTH];
	struct image_run run;
	char *data = aligned_alloc(PAGE, DEPTH * PAGE);

	start(&run, make_file(dir, MIB), NULL);
	for (unsigned i = 0; i < DEPTH; i++) {
		pattern(data + i * PAGE, PAGE, i);
		iov[i] = (struct iovec){data + i * PAGE, PAGE};
		ios[i] = (struct image_io){.op = IMAGE_WRITE,
		    .offset = i * PAGE,
		    .length = PAGE,
		    .iov = &iov[i],
		    .iovcnt = 1,
		    .status = 1};
		if (i == DEPTH - 1)
			submit_fails = 3;
		run_submit(&run, &ios[i]);
	}
	run_wait(&run);
	assert_int_equal(submit_fails, 0);
	for (unsigned i = 0; i < DEPTH; i++) {
		assert_int_equal(ios[i].status, 0);
		assert_int_equal(run_read(&run, i * PAGE, page, PAGE), 0);
		assert_memory_equal(page, data + i * PAGE, PAGE);
	}
	free(data);
	run_stop(&run);
}

/* More than the ring has entries, as no queue does. */
static void
more_than_the_ring_holds(void **state)
{
	static struct image_io ios[1000];
	struct image_run run;

	start(&run, make_file(dir, MIB), NULL);
	submit_fails = 100;
	for (unsigned i = 0; i < 1000; i++) {
		ios[i] = (struct image_io){.op = IMAGE_FLUSH, .status = 1};
		run_submit(&run, &ios[i]);
	}
	run_wait(&run);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(ios[i].status, 0);
	assert_int_equal(submit_fails, 0);
	run_stop(&run);
}

static void
without_an_event_loop(void **state)
{
	struct image_run run;

	start(&run, make_file(dir, MIB), NULL);
	assert_int_equal(run_polling(&run, page, PAGE), 0);
	run_stop(&run);
}

static void
what_is_not_possible_is_refused(void **state)
{
	struct image_params params = run_params;
	struct image_io secure = {.op = IMAGE_DISCARD, .secure = true, .length = PAGE};
	const char *name = make_file(dir, MIB);
	struct image_run run;

	params.read_only = true;
	start(&run, name, &params);
	assert_int_equal(run_write(&run, 0, page, PAGE), -EROFS);
	assert_int_equal(run_discard(&run, 0, PAGE), -EROFS);
	assert_int_equal(run_read(&run, 0, page, PAGE), 0);
	assert_int_equal(run_flush(&run), 0);
	run_stop(&run);

	name = make_file(dir, MIB);
	params.read_only = params.discard = false;
	start(&run, name, &params);
	assert_int_equal(run.info.discard_granularity, 0);
	assert_int_equal(run_discard(&run, 0, PAGE), -EOPNOTSUPP);
	run_submit(&run, &secure);
	run_wait(&run);
	assert_int_equal(secure.status, -EOPNOTSUPP);
	run_stop(&run);
}

static void
discards_are_holes(void **state)
{
	const char *name = make_file(memory_dir, 4 * MIB); /* where holes are sure to be possible */
	struct image_run run;
	char *data = malloc(4 * MIB);
	int fd = open(name, O_RDWR | O_CLOEXEC);
	struct stat st;

	memset(data, 1, 4 * MIB);
	assert_int_equal(pwrite(fd, data, 4 * MIB, 0), 4 * MIB);
	start(&run, name, NULL);
	assert_true(run.info.discard_granularity >= 512);
	assert_int_equal(run_discard(&run, MIB, 2 * MIB), 0);
	assert_int_equal(lseek(fd, 0, SEEK_HOLE), MIB);
	assert_int_equal(lseek(fd, MIB, SEEK_DATA), 3 * MIB);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4 * MIB);
	/* To the end, which stays where it is. */
	assert_int_equal(run_discard(&run, 3 * MIB, MIB), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 4 * MIB);
	assert_int_equal(run_read(&run, 3 * MIB, page, PAGE), 0);
	memset(other, 0, PAGE);
	assert_memory_equal(page, other, PAGE);
	run_stop(&run);
	close(fd);
	free(data);
}

/* ---- locks ---- */

static int holder;

static void
let_go_at_the_third_look(void)
{
	if (run_slept == 3)
		close(holder);
}

static int
lock_by_hand(const char *name)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(name, O_RDWR | O_CLOEXEC);

	return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? fd : -1;
}

static void
one_writer(void **state)
{
	struct image_params reader = run_params;
	const char *name = make_file(dir, MIB);
	struct image_run run;

	reader.read_only = true;
	assert_true(run_open(&run, name, NULL));
	run_slept = 0;
	assert_true(run_refuses(name, NULL, "in use: another program"));
	assert_in_range(run_slept, 10, 60);
	assert_true(run_refuses(name, &reader, "in use"));
	assert_int_equal(lock_by_hand(name), -1);

	name = make_file(dir, MIB);
	assert_true(run_open(&run, name, &reader));
	assert_true(run_open(&run, name, &reader));
	assert_true(run_refuses(name, NULL, "in use"));
}

static void
a_lock_that_goes_is_waited_for(void **state)
{
	const char *name = make_file(dir, MIB);
	struct image_run run;

	holder = lock_by_hand(name);
	assert_int_not_equal(holder, -1);
	run_slept = 0;
	run_sleeping = let_go_at_the_third_look;
	assert_true(run_open(&run, name, NULL));
	run_sleeping = NULL;
	assert_int_equal(run_slept, 3);
}

static void
a_holder_is_named(void **state)
{
	const char *name = make_file(dir, MIB);
	char words[64], byte;
	int ready[2];
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		int fd = open(name, O_RDWR);

		_exit(fcntl(fd, F_SETLK, &lock) == 0 && write(ready[1], "", 1) == 1 ? pause() : 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	snprintf(words, sizeof(words), "process %d", (int)child);
	assert_true(run_refuses(name, NULL, words));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(ready[0]);
	close(ready[1]);
}

/* ---- block devices ---- */

static int loop_fd;

/* NULL: not possible here. */
static const char *
make_loop(const char *file, unsigned sector)
{
	static char name[32];
	struct loop_config config = {.block_size = sector};
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number;

	if (control == -1)
		return NULL;
	config.fd = (unsigned)open(file, O_RDWR | O_CLOEXEC);
	for (int tries = 0; tries < 8; tries++) { /* others may take the same */
		number = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(name, sizeof(name), "/dev/loop%d", number);
		loop_fd = number >= 0 ? open(name, O_RDWR | O_CLOEXEC) : -1;
		if (loop_fd == -1 || ioctl(loop_fd, LOOP_CONFIGURE, &config) == 0)
			break;
		close(loop_fd);
		loop_fd = -1;
	}
	close((int)config.fd);
	close(control);
	return loop_fd != -1 ? name : NULL;
}

static void
close_images_of_loop(struct image_run *run)
{
	struct file_image *image = (struct file_image *)run->image;

	close(image->buffered_fd);
	close(image->direct_fd);
	ioctl(loop_fd, LOOP_CLR_FD, 0);
	close(loop_fd);
}

static void
a_block_device(void **state)
{
	const char *file = make_file(memory_dir, 4 * MIB), *name = make_loop(file, 512);
	struct image_params reader = run_params;
	struct image_run run, second;

	SKIP_UNLESS(name != NULL, "no loop devices");
	reader.read_only = true;
	start(&run, name, NULL);
	assert_int_equal(run.info.bytes, 4 * MIB);
	assert_int_equal(run.info.sector_size, 512);
	assert_true(run.info.discard_granularity >= 512);
	assert_int_equal(run_storm(&run, 4 * MIB, 500, 512), 0);
	assert_int_equal(run_flush(&run), 0);
	assert_true(run_refuses(name, NULL, "in use"));
	assert_true(run_open(&second, name, &reader));
	close(((struct file_image *)second.image)->buffered_fd);
	close(((struct file_image *)second.image)->direct_fd);

	/* In a thread of its own, among others. */
	assert_int_equal(run_discard(&run, MIB, MIB), 0);
	assert_int_equal(run_discard(&run, 2 * MIB, MIB), 0);
	assert_int_equal(run_read(&run, 2 * MIB - 512, page, 1024), 0);
	memset(other, 0, PAGE);
	assert_memory_equal(page, other, 1024);
	assert_int_equal(run_discard(&run, MIB, 1), -EINVAL);
	run_stop(&run);
	close_images_of_loop(&run);
}

static void
really_wait(void)
{
	poll(NULL, 0, 100);
}

static int
erase_range(struct image_run *run, uint64_t offset, uint64_t length)
{
	struct image_io io = {
	    .op = IMAGE_DISCARD, .secure = true, .offset = offset, .length = length, .status = 1};

	run_submit(run, &io);
	run_wait(run);
	return io.status;
}

/* Loop devices cannot: this asks the kernel, and then one that says it can. */
static void
erasing(void **state)
{
	const char *file = make_file(memory_dir, 4 * MIB), *name = make_loop(file, 512);
	struct image_params params = run_params;
	struct image_run run;

	SKIP_UNLESS(name != NULL, "no loop devices");
	can_erase = false;
	memset(erased, 0, sizeof(erased));
	run_sleeping = really_wait; /* io_uring lets go of the device in its own time */
	start(&run, name, NULL);
	assert_false(run.info.secure_discard);
	assert_int_equal(erase_range(&run, 0, MIB), -EOPNOTSUPP);
	assert_int_equal(erased[1], 0);
	run_stop(&run);
	close(((struct file_image *)run.image)->buffered_fd);
	close(((struct file_image *)run.image)->direct_fd);

	can_erase = true;
	start(&run, name, NULL);
	assert_true(run.info.secure_discard);
	assert_int_equal(erased[1], 0); /* by asking */
	assert_int_equal(erase_range(&run, MIB, 2 * MIB), 0);
	assert_int_equal(erased[0], MIB);
	assert_int_equal(erased[1], 2 * MIB);
	assert_int_equal(run_discard(&run, 0, MIB), 0);
	assert_int_equal(erased_badly, 0);
	run_stop(&run);
	close(((struct file_image *)run.image)->buffered_fd);
	close(((struct file_image *)run.image)->direct_fd);

	params.discard = false;
	start(&run, name, &params);
	assert_false(run.info.secure_discard);
	assert_int_equal(erase_range(&run, 0, MIB), -EOPNOTSUPP);
	run_stop(&run);
	can_erase = false;
	run_sleeping = NULL;
	close_images_of_loop(&run);
}

static void
a_block_device_of_large_sectors(void **state)
{
	const char *file = make_file(memory_dir, 4 * MIB), *name = make_loop(file, 4096);
	struct image_run run;

	SKIP_UNLESS(name != NULL, "no loop devices");
	start(&run, name, NULL);
	assert_int_equal(run.info.sector_size, 4096);
	assert_int_equal(run.info.physical_sector_size, 4096);
	assert_int_equal(run_storm(&run, 4 * MIB, 200, 4096), 0);
	{ /* a sector that is not in one page */
		struct iovec iov[] = {{page + 512, PAGE - 512}, {other, 512}};

		pattern(page, PAGE, 9);
		pattern(other, PAGE, 10);
		assert_int_equal(run_iov(&run, IMAGE_WRITE, PAGE, iov, 2), 0);
		assert_int_equal(run_read(&run, PAGE, other, PAGE), 0);
		assert_memory_equal(page + 512, other, PAGE - 512);
	}
	run_stop(&run);
	close_images_of_loop(&run);
}

/* ---- processes ---- */

static int
live_in_sandbox(const char *name)
{
	struct xpv_sandbox sandbox = {.user = "nobody", .empty_dir = dir};
	struct image_run run;

	if (!run_open(&run, name, NULL))
		return 1;
	sandbox.io_uring = image_uses_io_uring(run.image);
	if (sandbox.io_uring == (run_io == VBD_IO_THREADS) || xpv_sandbox_enter(&sandbox) != 0 ||
	    !run_start(&run, DEPTH))
		return 1;
	if (run_storm(&run, MIB, 100, 512) != 0)
		return 2;
	if (run_flush(&run) != 0 || run_discard(&run, 0, 64 * 1024) != 0)
		return 3;
	if (image_size(run.image) != 4 * MIB)
		return 4;
	run_stop(&run);
	return 0;
}

static int
in_child(int (*body)(const char *), const char *name)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		_exit(body(name));
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
in_the_sandbox(void **state)
{
	const char *file = make_file(memory_dir, 4 * MIB), *name;

	assert_int_equal(in_child(live_in_sandbox, file), 0);
	SKIP_UNLESS(geteuid() == 0 && (name = make_loop(file, 512)) != NULL, "no loop devices");
	assert_int_equal(in_child(live_in_sandbox, name), 0);
	ioctl(loop_fd, LOOP_CLR_FD, 0);
	close(loop_fd);
}

/* Writes to an image, holding a lock on "keep", and is killed over it. */
static void
write_until_killed(const char *name, const char *keep, bool given)
{
	struct image_params params = run_params;
	struct iovec iov = {page, PAGE};
	struct image_io io = {.op = IMAGE_WRITE, .length = PAGE, .iov = &iov, .iovcnt = 1};
	struct image_run run;
	int fd = lock_by_hand(keep);

	params.keep_fd = given ? fd : -1;
	if (fd == -1 || !run_open(&run, name, &params) || !run_start(&run, DEPTH))
		_exit(1);
	run_submit(&run, &io);
	run_wait(&run);
	_exit(0);
}

static bool
is_locked(const char *name)
{
	int fd = lock_by_hand(name);

	if (fd == -1)
		return true;
	close(fd);
	return false;
}

static bool
is_unlocked_in_time(const char *name, int tenths)
{
	for (int i = 0; i < tenths && is_locked(name); i++)
		really_wait();
	return !is_locked(name);
}

/* A process that is killed while it writes. */
static void
kill_writer(const char *slow, const char *keep, bool given)
{
	pid_t child = fork();

	if (child == 0)
		write_until_killed(slow, keep, given);
	assert_true(fake_fuse_wait_write());
	assert_true(is_locked(keep));
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
}

static int
after_killing(void **state)
{
	run_sleeping = NULL;
	fake_fuse_unmount();
	return 0;
}

static void
the_last_io_of_a_killed_process_keeps_the_lock(void **state)
{
	const char *slow = make_file(dir, MIB), *keep = make_file(dir, 0);

	SKIP_UNLESS(fake_fuse_mount(slow, MIB), "FUSE needs root");
	run_sleeping = really_wait; /* the image is locked like this, too */
	/* So it is the image's doing: without, nothing holds the lock. */
	kill_writer(slow, keep, false);
	assert_true(is_unlocked_in_time(keep, MINUTE));
	fake_fuse_end_write();

	kill_writer(slow, keep, true);
	assert_false(is_unlocked_in_time(keep, 5));
	fake_fuse_end_write();
	assert_true(is_unlocked_in_time(keep, MINUTE));
}

static int
after_threads(void **state)
{
	by_io_uring(state);
	return after_killing(state);
}

/* A thread in a write does not end before it, and the process's files are open as long. */
static void
threads_of_a_killed_process_keep_the_lock(void **state)
{
	const char *slow = make_file(dir, MIB), *keep = make_file(dir, 0);
	pid_t child;

	SKIP_UNLESS(fake_fuse_mount(slow, MIB), "FUSE needs root");
	run_sleeping = really_wait;
	child = fork();
	if (child == 0)
		write_until_killed(slow, keep, true);
	assert_true(fake_fuse_wait_write());
	kill(child, SIGKILL);
	assert_false(is_unlocked_in_time(keep, 5));
	fake_fuse_end_write();
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_true(is_unlocked_in_time(keep, MINUTE));
}

static int
setup(void **state)
{
	page = aligned_alloc(PAGE, 2 * PAGE);
	other = aligned_alloc(PAGE, 2 * PAGE);
	if (mkdtemp(dir) == NULL || mkdtemp(memory_dir) == NULL)
		return -1;
	return chmod(dir, 0755);
}

static int
teardown(void **state)
{
	char line[256];

	free(page);
	free(other);
	snprintf(line, sizeof(line), "rm -rf %s %s", dir, memory_dir);
	return system(line) == 0 ? 0 : -1;
}

#define BY_THREADS(name)                                                                           \
	{                                                                                          \
#name "_by_threads", name, by_threads, after_threads, NULL                         \
	}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_cannot_be_opened_is_explained),
	    cmocka_unit_test(an_empty_drive),
	    cmocka_unit_test(a_file_is_described),
	    cmocka_unit_test(direct),
	    cmocka_unit_test(through_the_page_cache),
	    cmocka_unit_test(in_memory),
	    cmocka_unit_test(direct_and_page_cache_mixed),
	    cmocka_unit_test(misaligned_memory),
	    cmocka_unit_test(a_file_that_becomes_shorter),
	    cmocka_unit_test(short_and_interrupted_io_goes_on),
	    cmocka_unit_test(nothing_is_lost_when_the_kernel_takes_nothing),
	    cmocka_unit_test(more_than_the_ring_holds),
	    cmocka_unit_test(without_an_event_loop),
	    cmocka_unit_test(what_is_not_possible_is_refused),
	    cmocka_unit_test(discards_are_holes),
	    cmocka_unit_test(one_writer),
	    cmocka_unit_test(a_lock_that_goes_is_waited_for),
	    cmocka_unit_test(a_holder_is_named),
	    cmocka_unit_test(a_block_device),
	    cmocka_unit_test(erasing),
	    cmocka_unit_test(a_block_device_of_large_sectors),
	    cmocka_unit_test(in_the_sandbox),
	    cmocka_unit_test_teardown(
		the_last_io_of_a_killed_process_keeps_the_lock, after_killing),
	    cmocka_unit_test_teardown(falls_back_to_threads, by_io_uring),
	    BY_THREADS(direct),
	    BY_THREADS(through_the_page_cache),
	    BY_THREADS(in_memory),
	    BY_THREADS(direct_and_page_cache_mixed),
	    BY_THREADS(misaligned_memory),
	    BY_THREADS(a_file_that_becomes_shorter),
	    BY_THREADS(without_an_event_loop),
	    BY_THREADS(what_is_not_possible_is_refused),
	    BY_THREADS(discards_are_holes),
	    BY_THREADS(a_block_device),
	    BY_THREADS(erasing),
	    BY_THREADS(a_block_device_of_large_sectors),
	    BY_THREADS(in_the_sandbox),
	    BY_THREADS(threads_of_a_killed_process_keep_the_lock),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
