/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * xen-blkfrontd's NBD server without Xen, for tests: all of nbd-unix (door, handshake, supervisor's
 * half, worker processes in their sandbox, threads, transmission) on disks in memory in place of
 * rings, which answer late and out of order and have few pages.
 *
 *   nbd_server SOCKET MIB NAME...
 *
 * A disk whose name ends in "r" is read-only. Commands on the standard input:
 *   kill NAME       the worker, with SIGKILL
 *   crash           the process that does handshakes
 *   resize NAME MIB
 *   slow NAME       nothing is answered from now on ...
 *   fast NAME       ... until now
 *   held NAME       says "held N": requests that were not answered at once because of that
 *   detach NAME     says "removed NAME" when it is done
 *   force NAME      detach by force
 * It says "ready NAME" for each disk on the standard output, then "ok" after each command, and ends
 * with its input.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/sandbox.h>
#include <xenpv/shared.h>
#include <xenpv/supervisor.h>

#include "attach.h"
#include "messages.h"
#include "nbd_transfer.h"
#include "queue_thread.h"

#define THREADS	 2
#define PAGES	 512 /* of all requests that are not released, 4 KiB */
#define DISK_MAX 8
#define WAITING	 4096

/* ---- the ring: a queue with a disk in memory ---- */

/* In memory that the processes share. */
struct pace {
	_Atomic bool slow;
	_Atomic unsigned held;
};

struct blk_queue {
	const struct blk_host_ops *ops;
	void *host;
	uint8_t *disk;
	struct pace *pace;
	struct event *answer;
	STAILQ_HEAD(, blk_request) pageless; /* have no pages yet */
	struct blk_request *sent[WAITING];
	unsigned nsent;
	unsigned pages;
	bool quiet, replies, busy;
	void (*idle)(void *arg);
	void *idle_arg;
};

void __wrap_blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host);
void __wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r);
void __wrap_blk_queue_push(struct blk_queue *q);
void __wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r);
void __wrap_blk_queue_quiesce(struct blk_queue *q);
unsigned __wrap_blk_queue_inflight(const struct blk_queue *q);
void __wrap_blk_queue_on_idle(struct blk_queue *q, void (*idle)(void *arg), void *arg);
int __wrap_blk_queue_listen(struct blk_queue *q, struct event_base *base);
void __wrap_blk_queue_unlisten(struct blk_queue *q);

void
__wrap_blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host)
{
	q->ops = ops;
	q->host = host;
}

static struct iovec
on_disk(const struct blk_queue *q, const struct blk_request *r)
{
	return (struct iovec){
	    q->disk + (r->sector << BLK_SECTOR_SHIFT), (size_t)r->sectors << BLK_SECTOR_SHIFT};
}

static void
dispatch(struct blk_queue *q)
{
	struct blk_request *r;

	while (!q->quiet && (r = STAILQ_FIRST(&q->pageless)) != NULL) {
		bool data = r->op == BLK_READ || r->op == BLK_WRITE;
		unsigned pages = data ? (r->sectors + 7) / 8 : 0;
		struct iovec iov = on_disk(q, r);

		if (q->pages < pages)
			return;
		q->pages -= pages;
		r->npages = (uint16_t)pages;
		STAILQ_REMOVE_HEAD(&q->pageless, waiting);
		if (r->op == BLK_WRITE)
			q->ops->pull(q->host, r, &iov, 1);
		q->sent[q->nsent++] = r;
		if (q->pace->slow)
			q->pace->held++;
	}
}

void
__wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r)
{
	r->npages = 0;
	STAILQ_INSERT_TAIL(&q->pageless, r, waiting);
	if (!q->busy)
		dispatch(q);
}

void
__wrap_blk_queue_push(struct blk_queue *q)
{
	if (q->busy)
		return;
	if (q->nsent > 0)
		event_add(q->answer, &(struct timeval){.tv_usec = rand() % 300});
	if (q->replies) {
		q->replies = false;
		q->ops->flush(q->host);
	}
}

void
__wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r)
{
	q->pages += r->npages;
	r->npages = 0;
	if (!q->busy && !STAILQ_EMPTY(&q->pageless)) {
		dispatch(q);
		__wrap_blk_queue_push(q);
	}
}

void
__wrap_blk_queue_quiesce(struct blk_queue *q)
{
	q->quiet = true;
	STAILQ_INIT(&q->pageless);
}

