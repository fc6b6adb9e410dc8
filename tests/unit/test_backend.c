/* SPDX-License-Identifier: BSD-2-Clause */
/* A toolstack and a frontend write into a store in memory; what does the backend make of it? */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_store.h"
#include "xenpv/log.h"
#include "xenpv/xenbus.h"

#define DIR	     "backend/vbd/3/51712"
#define FRONTEND_DIR "/local/domain/3/device/vbd/51712"

/* --- what is logged, what is in sysfs --- */

static unsigned lines;
static char last_line[512];
static const char *driver_link;
static bool driver_loaded;
static char unbind_path[128], unbind_file[] = "/tmp/xenpv-test-unbind-XXXXXX";

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
ssize_t __wrap_readlink(const char *path, char *target, size_t size);
int __wrap_access(const char *path, int mode);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_open(const char *path, int flags, ...);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	lines++;
}

ssize_t
__wrap_readlink(const char *path, char *target, size_t size)
{
	if (driver_link == NULL ||
	    strcmp(path, "/sys/bus/xen-backend/devices/vbd-3-51712/driver") != 0) {
		errno = ENOENT;
		return -1;
	}
	assert_true(strlen(driver_link) <= size);
	memcpy(target, driver_link, strlen(driver_link)); /* as readlink(2): no NUL */
	return (ssize_t)strlen(driver_link);
}

int
__wrap_access(const char *path, int mode)
{
	assert_string_equal(path, "/sys/bus/xen-backend/drivers/vbd");
	return driver_loaded ? 0 : -1;
}

/* All that is opened here is the file that unbinds. */
int
__wrap_open(const char *path, int flags, ...)
{
	snprintf(unbind_path, sizeof(unbind_path), "%s", path);
	return __real_open(unbind_file, flags);
}

int
__wrap_open64(const char *path, int flags, ...)
{
	return __wrap_open(path, flags);
}

/* --- the scene --- */

struct scene {
	struct event_base *base;
	struct xpv_store *store;
	struct xpv_backend *b;
	bool close_in_handler;
	/* calls and the last state each told */
	unsigned changed, own;
	enum xpv_state changed_to, own_is;

	struct xpv_discovery *d;
	char calls[512]; /* "+3/51712 ~3/51712 -3/51712 " */
};

static void
toolstack_makes(const char *domid, const char *id)
{
	char dir[96], path[160], front[128];

	snprintf(dir, sizeof(dir), "backend/vbd/%s/%s", domid, id);
	snprintf(front, sizeof(front), "/local/domain/%s/device/vbd/%s", domid, id);
	snprintf(path, sizeof(path), "%s/state", front);
	fake_store_set(path, "1");
	snprintf(path, sizeof(path), "%s/frontend-id", dir);
	fake_store_set(path, domid);
	snprintf(path, sizeof(path), "%s/online", dir);
	fake_store_set(path, "1");
	snprintf(path, sizeof(path), "%s/state", dir);
	fake_store_set(path, "1");
	snprintf(path, sizeof(path), "%s/frontend", dir);
	fake_store_set(path, front);
}

static int
setup(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));

	fake_store_reset();
	lines = 0;
	driver_link = NULL;
	driver_loaded = false;
	scene->base = event_base_new();
	scene->store = xpv_store_open(scene->base);
	toolstack_makes("3", "51712");
	*state = scene;
	return scene->store == NULL;
}

static int
teardown(void **state)
{
	struct scene *scene = *state;

	xpv_backend_close(scene->b);
	xpv_discovery_stop(scene->d);
	assert_int_equal(fake_store_watches(), 0);
	xpv_store_close(scene->store);
	event_base_free(scene->base);
	free(scene);
	fake_store_reset();
	return 0;
}

/* --- the backend --- */

static void
maybe_close(struct scene *scene)
{
	if (!scene->close_in_handler)
		return;
	xpv_backend_close(scene->b);
	scene->b = NULL;
}

static void
on_changed(enum xpv_state state, void *arg)
{
	struct scene *scene = arg;

	assert_int_equal(xpv_backend_frontend_state(scene->b), state);
	scene->changed++;
	scene->changed_to = state;
	maybe_close(scene);
}

