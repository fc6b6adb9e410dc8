/* SPDX-License-Identifier: BSD-2-Clause */
#include "attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <liburing.h>
#include <xenpv/log.h>
#include <xenpv/supervisor.h>

#include "helper.h"
#include "messages.h"
#include "ublk_abi.h"

/*
 * The supervisor's half of ublk. The kernel keeps the device, and with recovery also every request
 * a worker had taken and not answered: a dead worker, or a dead supervisor, costs the users of the
 * device a pause.
 *
 * Control commands go through one io_uring for all disks and never block us: those that take long
 * (stopping a device waits for its I/O) are carried out by the kernel's own threads.
 */

#define CONTROL_NAME	"ublk-control"
#define CONTROL_DEPTH	64
#define CONTROL_THREADS 1024
#define MARK		UINT64_C(0x78656e70) /* "xenp", above the vdev in server_flags */

#define BUSY_WARN_MS 5000
#define OPEN_MAX_MS  10000

/* What we are waiting for. A command or a child is under way where it says so: what is asked for
 * meanwhile is done when that has ended. */
enum step {
	ABSENT,	    /* there is no device */
	ADDING,	    /* ADD_DEV, SET_PARAMS */
	OPENING,    /* nothing under way: the character device cannot be opened yet */
	FETCHING,   /* nothing under way: the worker, to take requests */
	STARTING,   /* START_DEV or END_RECOVERY */
	LIVE,	    /* nothing under way: the worker serves, or the device waits for the next */
	SWEEPING,   /* a child, see sweep() */
	RECOVERING, /* START_RECOVERY */
	STOPPING,   /* STOP_DEV, DEL_DEV */
};

struct operation;

struct attachment {
	struct attach_params p;
	struct blk_geometry geometry;
	struct ublk_dev_info info;
	struct ublk_params params;
	struct xpv_worker *worker; /* to be served; NULL: gone */
	enum step step;
	bool started;  /* the device has been live: from now on workers recover it */
	bool unswept;  /* a recovery has begun, and not all requests have been taken since */
	bool lost;     /* the worker died while STARTING */
	bool removing; /* asked for while something else was under way */
	bool closed;   /* as soon as nothing is under way, free */
	unsigned pending;
	unsigned waited_ms;
	struct operation *starting;
	struct event *retry;
	struct event *child_ended;
	pid_t child;
	char node[32];
};

struct operation {
	struct attachment *a; /* NULL: nobody cares */
	void (*done)(struct attachment *a, int result);
};

static struct {
	struct io_uring ring;
	struct event *readable;
	int fd;
	uint64_t features;
} control = {.fd = -1};

static void proceed(struct attachment *a);
static void open_device(struct attachment *a);

/* ---- device nodes ---- */

/* In a system whose /dev is static nobody makes the nodes: then we do, as sysfs says. */
static void
make_node(const char *class, const char *name, mode_t type)
{
	unsigned major, minor;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/%s/%s/dev", class, name);
	f = fopen(path, "re");
	if (f == NULL)
		return;
	snprintf(path, sizeof(path), "/dev/%s", name);
	if (fscanf(f, "%u:%u", &major, &minor) == 2)
		(void)!mknod(path, type | 0600, makedev(major, minor)); /* it may be there */
	fclose(f);
}

static int
open_node(const char *class, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 || errno != ENOENT)
		return fd;
	make_node(class, name, S_IFCHR);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* ---- control commands ---- */

static void
fill_command(struct io_uring_sqe *sqe, uint32_t operation, const struct ublk_ctrl_cmd *cmd)
{
	/* io_uring_get_sqe() of this liburing clears the first half of a 128-byte entry only. */
	memset(sqe, 0, 128);
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = control.fd;
	sqe->cmd_op = operation;
	memcpy(sqe->cmd, cmd, sizeof(*cmd));
}

/* Runs a command that returns at once. */
static int
command_now(uint32_t operation, uint32_t dev_id, void *buffer, uint16_t len)
{
	struct ublk_ctrl_cmd cmd = {
	    .dev_id = dev_id, .queue_id = UINT16_MAX, .addr = (uintptr_t)buffer, .len = len};
	struct io_uring_params params = {.flags = IORING_SETUP_SQE128};
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int result = io_uring_queue_init_params(1, &ring, &params);

	if (result != 0)
		return result;
	sqe = io_uring_get_sqe(&ring);
	if (sqe != NULL)
		fill_command(sqe, operation, &cmd);
	result = io_uring_submit_and_wait(&ring, 1);
	if (result >= 0)
		result = io_uring_wait_cqe(&ring, &cqe);
	if (result == 0)
		result = cqe->res;
	io_uring_queue_exit(&ring);
	return result;
}

