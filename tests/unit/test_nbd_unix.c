/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/nbd.h>

/* nbd-unix as a whole (nbd_server.c), used by the programs it is for, and by clients nobody wants.
 */

#define MIB 16

static char dir[] = "/tmp/test_nbd_unix.XXXXXX";
static char server_path[512], socket_path[64];
static FILE *to, *from;
static pid_t server;

/* ---- the server ---- */

static bool
expect(const char *words)
{
	char line[512];

	while (fgets(line, sizeof(line), from) != NULL) {
		if (strncmp(line, words, strlen(words)) == 0)
			return true;
	}
	return false;
}

static void
command(const char *words)
{
	fprintf(to, "%s\n", words);
	assert_true(expect("ok"));
}

/* So many requests of xvda wait for it to be fast. */
static void
wait_held(unsigned wanted)
{
	char line[512];
	unsigned held = 0;

	while (held < wanted) {
		usleep(10000);
		fprintf(to, "held xvda\n");
		do
			assert_non_null(fgets(line, sizeof(line), from));
		while (sscanf(line, "held %u", &held) != 1);
		assert_true(expect("ok"));
	}
}

static pid_t
spawn_server(int in, int out)
{
	pid_t pid = fork();

	if (pid == 0) {
		dup2(in, 0);
		dup2(out, 1);
		execl(server_path, "nbd_server", socket_path, "16", "xvda", "xvdb", "xvdr", NULL);
		_exit(127);
	}
	return pid;
}

static int
setup(void **state)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
		return -1;
	server = spawn_server(in[0], out[1]);
	close(in[0]);
	close(out[1]);
	to = fdopen(in[1], "w");
	from = fdopen(out[0], "r");
	setlinebuf(to);
	return expect("ready") && expect("ready") && expect("ready") ? 0 : -1;
}

static int
teardown(void **state)
{
	int status;

	fclose(to);
	waitpid(server, &status, 0);
	fclose(from);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 && access(socket_path, F_OK) != 0 ? 0
											       : -1;
}

/* ---- programs ---- */

static bool
have(const char *program)
{
	char line[128];

	snprintf(line, sizeof(line), "command -v %s >/dev/null", program);
	return system(line) == 0;
}

#define NEED(program)                                                                              \
	do {                                                                                       \
		if (!have(program)) {                                                              \
			print_message("# skip: no %s\n", program);                                 \
			skip();                                                                    \
		}                                                                                  \
	} while (0)

