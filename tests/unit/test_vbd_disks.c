/* SPDX-License-Identifier: BSD-2-Clause */
/* xen-blkbackd's disks, with a store in memory, and workers that do as the test says. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "device.h"
#include "disks.h"
#include "fake_store.h"
#include "held.h"
#include "messages.h"
#include "settings.h"
#include "xenpv/log.h"
#include "xenpv/store.h"
#include "xenpv/supervisor.h"
#include "xenpv/xenbus.h"

#define DIR	"backend/vbd/3/51712"
#define FRONT	"/local/domain/3/device/vbd/51712"
#define ERROR	"error/" DIR "/error"
#define JOURNAL "/blkback/vbd-3-51712.journal"

static struct event_base *base;
static struct xpv_store *store;
static struct disks *disks;
static struct vbd_config config;
static char rundir[64];

/* ---- what is logged ---- */

static unsigned complaints; /* errors */

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	complaints += level == XPV_LOG_ERR;
}

/* ---- time, in which no two things happen at once ---- */

uint64_t __wrap_xpv_now_ns(void);

uint64_t
__wrap_xpv_now_ns(void)
{
	static uint64_t now;

	return now += UINT64_C(2000000000);
}

/* ---- the kernel's driver ---- */

static bool kernel_loaded, kernel_bound;
static unsigned kernel_asked, kernel_binds_after, releases;

bool __wrap_xpv_kernel_backend(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size);
bool __wrap_xpv_kernel_backend_loaded(const char *dev_class);
int __wrap_xpv_kernel_backend_release(const char *bus_id);

bool
__wrap_xpv_kernel_backend(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size)
{
	assert_string_equal(bus_id, "vbd-3-51712");
	if (kernel_binds_after > 0 && ++kernel_asked == kernel_binds_after)
		kernel_bound = true;
	snprintf(driver, driver_size, "vbd");
	snprintf(release, release_size, "as ever");
	return kernel_bound;
}

bool
__wrap_xpv_kernel_backend_loaded(const char *dev_class)
{
	assert_string_equal(dev_class, "vbd");
	return kernel_loaded;
}

int
__wrap_xpv_kernel_backend_release(const char *bus_id)
{
	assert_true(kernel_bound);
	kernel_bound = false;
	releases++;
	return 0;
}

/* ---- workers ---- */

struct xpv_worker {
	const struct xpv_worker_ops *ops;
	void *arg;
	bool running, stopping;
	unsigned starts;
	int kept;      /* the descriptor that it inherits */
	uint32_t sent; /* type of the last message; 0: none since one was looked for */
	struct vbd_connection connection;
	struct vbd_limits limits;
};

static struct xpv_worker *worker; /* there is but one disk */

struct xpv_worker *__wrap_xpv_worker_new(struct event_base *b, const char *name,
    const struct xpv_worker_ops *ops, const struct xpv_worker_policy *policy,
    struct xpv_shared *shared, void *arg);
int __wrap_xpv_worker_start(struct xpv_worker *w);
void __wrap_xpv_worker_stop(struct xpv_worker *w, unsigned grace_ms);
void __wrap_xpv_worker_free(struct xpv_worker *w);
pid_t __wrap_xpv_worker_pid(const struct xpv_worker *w);
unsigned __wrap_xpv_worker_restarts(const struct xpv_worker *w);
void __wrap_xpv_worker_keep_fd(struct xpv_worker *w, int fd);
void __wrap_xpv_worker_drop_fd(struct xpv_worker *w, int fd);
int __wrap_xpv_worker_send(
    struct xpv_worker *w, uint32_t type, const void *data, size_t length, int fd);

struct xpv_worker *
__wrap_xpv_worker_new(struct event_base *b, const char *name, const struct xpv_worker_ops *ops,
    const struct xpv_worker_policy *policy, struct xpv_shared *shared, void *arg)
{
	assert_null(worker);
	assert_string_equal(name, "3/xvda");
	worker = calloc(1, sizeof(*worker));
	worker->ops = ops;
	worker->kept = -1;
	worker->arg = arg;
	return worker;
}

int
__wrap_xpv_worker_start(struct xpv_worker *w)
{
	assert_false(w->running);
	assert_int_equal(w->ops->prepare(w->arg), 0);
	w->running = true;
	w->stopping = false;
	w->starts++;
	return 0;
}

void
__wrap_xpv_worker_stop(struct xpv_worker *w, unsigned grace_ms)
{
	assert_true(w->running);
	assert_in_range(grace_ms, 1, 9999); /* toolstacks wait for 10 s */
	w->stopping = true;
}

void
__wrap_xpv_worker_free(struct xpv_worker *w)
{
	if (w == NULL)
		return;
	assert_ptr_equal(w, worker);
	free(w);
	worker = NULL;
}

pid_t
__wrap_xpv_worker_pid(const struct xpv_worker *w)
{
	return w->running ? 4711 : 0;
}

unsigned
__wrap_xpv_worker_restarts(const struct xpv_worker *w)
{
	return 0;
}

void
__wrap_xpv_worker_keep_fd(struct xpv_worker *w, int fd)
{
	w->kept = fd;
}