static void
on_own(enum xpv_state state, void *arg)
{
	struct scene *scene = arg;

	assert_int_equal(xpv_backend_state(scene->b), state);
	scene->own++;
	scene->own_is = state;
	maybe_close(scene);
}

static const struct xpv_backend_ops ops = {
    .frontend_changed = on_changed,
    .own_changed = on_own,
};

static void
open_backend(struct scene *scene)
{
	scene->b = xpv_backend_open(scene->store, DIR, &ops, scene);
	assert_non_null(scene->b);
	fake_store_settle(scene->base);
}

static void
expect(const struct scene *scene, unsigned changed, unsigned own)
{
	assert_int_equal(scene->changed, changed);
	assert_int_equal(scene->own, own);
}

static void
opens(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	assert_string_equal(xpv_backend_dir(scene->b), DIR);
	assert_string_equal(xpv_backend_frontend_dir(scene->b), FRONTEND_DIR);
	assert_int_equal(xpv_backend_frontend_id(scene->b), 3);
	assert_int_equal(xpv_backend_state(scene->b), XPV_STATE_INITIALISING);
	assert_int_equal(xpv_backend_frontend_state(scene->b), XPV_STATE_INITIALISING);
	assert_true(xpv_backend_online(scene->b));
	expect(scene, 0, 0); /* the first events of the watches say nothing */
}

static void
opens_only_what_makes_sense(void **state)
{
	static const char *const frontends[] = {
	    "",
	    "/",
	    "/local/domain/3/",
	    "/local/domain/3/device/vbd/51712/",
	    "/local/domain/3//device/vbd/51712",
	    "/local/domain/3/device/../../7/data",
	    "/local/domain/3/device/vbd/51712 ",
	    "/local/domain/3/device/vbd/%s",
	    "/local/domain/0/device/vbd/51712", /* not in the domain of frontend-id */
	    "/local/domain/33/device/vbd/51712",
	    "local/domain/3/device/vbd/51712",
	    "/vm/7",
	};
	static const char *const ids[] = {"", "x", "-1", "32752", "65536", "4294967296"};
	struct scene *scene = *state;

	for (size_t i = 0; i < sizeof(frontends) / sizeof(frontends[0]); i++) {
		fake_store_set(DIR "/frontend", frontends[i]);
		assert_null(xpv_backend_open(scene->store, DIR, &ops, scene));
		assert_int_equal(errno, EINVAL);
	}
	toolstack_makes("3", "51712");
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		fake_store_set(DIR "/frontend-id", ids[i]);
		assert_null(xpv_backend_open(scene->store, DIR, &ops, scene));
		assert_int_equal(errno, EINVAL);
	}
	toolstack_makes("3", "51712");
	fake_store_remove(DIR "/frontend");
	assert_null(xpv_backend_open(scene->store, DIR, &ops, scene));
	assert_int_equal(errno, ENOENT);
	fake_store_remove(DIR);
	assert_null(xpv_backend_open(scene->store, DIR, &ops, scene));
	assert_int_equal(errno, ENOENT);
}

static void
follows_the_frontend(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	fake_store_set(FRONTEND_DIR "/state", "3");
	fake_store_settle(scene->base);
	expect(scene, 1, 0);
	assert_int_equal(scene->changed_to, XPV_STATE_INITIALISED);
	fake_store_set(FRONTEND_DIR "/state", "3");
	fake_store_set(FRONTEND_DIR "/ring-ref", "8");
	fake_store_settle(scene->base);
	expect(scene, 1, 0);
	fake_store_remove("/local/domain/3");
	fake_store_settle(scene->base);
	expect(scene, 2, 0);
	assert_int_equal(scene->changed_to, XPV_STATE_UNKNOWN);
}

static void
sets_its_state(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	assert_int_equal(xpv_backend_set_state(scene->b, XPV_STATE_INIT_WAIT), 0);
	assert_string_equal(fake_store_get(DIR "/state"), "2");
	fake_store_settle(scene->base);
	expect(scene, 0, 0); /* our own writes are no news */
	assert_int_equal(xpv_backend_state(scene->b), XPV_STATE_INIT_WAIT);
}