static struct operation *
command(struct attachment *a, uint32_t operation, void *buffer, uint16_t len, uint64_t data,
    void (*done)(struct attachment *a, int result))
{
	struct ublk_ctrl_cmd cmd = {.dev_id = a->info.dev_id,
	    .queue_id = UINT16_MAX,
	    .addr = (uintptr_t)buffer,
	    .len = len,
	    .data = data};
	struct operation *op = calloc(1, sizeof(*op));
	struct io_uring_sqe *sqe = op != NULL ? io_uring_get_sqe(&control.ring) : NULL;

	if (sqe == NULL) {
		free(op);
		xpv_err("%s: no memory for a ublk command", a->p.name);
		if (done != NULL)
			done(a, -ENOMEM);
		return NULL;
	}
	op->a = done != NULL ? a : NULL;
	op->done = done;
	fill_command(sqe, operation, &cmd);
	io_uring_sqe_set_data(sqe, op);
	if (done != NULL)
		a->pending++;
	io_uring_submit(&control.ring);
	return op;
}

/* Interrupts a command that waits; it ends with -EINTR or -ECANCELED, or has just ended. */
static void
cancel(struct operation *running)
{
	struct operation *op = calloc(1, sizeof(*op));
	struct io_uring_sqe *sqe = op != NULL ? io_uring_get_sqe(&control.ring) : NULL;

	if (sqe == NULL) {
		free(op);
		return;
	}
	memset(sqe, 0, 128);
	io_uring_prep_cancel(sqe, running, 0);
	io_uring_sqe_set_data(sqe, op);
	io_uring_submit(&control.ring);
}

static void
ublk_free(struct attachment *a)
{
	if (a->retry != NULL)
		event_free(a->retry);
	if (a->child_ended != NULL)
		event_free(a->child_ended);
	free(a);
}

static void
finish_close(struct attachment *a)
{
	if (a->closed && a->pending == 0)
		ublk_free(a);
}

static void
on_control_readable(evutil_socket_t fd, short events, void *arg)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&control.ring, &cqe) == 0) {
		struct operation op = *(struct operation *)io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		free(io_uring_cqe_get_data(cqe));
		io_uring_cqe_seen(&control.ring, cqe);
		if (op.a == NULL)
			continue;
		op.a->pending--;
		if (op.a->closed)
			finish_close(op.a);
		else
			op.done(op.a, result);
	}
}

static bool
control_open(struct event_base *base)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SQE128};

	if (control.readable != NULL)
		return true;
	if (io_uring_queue_init_params(CONTROL_DEPTH, &control.ring, &params) != 0)
		return false;
	/* The kernel runs with our rights what is in the ring: no worker may write there. */
	if (io_uring_ring_dontfork(&control.ring) != 0) {
		io_uring_queue_exit(&control.ring);
		return false;
	}
	/* A command that waits keeps one of the kernel's threads: none may wait for another disk's.
	 */
	io_uring_register_iowq_max_workers(&control.ring, (unsigned[2]){CONTROL_THREADS, 0});
	control.readable =
	    event_new(base, control.ring.ring_fd, EV_READ | EV_PERSIST, on_control_readable, NULL);
	return control.readable != NULL && event_add(control.readable, NULL) == 0;
}