void
__wrap_xpv_worker_drop_fd(struct xpv_worker *w, int fd)
{
	assert_int_equal(w->kept, fd);
	w->kept = -1;
}

int
__wrap_xpv_worker_send(struct xpv_worker *w, uint32_t type, const void *data, size_t length, int fd)
{
	assert_true(w->running);
	w->sent = type;
	if (type == VBD_MSG_CONNECT) {
		assert_int_equal(length, sizeof(w->connection));
		memcpy(&w->connection, data, length);
	} else if (type == VBD_MSG_LIMITS) {
		assert_int_equal(length, sizeof(w->limits));
		memcpy(&w->limits, data, length);
	} else {
		assert_int_equal(type, VBD_MSG_LOOK);
	}
	return 0;
}

static const struct vbd_device_args *args; /* of the last main() */

int
vbd_device_main(struct event_base *b, int channel, const struct vbd_device_args *a)
{
	args = a;
	return 0;
}

static void
settle(void)
{
	fake_store_settle(base);
}

static void
says(uint32_t type, const void *data, size_t length)
{
	assert_true(worker->running);
	worker->ops->message(type, data, length, -1, worker->arg);
	settle();
}

static struct vbd_image_info image;

static void
opens(void)
{
	worker->ops->main(base, -1, worker->arg);
	says(VBD_MSG_IMAGE, &image, sizeof(image));
}

static void
serves(void)
{
	says(VBD_MSG_CONNECTED, NULL, 0);
}

static void
exits(int code, bool crashed)
{
	assert_true(worker->running);
	worker->running = false;
	worker->ops->exited(code, crashed, false, "exit", worker->arg);
	settle();
}

/* And is followed by another one. */
static void
exits_again(int code, bool crashed)
{
	worker->ops->exited(code, crashed, true, "exit", worker->arg);
	worker->ops->prepare(worker->arg);
	worker->starts++;
	settle();
}

static void
expect_sent(uint32_t type)
{
	assert_int_equal(worker->sent, type);
	worker->sent = 0;
}

static void
expect_connect(bool live)
{
	expect_sent(VBD_MSG_CONNECT);
	assert_int_equal(worker->connection.live, live);
}

/* The worker is told to stop, and does. */
static void
stops(void)
{
	assert_true(worker->running);
	assert_true(worker->stopping);
	exits(XPV_EXIT_DONE, false);
}

/* ---- the scene ---- */

static void
set(const char *node, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), DIR "/%s", node);
	fake_store_set(path, value);
	settle();
}

static void
is(const char *node, const char *value)
{
	const char *there;
	char path[128];

	snprintf(path, sizeof(path), DIR "/%s", node);
	there = fake_store_get(path);
	assert_string_equal(there != NULL ? there : "(none)", value);
}

static void
front(const char *state)
{
	fake_store_set(FRONT "/state", state);
	settle();
}

static void
toolstack_makes(void)
{
	fake_store_set(FRONT "/state", "1");
	fake_store_set(DIR "/frontend-id", "3");
	fake_store_set(DIR "/online", "1");
	fake_store_set(DIR "/params", "/images/a");
	fake_store_set(DIR "/mode", "w");
	fake_store_set(DIR "/script", "/etc/xen/scripts/block-xenpv");
	fake_store_set(DIR "/state", "1");
	fake_store_set(DIR "/frontend", FRONT);
}

static void
front_publishes(void)
{
	fake_store_set(FRONT "/ring-ref", "8");
	fake_store_set(FRONT "/event-channel", "9");
}

static void
start(void)
{
	disks = disks_start(base, store, &config);
	assert_non_null(disks);
	settle();
}

