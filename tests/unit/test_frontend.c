/* SPDX-License-Identifier: BSD-2-Clause */
/* A toolstack and a backend write into a store in memory; what do we make of it? */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_store.h"
#include "xenpv/log.h"
#include "xenpv/xenbus.h"

#define DIR	    "device/vbd/51712"
#define BACKEND_DIR "/local/domain/3/backend/vbd/7/51712"

/* --- what is logged, what is in sysfs --- */

static unsigned lines;
static char last_line[512];
static const char *driver_link;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
ssize_t __wrap_readlink(const char *path, char *target, size_t size);

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
	if (driver_link == NULL || strcmp(path, "/sys/bus/xen/devices/vbd-51712/driver") != 0) {
		errno = ENOENT;
		return -1;
	}
	assert_true(strlen(driver_link) <= size);
	memcpy(target, driver_link, strlen(driver_link)); /* as readlink(2): no NUL */
	return (ssize_t)strlen(driver_link);
}

/* --- the scene --- */

struct scene {
	struct event_base *base;
	struct xpv_store *store;
	struct xpv_frontend *f;
	bool close_in_handler;
	/* calls and the last state each told */
	unsigned changed, touched, own;
	enum xpv_state changed_to, touched_at, own_is;

	struct xpv_discovery *d;
	char calls[512]; /* "+51712 ~51712 -51712 " */
};

static void
toolstack_makes(const char *id)
{
	char path[160], value[128];

	snprintf(value, sizeof(value), "/local/domain/3/backend/vbd/7/%s", id);
	snprintf(path, sizeof(path), "%s/state", value);
	fake_store_set(path, "1");
	snprintf(path, sizeof(path), "device/vbd/%s/backend-id", id);
	fake_store_set(path, "3");
	snprintf(path, sizeof(path), "device/vbd/%s/state", id);
	fake_store_set(path, "1");
	snprintf(path, sizeof(path), "device/vbd/%s/backend", id);
	fake_store_set(path, value);
}

static int
setup(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));

	fake_store_reset();
	lines = 0;
	driver_link = NULL;
	scene->base = event_base_new();
	scene->store = xpv_store_open(scene->base);
	toolstack_makes("51712");
	*state = scene;
	return scene->store == NULL;
}

static int
teardown(void **state)
{
	struct scene *scene = *state;

	xpv_frontend_close(scene->f);
	xpv_discovery_stop(scene->d);
	assert_int_equal(fake_store_watches(), 0);
	xpv_store_close(scene->store);
	event_base_free(scene->base);
	free(scene);
	fake_store_reset();
	return 0;
}

/* --- the frontend --- */

static void
maybe_close(struct scene *scene)
{
	if (!scene->close_in_handler)
		return;
	xpv_frontend_close(scene->f);
	scene->f = NULL;
}

static void
on_changed(enum xpv_state state, void *arg)
{
	struct scene *scene = arg;

	assert_int_equal(xpv_frontend_backend_state(scene->f), state);
	scene->changed++;
	scene->changed_to = state;
	maybe_close(scene);
}

static void
on_touched(enum xpv_state state, void *arg)
{
	struct scene *scene = arg;

	scene->touched++;
	scene->touched_at = state;
	maybe_close(scene);
}

static void
on_own(enum xpv_state state, void *arg)
{
	struct scene *scene = arg;

	assert_int_equal(xpv_frontend_state(scene->f), state);
	scene->own++;
	scene->own_is = state;
	maybe_close(scene);
}

static const struct xpv_frontend_ops ops = {
    .backend_changed = on_changed,
    .backend_touched = on_touched,
    .own_changed = on_own,
};

static void
open_frontend(struct scene *scene)
{
	scene->f = xpv_frontend_open(scene->store, DIR, &ops, scene);
	assert_non_null(scene->f);
	fake_store_settle(scene->base);
}

static void
expect(const struct scene *scene, unsigned changed, unsigned touched, unsigned own)
{
	assert_int_equal(scene->changed, changed);
	assert_int_equal(scene->touched, touched);
	assert_int_equal(scene->own, own);
}