/* $U is the server's URI without an export, $D the directory. */
static int
shell(const char *line)
{
	int status = system(line);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
nbdinfo_lists(void **state)
{
	NEED("nbdinfo");
	assert_int_equal(shell("timeout 20 nbdinfo --list --json nbd+unix:///$U >$D/list"), 0);
	assert_int_equal(shell("for d in xvda xvdb xvdr; do grep -q '\"'$d'\"' $D/list || exit; "
			       "done; [ $(grep -c 16777216 $D/list) = 3 ]"),
	    0);
	assert_int_equal(shell("timeout 9 nbdinfo --is read-only nbd+unix:///xvdr$U"), 0);
	assert_int_equal(shell("timeout 9 nbdinfo --can multi-conn nbd+unix:///xvda$U"), 0);
	/* There are three: which one would it be? */
	assert_int_not_equal(shell("timeout 9 nbdinfo nbd+unix:///$U 2>/dev/null"), 0);
}

static void
nbdcopy_while_workers_die(void **state)
{
	pid_t killer;

	NEED("nbdcopy");
	assert_int_equal(shell("head -c 16M /dev/urandom >$D/f"), 0);
	killer = fork();
	if (killer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* A slow machine's workers have to come to serve in between, after all. */
		for (useconds_t pause = 30000;; pause += pause / 16) {
			fprintf(to, "kill xvda\n");
			usleep(pause);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(shell("timeout 60 nbdcopy $D/f nbd+unix:///xvda$U"), 0);
		assert_int_equal(shell("timeout 60 nbdcopy nbd+unix:///xvda$U $D/g"), 0);
		assert_int_equal(shell("cmp $D/f $D/g"), 0);
	}
	kill(killer, SIGKILL);
	waitpid(killer, NULL, 0);
}

static void
qemu_img(void **state)
{
	NEED("qemu-img");
	assert_int_equal(shell("head -c 16M /dev/urandom >$D/f"), 0);
	assert_int_equal(
	    shell("timeout 60 qemu-img convert -n -f raw -O raw $D/f nbd+unix:///xvdb$U"), 0);
	assert_int_equal(
	    shell("timeout 60 qemu-img compare -f raw -F raw $D/f nbd+unix:///xvdb$U >/dev/null"),
	    0);
}

static void
fio_verifies(void **state)
{
	if (shell("fio --enghelp 2>/dev/null | grep -q nbd") != 0)
		skip();
	assert_int_equal(
	    shell("cd $D && timeout 60 fio --name=v --ioengine=nbd --uri=nbd+unix:///xvdb$U "
		  "--rw=randrw --bsrange=4k-256k --iodepth=80 --size=16M --verify=crc32c "
		  ">$D/fio 2>&1"),
	    0);
}

/* ---- a client of our own ---- */

static int
connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct timeval patience = {.tv_sec = 10};

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static bool
receive(int fd, void *data, size_t length)
{
	return recv(fd, data, length, MSG_WAITALL) == (ssize_t)length;
}

/* By EXPORT_NAME; the size of the export. */
static uint64_t
enter(int fd, const char *name)
{
	struct {
		uint32_t flags;
		char magic[8];
		uint32_t option, length;
		char name[32];
	} __attribute__((packed)) hello = {
	    .flags = htonl(3),
	    .magic = {'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T'},
	    .option = htonl(1),
	    .length = htonl((uint32_t)strlen(name)),
	};
	uint8_t greeting[18], answer[10];
	uint64_t bytes;

	memcpy(hello.name, name, strlen(name));
	if (!receive(fd, greeting, sizeof(greeting)) ||
	    send(fd, &hello, 20 + strlen(name), MSG_NOSIGNAL) < 0 ||
	    !receive(fd, answer, sizeof(answer)))
		return 0;
	memcpy(&bytes, answer, sizeof(bytes));
	return be64toh(bytes);
}

static int
client_of(const char *name)
{
	int fd = connect_to(socket_path);

	assert_true(enter(fd, name) > 0);
	return fd;
}

static void
ask(int fd, uint32_t type, uint64_t from_byte, uint32_t length)
{
	struct nbd_request request = {
	    .magic = htonl(NBD_REQUEST_MAGIC),
	    .type = htonl(type),
	    .from = htobe64(from_byte),
	    .len = htonl(length),
	};

	assert_int_equal(send(fd, &request, sizeof(request), MSG_NOSIGNAL), sizeof(request));
}

/* The error of the reply; -1: the connection has ended. */
static int
reply(int fd)
{
	struct nbd_reply r;

	if (!receive(fd, &r, sizeof(r)))
		return -1;
	assert_int_equal(ntohl(r.magic), NBD_REPLY_MAGIC);
	return (int)ntohl(r.error);
}

static void
every_request_is_checked(void **state)
{
	static const struct {
		uint32_t type, length;
		uint64_t from;
		int error;
	} bad[] = {
	    {NBD_CMD_READ, 512, (uint64_t)MIB << 20, 22},
	    {NBD_CMD_READ, 1024, ((uint64_t)MIB << 20) - 512, 22},
	    {NBD_CMD_READ, 512, UINT64_MAX - 511, 22},
	    {NBD_CMD_READ, 0xfffffe00, 512, 22},
	    {NBD_CMD_READ, 0, 0, 22},
	    {NBD_CMD_READ, 100, 0, 22},
	    {NBD_CMD_READ, 512, 7, 22},
	    {NBD_CMD_READ, 262144 + 512, 0, 22},
	    {NBD_CMD_READ | 1 << 16, 512, 0, 22},
	    {NBD_CMD_TRIM, 0xfffffe00, 0, 22},
	    {6 /* WRITE_ZEROES */, 512, 0, 22},
	    {7, 512, 0, 22},
	    {0xffff, 512, 0, 22},
	};
	static char data[1 << 20];
	int fd = client_of("xvda");

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ask(fd, bad[i].type, bad[i].from, bad[i].length);
		assert_int_equal(reply(fd), bad[i].error);
	}
	ask(fd, NBD_CMD_WRITE, (uint64_t)MIB << 20, 512);
	send(fd, data, 512, MSG_NOSIGNAL);
	assert_int_equal(reply(fd), 28);
	/* Too long, and taken off the stream all the same. */
	ask(fd, NBD_CMD_WRITE, 0, sizeof(data));
	for (unsigned sent = 0; sent < sizeof(data);)
		sent += (unsigned)send(fd, data, sizeof(data) - sent, MSG_NOSIGNAL);
	assert_int_equal(reply(fd), 22);
	ask(fd, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(fd), 0);
	ask(fd, NBD_CMD_READ, 0, 512);
	assert_int_equal(reply(fd), 0);
	assert_true(receive(fd, data, 512));
	close(fd);

	fd = client_of("xvdr");
	ask(fd, NBD_CMD_WRITE, 0, 512);
	send(fd, data, 512, MSG_NOSIGNAL);
	assert_int_equal(reply(fd), 1);
	ask(fd, NBD_CMD_TRIM, 0, 512);
	assert_int_equal(reply(fd), 1);
	/* What is no request ends the connection, and no other. */
	send(fd, data, 28, MSG_NOSIGNAL);
	assert_int_equal(reply(fd), -1);
	close(fd);
}

/* It goes when what it asked is answered. */
static void
disconnect(void **state)
{
	int fd = client_of("xvda");

	ask(fd, NBD_CMD_FLUSH, 0, 0);
	ask(fd, NBD_CMD_DISC, 0, 0);
	assert_int_equal(reply(fd), 0);
	assert_int_equal(reply(fd), -1);
	close(fd);
}

/* Clients that ask for much and take nothing hold up nobody else. */
static void
clients_that_do_not_read(void **state)
{
	static char data[65536];
	int lazy[8], fd;

	for (unsigned i = 0; i < 8; i++) {
		lazy[i] = client_of("xvda");
		for (unsigned k = 0; k < 60; k++)
			ask(lazy[i], NBD_CMD_READ, k * 262144, 262144);
	}
	for (unsigned i = 0; i < 2; i++) { /* two threads */
		fd = client_of("xvda");
		for (unsigned k = 0; k < 50; k++) {
			ask(fd, NBD_CMD_READ, k * 65536, sizeof(data));
			assert_int_equal(reply(fd), 0);
			assert_true(receive(fd, data, sizeof(data)));
		}
	}
	command("kill xvda");
	ask(fd, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(fd), 0);
	close(fd);
	for (unsigned i = 0; i < 8; i++)
		close(lazy[i]);
}

static void
too_many_connections(void **state)
{
	int fds[16], fd;

	for (unsigned i = 0; i < 16; i++)
		fds[i] = client_of("xvda");
	fd = client_of("xvda");
	assert_int_equal(reply(fd), -1);
	close(fd);
	for (unsigned i = 0; i < 16; i++) {
		ask(fds[i], NBD_CMD_FLUSH, 0, 0);
		assert_int_equal(reply(fds[i]), 0);
		close(fds[i]);
	}
	/* And their places can be had again, again and again. */
	for (unsigned i = 0; i < 100; i++) {
		int error = -1;

		for (unsigned tries = 0; error != 0 && tries < 100; tries++) {
			fd = client_of("xvda");
			ask(fd, NBD_CMD_FLUSH, 0, 0);
			error = reply(fd);
			close(fd);
			if (error != 0)
				usleep(10000);
		}
		assert_int_equal(error, 0);
	}
}

static void
door_dies(void **state)
{
	int served = client_of("xvda"), half = connect_to(socket_path), fd;
	char greeting[18];

	assert_true(receive(half, greeting, sizeof(greeting)));
	command("crash");
	assert_int_equal(recv(half, greeting, 1, 0), 0);
	ask(served, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(served), 0);
	fd = client_of("xvdb");
	ask(fd, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(fd), 0);
	close(fd);
	close(half);
	close(served);
}

static void
resize(void **state)
{
	int old = client_of("xvda"), fd;

	command("resize xvda 20");
	/* By way of the loop of another process. */
	for (unsigned tries = 0; tries < 100; tries++) {
		uint64_t size;

		fd = connect_to(socket_path);
		size = enter(fd, "xvda");
		if (size == 20 << 20)
			break;
		close(fd);
		usleep(10000);
	}
	ask(fd, NBD_CMD_TRIM, 19 << 20, 4096);
	assert_int_equal(reply(fd), 0);
	ask(old, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(old), 0);
	close(fd);
	close(old);
}

static void
detach_answers_first(void **state)
{
	int fd = client_of("xvda"), other = client_of("xvdb");

	ask(fd, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(fd), 0);
	command("slow xvda");
	ask(fd, NBD_CMD_FLUSH, 0, 0);
	wait_held(1);
	command("detach xvda");
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 200), 0);
	command("kill xvda"); /* that too: the next worker has it again */
	wait_held(2);
	command("fast xvda");
	assert_int_equal(reply(fd), 0);
	assert_int_equal(reply(fd), -1);
	assert_true(expect("removed xvda"));
	close(fd);
	fd = connect_to(socket_path);
	assert_true(enter(fd, "xvda") == 0);
	ask(other, NBD_CMD_FLUSH, 0, 0);
	assert_int_equal(reply(other), 0);
	close(fd);
	close(other);
}

