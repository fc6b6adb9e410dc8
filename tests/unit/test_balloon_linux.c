/* SPDX-License-Identifier: BSD-2-Clause */
/* What the kernel says, in folders that look like its own. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>

#include "guest.h"
#include "host.h"
#include "mechanism.h"
#include "meminfo.h"
#include "pool.h"
#include "pressure.h"
#include "settings.h"
#include "textfile.h"
#include "xenpv/log.h"

#define MEMORY "devices/system/xen_memory/xen_memory0"

static char folder[64], last_line[1024];
static unsigned lines;

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(last_line, sizeof(last_line), fmt, args);
	va_end(args);
	lines++;
}

static void
put(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	for (char *slash = path + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void
is_number(const char *name, int64_t expected)
{
	int64_t value;

	assert_int_equal(textfile_number(folder, name, &value), 0);
	assert_int_equal(value, expected);
}

static int
setup(void **state)
{
	strcpy(folder, "/tmp/balloon.XXXXXX");
	lines = 0;
	return mkdtemp(folder) != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

/* ---- text ---- */

static void
test_numbers(void **state)
{
	static const char *const wrong[] = {
	    "", "\n", "-1", "+1", " 1", "1 2", "1x", "0x1", "99999999999999999999"};
	int64_t value;

	put("n", "12345\n");
	is_number("n", 12345);
	put("n", "0");
	is_number("n", 0);
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		put("n", wrong[i]);
		assert_int_equal(textfile_number(folder, "n", &value), -1);
		assert_int_equal(errno, EINVAL);
	}
	assert_int_equal(textfile_number(folder, "missing", &value), -1);
	assert_int_equal(errno, ENOENT);
}

static void
test_find(void **state)
{
	int64_t value = -1;

	assert_true(textfile_find("a: 1\nb:   22 kB\n", "b:", &value));
	assert_int_equal(value, 22);
	assert_false(textfile_find("ab: 1\n", "b:", &value));
	assert_false(textfile_find("b:1\n", "b:", &value)); /* not how the kernel writes */
	assert_false(textfile_find("b: x\n", "b:", &value));
	assert_false(textfile_find("", "b:", &value));
	assert_true(textfile_find("key_a 1\nkey 2", "key", &value));
	assert_int_equal(value, 2);
}

/* ---- meminfo ---- */

#define MEMINFO                                                                                    \
	"MemTotal:  245000 kB\nMemFree:  80000 kB\nMemAvailable: 120000 kB\nBuffers: 10 kB\n"      \
	"Cached: 50000 kB\nSwapCached: 7 kB\nSwapTotal: 1000 kB\nSwapFree: 400 kB\n"

static void
test_meminfo(void **state)
{
	struct meminfo_source *s;
	struct meminfo m;

	put("meminfo", MEMINFO);
	put("vmstat", "nr_free_pages 20000\nworkingset_refault_anon 3\nworkingset_refault_file 4\n"
		      "pswpin 5\npswpout 1000\n");
	s = meminfo_open(folder);
	assert_non_null(s);
	assert_int_equal(meminfo_read(s, &m), 0);
	assert_int_equal(m.total, 245000);
	assert_int_equal(m.free, 80000);
	assert_int_equal(m.available, 120000);
	assert_int_equal(m.cached, 50010);
	assert_int_equal(m.swap_used, 600);
	assert_int_equal(m.refaults, 7);
	/* The same descriptors see what changes; nonsense is said once. */
	put("meminfo", "MemTotal: 1 kB\nMemFree: 1 kB\nMemAvailable: 2 kB\n");
	assert_int_equal(meminfo_read(s, &m), -1);
	assert_int_equal(meminfo_read(s, &m), -1);
	assert_int_equal(lines, 1);
	put("meminfo", MEMINFO);
	assert_int_equal(meminfo_read(s, &m), 0);
	meminfo_close(s);
}

static void
test_meminfo_parts(void **state)
{
	struct meminfo m;

	assert_int_equal(meminfo_parse("", &m), -1);
	assert_int_equal(meminfo_parse("MemTotal: 5 kB\nMemFree: 1 kB\n", &m), -1);
	assert_int_equal(
	    meminfo_parse("MemTotal: 5 kB\nMemFree: 6 kB\nMemAvailable: 5 kB", &m), -1);
	assert_int_equal(meminfo_parse_refaults("workingset_refault 9\npswpin 2\n"), 11);
	assert_int_equal(meminfo_parse_refaults("workingset_refault_file 9\npswpin 2\n"), 11);
	assert_int_equal(meminfo_parse_refaults("nothing\n"), 0);
	assert_int_equal(meminfo_parse_present("Node 0, zone DMA\n  pages free 3\n"
					       "        spanned  4095\n        present  10\n"
					       "        managed  9\nNode 0, zone DMA32\n"
					       "        present  20\n"),
	    120);
	assert_int_equal(meminfo_parse_present(""), 0);
	assert_int_equal(meminfo_boot_kib(folder), 0);
	assert_null(meminfo_open(folder));
	assert_non_null(strstr(last_line, "/meminfo: No such file"));
}