static void
opens(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	assert_string_equal(xpv_frontend_dir(scene->f), DIR);
	assert_string_equal(xpv_frontend_backend_dir(scene->f), BACKEND_DIR);
	assert_int_equal(xpv_frontend_backend_id(scene->f), 3);
	assert_int_equal(xpv_frontend_state(scene->f), XPV_STATE_INITIALISING);
	assert_int_equal(xpv_frontend_backend_state(scene->f), XPV_STATE_INITIALISING);
	expect(scene, 0, 0, 0); /* the first events of the watches say nothing */
}

static void
opens_only_what_makes_sense(void **state)
{
	static const char *const backends[] = {
	    "",
	    "/",
	    "/local/domain/3/backend/",
	    "/local/domain/3/backend/vbd/7/51712/",
	    "/local/domain/3/backend//vbd/7/51712",
	    "/local/domain/3/backend/../../7/data",
	    "/local/domain/3/backend/vbd/7/51712 ",
	    "/local/domain/3/backend/vbd/7/%s",
	    "/local/domain/0/backend/vbd/7/51712", /* not in the domain of backend-id */
	    "/local/domain/33/backend/vbd/7/51712",
	    "local/domain/3/backend/vbd/7/51712",
	    "/vm/7",
	};
	static const char *const ids[] = {"", "x", "-1", "32752", "65536", "4294967296"};
	struct scene *scene = *state;
	char big[XPV_STORE_PATH + 1] = "/local/domain/3/backend/";

	for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		fake_store_set(DIR "/backend", backends[i]);
		assert_null(xpv_frontend_open(scene->store, DIR, &ops, scene));
		assert_int_equal(errno, EINVAL);
	}
	memset(big + strlen(big), 'x', XPV_STORE_PATH - 1 - strlen(big));
	fake_store_set(DIR "/backend", big);
	assert_null(xpv_frontend_open(scene->store, DIR, &ops, scene));
	assert_int_equal(errno, EINVAL);

	toolstack_makes("51712");
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		fake_store_set(DIR "/backend-id", ids[i]);
		assert_null(xpv_frontend_open(scene->store, DIR, &ops, scene));
		assert_int_equal(errno, EINVAL);
	}
	toolstack_makes("51712");
	fake_store_remove(DIR "/backend");
	assert_null(xpv_frontend_open(scene->store, DIR, &ops, scene));
	assert_int_equal(errno, ENOENT);
	fake_store_remove(DIR);
	assert_null(xpv_frontend_open(scene->store, DIR, &ops, scene));
	assert_int_equal(errno, ENOENT);
	memset(big, 'x', 300);
	big[300] = '\0';
	assert_null(xpv_frontend_open(scene->store, big, &ops, scene));
	assert_int_equal(errno, ENAMETOOLONG);
}

static void
follows_the_backend(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	fake_store_set(BACKEND_DIR "/state", "2");
	fake_store_settle(scene->base);
	expect(scene, 1, 0, 0);
	assert_int_equal(scene->changed_to, XPV_STATE_INIT_WAIT);

	/* Other nodes are not the state. */
	fake_store_set(BACKEND_DIR "/sectors", "8");
	fake_store_settle(scene->base);
	expect(scene, 1, 0, 0);

	/* Two steps before we look: only the last is seen, the second event tells nothing new. */
	fake_store_set(BACKEND_DIR "/state", "3");
	fake_store_set(BACKEND_DIR "/state", "4");
	fake_store_settle(scene->base);
	assert_int_equal(scene->changed, 2);
	assert_int_equal(scene->changed_to, XPV_STATE_CONNECTED);

	/* A new size: written again with the same value. */
	scene->touched = 0;
	fake_store_set(BACKEND_DIR "/sectors", "16");
	fake_store_set(BACKEND_DIR "/state", "4");
	fake_store_settle(scene->base);
	expect(scene, 2, 1, 0);
	assert_int_equal(scene->touched_at, XPV_STATE_CONNECTED);

	fake_store_remove(BACKEND_DIR);
	fake_store_settle(scene->base);
	expect(scene, 3, 1, 0);
	assert_int_equal(scene->changed_to, XPV_STATE_UNKNOWN);
	fake_store_set(BACKEND_DIR "/state", "2"); /* the backend has restarted */
	fake_store_settle(scene->base);
	expect(scene, 4, 1, 0);
	assert_int_equal(scene->changed_to, XPV_STATE_INIT_WAIT);
}