unsigned
__wrap_blk_queue_inflight(const struct blk_queue *q)
{
	return q->nsent;
}

void
__wrap_blk_queue_on_idle(struct blk_queue *q, void (*idle)(void *arg), void *arg)
{
	q->idle = idle;
	q->idle_arg = arg;
}

static void
answer_some(evutil_socket_t fd, short events, void *arg)
{
	struct blk_queue *q = arg;

	q->busy = true;
	for (unsigned n = (unsigned)rand() % 8 + 1; n > 0 && q->nsent > 0 && !q->pace->slow; n--) {
		unsigned which = (unsigned)rand() % q->nsent;
		struct blk_request *r = q->sent[which];
		struct iovec iov = on_disk(q, r);

		q->sent[which] = q->sent[--q->nsent];
		if (r->op == BLK_DISCARD)
			memset(iov.iov_base, 0, iov.iov_len);
		q->replies = true;
		q->ops->done(q->host, r, 0, &iov, r->op == BLK_READ);
	}
	dispatch(q);
	q->busy = false;
	__wrap_blk_queue_push(q);
	if (q->idle != NULL && q->nsent == 0)
		q->idle(q->idle_arg);
}

int
__wrap_blk_queue_listen(struct blk_queue *q, struct event_base *base)
{
	q->answer = evtimer_new(base, answer_some, q);
	__wrap_blk_queue_push(q);
	return q->answer != NULL ? 0 : -1;
}

void
__wrap_blk_queue_unlisten(struct blk_queue *q)
{
	if (q->answer != NULL)
		event_free(q->answer);
	q->answer = NULL;
}

/* ---- a disk ---- */

struct disk {
	char name[32];
	uint32_t vdev;
	bool ready, removing;
	struct blk_geometry geometry;
	uint8_t *data;
	struct pace *pace;
	struct xpv_shared *shared;
	struct attachment *attachment;
	struct xpv_worker *worker;
};

static struct event_base *main_base;
static struct disk disks[DISK_MAX];
static unsigned ndisks;
static char empty_dir[96]; /* in $D, which test_nbd_unix removes with all that is there */

/* ---- its worker: what device.c does, without a backend ---- */

struct device {
	struct disk *disk;
	struct event_base *base;
	int channel, report[2];
	struct attach_grant grant;
	struct nbd_transfer transfer;
	struct blk_queue queues[THREADS];
	struct queue_thread *threads[THREADS];
	unsigned running, started;
};

static void
quiesce(struct device *d)
{
	for (unsigned i = 0; i < d->running; i++)
		queue_thread_quiesce(d->threads[i]);
}

static void
on_channel(evutil_socket_t channel, short events, void *arg)
{
	struct device *d = arg;
	char message[XPV_MESSAGE_MAX];
	size_t length = sizeof(message);
	uint32_t type;
	int fd, got = xpv_channel_receive(channel, &type, message, &length, &fd);

	if (got < 0)
		_exit(0);
	if (got == 0)
		return;
	switch (type) {
	case BLK_MSG_ATTACH:
		d->grant = (struct attach_grant){
		    .host_queues = BLK_MAX_QUEUES,
		    .channel = channel,
		    .attachment = d->disk->attachment,
		};
		for (; d->running < THREADS; d->running++) {
			unsigned i = d->running;

			STAILQ_INIT(&d->queues[i].pageless);
			d->queues[i].disk = d->disk->data;
			d->queues[i].pace = d->disk->pace;
			d->queues[i].pages = PAGES;
			d->threads[i] = queue_thread_start(
			    &d->queues[i], &io_nbd_unix, &d->grant, i, THREADS, d->report[1]);
		}
		break;
	case BLK_MSG_CONNECTION:
		if (nbd_transfer_take(&d->transfer, message, length, fd))
			queue_thread_command(
			    d->threads[d->transfer.command.slot % THREADS], &d->transfer.command);
		break;
	case BLK_MSG_LEAVE:
		for (unsigned i = 0; i < THREADS; i++)
			queue_thread_command(
			    d->threads[i], &(struct attach_command){.what = ATTACH_LEAVE});
		break;
	default:
		quiesce(d);
		break;
	}
}

