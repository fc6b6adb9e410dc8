/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <xenpv/control.h>

static char path[64];
static struct event_base *base;

static void
write_page(struct evbuffer *out, void *arg)
{
	evbuffer_add_printf(out, "hello %s\n", (const char *)arg);
}

#define BIG_BYTES (1024 * 1024)

static void
write_big_page(struct evbuffer *out, void *arg)
{
	for (unsigned i = 0; i < BIG_BYTES / 16; i++)
		evbuffer_add(out, "0123456789abcdef", 16);
}

static const struct xpv_control_page pages[] = {
    {"/devices", "application/json", write_page}, {"/big", "text/plain", write_big_page}, {NULL}};

/* One request, and the loop turned until the answer is whole. */
static const char *
ask(const char *request)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	static char answer[8192];
	size_t used = 0;
	ssize_t n;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_true(write(fd, request, strlen(request)) > 0);
	for (int i = 0; i < 200; i++) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		n = recv(fd, answer + used, sizeof(answer) - 1 - used, MSG_DONTWAIT);
		if (n == 0)
			break;
		if (n > 0)
			used += (size_t)n;
		usleep(1000);
	}
	close(fd);
	event_base_loop(base, EVLOOP_NONBLOCK);
	answer[used] = '\0';
	return answer;
}

static int
setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/xenpv-control-%d.sock", (int)getpid());
	unlink(path);
	base = event_base_new();
	*state = xpv_control_open(base, path, pages, (void *)(uintptr_t) "world");
	return *state != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	xpv_control_close(*state);
	event_base_free(base);
	return access(path, F_OK) == 0 ? -1 : 0; /* the socket is gone too */
}