static void
takes_nonsense_for_no_state(void **state)
{
	static const char *const nonsense[] = {"9", "0", "", "x", "4x", "-4", "4294967300"};
	struct scene *scene = *state;

	open_frontend(scene);
	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		fake_store_set(BACKEND_DIR "/state", nonsense[i]);
		fake_store_settle(scene->base);
		assert_int_equal(xpv_frontend_backend_state(scene->f), XPV_STATE_UNKNOWN);
	}
	expect(scene, 1, 0, 0); /* not touched: there is no state to be touched */
}

static void
a_backend_may_come_later(void **state)
{
	struct scene *scene = *state;

	fake_store_remove("/local/domain/3");
	open_frontend(scene);
	assert_int_equal(xpv_frontend_backend_state(scene->f), XPV_STATE_UNKNOWN);
	fake_store_set(BACKEND_DIR "/state", "2");
	fake_store_settle(scene->base);
	expect(scene, 1, 0, 0);
}

static void
a_change_before_the_watch_is_seen(void **state)
{
	struct scene *scene = *state;

	scene->f = xpv_frontend_open(scene->store, DIR, &ops, scene);
	fake_store_set(BACKEND_DIR "/state", "2"); /* the watch's first event still waits */
	fake_store_settle(scene->base);
	assert_int_equal(scene->changed, 1);
	assert_int_equal(scene->changed_to, XPV_STATE_INIT_WAIT);
}

static void
sets_its_state(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_INITIALISED), 0);
	assert_string_equal(fake_store_get(DIR "/state"), "3");
	assert_int_equal(xpv_frontend_state(scene->f), XPV_STATE_INITIALISED);
	fake_store_settle(scene->base);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CONNECTED), 0);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CONNECTED), 0);
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 0); /* our own writes are no news */
	assert_string_equal(fake_store_get(DIR "/state"), "4");
}

static void
a_resume_is_seen(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CONNECTED), 0);
	fake_store_settle(scene->base);
	fake_store_set(DIR "/state", "1");
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 1);
	assert_int_equal(scene->own_is, XPV_STATE_INITIALISING);
	/* It goes on from there. */
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_INITIALISED), 0);
}

static void
a_resume_is_not_written_over(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_INITIALISED), 0);
	fake_store_settle(scene->base);
	fake_store_set(DIR "/state", "1");
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CONNECTED), -1);
	assert_int_equal(errno, ESTALE);
	assert_string_equal(fake_store_get(DIR "/state"), "1");
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 1);
}

static void
a_removed_device_stays_removed(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	fake_store_remove(DIR);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CLOSED), -1);
	assert_int_equal(errno, ENOENT);
	assert_null(fake_store_get(DIR));
	assert_int_equal(fake_store_transactions(), 0);
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 1);
	assert_int_equal(scene->own_is, XPV_STATE_UNKNOWN);
}

static void
another_backend_is_seen(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	/* Resume before we left Initialising: only the backend differs. */
	fake_store_set(DIR "/backend", "/local/domain/3/backend/vbd/8/51712");
	fake_store_set(DIR "/state", "1");
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 1);
	fake_store_set(DIR "/state", "1");
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 1);
	assert_string_equal(xpv_frontend_backend_dir(scene->f), BACKEND_DIR);
}

static void
may_be_closed_in_any_handler(void **state)
{
	static const char *const writes[][2] = {
	    {BACKEND_DIR "/state", "2"}, {BACKEND_DIR "/state", "1"}, {DIR "/state", "6"}};
	struct scene *scene = *state;

	scene->close_in_handler = true;
	for (unsigned i = 0; i < 3; i++) {
		fake_store_set(BACKEND_DIR "/state", "1");
		open_frontend(scene);
		fake_store_set(writes[i][0], writes[i][1]);
		fake_store_set(writes[i][0], writes[i][1]); /* an event for nobody */
		fake_store_settle(scene->base);
		assert_null(scene->f);
	}
	expect(scene, 1, 1, 1);
}