static bool
ublk_usable(char *why, size_t size)
{
	int result;

	control.fd = open_node("misc", CONTROL_NAME);
	if (control.fd < 0 && errno == ENOENT) {
		blk_run_helper((const char *const[]){"modprobe", "-q", "ublk_drv", NULL});
		control.fd = open_node("misc", CONTROL_NAME);
	}
	if (control.fd < 0) {
		snprintf(why, size, "/dev/%s: %s%s", CONTROL_NAME, strerror(errno),
		    errno == ENOENT ? ": modprobe ublk_drv (a kernel with CONFIG_BLK_DEV_UBLK)"
		    : errno == EACCES || errno == EPERM ? ": must run as root"
							: "");
		return false;
	}
	result = command_now(UBLK_GET_FEATURES, UINT32_MAX, &control.features, 8);
	if (result == 0 && (control.features & UBLK_F_USER_COPY) != 0)
		return true;
	if (result == -ENOSYS || result == -EPERM)
		snprintf(why, size, "io_uring is switched off: sysctl kernel.io_uring_disabled=0");
	else
		snprintf(why, size, "this kernel's ublk is too old: Linux 6.5 or newer is needed");
	close(control.fd);
	control.fd = -1;
	return false;
}

/*
 * What Linux learned about the death of servers came bit by bit until 6.15. Before, a server that
 * is killed while the kernel hands it a request may take the kernel along ("race between
 * io_uring_cmd_complete_in_task and ublk_cancel_cmd"): seen in 6.12 about once in thirty kills
 * under load. No feature flag tells; the next one to come, with 6.16, does for all.
 */
static bool
ublk_sound(char *why, size_t size)
{
	if ((control.features & UBLK_F_UPDATE_SIZE) != 0)
		return true;
	snprintf(why, size,
	    "this kernel's ublk_drv may crash when a worker is killed under load (fixed in Linux "
	    "6.15)");
	return false;
}

/* ---- a device that an earlier supervisor left ---- */

static uint64_t
mark_of(uint32_t vdev)
{
	return MARK << 32 | vdev;
}

static void
forget(struct attachment *a)
{
	a->step = ABSENT;
	a->started = false;
	a->unswept = false;
	a->lost = false;
	a->node[0] = '\0';
	memset(&a->info, 0, sizeof(a->info));
}

static void
name_node(struct attachment *a)
{
	snprintf(a->node, sizeof(a->node), "/dev/ublkb%u", a->info.dev_id);
}

static bool
adopt(struct attachment *a, uint32_t dev_id)
{
	if (command_now(UBLK_GET_DEV_INFO, dev_id, &a->info, sizeof(a->info)) != 0 ||
	    a->info.server_flags != mark_of(a->p.vdev))
		return false;
	if (a->info.state == UBLK_DEAD) {
		/* Never started: of no use to anybody. */
		command(a, UBLK_DEL_DEV_ASYNC, NULL, 0, 0, NULL);
		return false;
	}
	a->params.len = sizeof(a->params);
	if (command_now(UBLK_GET_PARAMS, dev_id, &a->params, sizeof(a->params)) != 0)
		return false;
	a->step = LIVE;
	a->started = true;
	a->unswept = true; /* what its last worker was doing nobody knows */
	name_node(a);
	xpv_info("%s: %s is here from an earlier xen-blkfrontd", a->p.name, a->node);
	return true;
}

static void
find_left_over(struct attachment *a)
{
	DIR *dir = opendir("/sys/class/ublk-char");
	struct dirent *entry;
	unsigned dev_id;

	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL) {
		if (sscanf(entry->d_name, "ublkc%u", &dev_id) == 1 && adopt(a, dev_id))
			break;
	}
	closedir(dir);
	if (a->step == ABSENT)
		forget(a);
}

/* ---- steps ---- */

static void
retry_later(struct attachment *a)
{
	unsigned ms = a->waited_ms / 8 < 20 ? 20 : a->waited_ms / 8 > 250 ? 250 : a->waited_ms / 8;

	if (a->waited_ms < BUSY_WARN_MS && a->waited_ms + ms >= BUSY_WARN_MS)
		xpv_warning(
		    "%s: still waiting for the last worker to let go of %s", a->p.name, a->node);
	a->waited_ms += ms;
	event_add(a->retry, &(struct timeval){.tv_usec = (suseconds_t)ms * 1000});
}

static void
on_retry(evutil_socket_t fd, short events, void *arg)
{
	struct attachment *a = arg;

	if (a->step == OPENING)
		open_device(a);
	else
		proceed(a);
}

/* The device, if there is one, stays as it is until it is removed. */
static void
failed(struct attachment *a, const char *what, int result)
{
	char why[128];

	snprintf(why, sizeof(why), "ublk: %s: %s", what, strerror(-result));
	a->p.events->failed(a->p.arg, why);
}