static void
page(void **state)
{
	const char *answer = ask("GET /devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	assert_non_null(strstr(answer, "200 OK"));
	assert_non_null(strstr(answer, "application/json"));
	assert_non_null(strstr(answer, "hello world\n"));
}

static void
unknown_page(void **state)
{
	assert_non_null(
	    strstr(ask("GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), " 404 "));
}

static void
other_methods(void **state)
{
	const char *answer =
	    ask("DELETE /devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	assert_null(strstr(answer, "hello"));
	assert_null(strstr(answer, " 200 "));
}

/* What comes after the empty line. */
static const char *
body_of(const char *answer)
{
	const char *end = strstr(answer, "\r\n\r\n");

	assert_non_null(end);
	return end + 4;
}

static void
head_has_no_body(void **state)
{
	const char *answer = ask("HEAD /devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	assert_non_null(strstr(answer, " 200 "));
	assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
	assert_non_null(strstr(answer, "Content-Length: 12\r\n"));
	assert_string_equal(body_of(answer), "");

	answer = ask("HEAD /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	assert_non_null(strstr(answer, " 404 "));
	assert_string_equal(body_of(answer), "");
}

static void
other_methods_are_named(void **state)
{
	static const struct {
		const char *method, *body;
	} requests[] = {{"POST", ""}, {"POST", "a=b"}, {"PUT", "a"}, {"DELETE", ""}};
	char request[256];

	for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		const char *answer;

		snprintf(request, sizeof(request),
		    "%s /devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
		    "Content-Length: %zu\r\n\r\n%s",
		    requests[i].method, strlen(requests[i].body), requests[i].body);
		answer = ask(request);
		assert_non_null(strstr(answer, " 405 "));
		assert_non_null(strstr(answer, "Allow: GET, HEAD\r\n"));
	}
	assert_non_null(
	    strstr(ask("FROB /devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), " 501 "));
}

static void
connection_is_kept(void **state)
{
	const char *answer = ask("GET /devices HTTP/1.1\r\nHost: x\r\n\r\n"
				 "HEAD /devices HTTP/1.1\r\nHost: x\r\n\r\n"
				 "GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	assert_non_null(strstr(answer, "hello world\nHTTP/1.1 200 OK\r\n"));
	assert_non_null(strstr(answer, " 404 "));
}

static int
connect_to(const char *to)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", to);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void
turn(unsigned ms)
{
	struct timespec pause = {.tv_nsec = 1000000};

	for (; ms > 0; ms--) {
		event_base_loop(base, EVLOOP_NONBLOCK);
		nanosleep(&pause, NULL);
	}
}

static void
big_page_is_whole(void **state)
{
	static const char request[] = "GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	static char answer[BIG_BYTES + 4096];
	int fd = connect_to(path);
	size_t used = 0;
	ssize_t n = -1;

	assert_true(write(fd, request, sizeof(request) - 1) > 0);
	for (unsigned i = 0; i < 5000 && n != 0; i++) {
		turn(1);
		n = recv(fd, answer + used, sizeof(answer) - 1 - used, MSG_DONTWAIT);
		used += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	answer[used] = '\0';
	assert_int_equal(strlen(body_of(answer)), BIG_BYTES);
}

#define CLIENTS 24

/* Those that were answered since the last call. */
static unsigned
answered(const int *fds)
{
	unsigned n = 0;
	char text[4096];

	for (unsigned i = 0; i < CLIENTS; i++)
		n += recv(fds[i], text, sizeof(text), MSG_DONTWAIT) > 0;
	return n;
}

/* Sixteen are served at a time; the others wait, and are served when these have gone. */
static void
connections_are_limited(void **state)
{
	static const char request[] = "GET /devices HTTP/1.1\r\nHost: x\r\n\r\n";
	int fds[CLIENTS];

	for (unsigned i = 0; i < CLIENTS; i++) {
		fds[i] = connect_to(path);
		assert_true(fds[i] >= 0);
		turn(2);
		assert_true(write(fds[i], request, sizeof(request) - 1) > 0);
	}
	turn(300);
	assert_int_equal(answered(fds), 16);
	for (unsigned i = 0; i < 16; i++)
		shutdown(fds[i], SHUT_RDWR);
	turn(300);
	assert_int_equal(answered(fds), CLIENTS - 16);
	/* The rest stay open over xpv_control_close(). */
	for (unsigned i = 0; i < 16; i++)
		close(fds[i]);
	xpv_control_close(*state);
	*state = NULL;
	for (unsigned i = 16; i < CLIENTS; i++)
		close(fds[i]);
}

static void
garbage(void **state)
{
	static char big[7000];

	assert_null(strstr(ask("\001\002\003 nonsense\r\n\r\n"), " 200 "));
	memset(big, 'a', sizeof(big) - 1);
	memcpy(big, "GET /devices HTTP/1.1\r\nX: ", 26);
	memcpy(big + sizeof(big) - 5, "\r\n\r\n", 4);
	assert_null(strstr(ask(big), "hello"));
	/* And it lives on. */
	page(state);
}

static void
private_socket(void **state)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void
second_daemon_is_refused(void **state)
{
	assert_null(xpv_control_open(base, path, pages, NULL));
	page(state);
}

/* A living daemon that is busy does not look dead, nor does asking it wait. */
static void
busy_daemon_is_alive(void **state)
{
	int fds[64];
	unsigned n = 0;

	while (n < 64 && (fds[n] = connect_to(path)) >= 0)
		n++;
	assert_in_range(n, 1, 63);
	assert_null(xpv_control_open(base, path, pages, NULL));
	while (n > 0)
		close(fds[--n]);
	turn(10);
	page(state);
}

static void
other_file_is_kept(void **state)
{
	char name[128];
	FILE *f;

	snprintf(name, sizeof(name), "%s.file", path);
	f = fopen(name, "w");
	assert_non_null(f);
	fclose(f);
	assert_null(xpv_control_open(base, name, pages, NULL));
	assert_int_equal(access(name, F_OK), 0);
	unlink(name);
}

static void
directory_is_made(void **state)
{
	char directory[96], name[128];
	struct xpv_control *c;

	snprintf(directory, sizeof(directory), "%s.d", path);
	snprintf(name, sizeof(name), "%s/control.sock", directory);
	for (unsigned i = 0; i < 2; i++) { /* once to be made, once there */
		c = xpv_control_open(base, name, pages, NULL);
		assert_non_null(c);
		assert_int_equal(access(name, F_OK), 0);
		xpv_control_close(c);
		assert_int_not_equal(access(name, F_OK), 0);
	}
	assert_int_equal(rmdir(directory), 0);
	assert_null(xpv_control_open(base, "/nonexistent/xenpv/control.sock", pages, NULL));
}

static void
long_path_is_refused(void **state)
{
	char name[256];

	memset(name, 'x', sizeof(name) - 1);
	memcpy(name, "/tmp/", 5);
	name[sizeof(name) - 1] = '\0';
	assert_null(xpv_control_open(base, name, pages, NULL));
}

static void
stale_socket_is_replaced(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct xpv_control *c;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s.stale", path);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd); /* a dead daemon's: nobody listens */
	c = xpv_control_open(base, address.sun_path, pages, NULL);
	assert_non_null(c);
	xpv_control_close(c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(page, setup, teardown),
	    cmocka_unit_test_setup_teardown(unknown_page, setup, teardown),
	    cmocka_unit_test_setup_teardown(other_methods, setup, teardown),
	    cmocka_unit_test_setup_teardown(head_has_no_body, setup, teardown),
	    cmocka_unit_test_setup_teardown(other_methods_are_named, setup, teardown),
	    cmocka_unit_test_setup_teardown(connection_is_kept, setup, teardown),
	    cmocka_unit_test_setup_teardown(big_page_is_whole, setup, teardown),
	    cmocka_unit_test_setup_teardown(connections_are_limited, setup, teardown),
	    cmocka_unit_test_setup_teardown(garbage, setup, teardown),
	    cmocka_unit_test_setup_teardown(private_socket, setup, teardown),
	    cmocka_unit_test_setup_teardown(second_daemon_is_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(busy_daemon_is_alive, setup, teardown),
	    cmocka_unit_test_setup_teardown(other_file_is_kept, setup, teardown),
	    cmocka_unit_test_setup_teardown(directory_is_made, setup, teardown),
	    cmocka_unit_test_setup_teardown(long_path_is_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(stale_socket_is_replaced, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
