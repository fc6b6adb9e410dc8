/* SPDX-License-Identifier: BSD-2-Clause */
/* Each check runs in a process of its own, since a sandbox is for ever. Its exit status is the line
 * of the first expectation that failed. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "build_config.h"
#include "xenpv/sandbox.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if !HAVE_SECCOMP || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||              \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FILTERED 0
#else
#define FILTERED 1
#endif

/* cmocka does not say why it skips. */
#define SKIP_UNLESS(condition, why)                                                                \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			print_message("# skipped: %s: %s\n", __func__, why);                       \
			skip();                                                                    \
		}                                                                                  \
	} while (0)
#define NEEDS_FILTER() SKIP_UNLESS(FILTERED, "a sanitizer's runtime needs calls the filter refuses")
#define NEEDS_ROOT()   SKIP_UNLESS(geteuid() == 0, "only root can change its user")

static struct {
	int line;
	int number; /* errno */
} * failure;	    /* shared with the child */

#define EXPECT(condition)                                                                          \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			failure->number = errno;                                                   \
			failure->line = __LINE__;                                                  \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

/* An errno, from a call that must fail. */
#define EXPECT_ERRNO(call, wanted)                                                                 \
	do {                                                                                       \
		errno = 0;                                                                         \
		EXPECT((call) == -1 && errno == (wanted));                                         \
	} while (0)

static char empty_dir[] = "/tmp/xenpv-empty-XXXXXX";
static const struct xpv_sandbox plain = {.user = NULL};

/* The wait status of a process that did this. */
static int
run(void (*body)(void))
{
	int status;
	pid_t pid;

	failure->line = 0;
	pid = fork();
	if (pid == 0) {
		for (int number = 1; number < NSIG; number++)
			signal(number, SIG_DFL); /* cmocka's handlers */
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (failure->line != 0)
		print_error("expectation in line %d failed: %s\n", failure->line,
		    strerror(failure->number));
	return status;
}

static void
passes(void (*body)(void))
{
	int status = run(body);

	if (WIFSIGNALED(status))
		print_error("killed by signal %d\n", WTERMSIG(status));
	assert_int_equal(status, 0);
}

static void
is_killed(void (*body)(void))
{
	int status = run(body);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
}

/* --- the filesystem and other processes --- */

static void
try_forbidden(void)
{
	struct stat st;
	int fd = open("/dev/null", O_RDWR), pair[2];

	EXPECT(xpv_sandbox_enter(&plain) == 0);
	EXPECT_ERRNO(open("/etc/passwd", O_RDONLY), EPERM);
	EXPECT_ERRNO(syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY), EPERM);
	EXPECT_ERRNO(stat("/", &st), EPERM);
	EXPECT_ERRNO(unlink("/tmp/x"), EPERM);
	EXPECT_ERRNO(socket(AF_INET, SOCK_STREAM, 0), EPERM);
	EXPECT_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), EPERM);
	EXPECT_ERRNO(connect(fd, NULL, 0), EPERM);
	EXPECT_ERRNO(fork(), EPERM);
	EXPECT_ERRNO(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0), EPERM);
	EXPECT_ERRNO(syscall(SYS_clone3, NULL, 0), ENOSYS);
	EXPECT_ERRNO(kill(getpid(), 0), EPERM);
	EXPECT_ERRNO(syscall(SYS_tgkill, 1, 1, 0), EPERM);
	EXPECT_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), 0, NULL), EPERM);
	EXPECT_ERRNO(fcntl(fd, F_SETOWN, getpid()), EPERM);
	EXPECT_ERRNO(fcntl(fd, F_SETSIG, SIGKILL), EPERM);
	EXPECT_ERRNO(sched_setaffinity(1, 0, NULL), EPERM);
	EXPECT_ERRNO(prctl(PR_SET_DUMPABLE, 1), EPERM);
	EXPECT_ERRNO(syscall(SYS_io_uring_setup, 1, NULL), EPERM);
	EXPECT_ERRNO(setuid(0), EPERM);

	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	       MAP_FAILED);
	EXPECT(errno == EPERM);
	EXPECT_ERRNO(
	    mprotect((void *)((uintptr_t)&plain & ~4095UL), 4096, PROT_READ | PROT_EXEC), EPERM);
}