static void
on_deleted(struct attachment *a, int result)
{
	/* Older kernels have only the one that waits until the last user has closed it. */
	if (result != 0 && result != -ENODEV)
		command(a, UBLK_DEL_DEV, NULL, 0, 0, NULL);
	forget(a);
	if (a->removing) {
		a->removing = false;
		a->p.events->removed(a->p.arg);
	} else {
		proceed(a);
	}
}

static void
on_stopped(struct attachment *a, int result)
{
	if (result != 0 && result != -ENODEV)
		xpv_warning("%s: ublk: cannot stop %s: %s", a->p.name, a->node, strerror(-result));
	/* Goes when its last user has closed it; the worker is one of them. */
	command(a, UBLK_DEL_DEV_ASYNC, NULL, 0, 0, on_deleted);
}

static void
stop(struct attachment *a)
{
	event_del(a->retry);
	a->step = STOPPING;
	command(a, UBLK_STOP_DEV, NULL, 0, 0, on_stopped);
}

/* Between two steps of a device that was never live: it goes if it is to be removed, or if the
 * worker is gone; the next one gets a new device. */
static bool
diverted(struct attachment *a)
{
	if (!a->removing && a->worker != NULL)
		return false;
	stop(a);
	return true;
}

static void
on_resized(struct attachment *a, int result)
{
	if (result == 0)
		return;
	xpv_warning("%s: ublk: cannot resize %s: %s", a->p.name, a->node, strerror(-result));
	a->params.basic.dev_sectors = 0; /* not known: the next recovery tries again */
}

static void
resize_now(struct attachment *a)
{
	if (a->params.basic.dev_sectors == a->geometry.sectors)
		return;
	a->params.basic.dev_sectors = a->geometry.sectors;
	command(a, UBLK_UPDATE_SIZE, NULL, 0, a->geometry.sectors, on_resized);
}

/*
 * The kernel leaves the partition table alone for a server without privileges. And it shall ask us
 * for late requests every second instead of every 30: if all tags are in use when the worker dies,
 * Linux 6.12 notices only then. Both may wait for I/O, hence not here.
 */
static void
settle_device(const struct attachment *a)
{
	const char *name = a->node + strlen("/dev/");

	make_node("block", name, S_IFBLK);
	blk_start_helper((const char *const[]){"sh", "-c",
	    "echo 1000 >/sys/class/block/$0/queue/io_timeout; exec partx --add /dev/$0", name,
	    NULL});
}

static void
on_started(struct attachment *a, int result)
{
	bool first = !a->started, lost = a->lost;

	a->starting = NULL;
	a->lost = false;
	/* A device that was started for a worker that was dead already is of no use: Linux 6.12
	 * sends its requests nowhere. No user knows of it yet. */
	if (a->removing || (first && lost)) {
		stop(a);
		return;
	}
	a->step = LIVE;
	if (result == 0) {
		a->started = true;
		a->unswept = false;
		if (first)
			settle_device(a);
	}
	if (lost) {
		proceed(a);
	} else if (result != 0) {
		failed(a, first ? "cannot start the device" : "cannot resume the device", result);
	} else {
		if ((a->info.flags & UBLK_F_UPDATE_SIZE) != 0)
			resize_now(a);
		a->p.events->ready(a->p.arg, a->node);
	}
}

/* True if "fd" is the open character device. Else it is tried again later, or has failed. */
static bool
opened(struct attachment *a, int fd, enum step meanwhile)
{
	char name[32];

	a->step = meanwhile;
	if (fd >= 0)
		return true;
	/* udev may be slow, or the last worker has it still. */
	if (errno == EBUSY || (errno == ENOENT && a->waited_ms < OPEN_MAX_MS)) {
		retry_later(a);
		return false;
	}
	snprintf(name, sizeof(name), "/dev/ublkc%u", a->info.dev_id);
	a->step = LIVE;
	failed(a, name, -errno);
	return false;
}

static int
open_character_device(const struct attachment *a)
{
	char name[32];

	snprintf(name, sizeof(name), "ublkc%u", a->info.dev_id);
	return open_node("ublk-char", name);
}

