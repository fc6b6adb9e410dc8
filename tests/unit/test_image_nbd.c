/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/sandbox.h>

#include "image_nbd.h"
#include "image_run.h"

/* Against nbdkit and qemu-nbd. */

#define MIB   (1u << 20)
#define PAGE  4096u
#define DEPTH 64

static char dir[] = "/tmp/test_image_nbd.XXXXXX";
static char uri[160], socket_path[64];
static char *page, *other;
static pid_t server;

/* ---- servers ---- */

static void
new_socket(void)
{
	static unsigned number;

	snprintf(socket_path, sizeof(socket_path), "%s/%u", dir, number++);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", socket_path);
}

static void
spawn(char *const *argv)
{
	server = fork();
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(argv[0], argv);
		_exit(127);
	}
}

static void
wait_a_little(void)
{
	poll(NULL, 0, 50);
}

/* False: the program is not installed. */
static bool
wait_for_server(void)
{
	run_sleeping = wait_a_little; /* the socket is there a moment before it is listened to */
	for (int i = 0; i < 600 && access(socket_path, F_OK) != 0; i++) {
		if (waitpid(server, NULL, WNOHANG) == server) {
			server = 0;
			return false;
		}
		wait_a_little();
	}
	return true;
}

/* nbdkit with these arguments, which end with NULL. */
static bool
serve(const char *first, ...)
{
	char *argv[24] = {"nbdkit", "-f", "-U", socket_path, (char *)(uintptr_t)first};
	unsigned argc = 5;
	va_list args;

	va_start(args, first);
	while (argc < 23 && (argv[argc] = va_arg(args, char *)) != NULL)
		argc++;
	va_end(args);
	new_socket();
	spawn(argv);
	return wait_for_server();
}

static void
end_server(void)
{
	if (server == 0)
		return;
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	server = 0;
}

#define SERVE(...)                                                                                 \
	do {                                                                                       \
		if (!serve(__VA_ARGS__, NULL)) {                                                   \
			print_message("# skipped: %s: no nbdkit\n", __func__);                     \
			skip();                                                                    \
		}                                                                                  \
	} while (0)

static void
start(struct image_run *run, const struct image_params *params)
{
	assert_true(run_open(run, uri, params));
	assert_true(run_start(run, DEPTH));
}

static const struct image_params several = {
    .discard = true, .queues = 2, .nbd_connections = 4, .keep_fd = -1};

/* ---- opening ---- */

static void
what_cannot_be_opened_is_explained(void **state)
{
	assert_true(run_refuses("nbds://localhost/disk", NULL, "TLS"));
	assert_true(run_refuses("nbds+unix:///?socket=/nonexistent", NULL, "TLS"));
	run_slept = 0;
	assert_true(run_refuses("nbd+unix:///disk", NULL, "cannot connect"));
	assert_int_equal(run_slept, 0);
	assert_true(run_refuses("nbd+unix:///?socket=/nonexistent", NULL, "cannot connect"));
	assert_int_equal(run_slept, 30);
	assert_true(run_refuses("nbd://127.0.0.1:1/", NULL, "cannot connect"));
}

static void
start_at_the_third_look(void)
{
	char *argv[] = {"nbdkit", "-f", "-U", socket_path, "memory", "1M", NULL};

	if (run_slept != 3)
		return;
	spawn(argv);
	wait_for_server();
}

static void
a_server_that_comes_is_waited_for(void **state)
{
	struct image_run run;

	SERVE("null"); /* is there one at all? */
	end_server();
	new_socket();
	run_slept = 0;
	run_sleeping = start_at_the_third_look;
	assert_true(run_open(&run, uri, NULL));
	assert_true(run_slept >= 3);
	assert_int_equal(run.info.bytes, MIB);
}

static void
an_export_is_described(void **state)
{
	struct image_run run;

	SERVE("memory", "1049088");
	assert_true(run_open(&run, uri, &several));
	assert_false(image_uses_io_uring(run.image));
	assert_int_equal(run.info.bytes, 1049088);
	assert_int_equal(image_size(run.image), 1049088);
	assert_int_equal(run.info.sector_size, 512);
	assert_int_equal(run.info.max_queues, 4);
	assert_true(run.info.flush);
	assert_true(run.info.discard_granularity >= 512);
	assert_false(run.info.read_only);
	assert_false(run.info.secure_discard);
}

static void
a_read_only_export(void **state)
{
	struct image_params reader = several;
	struct image_run run;

	SERVE("-r", "memory", "1M");
	assert_true(run_refuses(uri, NULL, "read-only"));
	reader.read_only = true;
	start(&run, &reader);
	assert_true(run.info.read_only);
	assert_false(run.info.flush);
	assert_int_equal(run.info.discard_granularity, 0);
	assert_int_equal(run_read(&run, 0, page, PAGE), 0);
	assert_int_equal(run_write(&run, 0, page, PAGE), -EROFS);
	assert_int_equal(run_discard(&run, 0, PAGE), -EROFS);
	assert_int_equal(run_flush(&run), 0);
	run_stop(&run);
}