/* Each of many processors has its lines in each zone. */
static void
test_long_zoneinfo(void **state)
{
	static char text[400000];
	size_t used = 0;

	for (unsigned zone = 0; zone < 2; zone++) {
		used += (size_t)snprintf(text + used, sizeof(text) - used,
		    "Node 0, zone DMA32\n        spanned  4095\n        present  1000\n");
		for (unsigned cpu = 0; cpu < 1000; cpu++)
			used += (size_t)snprintf(text + used, sizeof(text) - used,
			    "    cpu: %u\n              count: 1\n              high:  2\n"
			    "              batch: 63\n  vm stats threshold: 12\n",
			    cpu);
	}
	put("zoneinfo", text);
	assert_int_equal(meminfo_boot_kib(folder), 8000);
}

/* ---- pressure ---- */

static void
on_pressure(void *arg)
{
}

static void
test_pressure(void **state)
{
	struct event_base *base = event_base_new();

	assert_int_equal(pressure_parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=123\n"
					"full avg10=0.00 avg60=0.00 avg300=0.00 total=4\n"),
	    123);
	assert_int_equal(pressure_parse("full avg10=0.00 total=4\n"), -1);
	assert_int_equal(pressure_parse("some avg10=0.00 total=x\n"), -1);
	assert_int_equal(pressure_parse(""), -1);
	assert_null(pressure_open(base, folder, 25, 500, on_pressure, NULL));
	assert_non_null(strstr(last_line, "psi=1"));
	/* A file that is not the kernel's cannot be waited for. */
	put("pressure/memory", "");
	assert_null(pressure_open(base, folder, 25, 500, on_pressure, NULL));
	pressure_close(NULL);
	event_base_free(base);
}

/* A pipe is as good as a trigger, with what epoll makes of it replaced. */
static uint32_t events;
static unsigned told;

int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_wait(int epfd, struct epoll_event *event, int max, int timeout);

int
__wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	if (event->events == EPOLLPRI)
		event->events = EPOLLIN;
	return __real_epoll_ctl(epfd, op, fd, event);
}

int
__wrap_epoll_wait(int epfd, struct epoll_event *event, int max, int timeout)
{
	event->events = events;
	return 1;
}

static void
on_pipe(void *arg)
{
	told++;
}