static void
open_device(struct attachment *a)
{
	struct blk_msg_attach message = {
	    .host_queues = a->info.nr_hw_queues,
	    .depth = a->info.queue_depth,
	    .max_io_bytes = a->info.max_io_buf_bytes,
	    .dev_id = a->info.dev_id,
	    .sectors = a->geometry.sectors,
	    .nfds = 1,
	};
	int fd = open_character_device(a);

	if (!opened(a, fd, OPENING))
		return;
	a->step = FETCHING;
	/* A worker that does not take them is dead or dying: gone() follows. */
	if (xpv_worker_send(a->worker, BLK_MSG_ATTACH, &message, sizeof(message), -1) == 0)
		xpv_worker_send(a->worker, BLK_MSG_FD, NULL, 0, fd);
	/* The worker alone holds it, so that its death is noticed. */
	close(fd);
}

static void
on_params(struct attachment *a, int result)
{
	if (diverted(a))
		return;
	if (result != 0) {
		a->step = LIVE;
		failed(a, "cannot set the device's size and limits", result);
		return;
	}
	a->waited_ms = 0;
	open_device(a);
}

static uint8_t
shift_of(uint32_t size)
{
	return (uint8_t)__builtin_ctz(size);
}

static void
fill_params(struct attachment *a)
{
	const struct blk_geometry *g = &a->geometry;
	uint8_t physical = shift_of(g->physical_sector_size);

	a->params = (struct ublk_params){
	    .len = sizeof(a->params),
	    .types = UBLK_PARAM_BASIC,
	    .basic =
		{
		    .attrs = UBLK_ATTR_VOLATILE_CACHE | (g->read_only ? UBLK_ATTR_READ_ONLY : 0),
		    .logical_bs_shift = shift_of(g->sector_size),
		    .physical_bs_shift = physical,
		    .io_opt_shift = physical,
		    .io_min_shift = physical,
		    .max_sectors = a->info.max_io_buf_bytes >> BLK_SECTOR_SHIFT,
		    .dev_sectors = g->sectors,
		},
	};
	if (g->discard_granularity > 0) {
		a->params.types |= UBLK_PARAM_DISCARD;
		a->params.discard.granularity = g->discard_granularity;
		a->params.discard.alignment = g->discard_alignment;
		a->params.discard.max_sectors = UINT32_MAX >> BLK_SECTOR_SHIFT;
		a->params.discard.max_segments = 1;
	}
}

/* The number that the disk has among its kind, so that the device's does not depend on the order in
 * which disks come. */
static uint32_t
preferred_id(uint32_t vdev)
{
	return (vdev & (1u << 28)) != 0 ? (vdev & ~(1u << 28)) >> 8 : (vdev & 0xff) >> 4;
}

static void on_added(struct attachment *a, int result);

static void
add_device(struct attachment *a, uint32_t dev_id)
{
	a->step = ADDING;
	a->info = (struct ublk_dev_info){
	    .nr_hw_queues = a->geometry.queues,
	    .queue_depth = a->geometry.depth,
	    .max_io_buf_bytes = a->geometry.max_io_bytes,
	    .dev_id = dev_id,
	    .server_pid = getpid(),
	    .flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_USER_COPY |
		     UBLK_F_CMD_IOCTL_ENCODE | (control.features & UBLK_F_UPDATE_SIZE),
	    .server_flags = mark_of(a->p.vdev),
	};
	command(a, UBLK_ADD_DEV, &a->info, sizeof(a->info), 0, on_added);
}

static void
on_added(struct attachment *a, int result)
{
	if (result == -EEXIST && a->info.dev_id != UINT32_MAX) {
		add_device(a, UINT32_MAX); /* the kernel picks the next free */
		return;
	}
	if (result != 0) {
		forget(a);
		if (a->removing) {
			a->removing = false;
			a->p.events->removed(a->p.arg);
		} else if (a->worker != NULL) {
			failed(a, "cannot add a device", result);
		}
		return;
	}
	name_node(a);
	if (diverted(a))
		return;
	fill_params(a);
	command(a, UBLK_SET_PARAMS, &a->params, sizeof(a->params), 0, on_params);
}