static void
a_detach_is_seen_and_not_written_over(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	fake_store_set(DIR "/online", "0");
	fake_store_set(DIR "/state", "5");
	assert_int_equal(xpv_backend_set_state(scene->b, XPV_STATE_CONNECTED), -1);
	assert_int_equal(errno, ESTALE);
	assert_string_equal(fake_store_get(DIR "/state"), "5");
	fake_store_settle(scene->base);
	expect(scene, 0, 1);
	assert_int_equal(scene->own_is, XPV_STATE_CLOSING);
	assert_false(xpv_backend_online(scene->b));
	assert_int_equal(xpv_backend_set_state(scene->b, XPV_STATE_CLOSED), 0);
	fake_store_remove(DIR "/online");
	assert_false(xpv_backend_online(scene->b)); /* as in Linux */
}

static void
a_removed_device_stays_removed(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	fake_store_remove(DIR);
	assert_int_equal(xpv_backend_set_state(scene->b, XPV_STATE_CLOSED), -1);
	assert_int_equal(errno, ENOENT);
	assert_null(fake_store_get(DIR));
	fake_store_settle(scene->base);
	expect(scene, 0, 1);
	assert_int_equal(scene->own_is, XPV_STATE_UNKNOWN);
}

static void
another_frontend_is_seen(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	fake_store_set(DIR "/frontend", "/local/domain/3/device/vbd/51728");
	fake_store_set(DIR "/state", "1");
	fake_store_set(DIR "/state", "1");
	fake_store_settle(scene->base);
	expect(scene, 0, 1);
	assert_string_equal(xpv_backend_frontend_dir(scene->b), FRONTEND_DIR);
}

static void
may_be_closed_in_any_handler(void **state)
{
	static const char *const nodes[] = {FRONTEND_DIR "/state", DIR "/state"};
	struct scene *scene = *state;

	scene->close_in_handler = true;
	for (unsigned i = 0; i < 2; i++) {
		open_backend(scene);
		fake_store_set(nodes[i], "5");
		fake_store_set(nodes[i], "6"); /* an event for nobody */
		fake_store_settle(scene->base);
		assert_null(scene->b);
	}
	expect(scene, 1, 1);
}

static void
reports_errors(void **state)
{
	struct scene *scene = *state;

	open_backend(scene);
	lines = 0;
	xpv_backend_error(scene->b, EPROTO, "ring of %u pages", 32u);
	assert_string_equal(fake_store_get("error/" DIR "/error"), "71 ring of 32 pages");
	assert_int_equal(lines, 1);
	assert_string_equal(last_line, DIR ": ring of 32 pages");
	xpv_backend_error(scene->b, 0, " ");
	assert_null(fake_store_get("error/" DIR "/error"));
}

/* --- discovery --- */

static void
note(struct scene *scene, char what, const char *dir, uint32_t id)
{
	size_t used = strlen(scene->calls);
	char end[16];

	snprintf(end, sizeof(end), "/%u", id);
	assert_int_equal(strncmp(dir, "backend/vbd/", 12), 0);
	assert_string_equal(strrchr(dir, '/'), end);
	snprintf(scene->calls + used, sizeof(scene->calls) - used, "%c%s ", what, dir + 12);
}

static void
on_found(const char *dir, uint32_t id, void *arg)
{
	note(arg, '+', dir, id);
}

static void
on_device_changed(const char *dir, uint32_t id, void *arg)
{
	note(arg, '~', dir, id);
}

static void
on_lost(const char *dir, uint32_t id, void *arg)
{
	note(arg, '-', dir, id);
}

static const struct xpv_discovery_ops discovery_ops = {
    .found = on_found,
    .changed = on_device_changed,
    .lost = on_lost,
};

/* Runs the loop; what was called since the last time? */
static void
expect_calls(struct scene *scene, const char *expected)
{
	fake_store_settle(scene->base);
	assert_string_equal(scene->calls, expected);
	scene->calls[0] = '\0';
}

static void
start(struct scene *scene)
{
	scene->d = xpv_backend_discovery_start(scene->store, "vbd", &discovery_ops, scene);
	assert_non_null(scene->d);
}

