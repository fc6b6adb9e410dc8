/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <event2/event.h>
#include <xenpv/log.h>

#define PAGE	  4096u
#define MAX_PARTS 16

const struct image_params run_params = {
    .direct = true, .discard = true, .queues = 1, .nbd_connections = 1, .keep_fd = -1};

enum vbd_io run_io;
struct image *run_opened[64];
char run_log[1024];
void (*run_sleeping)(void);
unsigned run_slept;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *rest);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(run_log, sizeof(run_log), fmt, args);
	va_end(args);
	fprintf(stderr, "# %s\n", run_log);
}

int
__wrap_nanosleep(const struct timespec *wanted, struct timespec *rest)
{
	run_slept++;
	if (run_sleeping != NULL)
		run_sleeping();
	return 0;
}

/* ---- a queue ---- */

static void
on_done(struct image_io *io, void *arg)
{
	struct image_run *run = arg;

	run->inflight--;
	io->next = run->over; /* in flight it was the image's */
	run->over = io;
}

static void
on_batch_done(void *arg)
{
	((struct image_run *)arg)->batches++;
}

static void
on_lost(void *arg, const char *why)
{
	struct image_run *run = arg;

	run->lost++;
	snprintf(run->why, sizeof(run->why), "%s", why);
}

bool
run_open(struct image_run *run, const char *target, const struct image_params *params)
{
	static unsigned count;
	struct image_params p = params != NULL ? *params : run_params;

	memset(run, 0, sizeof(*run));
	p.target = target;
	if (p.io == VBD_IO_AUTO)
		p.io = run_io;
	run->image = image_open(&p, &run->info);
	if (run->image != NULL && count < 64)
		run_opened[count++] = run->image;
	return run->image != NULL;
}

bool
run_refuses(const char *target, const struct image_params *params, const char *words)
{
	struct image_run run;

	*run_log = '\0';
	return !run_open(&run, target, params) && strstr(run_log, words) != NULL;
}

bool
run_start(struct image_run *run, unsigned depth)
{
	const struct image_queue_config config = {
	    .depth = depth,
	    .base = run->base = event_base_new(),
	    .done = on_done,
	    .batch_done = on_batch_done,
	    .lost = on_lost,
	    .lost_arg = run,
	    .arg = run,
	};

	run->q = image_queue_start(run->image, &config);
	return run->q != NULL;
}

void
run_stop(struct image_run *run)
{
	if (run->q != NULL)
		image_queue_stop(run->q);
	event_base_free(run->base);
}

void
run_submit(struct image_run *run, struct image_io *io)
{
	run->inflight++;
	image_submit(run->q, io);
}

static void
on_timeout(evutil_socket_t fd, short events, void *arg)
{
	((struct image_run *)arg)->timeout = true;
}

void
run_wait_below(struct image_run *run, unsigned inflight)
{
	struct timeval limit = {.tv_sec = 60};
	struct event *timer = evtimer_new(run->base, on_timeout, run);

	event_add(timer, &limit);
	if (image_push(run->q))
		image_poll(run->q);
	while (run->inflight > inflight && run->lost == 0 && !run->timeout)
		event_base_loop(run->base, EVLOOP_ONCE);
	event_free(timer);
}

void
run_wait(struct image_run *run)
{
	run_wait_below(run, 0);
}

static int
run_one(struct image_run *run, struct image_io *io)
{
	io->status = 1;
	run->over = NULL;
	run_submit(run, io);
	run_wait(run);
	return run->over == io ? io->status : 1;
}

int
run_iov(struct image_run *run, enum image_op op, uint64_t offset, struct iovec *iov, int iovcnt)
{
	struct image_io io = {.op = op, .offset = offset, .iov = iov, .iovcnt = iovcnt};

	for (int i = 0; i < iovcnt; i++)
		io.length += iov[i].iov_len;
	return run_one(run, &io);
}

int
run_read(struct image_run *run, uint64_t offset, void *data, size_t length)
{
	struct iovec iov = {data, length};

	return run_iov(run, IMAGE_READ, offset, &iov, 1);
}

int
run_write(struct image_run *run, uint64_t offset, const void *data, size_t length)
{
	struct iovec iov = {(void *)(uintptr_t)data, length};

	return run_iov(run, IMAGE_WRITE, offset, &iov, 1);
}

int
run_polling(struct image_run *run, void *data, size_t length)
{
	struct iovec iov = {data, length};
	struct image_io io = {
	    .op = IMAGE_READ, .length = length, .iov = &iov, .iovcnt = 1, .status = 1};
	unsigned batches = run->batches;

	if (image_poll(run->q)) /* nothing is there */
		return 1;
	run_submit(run, &io);
	image_push(run->q);
	while (!image_poll(run->q))
		;
	return run->batches == batches + 1 && run->inflight == 0 ? io.status : 1;
}

int
run_flush(struct image_run *run)
{
	return run_iov(run, IMAGE_FLUSH, 0, NULL, 0);
}

int
run_discard(struct image_run *run, uint64_t offset, uint64_t length)
{
	struct image_io io = {.op = IMAGE_DISCARD, .offset = offset, .length = length};

	return run_one(run, &io);
}

/* ---- a storm ---- */

#define STORM_DEPTH 32

struct storm_io {
	struct image_io io;
	struct iovec iov[MAX_PARTS];
	bool used, over;
	size_t at, length; /* in the image */
	char *memory;	   /* pages, of which each part has one */
};

struct storm {
	struct image_run *run;
	struct storm_io ios[STORM_DEPTH];
	char *model;
	size_t bytes;
	unsigned sector;
	unsigned seed;
};