/* The device's properties that cannot change while it exists are as the backend has them now? */
static bool
still_fits(struct attachment *a)
{
	const struct blk_geometry *g = &a->geometry;
	bool read_only = a->params.basic.attrs & UBLK_ATTR_READ_ONLY;

	if (a->params.basic.logical_bs_shift != shift_of(g->sector_size) ||
	    read_only != g->read_only) {
		a->p.events->failed(a->p.arg,
		    "the disk came back read-only or writable or with another sector size than "
		    "before: detach it and attach it again");
		return false;
	}
	if ((a->info.flags & UBLK_F_UPDATE_SIZE) != 0)
		resize_now(a);
	else if (a->params.basic.dev_sectors != g->sectors)
		xpv_warning(
		    "%s: came back with another size: %s shows it when it has been detached and "
		    "attached again",
		    a->p.name, a->node);
	return true;
}

static void
on_recovering(struct attachment *a, int result)
{
	a->step = LIVE;
	if (result == 0)
		a->unswept = true;
	if (a->removing) {
		stop(a);
	} else if (a->worker == NULL) {
		return; /* the next one comes here again */
	} else if (result == -EBUSY) {
		retry_later(a);
	} else if (result != 0) {
		failed(a, "cannot recover the device", result);
	} else if (still_fits(a)) {
		a->waited_ms = 0;
		open_device(a);
	}
}

/* In a child. The queues that are taken already refuse, which is as good. */
static void __attribute__((noreturn)) take_and_die(int fd, const struct ublk_dev_info *info)
{
	struct io_uring ring;

	if (io_uring_queue_init(info->queue_depth, &ring, 0) != 0)
		_exit(EXIT_FAILURE);
	for (uint16_t queue = 0; queue < info->nr_hw_queues; queue++) {
		for (uint16_t tag = 0; tag < info->queue_depth; tag++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

			if (sqe == NULL)
				_exit(EXIT_FAILURE);
			ublk_fill_io_command(sqe, fd, UBLK_IO_FETCH, queue, tag, 0);
		}
		if (io_uring_submit(&ring) != info->queue_depth)
			_exit(EXIT_FAILURE);
		io_uring_cq_advance(&ring, io_uring_cq_ready(&ring));
	}
	_exit(EXIT_SUCCESS);
}

static void
on_child_ended(evutil_socket_t number, short events, void *arg)
{
	struct attachment *a = arg;
	int status = -1;

	if (waitpid(a->child, &status, WNOHANG) == 0)
		return;
	event_del(a->child_ended);
	a->step = LIVE;
	if (status == 0)
		a->unswept = false;
	if (a->removing)
		stop(a);
	else if (a->worker != NULL && status == 0)
		proceed(a);
	else if (a->worker != NULL)
		retry_later(a);
}

/*
 * A worker died after START_RECOVERY and before it had taken the requests of all queues. Linux 6.12
 * then refuses START_RECOVERY if no queue was taken, and oopses if some were. So a child takes
 * those that are left and dies. Newer kernels forget what was taken when the character device is
 * closed.
 */
static void
sweep(struct attachment *a)
{
	int fd = open_character_device(a);
	sigset_t all, before;

	if (!opened(a, fd, LIVE))
		return;
	a->step = SWEEPING;
	event_add(a->child_ended, NULL);
	sigfillset(&all); /* libevent's handlers would tell the child's signals to us */
	sigprocmask(SIG_SETMASK, &all, &before);
	a->child = fork();
	if (a->child == 0)
		take_and_die(fd, &a->info);
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(fd);
	if (a->child < 0) {
		event_del(a->child_ended);
		a->step = LIVE;
		retry_later(a);
	}
}

/* Goes on towards a live device for the worker there is. */
static void
proceed(struct attachment *a)
{
	if (a->worker == NULL)
		return;
	switch (a->step) {
	case ABSENT:
		add_device(a, preferred_id(a->p.vdev));
		break;
	case LIVE:
		if (!a->started) {
			stop(a);
		} else if (a->unswept && !ublk_sound(NULL, 0)) {
			sweep(a);
		} else {
			a->step = RECOVERING;
			command(a, UBLK_START_RECOVERY, NULL, 0, 0, on_recovering);
		}
		break;
	default:
		break; /* what is under way comes back to here */
	}
}

/* ---- the attachment's operations ---- */