static void
on_report(evutil_socket_t fd, short events, void *arg)
{
	struct device *d = arg;
	char byte;

	if (read(fd, &byte, 1) != 1)
		return;
	if (byte == QUEUE_THREAD_STARTED && ++d->started == THREADS)
		xpv_channel_send(d->channel, BLK_MSG_SERVING, NULL, 0, -1);
	if (byte == QUEUE_THREAD_FAILED)
		_exit(1);
	if (byte == QUEUE_THREAD_ENDED && --d->started == 0)
		_exit(XPV_EXIT_AGAIN);
}

static void
on_term(evutil_socket_t fd, short events, void *arg)
{
	quiesce(arg);
}

static int
worker_main(struct event_base *base, int channel, void *arg)
{
	struct device *d = calloc(1, sizeof(*d));
	const struct xpv_sandbox sandbox = {.user = "nobody", .empty_dir = empty_dir};

	d->disk = arg;
	d->base = base;
	d->channel = channel;
	srand((unsigned)getpid());
	if (pipe2(d->report, O_CLOEXEC | O_NONBLOCK) != 0 || xpv_sandbox_enter(&sandbox) != 0)
		return 1;
	event_add(event_new(base, channel, EV_READ | EV_PERSIST, on_channel, d), NULL);
	event_add(event_new(base, d->report[0], EV_READ | EV_PERSIST, on_report, d), NULL);
	event_add(evsignal_new(base, SIGTERM, on_term, d), NULL);
	xpv_channel_send(
	    channel, BLK_MSG_CONNECTED, &d->disk->geometry, sizeof(d->disk->geometry), -1);
	event_base_dispatch(base);
	return 0;
}

/* ---- the supervisor: what disks.c does ---- */

static void
worker_message(uint32_t type, const void *data, size_t length, int fd, void *arg)
{
	struct disk *disk = arg;

	if (type == BLK_MSG_CONNECTED)
		attach_nbd_unix.serve(disk->attachment, &disk->geometry, disk->worker);
	else if (type == BLK_MSG_SERVING)
		attach_nbd_unix.serving(disk->attachment, xpv_worker_pid(disk->worker));
	else
		attach_nbd_unix.message(disk->attachment, type, data, length);
}

static void
worker_exited(
    enum xpv_worker_exit code, bool crashed, bool restarting, const char *reason, void *arg)
{
	struct disk *disk = arg;

	attach_nbd_unix.gone(disk->attachment);
	if (!restarting && !disk->removing)
		printf("worker of %s: %s\n", disk->name, reason);
}

static const struct xpv_worker_ops worker_ops = {
    .main = worker_main,
    .message = worker_message,
    .exited = worker_exited,
};

static void
host_ready(void *arg, const char *node)
{
	struct disk *disk = arg;

	if (!disk->ready)
		printf("ready %s %s\n", disk->name, node);
	disk->ready = true;
}

static void
host_removed(void *arg)
{
	struct disk *disk = arg;

	printf("removed %s\n", disk->name);
	xpv_worker_stop(disk->worker, 1000);
}

static const struct attach_events attach_events = {.ready = host_ready, .removed = host_removed};
static const struct xpv_worker_policy policy = {.delay_min_ms = 10, .delay_max_ms = 10};

static void
add_disk(const char *name, size_t mib)
{
	struct disk *disk = &disks[ndisks];
	struct attach_params params = {
	    .base = main_base,
	    .vdev = 51712 + 16 * ndisks,
	    .name = disk->name,
	    .queues = THREADS,
	    .depth = 64,
	    .max_io_bytes = 128 * 1024,
	    .events = &attach_events,
	    .arg = disk,
	};

	ndisks++;
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	disk->geometry = (struct blk_geometry){
	    .sectors = mib << 11,
	    .sector_size = 512,
	    .physical_sector_size = 512,
	    .discard_granularity = 512,
	    .queues = THREADS,
	    .read_only = name[strlen(name) - 1] == 'r',
	};
	disk->shared = params.shared = xpv_shared_new();
	disk->data = xpv_shared_alloc(disk->shared, (mib + 16) << 20); /* room for "resize" */
	disk->pace = xpv_shared_alloc(disk->shared, sizeof(*disk->pace));
	disk->attachment = attach_nbd_unix.open(&params);
	disk->worker = xpv_worker_new(main_base, name, &worker_ops, &policy, disk->shared, disk);
	if (disk->data == NULL || disk->attachment == NULL || xpv_worker_start(disk->worker) != 0)
		exit(1);
}

/* ---- commands ---- */