static void
test_forbidden(void **state)
{
	NEEDS_FILTER();
	passes(try_forbidden);
}

/* The upper half of an ioctl number is ignored by the kernel, and must not help here. */
static void
try_ioctls(void)
{
	int ends[2], n = 0;

	EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	EXPECT(ioctl(ends[0], FIOSETOWN, &n) == 0);
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	EXPECT(ioctl(ends[0], FIONREAD, &n) == 0);
	EXPECT_ERRNO(ioctl(ends[0], _IO('E', 6), &n), ENOTTY);
	EXPECT_ERRNO(ioctl(ends[0], FIOSETOWN, &n), EPERM);
	EXPECT_ERRNO(ioctl(ends[0], SIOCSPGRP, &n), EPERM);
	EXPECT_ERRNO(ioctl(ends[0], TIOCSTI, &n), EPERM);
	EXPECT_ERRNO(syscall(SYS_ioctl, ends[0], FIOSETOWN | 1UL << 32, &n), EPERM);
	EXPECT_ERRNO(syscall(SYS_ioctl, ends[0], TIOCSTI | 1UL << 63, &n), EPERM);
}

static void
test_ioctls(void **state)
{
	NEEDS_FILTER();
	passes(try_ioctls);
}

/* --- what kills --- */

static void
do_execve(void)
{
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	execl("/bin/true", "true", NULL);
}

static void
do_execveat(void)
{
	int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);

	EXPECT(xpv_sandbox_enter(&plain) == 0);
	syscall(SYS_execveat, fd, "", NULL, NULL, AT_EMPTY_PATH);
}

static void
do_ptrace(void)
{
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static void
do_mount(void)
{
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL);
}

static void *
exec_in_thread(void *arg)
{
	do_execve();
	return NULL;
}

/* The whole process, not the thread. */
static void
do_execve_in_thread(void)
{
	pthread_t thread;

	EXPECT(pthread_create(&thread, NULL, exec_in_thread, NULL) == 0);
	pthread_join(thread, NULL);
}

static void
test_killed(void **state)
{
	NEEDS_FILTER();
	is_killed(do_execve);
	is_killed(do_execveat);
	is_killed(do_ptrace);
	is_killed(do_mount);
	is_killed(do_execve_in_thread);
}

/* --- what still works --- */

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
	event_base_loopbreak(arg);
}

