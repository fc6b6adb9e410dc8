/* SPDX-License-Identifier: BSD-2-Clause */
#include "conformance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 10

uint32_t self, peer;
struct xs_handle *store;
bool on_xenloop, peer_has_gone;

static char my_role;
static char dir[128];
static unsigned tests, failed;
static int child_in, child_out; /* in the child: to and from the parent */

static void
nap(int ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* --- results --- */

static bool
report(bool passed, const char *name, va_list args)
{
	printf("%sok %u - ", passed ? "" : "not ", ++tests);
	vprintf(name, args);
	putchar('\n');
	failed += !passed;
	return passed;
}

bool
ok(bool passed, const char *name, ...)
{
	va_list args;

	va_start(args, name);
	report(passed, name, args);
	va_end(args);
	return passed;
}

bool
is(int64_t got, int64_t wanted, const char *name, ...)
{
	va_list args;

	va_start(args, name);
	if (!report(got == wanted, name, args))
		printf("# got: %lld, wanted: %lld\n", (long long)got, (long long)wanted);
	va_end(args);
	return got == wanted;
}

static bool
failed_with(bool has_failed, int got, int wanted, const char *name, va_list args)
{
	bool passed = report(has_failed && got == wanted, name, args);

	if (!has_failed)
		printf("# it did not fail, wanted: %s\n", strerrorname_np(wanted));
	else if (!passed)
		printf("# errno: %s, wanted: %s\n", strerrorname_np(got), strerrorname_np(wanted));
	return passed;
}

bool
fails(int64_t result, int error, const char *name, ...)
{
	int got = errno;
	bool passed;
	va_list args;

	va_start(args, name);
	passed = failed_with(result == -1, got, error, name, args);
	va_end(args);
	return passed;
}

bool
fails_null(const void *result, int error, const char *name, ...)
{
	int got = errno;
	bool passed;
	va_list args;

	va_start(args, name);
	passed = failed_with(result == NULL, got, error, name, args);
	va_end(args);
	return passed;
}

int64_t
differs(const char *what, int64_t xen, int64_t loop)
{
	printf("# differs: %s\n", what);
	return on_xenloop ? loop : xen;
}

void
bail(const char *why, ...)
{
	char path[sizeof(dir) + 16];
	va_list args;

	printf("Bail out! ");
	va_start(args, why);
	vprintf(why, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	if (store != NULL && dir[0] != '\0') {
		snprintf(path, sizeof(path), "%s/%c/bail", dir, my_role);
		xs_write(store, XBT_NULL, path, "1", 1);
	}
	_exit(1);
}

/* --- the other process --- */

const char *
sync_dir(void)
{
	return dir;
}

void
tell(const char *key, uint32_t value)
{
	char path[256], text[16];
	int n = snprintf(text, sizeof(text), "%u", value);

	snprintf(path, sizeof(path), "%s/%c/%s", dir, my_role, key);
	if (!xs_write(store, XBT_NULL, path, text, (unsigned)n))
		bail("%s: %s", path, strerror(errno));
}

static bool
look(const char *key, uint32_t *value)
{
	char path[256], *text;

	snprintf(path, sizeof(path), "%s/%c/%s", dir, my_role == 'a' ? 'b' : 'a', key);
	text = xs_read(store, XBT_NULL, path, NULL);
	if (text == NULL)
		return false;
	*value = (uint32_t)strtoul(text, NULL, 10);
	free(text);
	return true;
}

uint32_t
hear(const char *key)
{
	uint32_t value;

	/* The process' own limit ends this. */
	while (!look(key, &value)) {
		if (look("bail", &value))
			bail("the other side has given up before %s", key);
		nap(TICK_MS);
	}
	return value;
}

void
meet(const char *key)
{
	tell(key, 1);
	hear(key);
}

/* --- events --- */

bool
readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1 && (p.revents & POLLIN) != 0;
}

void
nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

int64_t
next_event(xenevtchn_handle *xce, int ms)
{
	return readable(xenevtchn_fd(xce), ms) ? xenevtchn_pending(xce) : -1;
}

void
settle(xenevtchn_handle *xce)
{
	int64_t port;

	while ((port = next_event(xce, QUIET_MS)) >= 0)
		xenevtchn_unmask(xce, (evtchn_port_t)port);
}

/* --- a child --- */

struct child
child_start(void (*run)(void *arg), void *arg)
{
	struct child c;
	int up[2], down[2];

	if (pipe(up) != 0 || pipe(down) != 0)
		bail("pipe: %s", strerror(errno));
	fflush(stdout);
	c.pid = fork();
	if (c.pid == 0) {
		close(up[0]);
		close(down[1]);
		child_out = up[1];
		child_in = down[0];
		alarm(LIMIT_S);
		run(arg);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	c.in = up[0];
	c.out = down[1];
	return c;
}

void
child_says(uint32_t value)
{
	if (write(child_out, &value, sizeof(value)) != sizeof(value))
		_exit(1);
}

uint32_t
child_waits(void)
{
	uint32_t value;

	if (read(child_in, &value, sizeof(value)) != sizeof(value))
		_exit(1); /* the parent has gone */
	return value;
}

uint32_t
child_hear(const struct child *c)
{
	uint32_t value;

	if (!readable(c->in, SOON_MS) || read(c->in, &value, sizeof(value)) != sizeof(value))
		bail("the child says nothing");
	return value;
}

void
child_tell(const struct child *c, uint32_t value)
{
	if (write(c->out, &value, sizeof(value)) != sizeof(value))
		bail("the child has gone");
}

int
child_status(const struct child *c)
{
	int status;

	close(c->in);
	close(c->out);
	if (waitpid(c->pid, &status, 0) != c->pid)
		bail("wait: %s", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void
child_kill(const struct child *c)
{
	kill(c->pid, SIGKILL);
	if (child_status(c) != -SIGKILL)
		bail("the child has ended by itself");
}

/* --- memory --- */

static sigjmp_buf after_fault;

static void
on_fault(int number)
{
	siglongjmp(after_fault, 1);
}

bool
faults(volatile uint8_t *byte, bool write)
{
	struct sigaction action = {.sa_handler = on_fault}, segv, bus;
	volatile bool faulted = false;

	sigaction(SIGSEGV, &action, &segv);
	sigaction(SIGBUS, &action, &bus);
	if (sigsetjmp(after_fault, 1) != 0)
		faulted = true;
	else if (write)
		*byte = 1;
	else
		(void)*byte;
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return faulted;
}

bool
becomes(volatile uint8_t *byte, uint8_t wanted)
{
	for (int ms = 0; ms < SOON_MS && *byte != wanted; ms += TICK_MS)
		nap(TICK_MS);
	return *byte == wanted;
}

/* --- the process --- */

/* Both kinds of store and a stuck system call: nothing that may wait is done here. */
static void
on_alarm(int number)
{
	static const char text[] = "\nBail out! over its time limit\n";

	(void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
	_exit(1);
}

static uint32_t
own_number(void)
{
	char *text = xs_read(store, XBT_NULL, "domid", NULL);
	uint32_t domid = text != NULL ? (uint32_t)strtoul(text, NULL, 10) : 0;

	free(text);
	return domid;
}

int
conform(int argc, char *argv[], void (*role)(char role))
{
	struct timespec start, end;

	if (argc < 3 || (argv[1][0] != 'a' && argv[1][0] != 'b')) {
		fprintf(stderr, "usage: %s a|b PEER [RUN]\n", argv[0]);
		return 64;
	}
	signal(SIGALRM, on_alarm);
	signal(SIGPIPE, SIG_IGN);
	alarm(LIMIT_S);
	setvbuf(stdout, NULL, _IOLBF, 0);
	on_xenloop = getenv("XENLOOP_DIR") != NULL;
	my_role = argv[1][0];
	peer = (uint32_t)strtoul(argv[2], NULL, 10);
	store = xs_open(0);
	if (store == NULL)
		bail("xenstore: %s", strerror(errno));
	self = peer == 0 ? own_number() : 0;
	snprintf(dir, sizeof(dir), "/local/domain/%u/data/conformance/%s-%s", self + peer,
	    strrchr(argv[0], '/') != NULL ? strrchr(argv[0], '/') + 1 : argv[0],
	    argc > 3 ? argv[3] : "0");
	meet("start");
	clock_gettime(CLOCK_MONOTONIC, &start);
	role(my_role);
	if (!peer_has_gone)
		meet("end");
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("# %.1f s\n1..%u\n",
	    (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9,
	    tests);
	/* They count against the guest's quota. */
	if (self != 0) {
		tell("bye", 1);
	} else {
		if (!peer_has_gone)
			hear("bye");
		xs_rm(store, XBT_NULL, dir);
	}
	xs_close(store);
	return failed != 0;
}
