/* SPDX-License-Identifier: BSD-2-Clause */
/* I/O through POSIX AIO and a kqueue, both made of memory and an eventfd: a kernel that ends what
 * it was given in any order, does parts of it, and has limits. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/event.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <event2/event.h>

#include "image_file.h"
#include "image_run.h"

#define MIB	 (1u << 20)
#define PAGE	 4096u
#define DEPTH	 64
#define JOBS_MAX 256

static char dir[] = "/tmp/test_image_aio.XXXXXX", name[64];
static char *page;

/* ---- the kernel ---- */

struct job {
	struct aiocb *cb;
	ssize_t result; /* negative errno */
	bool told;	/* by kevent() */
};

static struct {
	struct job jobs[JOBS_MAX];
	unsigned njobs, limit, most;
	int kq;
	unsigned seed;
	int refuses;	/* with this errno */
	bool parts;	/* does some of it, now and then */
	int fails_next; /* one ends with this errno */
	unsigned transfers, syncs, refusals;
} kernel;

static unsigned
dice(unsigned sides)
{
	kernel.seed = kernel.seed * 1103515245 + 12345;
	return (kernel.seed >> 8) % sides;
}

static int
take(struct aiocb *cb)
{
	assert_int_equal(cb->aio_sigevent.sigev_notify, SIGEV_KEVENT);
	assert_int_equal(cb->aio_sigevent.sigev_notify_kqueue, kernel.kq);
	for (unsigned i = 0; i < kernel.njobs; i++)
		assert_ptr_not_equal(kernel.jobs[i].cb, cb);
	if (kernel.refuses != 0 || kernel.njobs == kernel.limit) {
		kernel.refusals++;
		errno = kernel.refuses != 0 ? kernel.refuses : EAGAIN;
		return -1;
	}
	kernel.jobs[kernel.njobs++] = (struct job){.cb = cb};
	if (kernel.njobs > kernel.most)
		kernel.most = kernel.njobs;
	eventfd_write(kernel.kq, 1);
	return 0;
}

static ssize_t
move(const struct aiocb *cb, bool out)
{
	struct iovec iov[VBD_MAX_SEGMENTS];
	int count = (int)cb->aio_iovcnt;
	ssize_t n;

	assert_in_range(count, 1, VBD_MAX_SEGMENTS);
	memcpy(iov, (const void *)(uintptr_t)cb->aio_iov, (size_t)count * sizeof(*iov));
	if (kernel.parts && dice(3) == 0) {
		count = 1 + (int)dice((unsigned)count);
		iov[count - 1].iov_len = 512 * (1 + dice((unsigned)iov[count - 1].iov_len / 512));
	}
	n = out ? pwritev(cb->aio_fildes, iov, count, cb->aio_offset)
		: preadv(cb->aio_fildes, iov, count, cb->aio_offset);
	return n < 0 ? -errno : n;
}

static int
transfer(struct aiocb *cb, bool out)
{
	struct job *job;

	if (take(cb) != 0)
		return -1;
	kernel.transfers++;
	job = &kernel.jobs[kernel.njobs - 1];
	job->result = kernel.fails_next != 0 ? -kernel.fails_next : move(cb, out);
	kernel.fails_next = 0;
	return 0;
}

int
aio_readv(struct aiocb *cb)
{
	return transfer(cb, false);
}

int
aio_writev(struct aiocb *cb)
{
	return transfer(cb, true);
}

int
aio_fsync(int op, struct aiocb *cb)
{
	assert_int_equal(op, O_DSYNC);
	if (take(cb) != 0)
		return -1;
	kernel.syncs++;
	kernel.jobs[kernel.njobs - 1].result = fdatasync(cb->aio_fildes);
	return 0;
}

static struct job *
find(const struct aiocb *cb)
{
	for (unsigned i = 0; i < kernel.njobs; i++) {
		if (kernel.jobs[i].cb == cb)
			return &kernel.jobs[i];
	}
	fail_msg("an aiocb that is not in flight");
	return NULL;
}

int
aio_error(const struct aiocb *cb)
{
	const struct job *job = find(cb);

	assert_true(job->told);
	return job->result < 0 ? (int)-job->result : 0;
}

ssize_t
aio_return(struct aiocb *cb)
{
	struct job *job = find(cb);
	ssize_t result = job->result;

	assert_true(job->told);
	*job = kernel.jobs[--kernel.njobs];
	return result < 0 ? -1 : result;
}

int
kqueue(void)
{
	kernel.kq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	return kernel.kq;
}

/* Each end is told once, in any order. */
int
kevent(int kq, const struct kevent *changes, int nchanges, struct kevent *events, int nevents,
    const struct timespec *timeout)
{
	int count = 0;
	eventfd_t one;

	assert_int_equal(kq, kernel.kq);
	assert_int_equal(nchanges, 0);
	assert_int_equal(timeout->tv_sec + timeout->tv_nsec, 0);
	if (nevents > 4)
		nevents = 1 + (int)dice(4);
	for (unsigned tries = 0; tries < 4 * kernel.njobs && count < nevents; tries++) {
		struct job *job = &kernel.jobs[dice(kernel.njobs)];

		if (job->told)
			continue;
		job->told = true;
		eventfd_read(kq, &one);
		events[count++] = (struct kevent){.ident = (uintptr_t)job->cb,
		    .udata = job->cb->aio_sigevent.sigev_value.sival_ptr};
	}
	return count;
}

/* ---- what is asked ---- */