static void
force_does_not_wait(void **state)
{
	int fd = client_of("xvda");

	command("slow xvda");
	ask(fd, NBD_CMD_FLUSH, 0, 0);
	wait_held(1);
	fprintf(to, "force xvda\n");
	assert_int_equal(reply(fd), -1);
	assert_true(expect("removed xvda"));
	close(fd);
}

/* ---- the socket ---- */

static void
only_the_owner_may_connect(void **state)
{
	struct stat st;

	assert_int_equal(stat(socket_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void
somebody_else_listens(void **state)
{
	int status, fd;
	pid_t second;

	/* It says so on its standard error output. */
	second = spawn_server(STDIN_FILENO, STDOUT_FILENO);
	waitpid(second, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	fd = client_of("xvda");
	close(fd);
}

static void
left_over_by_the_dead(void **state)
{
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	fclose(to);
	fclose(from);
	assert_int_equal(access(socket_path, F_OK), 0);
	assert_int_equal(setup(state), 0);
	close(client_of("xvda"));
}

/* The directory, however this process ends. */
static void
remove_after_us(void)
{
	int alive[2];
	char byte;

	if (pipe2(alive, O_CLOEXEC) != 0 || fork() != 0)
		return;
	setsid();
	close(alive[1]);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	while (read(alive[0], &byte, 1) != 0)
		;
	/* Its servers end with their input, and remove what they have there. */
	usleep(500000);
	execlp("rm", "rm", "-rf", dir, NULL);
	_exit(1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(nbdinfo_lists),
	    TEST(nbdcopy_while_workers_die),
	    TEST(qemu_img),
	    TEST(fio_verifies),
	    TEST(every_request_is_checked),
	    TEST(disconnect),
	    TEST(clients_that_do_not_read),
	    TEST(too_many_connections),
	    TEST(door_dies),
	    TEST(resize),
	    TEST(detach_answers_first),
	    TEST(force_does_not_wait),
	    TEST(only_the_owner_may_connect),
	    TEST(somebody_else_listens),
	    TEST(left_over_by_the_dead),
	};
	char self[400] = "", query[128];

	signal(SIGPIPE, SIG_IGN);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 || mkdtemp(dir) == NULL)
		return 1;
	snprintf(server_path, sizeof(server_path), "%s/nbd_server", dirname(self));
	snprintf(socket_path, sizeof(socket_path), "%s/s", dir);
	snprintf(query, sizeof(query), "?socket=%s", socket_path);
	setenv("U", query, 1);
	setenv("D", dir, 1);
	remove_after_us();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