static void
finds_devices(void **state)
{
	struct scene *scene = *state;

	toolstack_makes("4", "51712");
	fake_store_set("backend/vif/3/0/frontend", "/local/domain/3/device/vif/0");
	fake_store_set("backend/vbd3/3/51728/frontend", "/local/domain/3/device/vbd/51728");
	start(scene);
	expect_calls(scene, "+3/51712 +4/51712 ");

	toolstack_makes("3", "768"); /* node by node: found when the frontend node comes */
	expect_calls(scene, "+3/768 ~3/768 ~3/768 ~3/768 ");
	fake_store_set("backend/vbd/4/51712/state", "6");
	expect_calls(scene, "~4/51712 ");
	fake_store_set("backend/vbd3/3/51728/state", "6");
	expect_calls(scene, "");

	fake_store_remove(DIR);
	expect_calls(scene, "-3/51712 ");
	fake_store_remove("backend/vbd/3"); /* a whole domain */
	expect_calls(scene, "~4/51712 -3/768 ");
	fake_store_remove("backend");
	expect_calls(scene, "-4/51712 ");
	assert_int_equal(lines, 0);
}

static void
ignores_odd_names(void **state)
{
	struct scene *scene = *state;

	fake_store_set("backend/vbd/3/xvda/frontend", "x");
	fake_store_set("backend/vbd/03/51712/frontend", "x");
	fake_store_set("backend/vbd/32752/51712/frontend", "x");
	fake_store_set("backend/vbd/4294967299/51712/frontend", "x");
	fake_store_set("backend/vbd/32751/0/frontend", "x");
	start(scene);
	expect_calls(scene, "+3/51712 +32751/0 ");
	assert_int_equal(lines, 1);
	fake_store_set("backend/vbd/03/51712/state", "4");
	fake_store_set("backend/vbd/3/xvda/state", "4");
	expect_calls(scene, "");
	assert_int_equal(lines, 1);
}

/* --- the kernel's driver --- */

static void
knows_the_kernel_driver(void **state)
{
	char driver[16], release[128];

	assert_false(xpv_kernel_backend("vbd-3-51712", driver, sizeof(driver), release, 128));
	driver_link = "../../../bus/xen-backend/drivers/vbd";
	assert_true(xpv_kernel_backend("vbd-3-51712", driver, sizeof(driver), release, 128));
	assert_string_equal(driver, "vbd");
	assert_string_equal(release, "echo vbd-3-51712 > /sys/bus/xen-backend/drivers/vbd/unbind");
	assert_false(xpv_kernel_backend("../vbd-3-51712", driver, sizeof(driver), release, 128));

	assert_false(xpv_kernel_backend_loaded("vbd"));
	driver_loaded = true;
	assert_true(xpv_kernel_backend_loaded("vbd"));
}

static void
releases_from_the_kernel(void **state)
{
	char written[64] = "";
	int fd = mkstemp(unbind_file);

	assert_true(fd >= 0);
	assert_int_equal(xpv_kernel_backend_release("vbd-3-51712"), -1);
	assert_int_equal(errno, ENODEV);
	assert_string_equal(unbind_path, "");
	driver_link = "../../../bus/xen-backend/drivers/vbd";
	assert_int_equal(xpv_kernel_backend_release("vbd-3-51712"), 0);
	assert_string_equal(unbind_path, "/sys/bus/xen-backend/drivers/vbd/unbind");
	assert_int_equal(read(fd, written, sizeof(written) - 1), 11);
	assert_string_equal(written, "vbd-3-51712");
	close(fd);
	unlink(unbind_file);
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(opens),
	    test(opens_only_what_makes_sense),
	    test(follows_the_frontend),
	    test(sets_its_state),
	    test(a_detach_is_seen_and_not_written_over),
	    test(a_removed_device_stays_removed),
	    test(another_frontend_is_seen),
	    test(may_be_closed_in_any_handler),
	    test(reports_errors),
	    test(finds_devices),
	    test(ignores_odd_names),
	    test(knows_the_kernel_driver),
	    test(releases_from_the_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