static void
handlers_are_optional(void **state)
{
	static const struct xpv_frontend_ops none = {0};
	struct scene *scene = *state;

	scene->f = xpv_frontend_open(scene->store, DIR, &none, NULL);
	fake_store_settle(scene->base);
	fake_store_set(BACKEND_DIR "/state", "2");
	fake_store_set(BACKEND_DIR "/state", "2");
	fake_store_set(DIR "/state", "6");
	fake_store_settle(scene->base);
	assert_int_equal(xpv_frontend_state(scene->f), XPV_STATE_CLOSED);
	assert_int_equal(xpv_frontend_backend_state(scene->f), XPV_STATE_INIT_WAIT);
}

static void
a_lost_store_is_no_lost_device(void **state)
{
	struct scene *scene = *state;

	open_frontend(scene);
	fake_store_set(BACKEND_DIR "/state", "2");
	fake_store_lose();
	fake_store_settle(scene->base);
	expect(scene, 0, 0, 0);
	assert_int_equal(xpv_frontend_backend_state(scene->f), XPV_STATE_INITIALISING);
	assert_int_equal(xpv_frontend_set_state(scene->f, XPV_STATE_CLOSED), -1);
	xpv_frontend_close(scene->f);
	scene->f = NULL;
	xpv_store_close(scene->store);
	scene->store = xpv_store_open(scene->base);
}

static void
reports_errors(void **state)
{
	struct scene *scene = *state;
	char big[2000];
	const char *text;

	open_frontend(scene);
	lines = 0;
	xpv_frontend_error(scene->f, EPROTO, "sector size %u", 3u);
	assert_string_equal(fake_store_get("error/" DIR "/error"), "71 sector size 3");
	assert_int_equal(lines, 1);
	assert_string_equal(last_line, DIR ": sector size 3");
	xpv_frontend_error(scene->f, 0, " ");
	assert_null(fake_store_get("error/" DIR "/error"));
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	xpv_frontend_error(scene->f, EIO, "%s", big);
	text = fake_store_get("error/" DIR "/error");
	assert_int_equal(strncmp(text, "5 xxx", 5), 0);
	assert_in_range(strlen(text), 100, 600);
}

static void
names_states(void **state)
{
	assert_string_equal(xpv_state_name(XPV_STATE_UNKNOWN), "Unknown");
	assert_string_equal(xpv_state_name(XPV_STATE_CONNECTED), "Connected");
	assert_string_equal(xpv_state_name(XPV_STATE_RECONFIGURED), "Reconfigured");
	assert_string_equal(xpv_state_name((enum xpv_state)9), "Unknown");
	assert_string_equal(xpv_state_name((enum xpv_state) - 1), "Unknown");
}

/* --- discovery --- */

static void
note(struct scene *scene, char what, const char *dir, uint32_t id)
{
	char expected[64];
	size_t used = strlen(scene->calls);

	snprintf(expected, sizeof(expected), "device/vbd/%u", id);
	assert_string_equal(dir, expected);
	snprintf(scene->calls + used, sizeof(scene->calls) - used, "%c%u ", what, id);
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
	scene->d = xpv_discovery_start(scene->store, "vbd", &discovery_ops, scene);
	assert_non_null(scene->d);
}

static void
finds_devices(void **state)
{
	struct scene *scene = *state;

	toolstack_makes("51728");
	fake_store_set("device/vif/0/backend", "/local/domain/0/backend/vif/7/0");
	start(scene);
	expect_calls(scene, "+51712 +51728 ");

	toolstack_makes("768"); /* node by node: found when the backend node comes */
	expect_calls(scene, "+768 ~768 ~768 ");
	fake_store_set("device/vbd/768/state", "6");
	expect_calls(scene, "~768 ");
	fake_store_set("device/vif/0/state", "6");
	expect_calls(scene, "");

	fake_store_remove("device/vbd/51712");
	expect_calls(scene, "-51712 ");
	fake_store_remove("device/vbd/51728/backend"); /* half a device is none */
	expect_calls(scene, "-51728 ");
	fake_store_remove("device");
	expect_calls(scene, "-768 ");
	toolstack_makes("51712");
	expect_calls(scene, "+51712 ~51712 ~51712 ");
}