static void
one_connection_is_one_queue(void **state)
{
	struct image_run run;

	SERVE("--filter=multi-conn", "memory", "4M", "multi-conn-mode=disable");
	start(&run, &several);
	assert_int_equal(run.info.max_queues, 1);
	assert_int_equal(run_storm(&run, 4 * MIB, 300, 512), 0);
	run_stop(&run);
}

/* ---- data ---- */

static void
several_connections(void **state)
{
	struct image_run run;

	SERVE("memory", "4M");
	start(&run, &several);
	assert_int_equal(run_storm(&run, 4 * MIB, 800, 512), 0);
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(run_discard(&run, MIB, 2 * MIB), 0);
	assert_int_equal(run_read(&run, 3 * MIB - PAGE, page, PAGE), 0);
	memset(other, 0, PAGE);
	assert_memory_equal(page, other, PAGE);
	assert_int_equal(run_read(&run, 3 * MIB, page, PAGE), 0);
	assert_memory_not_equal(page, other, PAGE);
	run_stop(&run);
}

/* Sent as several commands. */
static void
a_large_discard(void **state)
{
	struct image_run run;

	SERVE("memory", "100G");
	start(&run, &several);
	memset(page, 1, PAGE);
	assert_int_equal(run_write(&run, 90ull << 30, page, PAGE), 0);
	assert_int_equal(run_discard(&run, 0, 100ull << 30), 0);
	assert_int_equal(run_read(&run, 90ull << 30, page, PAGE), 0);
	memset(other, 0, PAGE);
	assert_memory_equal(page, other, PAGE);
	run_stop(&run);
}

/* More than can be sent at a time, in parts of which no two lie together. */
static void
buffers_run_out(void **state)
{
	static struct image_io ios[DEPTH];
	static struct iovec iov[DEPTH][128];
	struct image_run run;
	char *data = malloc(MIB);

	SERVE("memory", "8M");
	start(&run, &several);
	for (unsigned i = 0; i < DEPTH; i++) {
		for (unsigned j = 0; j < 128; j++) /* backwards */
			iov[i][j] = (struct iovec){data + (127 - j) * 512, 512};
		ios[i] = (struct image_io){.op = IMAGE_READ,
		    .offset = i * 65536,
		    .length = 65536,
		    .iov = iov[i],
		    .iovcnt = 128,
		    .status = 1};
		run_submit(&run, &ios[i]);
	}
	run_wait(&run);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(ios[i].status, 0);
	run_stop(&run);
	free(data);
}

static void
block_sizes_are_kept(void **state)
{
	struct image_run run;

	SERVE("--filter=blocksize-policy", "memory", "4M", "blocksize-minimum=4096",
	    "blocksize-maximum=16384", "blocksize-preferred=4096", "blocksize-error-policy=error");
	start(&run, &several);
	assert_int_equal(run.info.sector_size, 4096);
	assert_int_equal(run_storm(&run, 4 * MIB, 300, 4096), 0);
	{ /* a sector that is not in one page */
		struct iovec iov[] = {{page, 512}, {other, PAGE - 512}};

		memset(page, 3, PAGE);
		memset(other, 4, PAGE);
		assert_int_equal(run_iov(&run, IMAGE_WRITE, PAGE, iov, 2), 0);
		assert_int_equal(run_read(&run, PAGE, page, PAGE), 0);
		assert_int_equal(page[511], 3);
		assert_memory_equal(page + 512, other, PAGE - 512);
	}
	run_stop(&run);
}

static void
errors_are_passed_on(void **state)
{
	struct image_run run;

	SERVE("--filter=error", "memory", "4M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%",
	    "error-pread=EIO", "error-pread-rate=100%");
	start(&run, &several);
	assert_int_equal(run_write(&run, 0, page, PAGE), -ENOSPC);
	assert_int_equal(run_read(&run, 0, page, PAGE), -EIO);
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(run.lost, 0);
	run_stop(&run);
}

static void
without_an_event_loop(void **state)
{
	struct image_run run;

	SERVE("memory", "1M");
	start(&run, &several);
	assert_int_equal(run_polling(&run, page, PAGE), 0);
	run_stop(&run);
}

static void
qemu_nbd(void **state)
{
	char *argv[] = {"qemu-nbd", "-t", "-e", "4", "-f", "qcow2", "-k", socket_path, "--discard",
	    "unmap", NULL, NULL};
	char line[256], image[64];
	struct image_run run;

	snprintf(image, sizeof(image), "%s/image.qcow2", dir);
	snprintf(line, sizeof(line), "qemu-img create -q -f qcow2 %s 16M", image);
	if (system(line) != 0) {
		print_message("# skipped: %s: no qemu-img\n", __func__);
		skip();
	}
	argv[10] = image;
	new_socket();
	spawn(argv);
	assert_true(wait_for_server());
	start(&run, &several);
	assert_int_equal(run.info.bytes, 16 * MIB);
	assert_int_equal(run_storm(&run, 4 * MIB, 300, 512), 0);
	assert_int_equal(run_flush(&run), 0);
	assert_int_equal(run_discard(&run, 0, MIB), 0);
	run_stop(&run);
}

