/* SPDX-License-Identifier: BSD-2-Clause */
/* What a dead worker has sent to an NBD server is over before the next one begins. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sockios.h>

#include <event2/event.h>
#include <xenpv/supervisor.h>

#include "drain.h"
#include "held.h"
#include "image_run.h"
#include "nbd_left.h"

#define PAGE 4096u

static char dir[32], uri[160], socket_path[64], page[PAGE];
static pid_t server;
static uint64_t second_ns; /* what a look at the clock takes */

uint64_t __wrap_xpv_now_ns(void);

uint64_t
__wrap_xpv_now_ns(void)
{
	static uint64_t now = 1;

	return now += second_ns;
}

static bool endless; /* there is always something to read */

ssize_t __wrap_recv(int fd, void *data, size_t length, int flags);
ssize_t __real_recv(int fd, void *data, size_t length, int flags);

ssize_t
__wrap_recv(int fd, void *data, size_t length, int flags)
{
	return endless ? (ssize_t)length : __real_recv(fd, data, length, flags);
}

static void
sleep_a_little(void)
{
	poll(NULL, 0, 20);
}

static bool
is_there(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void
wait_until_there(const char *name)
{
	for (int i = 0; i < 3000 && !is_there(name); i++)
		sleep_a_little();
	assert_true(is_there(name));
}

static void
make(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	close(open(path, O_CREAT | O_WRONLY, 0600));
}

/* ---- connections that are read to their ends ---- */

static int ours[2], theirs[2];

static void
make_pairs(void)
{
	for (int i = 0; i < 2; i++) {
		int pair[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		ours[i] = pair[0];
		theirs[i] = pair[1];
	}
}

static void
answer_then_end(void)
{
	switch (run_slept) {
	case 1:
	case 2:
		assert_int_equal(write(theirs[1], page, PAGE), PAGE);
		break;
	case 3:
		close(theirs[1]);
		break;
	case 5:
		close(theirs[0]);
		break;
	}
}

static void
connections_are_read_to_their_ends(void **state)
{
	make_pairs();
	run_sleeping = answer_then_end;
	drain_connections(ours, 2);
	assert_int_equal(run_slept, 5);
	assert_null(strstr(run_log, "undo"));
	assert_int_equal(close(ours[0]), -1);
	assert_int_equal(close(ours[1]), -1);
}

static void
a_reset_is_an_end(void **state)
{
	make_pairs();
	assert_int_equal(write(ours[0], page, PAGE), PAGE);
	close(theirs[0]); /* which has not read that */
	close(theirs[1]);
	drain_connections(ours, 2);
	assert_int_equal(run_slept, 0);
	assert_string_equal(run_log, "");
}

static void
patience_ends(void **state)
{
	make_pairs();
	second_ns = 1000000000;
	drain_connections(ours, 2);
	assert_in_range(run_slept, 30, 60);
	assert_non_null(strstr(run_log, "may undo a newer one"));
	close(theirs[0]);
	close(theirs[1]);
}

static void
a_server_that_sends_without_end_is_left(void **state)
{
	make_pairs();
	second_ns = 1000000000;
	endless = true;
	alarm(60); /* without an end of its own the test has none */
	drain_connections(ours, 2);
	alarm(0);
	endless = false;
	assert_in_range(run_slept, 30, 60);
	assert_non_null(strstr(run_log, "may undo a newer one"));
	close(theirs[0]);
	close(theirs[1]);
}

/* ---- what the supervisor holds ---- */

static struct event_base *base;
static struct xpv_worker *worker;
static struct held held;

static void
begin_held(void)
{
	static const struct xpv_worker_ops ops = {.main = NULL};
	static const struct xpv_worker_policy policy = {.max_crashes = 1};

	base = event_base_new();
	worker = xpv_worker_new(base, "test", &ops, &policy, NULL, NULL);
	held = (struct held){.count = 0};
	make_pairs();
}

static void
end_held(void)
{
	held_close(&held);
	assert_int_equal(held.count, 0);
	xpv_worker_free(worker);
	event_base_free(base);
	close(theirs[0]);
	close(theirs[1]);
}

static bool
sees_end(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static bool
is_closed(int fd)
{
	return send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == -1 && errno == EPIPE;
}

static void
connections_are_held_for_the_next_worker(void **state)
{
	begin_held();
	held_inherit(&held, worker);
	assert_int_equal(held.old, 0);
	held_add(&held, ours[0]);
	held_are_over(&held, worker);
	assert_false(sees_end(theirs[0]));
	held_shut(&held);
	assert_true(sees_end(theirs[0]));
	assert_false(is_closed(theirs[0]));

	held_inherit(&held, worker);
	assert_int_equal(held.old, 1);
	assert_int_equal(held.fds[0], ours[0]);
	held_add(&held, ours[1]);
	assert_int_equal(held.old, 1);
	held_are_over(&held, worker);
	assert_true(is_closed(theirs[0]));
	assert_false(sees_end(theirs[1]));
	assert_int_equal(held.count, 1);
	assert_int_equal(held.fds[0], ours[1]);
	end_held();
}

/* The next worker dies while it waits: the one after it waits for the same. */
static void
held_through_two_deaths(void **state)
{
	begin_held();
	held_inherit(&held, worker);
	held_add(&held, ours[0]);
	held_are_over(&held, worker);
	held_shut(&held);
	held_inherit(&held, worker);
	held_add(&held, ours[1]); /* which carried no request */
	held_shut(&held);
	held_inherit(&held, worker);
	assert_int_equal(held.old, 1);
	assert_int_equal(held.count, 1);
	assert_int_equal(held.fds[0], ours[0]);
	assert_false(is_closed(theirs[0]));
	assert_true(is_closed(theirs[1]));
	end_held();
}

static void
not_too_many_are_held(void **state)
{
	begin_held();
	for (int i = 0; i < HELD_MAX; i++)
		held_add(&held, dup(ours[0]));
	assert_string_equal(run_log, "");
	held_add(&held, ours[1]);
	assert_true(is_closed(theirs[1]));
	assert_non_null(strstr(run_log, "cannot be held"));
	*run_log = '\0';
	held_add(&held, -1); /* a worker gone wrong can send them without end */
	assert_string_equal(run_log, "");
	held_inherit(&held, worker);
	held_add(&held, -1);
	assert_non_null(strstr(run_log, "cannot be held"));
	assert_int_equal(held.count, 0);
	close(ours[0]);
	end_held();
}

/* ---- what a server has left ---- */

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void
new_address(void)
{
	static unsigned number;

	snprintf(socket_path, sizeof(socket_path), "%s/%u", dir, number++);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", socket_path);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.60s", socket_path);
}

static int
listen_there(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	new_address();
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static int
connect_there(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void
a_dead_clients_connection_is_left_until_it_is_closed(void **state)
{
	int door = listen_there();
	int first = connect_there(), first_end = accept(door, NULL, NULL);
	int second = connect_there(), second_end = accept(door, NULL, NULL);

	assert_int_equal(nbd_left(second), 0);
	assert_int_equal(write(first, page, 100), 100);
	close(first);
	assert_int_equal(nbd_left(second), 1);
	shutdown(first_end, SHUT_RDWR); /* as qemu-nbd does */
	assert_int_equal(nbd_left(second), 1);
	close(first_end);
	assert_int_equal(nbd_left(second), 0);
	close(second);
	close(second_end);
	close(door);
}

/* Nor does one count that the server has not taken. */
static void
others_do_not_count(void **state)
{
	int other_door = listen_there();
	int other_client = connect_there(), other_end = accept(other_door, NULL, NULL);
	int door = listen_there();
	int client = connect_there(), end = accept(door, NULL, NULL);

	close(other_client);
	close(connect_there());
	assert_int_equal(nbd_left(client), 0);
	close(other_end);
	close(other_door);
	close(client);
	close(end);
	close(door);
}

static void
not_every_socket_tells(void **state)
{
	int tcp = socket(AF_INET, SOCK_STREAM, 0);
	int door = listen_there(), client = connect_there(); /* nobody serves it */

	make_pairs();
	assert_int_equal(nbd_left(tcp), -1);
	assert_int_equal(nbd_left(ours[0]), -1);
	assert_int_equal(nbd_left(client), -1);
	assert_false(drain_server(tcp));
	close(tcp);
	close(client);
	close(door);
	for (int i = 0; i < 2; i++) {
		close(ours[i]);
		close(theirs[i]);
	}
}

/* ---- servers of others, with writes in flight for a killed client ---- */

/* Of a disk in the file "image": the first write begins with making "begun" and waits for "go";
 * then there is "written". */
static char slow_write[512], read_it[256];

static void
describe_server(void)
{
	snprintf(slow_write, sizeof(slow_write),
	    "pwrite=cd %s; dd of=data.$$ 2>/dev/null; first=; if mkdir begun 2>/dev/null; then "
	    "first=1; until [ -e go ]; do sleep 0.02; done; fi; "
	    "dd if=data.$$ of=image bs=$3 seek=$4 oflag=seek_bytes conv=notrunc 2>/dev/null; "
	    "[ -z $first ] || mkdir written",
	    dir);
	snprintf(read_it, sizeof(read_it),
	    "pread=dd if=%s/image count=$3 skip=$4 iflag=count_bytes,skip_bytes 2>/dev/null", dir);
}

/* With a socket it is to serve; -1: it makes the one at "socket_path". */
static void
spawn(char *const *argv, int door)
{
	char text[16];

	server = fork();
	if (server != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (door >= 0) {
		dup2(door, 3); /* as of systemd */
		snprintf(text, sizeof(text), "%d", getpid());
		setenv("LISTEN_PID", text, 1);
		setenv("LISTEN_FDS", "1", 1);
	}
	execvp(argv[0], argv);
	_exit(127);
}

/* False: it is not installed. */
static bool
serves(void)
{
	for (int i = 0; i < 3000; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool ready = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

		close(fd);
		if (ready)
			return true;
		if (waitpid(server, NULL, WNOHANG) == server) {
			server = 0;
			return false;
		}
		sleep_a_little();
	}
	return false;
}

static const struct image_params one = {.queues = 1, .nbd_connections = 1, .keep_fd = -1};

/* A client that has sent so many writes is killed when "ready" says so. Its connection, if that is
 * to be held, is given to "channel". */
static void __attribute__((noreturn))
write_and_die(unsigned count, bool (*ready)(int fd), int channel)
{
	static struct image_io ios[16];
	static struct iovec iov[16];
	struct image_run run;
	int fd = -1;

	memset(page, 'A', PAGE);
	if (!run_open(&run, uri, &one) || !run_start(&run, 16))
		_exit(1);
	if (image_sockets(run.image, &fd, 1) == 1)
		xpv_channel_send(channel, 0, NULL, 0, fd);
	for (unsigned i = 0; i < count; i++) {
		iov[i] = (struct iovec){page, PAGE};
		ios[i] = (struct image_io){.op = IMAGE_WRITE,
		    .offset = i * PAGE,
		    .length = PAGE,
		    .iov = &iov[i],
		    .iovcnt = 1};
		run_submit(&run, &ios[i]);
	}
	image_push(run.q);
	while (!ready(fd)) {
		event_base_loop(run.base, EVLOOP_NONBLOCK);
		sleep_a_little();
	}
	raise(SIGKILL);
	_exit(2);
}

static void
kill_a_client(unsigned count, bool (*ready)(int fd), int channel)
{
	pid_t client = fork();
	int status;

	if (client == 0)
		write_and_die(count, ready, channel);
	assert_int_equal(waitpid(client, &status, 0), client);
	assert_true(WIFSIGNALED(status));
}

static bool
has_begun(int fd)
{
	return is_there("begun");
}

static void
let_go_at_the_third_look(void)
{
	if (run_slept == 3)
		make("go");
	sleep_a_little();
}

static void
expect_image(unsigned at, char with)
{
	char path[64], there[PAGE];
	int fd;

	snprintf(path, sizeof(path), "%s/image", dir);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, there, PAGE, at), PAGE);
	close(fd);
	memset(page, with, PAGE);
	assert_memory_equal(there, page, PAGE);
}

/* The next client writes to the same place: that is what stays. */
static void
write_anew(void)
{
	struct image_run run;

	assert_true(run_open(&run, uri, &one));
	assert_true(run_start(&run, 16));
	memset(page, 'B', PAGE);
	assert_int_equal(run_write(&run, 0, page, PAGE), 0);
	make("go");
	wait_until_there("written");
	expect_image(0, 'B');
	run_stop(&run);
}

static bool
serve_slowly(int door)
{
	char *argv[] = {"nbdkit", "-f", "-U", socket_path, "eval", "thread_model=echo parallel",
	    "get_size=echo 1048576", read_it, slow_write, NULL};

	describe_server();
	if (door >= 0) {
		argv[2] = "-t"; /* its default, in place of -U */
		argv[3] = "16";
	}
	spawn(argv, door);
	return door >= 0 || serves();
}

static void
nbdkit_on_a_unix_socket(void **state)
{
	new_address();
	if (!serve_slowly(-1)) {
		print_message("# skipped: %s: no nbdkit\n", __func__);
		skip();
	}
	kill_a_client(1, has_begun, -1);
	run_sleeping = let_go_at_the_third_look;
	write_anew();
	assert_true(run_slept >= 3);
}

/* The supervisor holds the connection. */
static void
nbdkit_by_tcp(void **state)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), channel[2], fd = -1;
	socklen_t length = sizeof(any);
	uint32_t type;

	new_address();
	if (!serve_slowly(-1)) {
		print_message("# skipped: %s: no nbdkit\n", __func__);
		skip();
	}
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	assert_int_equal(bind(door, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_int_equal(listen(door, 8), 0);
	assert_int_equal(getsockname(door, (struct sockaddr *)&any, &length), 0);
	snprintf(uri, sizeof(uri), "nbd://127.0.0.1:%u/", ntohs(any.sin_port));
	serve_slowly(door);
	close(door);

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
	kill_a_client(1, has_begun, channel[1]);
	length = 0;
	assert_int_equal(
	    xpv_channel_receive(channel[0], &type, page, &(size_t){sizeof(page)}, &fd), 1);
	assert_true(fd >= 0);
	close(channel[0]);
	close(channel[1]);

	begin_held();
	held_add(&held, fd);
	held_are_over(&held, worker);
	held_shut(&held);
	run_sleeping = let_go_at_the_third_look;
	drain_connections(&fd, 1);
	held.count = 0;
	assert_true(is_there("written"));
	write_anew();
	for (int i = 0; i < 2; i++)
		close(ours[i]);
	end_held();
}

static int sent_through; /* the client's connection, as the test cannot know it */

/* The server has read all that there is. */
static bool
all_is_read(int fd)
{
	int queued = -1;

	for (fd = 3; fd < 64; fd++) {
		socklen_t length = sizeof(address);
		struct sockaddr_un peer;

		if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0 &&
		    strcmp(peer.sun_path, socket_path) == 0)
			sent_through = fd;
	}
	return ioctl(sent_through, SIOCOUTQ, &queued) == 0 && queued == 0;
}

/* qemu-nbd ends the connection as soon as it has read that the client is gone, with up to 16
 * requests under way. */
static void
qemu_nbd_on_a_unix_socket(void **state)
{
	char options[160], line[96];
	char *argv[] = {"qemu-nbd", "-t", "-k", socket_path, "--object",
	    "throttle-group,id=t,x-iops-write=8", "--image-opts", options, NULL};
	struct image_run run;

	new_address();
	snprintf(options, sizeof(options),
	    "driver=throttle,throttle-group=t,file.driver=file,file.filename=%s/image", dir);
	snprintf(line, sizeof(line), "truncate -s 1M %s/image", dir);
	assert_int_equal(system(line), 0);
	spawn(argv, -1);
	if (!serves()) {
		print_message("# skipped: %s: no qemu-nbd\n", __func__);
		skip();
	}
	kill_a_client(12, all_is_read, -1);
	run_sleeping = sleep_a_little;
	assert_true(run_open(&run, uri, &one));
	for (unsigned i = 0; i < 12; i++)
		expect_image(i * PAGE, 'A');
}

/* ---- */

static int
before_each(void **state)
{
	strcpy(dir, "/tmp/test_drain.XXXXXX");
	*run_log = '\0';
	run_slept = 0;
	run_sleeping = NULL;
	second_ns = 1000;
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int
after_each(void **state)
{
	char line[64];

	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
		server = 0;
	}
	snprintf(line, sizeof(line), "rm -rf %s", dir);
	return system(line) == 0 ? 0 : -1;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, before_each, after_each)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(connections_are_read_to_their_ends),
	    TEST(a_reset_is_an_end),
	    TEST(patience_ends),
	    TEST(a_server_that_sends_without_end_is_left),
	    TEST(connections_are_held_for_the_next_worker),
	    TEST(held_through_two_deaths),
	    TEST(not_too_many_are_held),
	    TEST(a_dead_clients_connection_is_left_until_it_is_closed),
	    TEST(others_do_not_count),
	    TEST(not_every_socket_tells),
	    TEST(nbdkit_on_a_unix_socket),
	    TEST(nbdkit_by_tcp),
	    TEST(qemu_nbd_on_a_unix_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