static struct attachment *
ublk_open(const struct attach_params *params)
{
	struct attachment *a = calloc(1, sizeof(*a));

	if (a == NULL || !control_open(params->base)) {
		free(a);
		xpv_err("%s: ublk: no memory", params->name);
		return NULL;
	}
	a->p = *params;
	a->retry = evtimer_new(params->base, on_retry, a);
	a->child_ended = evsignal_new(params->base, SIGCHLD, on_child_ended, a);
	if (a->retry == NULL || a->child_ended == NULL) {
		ublk_free(a);
		return NULL;
	}
	find_left_over(a);
	return a;
}

static bool
ublk_existing(const struct attachment *a, unsigned *queues, unsigned *depth, unsigned *max_io_bytes)
{
	*queues = a->info.nr_hw_queues;
	*depth = a->info.queue_depth;
	*max_io_bytes = a->info.max_io_buf_bytes;
	return a->started;
}

static void
ublk_serve(struct attachment *a, const struct blk_geometry *g, struct xpv_worker *w)
{
	a->geometry = *g;
	a->worker = w;
	a->waited_ms = 0;
	if (!a->removing)
		proceed(a);
}

/* Has it ended, though nobody may have been told yet? */
static bool
has_ended(pid_t worker)
{
	siginfo_t info = {0};

	return worker <= 0 ||
	       waitid(P_PID, (id_t)worker, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
	       info.si_pid != 0;
}

static void
ublk_serving(struct attachment *a, pid_t worker)
{
	/* Linux 6.12 would make the device live for a dead worker, and never notice: gone()
	 * follows. */
	if (a->step != FETCHING || has_ended(worker))
		return;
	a->step = STARTING;
	/* The server is, to newer kernels, who opened the character device: that was us. */
	a->starting = command(a, a->started ? UBLK_END_RECOVERY : UBLK_START_DEV, NULL, 0,
	    (uint64_t)getpid(), on_started);
}

/* START_DEV and END_RECOVERY wait until all requests are taken. */
static void
stop_waiting(struct attachment *a)
{
	if (a->starting != NULL)
		cancel(a->starting);
}

static void
ublk_gone(struct attachment *a)
{
	a->worker = NULL;
	event_del(a->retry);
	switch (a->step) {
	case OPENING:
	case FETCHING:
		a->step = LIVE;
		if (!a->started)
			stop(a); /* half-fetched: the kernel starts no such device */
		break;
	case STARTING:
		a->lost = true;
		stop_waiting(a);
		break;
	default:
		break;
	}
}

static int
ublk_resize(struct attachment *a, uint64_t sectors, char *why, size_t size)
{
	if ((a->info.flags & UBLK_F_UPDATE_SIZE) == 0) {
		snprintf(why, size,
		    "this kernel's ublk cannot resize a device that exists (Linux 6.16 can): "
		    "detach and attach the disk, or use --attach nbd");
		return -1;
	}
	a->geometry.sectors = sectors;
	/* Else as soon as it is live: a device without a disk has no size to change. */
	if (a->step == LIVE && a->started)
		resize_now(a);
	return 0;
}

static const char *
ublk_node(const struct attachment *a)
{
	return a->started ? a->node : NULL;
}

static void
on_nothing_to_remove(struct attachment *a, int result)
{
	a->removing = false;
	a->p.events->removed(a->p.arg);
}

static void
ublk_remove(struct attachment *a)
{
	a->removing = true;
	event_del(a->retry);
	switch (a->step) {
	case ABSENT:
		/* By way of the loop, as every callback. */
		command(a, UBLK_GET_FEATURES, &control.features, 8, 0, on_nothing_to_remove);
		break;
	case LIVE:
	case OPENING:
	case FETCHING:
		stop(a);
		break;
	case STARTING:
		stop_waiting(a);
		break;
	default:
		break; /* what is under way sees it */
	}
}

static void
ublk_close(struct attachment *a)
{
	a->closed = true;
	a->worker = NULL;
	event_del(a->retry);
	event_del(a->child_ended);
	finish_close(a);
}

const struct attach_ops attach_ublk = {
    .name = "ublk",
    .usable = ublk_usable,
    .sound = ublk_sound,
    .open = ublk_open,
    .existing = ublk_existing,
    .serve = ublk_serve,
    .serving = ublk_serving,
    .gone = ublk_gone,
    .resize = ublk_resize,
    .node = ublk_node,
    .remove = ublk_remove,
    .close = ublk_close,
    .io = &io_ublk,
};