static void
finds_nothing(void **state)
{
	struct scene *scene = *state;

	fake_store_remove("device");
	start(scene);
	expect_calls(scene, "");
	assert_int_equal(lines, 0);
	fake_store_set("device/vbd/51712/state", "1"); /* no backend yet */
	expect_calls(scene, "");
}

static void
ignores_odd_names(void **state)
{
	struct scene *scene = *state;

	fake_store_set("device/vbd/xvda/backend", "x");
	fake_store_set("device/vbd/051712/backend", "x");
	fake_store_set("device/vbd/-1/backend", "x");
	fake_store_set("device/vbd/2147483649/backend", "x");
	fake_store_set("device/vbd/99999999999999999999/backend", "x");
	fake_store_set("device/vbd/2147483648/backend", "x");
	fake_store_set("device/vbd/0/backend", "x");
	start(scene);
	expect_calls(scene, "+51712 +2147483648 +0 ");
	assert_int_equal(lines, 1);
	assert_non_null(strstr(last_line, "xvda"));
	fake_store_set("device/vbd/xvda/state", "4");
	expect_calls(scene, "");
	assert_int_equal(lines, 1);
}

static void
a_directory_made_anew(void **state)
{
	struct scene *scene = *state;

	start(scene);
	expect_calls(scene, "+51712 ");
	/* Gone and back before we look: it may be another device now. */
	fake_store_remove(DIR);
	toolstack_makes("51712");
	expect_calls(scene, "~51712 ~51712 ~51712 ~51712 ");
	/* The event names the watched directory alone. */
	fake_store_set("device/vbd", "");
	expect_calls(scene, "~51712 ");
}

static void
unreadable_is_not_lost(void **state)
{
	struct scene *scene = *state;

	start(scene);
	expect_calls(scene, "+51712 ");
	fake_store_deny(DIR "/backend", EIO);
	fake_store_set(DIR "/state", "4");
	expect_calls(scene, "");
	fake_store_deny("", 0);
	fake_store_set(DIR "/state", "4");
	expect_calls(scene, "~51712 ");
}

static void
refuses_long_classes(void **state)
{
	struct scene *scene = *state;
	char name[100];

	memset(name, 'x', sizeof(name));
	name[99] = '\0';
	assert_null(xpv_discovery_start(scene->store, name, &discovery_ops, scene));
	assert_int_equal(errno, ENAMETOOLONG);
}

/* --- the kernel's drivers --- */

static void
knows_the_kernel_driver(void **state)
{
	char driver[16], release[128];

	assert_false(xpv_kernel_driver("vbd-51712", driver, sizeof(driver), release, 128));
	driver_link = "../../../bus/xen/drivers/vbd";
	assert_true(xpv_kernel_driver("vbd-51712", driver, sizeof(driver), release, 128));
	assert_string_equal(driver, "vbd");
	assert_string_equal(release, "echo vbd-51712 > /sys/bus/xen/drivers/vbd/unbind");
	assert_false(xpv_kernel_driver("vif-0", driver, sizeof(driver), release, 128));
	assert_false(xpv_kernel_driver("../vbd-51712", driver, sizeof(driver), release, 128));
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    test(opens),
	    test(opens_only_what_makes_sense),
	    test(follows_the_backend),
	    test(takes_nonsense_for_no_state),
	    test(a_backend_may_come_later),
	    test(a_change_before_the_watch_is_seen),
	    test(sets_its_state),
	    test(a_resume_is_seen),
	    test(a_resume_is_not_written_over),
	    test(a_removed_device_stays_removed),
	    test(another_backend_is_seen),
	    test(may_be_closed_in_any_handler),
	    test(handlers_are_optional),
	    test(a_lost_store_is_no_lost_device),
	    test(reports_errors),
	    cmocka_unit_test(names_states),
	    test(finds_devices),
	    test(finds_nothing),
	    test(ignores_odd_names),
	    test(a_directory_made_anew),
	    test(unreadable_is_not_lost),
	    test(refuses_long_classes),
	    test(knows_the_kernel_driver),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