static int
setup(void **state)
{
	char path[96];

	fake_store_reset();
	complaints = releases = kernel_asked = kernel_binds_after = 0;
	kernel_loaded = kernel_bound = false;
	base = event_base_new();
	store = xpv_store_open(base);
	strcpy(rundir, "/tmp/xenpv-test-XXXXXX");
	if (mkdtemp(rundir) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/blkback", rundir);
	mkdir(path, 0700);
	config = (struct vbd_config){
	    .classes = "vbd",
	    .rundir = rundir,
	    .queues = 2,
	    .persistent = true,
	    .burst_ms = 1000,
	};
	image = (struct vbd_image_info){.bytes = 1 << 20,
	    .sector_size = 512,
	    .physical_sector_size = 512,
	    .max_queues = VBD_MAX_QUEUES,
	    .flush = true};
	toolstack_makes();
	return store != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	char path[96];

	disks_free(disks);
	disks = NULL;
	assert_null(worker);
	assert_int_equal(fake_store_watches(), 0);
	xpv_store_close(store);
	event_base_free(base);
	snprintf(path, sizeof(path), "%s" JOURNAL, rundir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/blkback", rundir);
	rmdir(path);
	rmdir(rundir);
	fake_store_reset();
	return 0;
}

static void
start_offered(void)
{
	start();
	opens();
	is("state", "2");
}

static void
start_connected(void)
{
	start_offered();
	front_publishes();
	front("3");
	expect_connect(false);
	is("state", "2");
	serves();
	is("state", "4");
	front("4");
	worker->sent = 0;
}

/* ---- up ---- */

static void
a_disk_is_offered(void **state)
{
	start();
	assert_int_equal(worker->starts, 1);
	is("state", "1");
	is("hotplug-status", "(none)");
	opens();
	assert_string_equal(args->target, "/images/a");
	assert_string_equal(args->name, "3/xvda");
	assert_false(args->read_only);
	assert_int_equal(args->max_queues, 2);
	is("state", "2");
	is("hotplug-status", "connected");
	is("physical-device-path", "/images/a");
	is("multi-queue-max-queues", "2");
	assert_int_equal(worker->sent, 0);
}

static void
a_disk_is_connected(void **state)
{
	start_connected();
	assert_int_equal(worker->connection.domid, 3);
	assert_int_equal(worker->connection.queue[0].port, 9);
	assert_int_equal(worker->connection.queue[0].grefs[0], 8);
	is("sectors", "2048");
	is("info", "0");
	assert_int_equal(worker->starts, 1);
	assert_int_equal(complaints, 0);
}

/* xl block-attach to a running guest: it may be quicker than our worker. */
static void
a_frontend_may_be_early(void **state)
{
	start();
	front_publishes();
	front("3");
	is("state", "1");
	opens();
	is("state", "2");
	is("hotplug-status", "connected");
	expect_connect(false);
	serves();
	is("state", "4");
}

static void
others_disks_are_left_alone(void **state)
{
	fake_store_set(DIR "/script", "/etc/xen/scripts/block");
	start();
	assert_null(worker);
	set("script", "block-xenpv"); /* written late */
	assert_non_null(worker);
	assert_true(worker->running);
}

static void
all_disks_are_taken(void **state)
{
	fake_store_remove(DIR "/script");
	config.take = VBD_TAKE_ALL;
	start();
	assert_true(worker->running);
}

static void
nodes_may_come_one_by_one(void **state)
{
	fake_store_remove("backend");
	start();
	assert_null(worker);
	fake_store_set(DIR "/frontend", FRONT);
	settle();
	toolstack_makes();
	settle();
	assert_true(worker->running);
	opens();
	is("state", "2");
}

static void
front_publishes_two_queues(void)
{
	fake_store_set(FRONT "/multi-queue-num-queues", "2");
	for (unsigned i = 0; i < 2; i++) {
		char path[96];

		snprintf(path, sizeof(path), FRONT "/queue-%u/ring-ref", i);
		fake_store_set(path, "8");
		snprintf(path, sizeof(path), FRONT "/queue-%u/event-channel", i);
		fake_store_set(path, "9");
	}
}

static void
more_rings_than_offered(void **state)
{
	config.queues = 1;
	start_offered();
	assert_int_equal(args->max_queues, 1);
	front_publishes_two_queues();
	front("3");
	assert_int_equal(worker->sent, 0);
	stops();
	opens();
	assert_int_equal(args->max_queues, 2);
	expect_connect(false);
	serves();
	is("state", "4");
}

/* ---- down and up again ---- */

static void
a_frontend_closes_and_comes_again(void **state)
{
	start_connected();
	front("5");
	is("state", "4"); /* it may still wait for what it has asked */
	stops();
	is("state", "5");
	front("6");
	is("state", "6");
	assert_int_equal(worker->starts, 1);
	front("1");
	assert_int_equal(worker->starts, 2);
	is("state", "6");
	opens();
	is("state", "2");
	fake_store_set(FRONT "/ring-ref", "18");
	front("3");
	expect_connect(false);
	assert_int_equal(worker->connection.queue[0].grefs[0], 18);
	serves();
	is("state", "4");
}

static void
a_frontend_is_too_quick_for_us(void **state)
{
	start_connected();
	fake_store_set(FRONT "/state", "5");
	fake_store_set(FRONT "/state", "6");
	front("1");
	is("state", "4");
	stops();
	assert_int_equal(worker->starts, 2); /* Closed, and then at once the offer */
	opens();
	is("state", "2");
}

static unsigned writes;

static void
count_write(struct xpv_watch *w, const char *changed, void *arg)
{
	writes++;
}

static struct xpv_watch *
watch_writes(const char *path)
{
	struct xpv_watch *w = xpv_store_watch(store, count_write, NULL, "%s", path);

	settle();
	writes = 0;
	return w;
}

static void
new_rings_without_closing(void **state)
{
	struct xpv_watch *w;

	start_connected();
	fake_store_set(FRONT "/ring-ref", "18");
	front("3");
	stops();
	opens();
	expect_connect(false);
	assert_int_equal(worker->connection.queue[0].grefs[0], 18);
	w = watch_writes(DIR "/state");
	serves();
	is("state", "4");
	assert_int_equal(writes, 1); /* again: the frontend waits for it */
	xpv_store_unwatch(w);
}

static void
a_frontend_leaves_before_it_is_connected(void **state)
{
	start_offered();
	front_publishes();
	front("3");
	expect_connect(false);
	front("1");
	stops();
	opens();
	is("state", "2");
	assert_int_equal(worker->sent, 0);
	front("6");
	stops();
	is("state", "6");
}

/* ---- the toolstack detaches ---- */

static void
detach_connected(void **state)
{
	start_connected();
	fake_store_set(DIR "/online", "0");
	set("state", "5");
	assert_false(worker->stopping); /* the frontend still writes what it has */
	front("5");
	stops();
	is("state", "5");
	front("6");
	is("state", "6");
	front("1");
	assert_false(worker->running);
	is("state", "6");
}

static void
detach_unconnected(void **state)
{
	start_offered();
	fake_store_set(DIR "/online", "0");
	set("state", "5");
	stops();
	is("state", "6");
}

static void
the_guest_dies(void **state)
{
	start_connected();
	fake_store_remove("/local/domain/3");
	settle();
	is("state", "4");
	stops();
	is("state", "6");
	assert_false(worker->running);
	/* libxl's way */
	set("online", "0");
	fake_store_remove("backend/vbd/3");
	settle();
	assert_null(worker);
}

static void
a_directory_goes(void **state)
{
	char path[96];
	FILE *file;

	start_connected();
	snprintf(path, sizeof(path), "%s" JOURNAL, rundir);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	fake_store_remove(DIR);
	settle();
	stops();
	assert_null(worker);
	assert_int_equal(access(path, F_OK), -1);
	assert_null(fake_store_get(DIR));
}

static void
a_directory_goes_and_comes(void **state)
{
	start_connected();
	fake_store_remove(DIR);
	settle();
	toolstack_makes();
	settle();
	stops();
	opens();
	is("state", "2");
	assert_int_equal(worker->sent, 0);
}

static void
a_directory_goes_while_a_worker_opens(void **state)
{
	start();
	fake_store_remove(DIR);
	worker->ops->message(VBD_MSG_IMAGE, &image, sizeof(image), -1, worker->arg);
	settle();
	stops();
	assert_null(worker);
	assert_null(fake_store_get(DIR)); /* not even a node of it */
	assert_int_equal(complaints, 0);
}

/* ---- workers end ---- */

static void
a_worker_crashes_while_connected(void **state)
{
	struct xpv_watch *w;

	start_connected();
	w = watch_writes(DIR);
	/* The frontend cannot change its mind about rings in use. */
	fake_store_set(FRONT "/ring-ref", "666");
	exits_again(XPV_EXIT_DONE, true);
	opens();
	expect_connect(true);
	assert_int_equal(worker->connection.queue[0].grefs[0], 8);
	serves();
	exits_again(XPV_EXIT_AGAIN, false);
	opens();
	expect_connect(true);
	serves();
	assert_int_equal(writes, 0); /* nothing of it is in xenstore */
	xpv_store_unwatch(w);
}

static void
a_worker_is_ended_by_hand(void **state)
{
	start_connected();
	exits(XPV_EXIT_DONE, false);
	assert_true(worker->running);
	opens();
	expect_connect(true);
}

/* Its connection to a server is held; the next worker inherits it, and waits for its end. */
static void
a_worker_with_a_connection_is_killed(void **state)
{
	int pair[2];
	char c;

	start();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	worker->ops->message(VBD_MSG_SOCKET, NULL, 0, pair[0], worker->arg);
	opens();
	front_publishes();
	front("3");
	serves();
	front("4");
	assert_int_equal(worker->kept, -1);
	assert_int_equal(recv(pair[1], &c, 1, MSG_DONTWAIT), -1);
	exits_again(0, true);
	assert_int_equal(recv(pair[1], &c, 1, MSG_DONTWAIT), 0);
	assert_int_equal(worker->kept, pair[0]);
	worker->ops->main(base, -1, worker->arg);
	assert_int_equal(args->sockets->old, 1);
	assert_int_equal(args->sockets->fds[0], pair[0]);
	assert_int_equal(send(pair[1], "", 1, MSG_NOSIGNAL), 1);
	opens();
	assert_int_equal(worker->kept, -1);
	assert_int_equal(send(pair[1], "", 1, MSG_NOSIGNAL), -1);
	close(pair[1]);
}

static void
workers_crash_for_good(void **state)
{
	start_connected();
	exits(XPV_EXIT_DONE, true);
	is("state", "6");
	assert_non_null(fake_store_get(ERROR));
	assert_false(worker->running);
	assert_int_equal(complaints, 1);
}

static void
a_frontend_breaks_the_protocol(void **state)
{
	start_connected();
	exits(XPV_EXIT_REFUSED, false);
	is("state", "6");
	assert_non_null(strstr(fake_store_get(ERROR), "broke the protocol"));
	assert_int_equal(complaints, 1);
	/* It is cut off ... */
	front("6");
	front("1");
	assert_false(worker->running);
	assert_int_equal(complaints, 1);
	/* ... until the toolstack offers it anew. */
	set("state", "1");
	opens();
	is("state", "2");
	front("3");
	expect_connect(false);
	serves();
	is("state", "4");
	assert_null(fake_store_get(ERROR));
}

static void
a_frontend_publishes_nonsense(void **state)
{
	start_offered();
	fake_store_set(FRONT "/ring-ref", "many");
	fake_store_set(FRONT "/event-channel", "9");
	front("3");
	assert_int_equal(worker->sent, 0);
	assert_non_null(strstr(fake_store_get(ERROR), "ring-ref"));
	stops();
	is("state", "6");
	assert_int_equal(complaints, 2); /* one is the store's, about the value */
}

static void
publishes_nonsense_and_begins_anew(void)
{
	front_publishes();
	fake_store_set(FRONT "/ring-ref", "many");
	front("3");
	stops();
	is("state", "6");
	front("6");
	front("1");
}

static void
a_frontend_begins_anew(void **state)
{
	start_offered();
	publishes_nonsense_and_begins_anew();
	opens();
	is("state", "2");
	front_publishes();
	front("3");
	expect_connect(false);
	/* Rings of before a resume: the worker cannot map them. */
	exits(XPV_EXIT_REFUSED, false);
	is("state", "6");
	front("6");
	front("1");
	opens();
	front("3");
	expect_connect(false);
	serves();
	is("state", "4");
	assert_null(fake_store_get(ERROR));
}

static void
a_frontend_begins_anew_without_end(void **state)
{
	start_offered();
	for (unsigned i = 0; i < 8; i++) {
		publishes_nonsense_and_begins_anew();
		opens();
		is("state", "2");
	}
	publishes_nonsense_and_begins_anew();
	is("state", "6");
	assert_false(worker->running);
}

static void
a_worker_describes_an_impossible_image(void **state)
{
	start();
	image.sector_size = 0;
	opens();
	stops();
	is("state", "6");
	assert_non_null(fake_store_get(ERROR));
}

static void
a_worker_talks_nonsense(void **state)
{
	uint64_t odd = 511;

	start();
	says(VBD_MSG_CONNECTED, NULL, 0);
	says(VBD_MSG_RESIZED, &odd, sizeof(odd));
	says(99, NULL, 0);
	is("state", "1");
	opens();
	front_publishes();
	front("3");
	serves();
	says(VBD_MSG_RESIZED, &odd, sizeof(odd));
	says(VBD_MSG_RESIZED, &odd, 3);
	image.bytes = 512;
	opens(); /* for the second time */
	is("sectors", "2048");
	is("state", "4");
}

/* ---- the image is not there ---- */

static void
no_image_at_first(void **state)
{
	start();
	exits_again(EX_NOINPUT, true);
	/* libxl runs the script that reads these when it has seen InitWait. */
	is("state", "2");
	is("hotplug-status", "error");
	assert_non_null(strstr(fake_store_get(DIR "/hotplug-error"), "/images/a"));
	stops();
	assert_false(worker->running);
	front_publishes();
	front("3");
	assert_false(worker->running);
	set("online", "0");
	set("state", "5");
	is("state", "6");
}

static void
no_image_later(void **state)
{
	start_connected();
	exits_again(EX_NOINPUT, true);
	exits_again(EX_NOINPUT, true);
	assert_false(worker->stopping);
	exits(EX_NOINPUT, true); /* the policy gives up, we do not */
	is("state", "4");
	is("hotplug-status", "connected");
	assert_null(fake_store_get(ERROR));
	/* It may still be closed. */
	front("5");
	is("state", "5");
}

static void
no_target(void **state)
{
	fake_store_set(DIR "/params", "qcow2:/images/a");
	start();
	assert_false(worker->running);
	is("state", "2");
	is("hotplug-status", "error");
	assert_non_null(strstr(fake_store_get(DIR "/hotplug-error"), "NBD"));
	set("params", "/images/a");
	opens();
	is("hotplug-status", "connected");
	assert_null(fake_store_get(DIR "/hotplug-error"));
}

/* ---- another xen-blkbackd before us, or after ---- */

static void
goes_on_with_connected_frontends(void **state)
{
	struct xpv_watch *w;

	front_publishes();
	fake_store_set(FRONT "/state", "4");
	fake_store_set(DIR "/state", "4");
	fake_store_set(DIR "/sectors", "2048");
	w = watch_writes("backend");
	start();
	opens();
	expect_connect(true);
	serves();
	assert_int_equal(writes, 0);
	is("hotplug-status", "(none)");
	xpv_store_unwatch(w);
	/* The image was enlarged meanwhile. */
	exits_again(XPV_EXIT_AGAIN, false);
	image.bytes = 2 << 20;
	opens();
	expect_connect(true);
	serves();
	is("sectors", "4096");
	is("state", "4");
}

static void
goes_on_with_offered_disks(void **state)
{
	fake_store_set(DIR "/state", "2");
	front_publishes();
	fake_store_set(FRONT "/state", "3");
	start();
	opens();
	expect_connect(false);
	serves();
	is("state", "4");
}

static void
goes_on_with_a_detach(void **state)
{
	front_publishes();
	fake_store_set(FRONT "/state", "4");
	fake_store_set(DIR "/state", "5");
	fake_store_set(DIR "/online", "0");
	start();
	opens();
	expect_connect(true); /* what it still writes must arrive */
	serves();
	is("state", "5");
	front("6");
	stops();
	is("state", "6");
}

static void
goes_on_with_closed_disks(void **state)
{
	fake_store_set(DIR "/state", "6");
	fake_store_set(FRONT "/state", "6");
	start();
	assert_false(worker->running);
	front("1");
	opens();
	is("state", "2");
}

static bool done;

static void
on_done(void *arg)
{
	done = true;
}

static void
stops_in_silence(void **state)
{
	struct xpv_watch *w;

	done = false;
	start_connected();
	w = watch_writes(DIR);
	disks_stop(disks, on_done, NULL);
	settle();
	assert_false(done);
	front("5"); /* for the next xen-blkbackd */
	stops();
	assert_true(done);
	is("state", "4");
	assert_int_equal(writes, 0);
	xpv_store_unwatch(w);
}

static void
stops_at_once(void **state)
{
	done = false;
	fake_store_remove("backend");
	start();
	disks_stop(disks, on_done, NULL);
	assert_true(done);
}

/* ---- changes while connected ---- */

static void
another_medium(void **state)
{
	struct xpv_watch *w;

	start_connected();
	set("params", "raw:/images/b");
	stops();
	image.bytes = 3 << 20;
	opens();
	assert_string_equal(args->target, "/images/b");
	expect_connect(true);
	is("sectors", "2048"); /* until it is served */
	w = watch_writes(DIR "/state");
	serves();
	is("sectors", "6144");
	is("state", "4");
	assert_int_equal(writes, 1);
	xpv_store_unwatch(w);
}

/* What the toolstack wishes is kept in mind until this frontend is gone. */
static void
a_medium_of_other_sectors_is_refused(void **state)
{
	unsigned starts;

	start_connected();
	set("params", "/images/4k");
	stops();
	image.sector_size = image.physical_sector_size = 4096;
	image.bytes = 3 << 20;
	opens();
	assert_int_equal(complaints, 1);
	stops();
	image.sector_size = image.physical_sector_size = 512;
	image.bytes = 1 << 20;
	opens();
	assert_string_equal(args->target, "/images/a");
	expect_connect(true);
	serves();
	is("sectors", "2048");
	is("sector-size", "512");
	is("state", "4");
	assert_null(fake_store_get(ERROR));
	/* Any other event does not bring it up again. */
	starts = worker->starts;
	set("params", "/images/4k");
	set("unrelated", "1");
	assert_int_equal(worker->starts, starts);
	assert_false(worker->stopping);
	assert_int_equal(complaints, 1);
	/* One that fits does. */
	set("params", "/images/b");
	stops();
	opens();
	assert_string_equal(args->target, "/images/b");
	serves();
	set("params", "/images/4k");
	stops();
	image.sector_size = image.physical_sector_size = 4096;
	opens();
	assert_int_equal(complaints, 2);
	stops();
	image.sector_size = image.physical_sector_size = 512;
	opens();
	assert_string_equal(args->target, "/images/b");
	serves();
	/* The next frontend can have it. */
	front("5");
	stops();
	is("state", "5");
	front("6");
	is("state", "6");
	front("1");
	image.sector_size = image.physical_sector_size = 4096;
	opens();
	assert_string_equal(args->target, "/images/4k");
	is("state", "2");
	assert_int_equal(complaints, 2);
}

/* The image itself has changed, or did so while no xen-blkbackd was there. */
static void
an_image_that_gets_other_sectors_is_waited_for(void **state)
{
	front_publishes();
	fake_store_set(FRONT "/state", "4");
	fake_store_set(DIR "/state", "4");
	fake_store_set(DIR "/sectors", "2048");
	fake_store_set(DIR "/sector-size", "512");
	image.sector_size = image.physical_sector_size = 4096;
	start();
	opens();
	stops();
	assert_int_equal(complaints, 1);
	assert_false(worker->running); /* for a while, or until there is another image */
	is("state", "4");
	set("params", "/images/b");
	image.sector_size = image.physical_sector_size = 512;
	opens();
	assert_string_equal(args->target, "/images/b");
	expect_connect(true);
	serves();
	is("state", "4");
	is("sector-size", "512");
	exits_again(XPV_EXIT_AGAIN, false);
	image.sector_size = image.physical_sector_size = 4096;
	opens();
	assert_int_equal(complaints, 2);
	assert_true(worker->stopping);
}

/* An NBD server that now stands fewer connections than the frontend has rings. */
static void
an_image_for_fewer_queues_is_waited_for(void **state)
{
	front_publishes_two_queues();
	fake_store_set(FRONT "/state", "4");
	fake_store_set(DIR "/state", "4");
	fake_store_set(DIR "/sectors", "2048");
	image.max_queues = 1;
	start();
	opens();
	stops(); /* another one is told of the two queues from its start */
	opens();
	assert_int_equal(complaints, 1);
	stops();
	assert_false(worker->running); /* for a while, or until there is another image */
	is("state", "4");
	set("params", "/images/b");
	image.max_queues = 2;
	opens();
	expect_connect(true);
	serves();
	is("state", "4");
}

/* Who has not begun to use the disk is told, and can begin anew. */
static void
fewer_queues_than_the_frontend_wants(void **state)
{
	image.max_queues = 1;
	start_offered();
	front_publishes_two_queues();
	front("3");
	stops();
	opens();
	assert_true(worker->stopping);
	stops();
	is("state", "6");
}

/* A drive without a medium has no sectors that could be others. */
static void
a_medium_is_taken_out(void **state)
{
	fake_store_set(DIR "/device-type", "cdrom");
	image.sector_size = image.physical_sector_size = 4096;
	start_connected();
	is("sector-size", "4096");
	set("params", "");
	stops();
	image.sector_size = image.physical_sector_size = 512;
	image.bytes = 0;
	opens();
	expect_connect(true);
	serves();
	is("sectors", "0");
	is("sector-size", "4096");
	assert_int_equal(complaints, 0);
}

static void
an_empty_drive(void **state)
{
	fake_store_set(DIR "/device-type", "cdrom");
	fake_store_set(DIR "/params", "");
	image.bytes = 0;
	start_connected();
	assert_string_equal(args->target, "");
	assert_true(args->read_only);
	is("sectors", "0");
	is("info", "5");
}

static void
another_medium_before_the_frontend_comes(void **state)
{
	start_offered();
	set("params", "/images/b");
	stops();
	image.flush = false;
	opens();
	assert_string_equal(args->target, "/images/b");
	is("feature-flush-cache", "0");
	is("physical-device-path", "/images/b");
	is("state", "2");
}

static void
another_size(void **state)
{
	uint64_t bytes = 5 << 20;
	struct xpv_watch *w;

	start_connected();
	w = watch_writes(DIR "/state");
	says(VBD_MSG_RESIZED, &bytes, sizeof(bytes));
	is("sectors", "10240");
	is("state", "4");
	assert_int_equal(writes, 1);
	xpv_store_unwatch(w);
}

static void
limits(void **state)
{
	config.iops = 100;
	start_connected();
	assert_int_equal(args->limits.iops, 100);
	assert_int_equal(args->limits.burst_ms, 1000);
	set("xenpv-iops", "50");
	expect_sent(VBD_MSG_LIMITS);
	assert_int_equal(worker->limits.iops, 50);
	set("xenpv-bytes-per-second", "1000000");
	expect_sent(VBD_MSG_LIMITS);
	assert_int_equal(worker->limits.bytes_per_s, 1000000);
	set("xenpv-iops", "50");
	expect_sent(0);
	set("xenpv-iops", "lots"); /* as configured */
	expect_sent(VBD_MSG_LIMITS);
	assert_int_equal(worker->limits.iops, 100);
	/* Also for the next worker. */
	exits_again(XPV_EXIT_AGAIN, false);
	opens();
	assert_int_equal(args->limits.bytes_per_s, 1000000);
}

static void
reload(void **state)
{
	start_connected();
	disks_reload(disks);
	expect_sent(VBD_MSG_LOOK);
	config.bytes_per_s = 4096;
	disks_reload(disks);
	expect_sent(VBD_MSG_LOOK); /* the last one */
	assert_int_equal(worker->limits.bytes_per_s, 4096);
}

/* ---- the kernel's driver ---- */

/* Runs the loop, timers too, until a worker runs; for ever if none ever does: the test's own time
 * limit ends that. */
static void
wait_for_worker(void)
{
	while (!worker->running)
		event_base_loop(base, EVLOOP_ONCE);
}

static void
takes_from_the_kernel(void **state)
{
	kernel_loaded = kernel_bound = true;
	fake_store_set(DIR "/state", "2"); /* its offer */
	fake_store_set(DIR "/max-ring-pages", "16");
	start();
	assert_int_equal(releases, 1);
	opens();
	is("state", "2");
	is("max-ring-pages", "(none)");
}

static void
waits_for_the_kernel(void **state)
{
	kernel_loaded = true;
	kernel_binds_after = 3;
	start();
	assert_int_equal(releases, 0);
	assert_false(worker->running);
	wait_for_worker();
	assert_int_equal(releases, 1);
}

static void
waits_not_for_ever(void **state)
{
	kernel_loaded = true;
	start();
	assert_false(worker->running);
	wait_for_worker();
	assert_int_equal(releases, 0);
}

static void
leaves_to_the_kernel_what_is_in_use(void **state)
{
	kernel_loaded = kernel_bound = true;
	fake_store_set(DIR "/state", "4");
	front_publishes();
	fake_store_set(FRONT "/state", "4");
	start();
	assert_false(worker->running);
	assert_int_equal(releases, 0);
	fake_store_set(FRONT "/state", "6");
	set("state", "6");
	assert_int_equal(releases, 1);
	front("1");
	opens();
	is("state", "2");
}

/* A driver that was loaded later binds to whatever there is. */
static void
takes_back_from_the_kernel(void **state)
{
	start_connected();
	kernel_bound = true;
	set("state", "2");
	assert_int_equal(releases, 1);
	is("state", "4");
	assert_false(worker->stopping);
	assert_int_equal(worker->starts, 1);
}

/* ---- pages ---- */

static void
pages(void **state)
{
	struct evbuffer *out = evbuffer_new();

	start_connected();
	disks_write_json(out, disks);
	evbuffer_add(out, "", 1);
	for (unsigned i = 0; i < 9; i++) {
		static const char *const all[] = {"\"name\": \"3/xvda\"", "\"domid\": 3",
		    "\"state\": \"connected\"", "\"target\": \"/images/a\"", "\"worker\": 4711",
		    "\"bytes\": 1048576", "\"abi\": \"x86_64\"", "\"queues\": 1",
		    "\"burst_ms\": 1000"};

		if (strstr((char *)evbuffer_pullup(out, -1), all[i]) == NULL)
			fail_msg("no %s", all[i]);
	}
	evbuffer_drain(out, evbuffer_get_length(out));
	disks_write_metrics(out, disks);
	evbuffer_add(out, "", 1);
	assert_non_null(strstr((char *)evbuffer_pullup(out, -1),
	    "xenpv_blkback_requests_total{device=\"3/xvda\",queue=\"1\",op=\"barrier\"} 0"));
	assert_non_null(strstr((char *)evbuffer_pullup(out, -1), "\n# EOF\n"));
	evbuffer_free(out);
}

/* ---- settings ---- */

static void
targets(void **state)
{
	static const struct {
		const char *params, *target;
	} all[] = {
	    {"/images/a", "/images/a"},
	    {"raw:/images/a", "/images/a"},
	    {"aio:/images/a", "/images/a"},
	    {"phy:/dev/vg/a", "/dev/vg/a"},
	    {"vg/a", "/dev/vg/a"},
	    {"/odd:name", "/odd:name"},
	    {"nbd://host/a", "nbd://host/a"},
	    {"raw:nbd+unix:///a?socket=/s", "nbd+unix:///a?socket=/s"},
	    {"qcow2:/images/a", NULL},
	    {"http://host/a", NULL},
	    {"", NULL},
	    {"raw:", NULL},
	};
	struct vbd_settings s;
	const char *why;

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		fake_store_set(DIR "/params", all[i].params);
		if (all[i].target == NULL) {
			assert_int_equal(vbd_settings_read(store, DIR, &s, &why), -1);
			continue;
		}
		assert_int_equal(vbd_settings_read(store, DIR, &s, &why), 0);
		assert_string_equal(s.target, all[i].target);
		vbd_settings_free(&s);
	}
}

static void
modes(void **state)
{
	static const struct {
		const char *mode, *type;
		bool read_only;
	} all[] = {
	    {"w", "disk", false},
	    {"w!", "disk", false},
	    {"r", "disk", true},
	    {"r!", "disk", true},
	    {"", "disk", true},
	    {"w", "cdrom", true},
	};
	struct vbd_settings s;
	const char *why;

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		fake_store_set(DIR "/mode", all[i].mode);
		fake_store_set(DIR "/device-type", all[i].type);
		assert_int_equal(vbd_settings_read(store, DIR, &s, &why), 0);
		assert_int_equal(s.read_only, all[i].read_only);
		vbd_settings_free(&s);
	}
}