static void
test_pressure_goes(void **state)
{
	struct event_base *base = event_base_new();
	struct pressure *p;
	char path[128];

	put("pressure/x", "");
	snprintf(path, sizeof(path), "%s/pressure/memory", folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	p = pressure_open(base, folder, 25, 500, on_pipe, NULL);
	assert_non_null(p);
	assert_true(pressure_works(p));
	assert_false(pressure_works(NULL));
	events = EPOLLPRI;
	event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(told, 1);
	assert_true(pressure_works(p));
	events = EPOLLERR;
	event_base_loop(base, EVLOOP_ONCE);
	assert_false(pressure_works(p));
	assert_int_equal(told, 1);
	assert_non_null(strstr(last_line, "taken its pressure trigger away"));
	pressure_close(p);
	event_base_free(base);
}

/* ---- the kernel's balloon ---- */

static void
test_kernel(void **state)
{
	const struct mechanism_where where = {.sysfs = folder, .procfs = folder, .rundir = folder};
	struct mechanism *m;
	int64_t kib;

	assert_null(mechanism_open(MECHANISM_AUTO, &where));
	assert_non_null(strstr(last_line, "CONFIG_XEN_BALLOON"));
	put(MEMORY "/target_kb", "262144\n");
	put(MEMORY "/info/current_kb", "garbage\n");
	assert_null(mechanism_open(MECHANISM_AUTO, &where));
	put(MEMORY "/info/current_kb", "261000\n");
	m = mechanism_open(MECHANISM_AUTO, &where);
	assert_non_null(m);
	assert_string_equal(m->name, "kernel");
	assert_int_equal(m->current(m, &kib), 0);
	assert_int_equal(kib, 261000);
	assert_int_equal(m->target(m, &kib), 0);
	assert_int_equal(kib, 262144);
	assert_int_equal(m->set(m, 200000), 0);
	is_number(MEMORY "/target_kb", 200000);
	put(MEMORY "/info/current_kb", "");
	assert_int_equal(m->current(m, &kib), -1);
	mechanism_close(m);
	assert_int_equal(mechanism_kernel_current(folder, &kib), -1);
	mechanism_close(NULL);
}

static void
test_kernel_dry_run(void **state)
{
	const struct mechanism_where where = {.sysfs = folder, .dry_run = true};
	struct mechanism *m;

	put(MEMORY "/target_kb", "262144\n");
	put(MEMORY "/info/current_kb", "262144\n");
	m = mechanism_open(MECHANISM_KERNEL, &where);
	assert_non_null(m);
	assert_int_equal(m->set(m, 4), -1);
	is_number(MEMORY "/target_kb", 262144);
	mechanism_close(m);
}

/* ---- huge pages ---- */

static void
test_others_huge_pages(void **state)
{
	assert_false(pool_others_are_free(folder));
	put("free_hugepages", "0\n");
	put("resv_hugepages", "0\n");
	assert_false(pool_others_are_free(folder));
	put("free_hugepages", "3\n");
	assert_true(pool_others_are_free(folder));
	put("resv_hugepages", "3\n");
	assert_false(pool_others_are_free(folder));
}

static void
test_guest_type(void **state)
{
	assert_false(guest_is_pv(folder));
	put("hypervisor/guest_type", "PV\n");
	assert_true(guest_is_pv(folder));
	put("hypervisor/guest_type", "PVH\n");
	assert_false(guest_is_pv(folder));
	put("hypervisor/guest_type", "HVM\n");
	assert_false(guest_is_pv(folder));
}

/* ---- settings ---- */

static void
test_settings(void **state)
{
	struct xpv_program program = {.name = "test", .version = "0", .config_path = "/nowhere"};
	struct xpv_common common;
	struct settings *s;
	char path[128];
	char *argv[] = {"test", "-c", path, "--reserve=4096", NULL};

	snprintf(path, sizeof(path), "%s/conf", folder);
	put("conf", "policy = auto\nfloor = 100000\nreserve = 1\nrefaults = 0\npublish = qubes\n");
	settings_init(&s, &program);
	assert_int_equal(s->policy.kind, POLICY_MANUAL);
	assert_string_equal(s->sysfs, "/sys");
	xpv_options_parse(&program, 4, argv, &common);
	assert_int_equal(s->policy.kind, POLICY_AUTO);
	assert_int_equal(s->policy.floor, 100000);
	assert_int_equal(s->policy.reserve, 4096); /* the command line wins */
	assert_int_equal(s->policy.headroom, 10);
	assert_int_equal(s->refaults, 0);
	assert_int_equal(s->publish, HOST_KEYS_QUBES);
	/* Read again: what is gone is at its default, and some stay. */
	put("conf", "policy = static\nsize = 5\nmechanism = privcmd\nsysfs = \"/other\"\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(s->policy.kind, POLICY_STATIC);
	assert_int_equal(s->policy.size, 5);
	assert_int_equal(s->policy.floor, 0);
	assert_int_equal(s->policy.reserve, 4096);
	assert_int_equal(s->mechanism, MECHANISM_AUTO);
	assert_string_equal(s->sysfs, "/sys");
	put("conf", "policy = auto\nwindow = 499\n");
	assert_int_equal(xpv_options_reload(&program, &common), -1);
	assert_int_equal(s->policy.kind, POLICY_STATIC);
	/* Each in its range, and yet: nothing has changed, the strings neither. */
	put("conf", "policy = auto\nrundir = \"/x\"\nstall = 501\n");
	assert_int_equal(xpv_options_reload(&program, &common), -1);
	assert_non_null(strstr(last_line, "stall = 501"));
	assert_non_null(strstr(last_line, "window = 500"));
	assert_int_equal(s->policy.kind, POLICY_STATIC);
	assert_int_equal(s->stall_ms, 25);
	put("conf", "stall = 501\nwindow = 600\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(s->stall_ms, 501);
	xpv_options_free(&program, &common);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
	    cmocka_unit_test(test_find),
	    cmocka_unit_test_setup_teardown(test_meminfo, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_meminfo_parts, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_long_zoneinfo, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_pressure, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_pressure_goes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_kernel, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_kernel_dry_run, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_others_huge_pages, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_guest_type, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_settings, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