/* A queue's thread: its own event base, timers, memory. */
static void *
work(void *arg)
{
	struct timeval soon = {.tv_usec = 1000};
	struct event_base *base = event_base_new();
	cpu_set_t cpus;
	char *memory;

	EXPECT(base != NULL);
	event_add(evtimer_new(base, on_event, base), &soon);
	EXPECT(event_base_dispatch(base) == 0);
	event_base_free(base);
	memory = malloc(8 << 20);
	EXPECT(memory != NULL);
	memset(memory, 1, 8 << 20);
	free(memory);
	EXPECT(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	EXPECT(sched_setaffinity(0, sizeof(cpus), &cpus) == 0);
	EXPECT(prctl(PR_SET_NAME, "queue") == 0);
	return NULL;
}

static volatile sig_atomic_t got_signal;

static void
on_signal(int number)
{
	got_signal = number;
}

static void
try_allowed(void)
{
	struct event_base *base = event_base_new();
	struct event *sigterm;
	pthread_t threads[8];
	struct stat st;
	char bytes[16];
	int ends[2], pair[2], fd;
	FILE *file = tmpfile();
	void *memory;

	EXPECT(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	EXPECT(xpv_sandbox_enter(&plain) == 0);

	EXPECT(write(ends[1], "abc", 3) == 3 && read(ends[0], bytes, sizeof(bytes)) == 3);
	EXPECT(send(pair[0], "abc", 3, 0) == 3 && recv(pair[1], bytes, sizeof(bytes), 0) == 3);
	EXPECT(pwrite(fileno(file), "abcd", 4, 0) == 4 && pread(fileno(file), bytes, 16, 0) == 4);
	EXPECT(fdatasync(fileno(file)) == 0 && fstat(fileno(file), &st) == 0 && st.st_size == 4);
	EXPECT(
	    fallocate(fileno(file), 0, 0, 8192) == 0 && lseek(fileno(file), 0, SEEK_END) == 8192);
	EXPECT((fd = fcntl(ends[0], F_DUPFD_CLOEXEC, 100)) == 100 && close(fd) == 0);
	EXPECT(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
	EXPECT_ERRNO(read(ends[0], bytes, 1), EAGAIN);
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
	EXPECT(memory != MAP_FAILED && mprotect(memory, 4096, PROT_READ) == 0);
	EXPECT(munmap(memory, 4096) == 0);
	EXPECT(fprintf(stderr, "# a line from the sandbox\n") > 0);

	for (unsigned i = 0; i < 8; i++)
		EXPECT(pthread_create(&threads[i], NULL, work, NULL) == 0);
	for (unsigned i = 0; i < 8; i++)
		EXPECT(pthread_join(threads[i], NULL) == 0);
	work(NULL);

	EXPECT(signal(SIGUSR1, on_signal) != SIG_ERR);
	EXPECT(raise(SIGUSR1) == 0 && got_signal == SIGUSR1);
	sigterm = evsignal_new(base, SIGTERM, on_event, base);
	EXPECT(event_add(sigterm, NULL) == 0);
	EXPECT(raise(SIGTERM) == 0);
	EXPECT(event_base_dispatch(base) == 0);
}

static void
test_allowed(void **state)
{
	passes(try_allowed);
}

static void
do_abort(void)
{
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	abort();
}

/* A crash stays a crash, not a forbidden call. */
static void
test_abort(void **state)
{
	int status = run(do_abort);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void
try_io_uring(void)
{
	const struct xpv_sandbox sandbox = {.io_uring = true};

	EXPECT(xpv_sandbox_enter(&sandbox) == 0);
	EXPECT(syscall(SYS_io_uring_setup, 1, NULL) == -1 && (errno == EFAULT || errno == ENOSYS));
	EXPECT(syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0) == -1 && errno != EPERM);
	EXPECT(syscall(SYS_io_uring_register, -1, 0, NULL, 0) == -1 && errno != EPERM);
}

static void
test_io_uring(void **state)
{
	NEEDS_FILTER();
	passes(try_io_uring);
}

/* --- privileges --- */

static int proc;

/* The value of a line of /proc/self/status, which was opened before. */
static unsigned long
status_field(const char *name, int base)
{
	char text[8192], *at;
	ssize_t got = pread(proc, text, sizeof(text) - 1, 0);

	EXPECT(got > 0);
	text[got] = '\0';
	at = strstr(text, name);
	EXPECT(at != NULL);
	return strtoul(at + strlen(name), NULL, base);
}

static void
expect_no_privileges(void)
{
	EXPECT(status_field("CapEff:", 16) == 0);
	EXPECT(status_field("CapPrm:", 16) == 0);
	EXPECT(status_field("CapInh:", 16) == 0);
	EXPECT(status_field("CapAmb:", 16) == 0);
	EXPECT(status_field("NoNewPrivs:", 10) == 1);
	if (FILTERED)
		EXPECT(status_field("Seccomp:", 10) == 2);
}

static void
try_root_without_user(void)
{
	proc = open("/proc/self/status", O_RDONLY);
	EXPECT(xpv_sandbox_enter(&plain) == 0);
	expect_no_privileges();
	EXPECT(status_field("CapBnd:", 16) == 0);
	EXPECT(getuid() == 0);
}

static void
try_unknown_user(void)
{
	const struct xpv_sandbox sandbox = {.user = "xenpv-no-such-user"};

	proc = open("/proc/self/status", O_RDONLY);
	EXPECT(xpv_sandbox_enter(&sandbox) == 0);
	expect_no_privileges();
	EXPECT(getuid() == 0);
}

static sem_t go;
static int early_uid, early_errno;

/* Runs since before the sandbox. */
static void *
early_thread(void *arg)
{
	sem_wait(&go);
	early_uid = (int)getuid();
	errno = 0;
	early_errno = open("/", O_RDONLY | O_DIRECTORY) == -1 ? errno : 0;
	return NULL;
}

static void
try_all(void)
{
	const struct xpv_sandbox sandbox = {.user = "nobody", .empty_dir = empty_dir};
	uid_t uid = getpwnam("nobody")->pw_uid;
	gid_t gid = getpwnam("nobody")->pw_gid, more = 12345;
	char root[PATH_MAX];
	pthread_t thread;
	int self;

	sem_init(&go, 0, 0);
	EXPECT(pthread_create(&thread, NULL, early_thread, NULL) == 0);
	EXPECT(setgroups(1, &more) == 0);
	self = open("/proc/self", O_RDONLY | O_DIRECTORY);
	proc = open("/proc/self/status", O_RDONLY);
	EXPECT(xpv_sandbox_enter(&sandbox) == 0);

	expect_no_privileges();
	EXPECT(getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid);
	EXPECT(status_field("Groups:", 10) == 0);
	if (!FILTERED) {
		EXPECT_ERRNO(open("/etc/passwd", O_RDONLY), ENOENT);
		EXPECT(getcwd(root, sizeof(root)) != NULL && strcmp(root, "/") == 0);
		EXPECT_ERRNO(setuid(0), EPERM);
		EXPECT_ERRNO(openat(self, "../1/environ", O_RDONLY), EACCES);
	}

	sem_post(&go);
	EXPECT(pthread_join(thread, NULL) == 0);
	EXPECT(early_uid == (int)uid);
	if (FILTERED)
		EXPECT(early_errno == EPERM);
}

static void
test_root(void **state)
{
	NEEDS_ROOT();
	passes(try_root_without_user);
	passes(try_unknown_user);
	passes(try_all);
}

static void
try_missing_directory(void)
{
	const struct xpv_sandbox sandbox = {.empty_dir = "/nonexistent/empty"};

	EXPECT(xpv_sandbox_enter(&sandbox) == -1);
}

static void
test_failure_is_an_error_for_root(void **state)
{
	NEEDS_ROOT();
	passes(try_missing_directory);
}

/* As xenloop runs it: root and user can not be changed, the rest holds. */
static void
try_ordinary_user(void)
{
	const struct xpv_sandbox sandbox = {.user = "nobody", .empty_dir = empty_dir};
	int pair[2];

	if (geteuid() == 0)
		EXPECT(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
	proc = open("/proc/self/status", O_RDONLY);
	EXPECT(xpv_sandbox_enter(&sandbox) == 0);
	expect_no_privileges();
	if (FILTERED)
		EXPECT_ERRNO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), EPERM);
}

static void
test_ordinary_user(void **state)
{
	passes(try_ordinary_user);
}

static void
try_disabled(void)
{
	const struct xpv_sandbox sandbox = {
	    .user = "nobody", .empty_dir = empty_dir, .disabled = true};
	uid_t uid = getuid();

	EXPECT(xpv_sandbox_enter(&sandbox) == 0);
	EXPECT(getuid() == uid);
	EXPECT(open("/etc/passwd", O_RDONLY) != -1);
}

static void
test_disabled(void **state)
{
	passes(try_disabled);
}

static int
setup(void **state)
{
	failure =
	    mmap(NULL, sizeof(*failure), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (failure == MAP_FAILED || mkdtemp(empty_dir) == NULL)
		return -1;
	return chmod(empty_dir, 0555);
}

static int
teardown(void **state)
{
	return rmdir(empty_dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_forbidden),
	    cmocka_unit_test(test_ioctls),
	    cmocka_unit_test(test_killed),
	    cmocka_unit_test(test_allowed),
	    cmocka_unit_test(test_abort),
	    cmocka_unit_test(test_io_uring),
	    cmocka_unit_test(test_root),
	    cmocka_unit_test(test_failure_is_an_error_for_root),
	    cmocka_unit_test(test_ordinary_user),
	    cmocka_unit_test(test_disabled),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