static void
no_settings_of_a_removed_disk(void **state)
{
	struct vbd_settings s;
	const char *why = "";

	fake_store_remove(DIR "/state");
	assert_int_equal(vbd_settings_read(store, DIR, &s, &why), -1);
	assert_null(why);
}

static void
classes(void **state)
{
	config.classes = "vbd3,,vbd";
	start();
	assert_true(worker->running);
	disks_free(disks);
	config.classes = "vbd,../vbd";
	assert_null(disks_start(base, store, &config));
	config.classes = "a,b,c,d,e";
	assert_null(disks_start(base, store, &config));
	disks = NULL;
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(a_disk_is_offered),
	    test(a_disk_is_connected),
	    test(a_frontend_may_be_early),
	    test(others_disks_are_left_alone),
	    test(all_disks_are_taken),
	    test(nodes_may_come_one_by_one),
	    test(more_rings_than_offered),
	    test(a_frontend_closes_and_comes_again),
	    test(a_frontend_is_too_quick_for_us),
	    test(new_rings_without_closing),
	    test(a_frontend_leaves_before_it_is_connected),
	    test(detach_connected),
	    test(detach_unconnected),
	    test(the_guest_dies),
	    test(a_directory_goes),
	    test(a_directory_goes_and_comes),
	    test(a_directory_goes_while_a_worker_opens),
	    test(a_worker_crashes_while_connected),
	    test(a_worker_is_ended_by_hand),
	    test(a_worker_with_a_connection_is_killed),
	    test(workers_crash_for_good),
	    test(a_frontend_breaks_the_protocol),
	    test(a_frontend_publishes_nonsense),
	    test(a_frontend_begins_anew),
	    test(a_frontend_begins_anew_without_end),
	    test(a_worker_describes_an_impossible_image),
	    test(a_worker_talks_nonsense),
	    test(no_image_at_first),
	    test(no_image_later),
	    test(no_target),
	    test(goes_on_with_connected_frontends),
	    test(goes_on_with_offered_disks),
	    test(goes_on_with_a_detach),
	    test(goes_on_with_closed_disks),
	    test(stops_in_silence),
	    test(stops_at_once),
	    test(another_medium),
	    test(a_medium_of_other_sectors_is_refused),
	    test(an_image_that_gets_other_sectors_is_waited_for),
	    test(an_image_for_fewer_queues_is_waited_for),
	    test(fewer_queues_than_the_frontend_wants),
	    test(a_medium_is_taken_out),
	    test(an_empty_drive),
	    test(another_medium_before_the_frontend_comes),
	    test(another_size),
	    test(limits),
	    test(reload),
	    test(takes_from_the_kernel),
	    test(waits_for_the_kernel),
	    test(waits_not_for_ever),
	    test(leaves_to_the_kernel_what_is_in_use),
	    test(takes_back_from_the_kernel),
	    test(pages),
	    test(targets),
	    test(modes),
	    test(no_settings_of_a_removed_disk),
	    test(classes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