static unsigned
dice(struct storm *s, unsigned sides)
{
	s->seed = s->seed * 1103515245 + 12345;
	return (s->seed >> 8) % sides;
}

static bool
overlaps(const struct storm *s, size_t at, size_t length)
{
	for (unsigned i = 0; i < STORM_DEPTH; i++)
		if (s->ios[i].used && at < s->ios[i].at + s->ios[i].length &&
		    s->ios[i].at < at + length)
			return true;
	return false;
}

/* Parts as a ring has them: whole sectors of pages; now and then two pages lie together. */
static void
make_parts(struct storm *s, struct storm_io *io)
{
	char *page = io->memory;

	io->io.iovcnt = 0;
	io->length = 0;
	for (unsigned n = 1 + dice(s, MAX_PARTS); n > 0; n--) {
		unsigned sectors = PAGE / s->sector, first = dice(s, sectors);
		unsigned count = 1 + dice(s, sectors - first);

		if (dice(s, 2) == 0) {
			first = 0;
			count = sectors;
		}
		io->iov[io->io.iovcnt++] =
		    (struct iovec){page + (size_t)first * s->sector, (size_t)count * s->sector};
		io->length += (size_t)count * s->sector;
		page += PAGE;
	}
	io->io.iov = io->iov;
}

static void
copy_parts(const struct storm_io *io, char *model, bool fill, unsigned value)
{
	for (int i = 0; i < io->io.iovcnt; i++) {
		if (fill)
			memset(io->iov[i].iov_base, (int)(value + (unsigned)i), io->iov[i].iov_len);
		memcpy(model, io->iov[i].iov_base, io->iov[i].iov_len);
		model += io->iov[i].iov_len;
	}
}

static void
storm_begin(struct storm *s, struct storm_io *io)
{
	unsigned what = dice(s, 10);

	memset(&io->io, 0, sizeof(io->io));
	make_parts(s, io);
	io->at = (size_t)dice(s, (unsigned)((s->bytes - io->length) / s->sector)) * s->sector;
	if (overlaps(s, io->at, io->length))
		return;
	io->used = true;
	io->over = false;
	io->io.offset = io->at;
	io->io.length = io->length;
	if (what == 0) {
		io->io.op = IMAGE_FLUSH;
		io->io.length = 0;
	} else if (what < 5) {
		io->io.op = IMAGE_READ;
	} else {
		io->io.op = IMAGE_WRITE;
		copy_parts(io, s->model + io->at, true, dice(s, 256));
	}
	run_submit(s->run, &io->io);
}

/* What was read, in the memory of all parts: "iov" may have been moved on. */
static bool
storm_end(struct storm *s, struct storm_io *io, const struct iovec *parts, int count)
{
	size_t at = io->at;

	if (io->io.status != 0)
		return false;
	for (int i = 0; io->io.op == IMAGE_READ && i < count; i++) {
		if (memcmp(parts[i].iov_base, s->model + at, parts[i].iov_len) != 0)
			return false;
		at += parts[i].iov_len;
	}
	return true;
}

static void
take_over(struct storm *s)
{
	for (struct image_io *io = s->run->over; io != NULL; io = io->next)
		((struct storm_io *)io)->over = true; /* its first member */
	s->run->over = NULL;
}

static bool
any_used(const struct storm *s)
{
	for (unsigned i = 0; i < STORM_DEPTH; i++)
		if (s->ios[i].used)
			return true;
	return false;
}

static int
storm_finish(struct storm *s)
{
	char *all = aligned_alloc(PAGE, s->bytes);
	int line = 0;

	for (size_t at = 0; at < s->bytes && line == 0; at += 1 << 20) {
		size_t length = s->bytes - at < 1 << 20 ? s->bytes - at : 1 << 20;

		if (run_read(s->run, at, all + at, length) != 0)
			line = __LINE__;
	}
	if (line == 0 && memcmp(all, s->model, s->bytes) != 0)
		line = __LINE__;
	free(all);
	return line;
}

int
run_storm(struct image_run *run, size_t bytes, unsigned operations, unsigned sector)
{
	struct storm s = {.run = run, .bytes = bytes, .sector = sector, .seed = 1};
	struct iovec parts[STORM_DEPTH][MAX_PARTS];
	int counts[STORM_DEPTH], line = 0;

	s.model = aligned_alloc(PAGE, bytes);
	memset(s.model, 0x5a, bytes);
	for (size_t at = 0; at < bytes && line == 0; at += bytes / 4)
		if (run_write(run, at, s.model + at, bytes / 4) != 0)
			line = __LINE__;
	for (unsigned i = 0; i < STORM_DEPTH; i++)
		s.ios[i].memory = aligned_alloc(PAGE, MAX_PARTS * PAGE);
	run->over = NULL;
	for (unsigned begun = 0; line == 0 && (begun < operations || any_used(&s));) {
		for (unsigned i = 0; i < STORM_DEPTH; i++) {
			struct storm_io *io = &s.ios[i];

			if (io->used && io->over) {
				if (!storm_end(&s, io, parts[i], counts[i]))
					line = __LINE__;
				io->used = false;
			}
			if (!io->used && begun < operations) {
				storm_begin(&s, io);
				memcpy(parts[i], io->iov, sizeof(parts[i]));
				counts[i] = io->io.iovcnt;
				begun++;
			}
		}
		if (run->inflight > 0)
			run_wait_below(run, run->inflight - 1);
		take_over(&s);
		if (run->timeout || run->lost > 0)
			line = __LINE__;
	}
	if (line == 0)
		line = storm_finish(&s);
	for (unsigned i = 0; i < STORM_DEPTH; i++)
		free(s.ios[i].memory);
	free(s.model);
	return line;
}