/* ---- loss ---- */

static void
lost_while_idle(void **state)
{
	struct image_run run;

	SERVE("memory", "1M");
	start(&run, &several);
	assert_int_equal(run_read(&run, 0, page, PAGE), 0);
	end_server();
	while (run.lost == 0)
		event_base_loop(run.base, EVLOOP_ONCE);
	assert_string_not_equal(run.why, "");
	event_base_loop(run.base, EVLOOP_NONBLOCK);
	assert_int_equal(run.lost, 1);
	run_stop(&run);
}

/* Operations that nobody has answered are not over. */
static void
lost_in_flight(void **state)
{
	static struct image_io ios[DEPTH];
	static struct iovec iov[DEPTH];
	struct image_run run;

	SERVE("--filter=delay", "memory", "1M", "delay-write=600");
	start(&run, &several);
	for (unsigned i = 0; i < DEPTH; i++) {
		iov[i] = (struct iovec){page, PAGE};
		ios[i] = (struct image_io){.op = IMAGE_WRITE,
		    .offset = i * PAGE,
		    .length = PAGE,
		    .iov = &iov[i],
		    .iovcnt = 1,
		    .status = 1};
		run_submit(&run, &ios[i]);
	}
	image_push(run.q);
	event_base_loop(run.base, EVLOOP_NONBLOCK);
	end_server();
	run_wait(&run);
	assert_int_equal(run.lost, 1);
	assert_int_equal(run.inflight, DEPTH);

	/* Nothing more comes, whatever is asked. */
	image_submit(run.q, &(struct image_io){.op = IMAGE_FLUSH});
	image_push(run.q);
	assert_false(image_poll(run.q));
	event_base_loop(run.base, EVLOOP_NONBLOCK);
	assert_int_equal(run.lost, 1);
	assert_int_equal(run.inflight, DEPTH);
	assert_int_equal(run.batches, 0);
	run_stop(&run);
}

/* The thread finds out when it wants to send: not from within image_push(). */
static void
lost_while_sending(void **state)
{
	struct iovec iov = {page, PAGE};
	struct image_io io = {.op = IMAGE_WRITE, .length = PAGE, .iov = &iov, .iovcnt = 1};
	struct image_run run;

	SERVE("memory", "1M");
	start(&run, &several);
	end_server();
	run_submit(&run, &io);
	image_push(run.q);
	assert_int_equal(run.lost, 0);
	run_wait(&run);
	assert_int_equal(run.lost, 1);
	assert_int_equal(run.inflight, 1);
	run_stop(&run);
}

static void
a_server_that_shuts_down(void **state)
{
	struct image_run run;

	SERVE("--filter=error", "memory", "1M", "error-pread=ESHUTDOWN", "error-pread-rate=100%");
	start(&run, &several);
	assert_int_equal(run_read(&run, 0, page, PAGE), 1);
	assert_int_equal(run.lost, 1);
	run_stop(&run);
}

/* ---- the sandbox ---- */

static int
live_in_sandbox(void)
{
	static const struct xpv_sandbox sandbox = {.user = "nobody", .empty_dir = dir};
	struct image_run run;

	if (!run_open(&run, uri, &several) || xpv_sandbox_enter(&sandbox) != 0 ||
	    !run_start(&run, DEPTH))
		return 1;
	if (run_storm(&run, MIB, 100, 512) != 0)
		return 2;
	if (run_flush(&run) != 0 || run_discard(&run, 0, 64 * 1024) != 0)
		return 3;
	run_stop(&run);
	return 0;
}

static void
in_the_sandbox(void **state)
{
	pid_t child;
	int status;

	SERVE("memory", "4M");
	child = fork();
	if (child == 0)
		_exit(live_in_sandbox());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static int
after_each(void **state)
{
	run_sleeping = NULL;
	end_server();
	return 0;
}

static int
setup(void **state)
{
	page = aligned_alloc(PAGE, PAGE);
	other = aligned_alloc(PAGE, PAGE);
	memset(page, 0, PAGE);
	return mkdtemp(dir) != NULL ? chmod(dir, 0755) : -1;
}

static int
teardown(void **state)
{
	char line[128];

	free(page);
	free(other);
	snprintf(line, sizeof(line), "rm -rf %s", dir);
	return system(line) == 0 ? 0 : -1;
}

#define TEST(name) cmocka_unit_test_teardown(name, after_each)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(what_cannot_be_opened_is_explained),
	    TEST(a_server_that_comes_is_waited_for),
	    TEST(an_export_is_described),
	    TEST(a_read_only_export),
	    TEST(one_connection_is_one_queue),
	    TEST(several_connections),
	    TEST(a_large_discard),
	    TEST(buffers_run_out),
	    TEST(block_sizes_are_kept),
	    TEST(errors_are_passed_on),
	    TEST(without_an_event_loop),
	    TEST(qemu_nbd),
	    TEST(lost_while_idle),
	    TEST(lost_in_flight),
	    TEST(lost_while_sending),
	    TEST(a_server_that_shuts_down),
	    TEST(in_the_sandbox),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