static void
start(struct image_run *run, const struct image_params *params)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(ftruncate(fd, 4 * MIB), 0);
	close(fd);
	memset(&kernel, 0, sizeof(kernel));
	kernel.limit = JOBS_MAX;
	kernel.seed = 7;
	assert_true(run_open(run, name, params));
	/* Linux would have io_uring do it. */
	run->image->ops = &image_file_aio_ops;
	assert_true(run_start(run, DEPTH));
}

/* The image is not closed: its name goes, so that the next one is another. */
static void
stop(struct image_run *run)
{
	assert_int_equal(kernel.njobs, 0);
	run_stop(run);
	unlink(name);
}

static void
storm(void **state)
{
	struct image_run run;

	start(&run, NULL);
	assert_int_equal(image_size(run.image), 4 * MIB);
	assert_int_equal(run_storm(&run, 4 * MIB, 1000, 512), 0);
	assert_int_equal(run_flush(&run), 0);
	assert_in_range(kernel.most, 2, DEPTH);
	assert_in_range(kernel.syncs, 1, 1000);
	stop(&run);
}

static void
parts(void **state)
{
	struct image_run run;

	start(&run, NULL);
	kernel.parts = true;
	assert_int_equal(run_storm(&run, 4 * MIB, 500, 512), 0);
	stop(&run);
}

/* As vfs.aio.max_aio_queue_per_proc does. */
static void
limits(void **state)
{
	struct image_run run;

	start(&run, NULL);
	kernel.limit = 3;
	kernel.parts = true;
	assert_int_equal(run_storm(&run, 4 * MIB, 500, 512), 0);
	assert_int_equal(kernel.most, 3);
	assert_true(kernel.refusals > 0);
	stop(&run);
}

/* Others have all of it: what was asked is tried again, without an end of ours to wait for. */
static void
nothing_is_left_of_the_limits(void **state)
{
	struct iovec iov = {page, PAGE};
	struct image_io io = {
	    .op = IMAGE_READ, .length = PAGE, .iov = &iov, .iovcnt = 1, .status = 1};
	struct image_run run;

	start(&run, NULL);
	kernel.refuses = EAGAIN;
	run_submit(&run, &io);
	image_push(run.q);
	while (kernel.refusals < 4)
		event_base_loop(run.base, EVLOOP_ONCE);
	assert_int_equal(io.status, 1);
	kernel.refuses = 0;
	run_wait(&run);
	assert_int_equal(io.status, 0);
	stop(&run);
}

static void
errors(void **state)
{
	struct image_run run;

	start(&run, NULL);
	kernel.fails_next = ENOSPC;
	assert_int_equal(run_write(&run, 0, page, PAGE), -ENOSPC);
	kernel.fails_next = EINTR;
	assert_int_equal(run_write(&run, 0, page, PAGE), 0);
	kernel.refuses = EINVAL;
	assert_int_equal(run_write(&run, 0, page, PAGE), -EINVAL);
	kernel.refuses = 0;
	assert_int_equal(truncate(name, PAGE), 0);
	assert_int_equal(run_read(&run, PAGE, page, PAGE), -EIO);
	stop(&run);
}

/* Files that this AIO does not take: threads do it. */
static void
files_of_another_kind(void **state)
{
	struct image_run run;

	start(&run, NULL);
	kernel.refuses = EOPNOTSUPP;
	assert_int_equal(run_storm(&run, 4 * MIB, 300, 512), 0);
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(kernel.transfers + kernel.syncs, 0);
	kernel.refuses = 0;
	stop(&run);
}

static void
discards(void **state)
{
	struct image_params params = run_params;
	struct image_run run;

	start(&run, NULL);
	memset(page, 1, PAGE);
	assert_int_equal(run_write(&run, MIB, page, PAGE), 0);
	if (run.info.discard_granularity != 0) {
		assert_int_equal(run_discard(&run, MIB, MIB), 0);
		assert_int_equal(run_read(&run, MIB, page, PAGE), 0);
		assert_int_equal(page[0] | page[PAGE - 1], 0);
	}
	stop(&run);
	params.read_only = true;
	start(&run, &params);
	assert_int_equal(run_discard(&run, 0, PAGE), -EROFS);
	assert_int_equal(run_write(&run, 0, page, PAGE), -EROFS);
	assert_int_equal(kernel.transfers, 0);
	stop(&run);
}

/* Of a device fsync(2) does not reach the disk, and a call that does is no AIO. */
static void
devices_are_flushed_by_threads(void **state)
{
	struct image_run run;

	start(&run, NULL);
	((struct file_image *)run.image)->device = true;
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(kernel.syncs, 0);
	stop(&run);
}

static void
without_an_event_loop(void **state)
{
	struct image_run run;

	start(&run, NULL);
	assert_int_equal(run_polling(&run, page, PAGE), 0);
	stop(&run);
}

static int
setup(void **state)
{
	page = aligned_alloc(PAGE, PAGE);
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(name, sizeof(name), "%s/image", dir);
	return 0;
}

static int
teardown(void **state)
{
	free(page);
	unlink(name);
	return rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(storm),
	    cmocka_unit_test(parts),
	    cmocka_unit_test(limits),
	    cmocka_unit_test(nothing_is_left_of_the_limits),
	    cmocka_unit_test(errors),
	    cmocka_unit_test(files_of_another_kind),
	    cmocka_unit_test(discards),
	    cmocka_unit_test(devices_are_flushed_by_threads),
	    cmocka_unit_test(without_an_event_loop),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