/* The only child that is no disk's. */
static void
crash_door(void)
{
	char text[32] = "";
	pid_t pid;
	FILE *f;

	snprintf(text, sizeof(text), "/proc/self/task/%d/children", (int)getpid());
	f = fopen(text, "re");
	while (f != NULL && fscanf(f, "%d", &pid) == 1) {
		bool worker = false;

		for (unsigned i = 0; i < ndisks; i++)
			worker |= xpv_worker_pid(disks[i].worker) == pid;
		if (!worker)
			kill(pid, SIGKILL);
	}
	if (f != NULL)
		fclose(f);
}

static void
obey(const char *command, struct disk *disk, size_t mib)
{
	char why[64];

	if (strcmp(command, "kill") == 0 && xpv_worker_running(disk->worker)) {
		kill(xpv_worker_pid(disk->worker), SIGKILL);
	} else if (strcmp(command, "resize") == 0) {
		disk->geometry.sectors = mib << 11;
		attach_nbd_unix.resize(disk->attachment, mib << 11, why, sizeof(why));
	} else if (strcmp(command, "slow") == 0 || strcmp(command, "fast") == 0) {
		disk->pace->slow = command[0] == 's';
	} else if (strcmp(command, "held") == 0) {
		printf("held %u\n", disk->pace->held);
	} else if (strcmp(command, "detach") == 0) {
		disk->removing = true;
		attach_nbd_unix.remove(disk->attachment);
	} else if (strcmp(command, "force") == 0) {
		disk->removing = true;
		attach_nbd_unix.cut(disk->attachment);
		attach_nbd_unix.remove(disk->attachment);
	}
}

static void
on_command(evutil_socket_t fd, short events, void *arg)
{
	char line[256] = "", command[32] = "", name[32] = "";
	struct disk *disk = &disks[0];
	size_t mib = 0;

	if (fgets(line, sizeof(line), stdin) == NULL) {
		event_base_loopbreak(main_base);
		return;
	}
	sscanf(line, "%31s %31s %zu", command, name, &mib);
	for (unsigned i = 0; i < ndisks; i++) {
		if (strcmp(disks[i].name, name) == 0)
			disk = &disks[i];
	}
	if (strcmp(command, "crash") == 0)
		crash_door();
	else
		obey(command, disk, mib);
	printf("ok\n");
}

static void
on_stop(evutil_socket_t fd, short events, void *arg)
{
	event_base_loopbreak(main_base);
}

int
main(int argc, char **argv)
{
	static const char user[] = "nobody";
	struct blk_config config = {.sandbox = true};
	char path[128], rundir[96];

	if (argc < 4 || argc > 3 + DISK_MAX) {
		fprintf(stderr, "usage: nbd_server SOCKET MIB NAME...\n");
		return 64;
	}
	xpv_log_open(
	    "nbd_server", getenv("NBD_DEBUG") != NULL ? XPV_LOG_DEBUG : XPV_LOG_ERR, false);
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);
	snprintf(empty_dir, sizeof(empty_dir), "%s/nbd_server.XXXXXX",
	    getenv("D") != NULL ? getenv("D") : "/tmp");
	if (mkdtemp(empty_dir) == NULL)
		return 1;
	chmod(empty_dir, 0555);
	snprintf(rundir, sizeof(rundir), "%s", empty_dir);
	snprintf(path, sizeof(path), "%s/empty", rundir);
	mkdir(path, 0555);
	config.rundir = rundir;
	config.user = (char *)(uintptr_t)user;
	config.attach_path = argv[1];
	main_base = event_base_new();
	if (main_base == NULL || attach_nbd_unix.start(main_base, &config) != 0)
		return 1;
	for (int i = 3; i < argc; i++)
		add_disk(argv[i], (size_t)atoi(argv[2]));
	event_add(event_new(main_base, STDIN_FILENO, EV_READ | EV_PERSIST, on_command, NULL), NULL);
	event_add(evsignal_new(main_base, SIGTERM, on_stop, NULL), NULL);
	event_add(evsignal_new(main_base, SIGINT, on_stop, NULL), NULL);
	event_base_dispatch(main_base);
	for (unsigned i = 0; i < ndisks; i++) {
		xpv_worker_free(disks[i].worker);
		attach_nbd_unix.close(disks[i].attachment);
		xpv_shared_free(disks[i].shared);
	}
	attach_nbd_unix.end();
	rmdir(path);
	rmdir(empty_dir);
	return 0;
}
