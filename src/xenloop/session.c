/* SPDX-License-Identifier: BSD-2-Clause */
#include "session.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include <xenstore.h>

#include "broker_main.h"
#include "client.h"
#include "hvc.h"

static char folder[80]; /* names of sockets are short */

static void
nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

void
session_choose(const char *dir)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char here[PATH_MAX];
	int n;

	if (dir == NULL)
		dir = getenv("XENLOOP_DIR");
	/* Programs may have another working directory. */
	if (dir != NULL && dir[0] != '/' && getcwd(here, sizeof(here)) != NULL)
		n = snprintf(folder, sizeof(folder), "%s/%s", here, dir);
	else if (dir != NULL)
		n = snprintf(folder, sizeof(folder), "%s", dir);
	else if (runtime != NULL)
		n = snprintf(folder, sizeof(folder), "%s/xenloop", runtime);
	else
		n = snprintf(folder, sizeof(folder), "/tmp/xenloop-%u", (unsigned)getuid());
	if (n >= (int)sizeof(folder)) {
		fprintf(stderr, "xenloop: %s: too long for sockets in it; use --dir\n",
		    dir != NULL ? dir : runtime);
		exit(EX_USAGE);
	}
	setenv("XENLOOP_DIR", folder, 1);
}

const char *
session_dir(void)
{
	return folder;
}

bool
session_next_domain(unsigned *slot, struct hv_info *info)
{
	union {
		struct hv_reply reply;
		char space[sizeof(struct hv_reply) + sizeof(struct hv_info)];
	} u;
	struct hv_request request = {
	    .operation = HV_INFO, .flags = HV_FLAG_BY_SLOT, .count = *slot};

	if (loop_call(&request, &u.reply, sizeof(*info) / sizeof(uint32_t), NULL, 0) != 0)
		return false;
	memcpy(info, u.reply.list, sizeof(*info));
	*slot = u.reply.value + 1;
	return true;
}

/* --- the environment --- */

/* Where the replacement libraries are: with libxenloop.so. */
static const char *
library_dir(void)
{
	static char path[PATH_MAX];
	Dl_info info;

	if (path[0] == '\0' && dladdr((void *)loop_hv, &info) != 0 &&
	    realpath(info.dli_fname, path) != NULL)
		*strrchr(path, '/') = '\0';
	return path;
}

static void
prepend(const char *variable, const char *value, char separator)
{
	const char *old = getenv(variable);
	char text[2 * PATH_MAX];

	if (old != NULL && *old != '\0' && strstr(old, value) == NULL)
		snprintf(text, sizeof(text), "%s%c%s", value, separator, old);
	else
		snprintf(text, sizeof(text), "%s", old != NULL && *old != '\0' ? old : value);
	setenv(variable, text, 1);
}

static void
use_libraries(void)
{
	char preload[PATH_MAX + 32];

	snprintf(preload, sizeof(preload), "%s/libxenloop.so", library_dir());
	prepend("LD_LIBRARY_PATH", library_dir(), ':');
	prepend("LD_PRELOAD", preload, ':');
	/* Or a program built with AddressSanitizer refuses to start. */
	prepend("ASAN_OPTIONS", "verify_asan_link_order=0", ':');
}

void
session_enter(const char *domain)
{
	char store[PATH_MAX];
	struct hv_info info;
	unsigned slot;

	setenv("XENLOOP_DOMAIN", domain, 1);
	if (loop_hv() == NULL) {
		fprintf(stderr,
		    "xenloop: no session in %s, or no domain %s there: \"xenloop start\" begins a "
		    "session, \"xenloop create %s\" makes the domain\n",
		    folder, domain, domain);
		exit(EX_UNAVAILABLE);
	}
	/* Its number may have been given, which does not last. */
	slot = loop_slot(loop_domain());
	if (session_next_domain(&slot, &info)) {
		setenv("XENLOOP_DOMAIN", info.name, 1);
		domain = info.name;
	}
	if (strcmp(domain, "Domain-0") == 0)
		snprintf(store, sizeof(store), "%s/xenstored/socket", folder);
	else
		snprintf(store, sizeof(store), "%s/store-%s", folder, domain);
	setenv("XENSTORED_PATH", store, 1);
}

int
session_exec(const char *domain, bool console, char *const argv[])
{
	session_enter(domain);
	use_libraries();
	if (console)
		return hvc_run(argv);
	execvp(argv[0], argv);
	fprintf(stderr, "xenloop: %s: %s\n", argv[0], strerror(errno));
	return errno == ENOENT ? 127 : 126;
}

/* --- start and stop --- */

static void
write_pid(const char *name, pid_t pid)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.pid", folder, name);
	f = fopen(path, "we");
	if (f != NULL) {
		fprintf(f, "%d\n", (int)pid);
		fclose(f);
	}
}

/* A zombie does not: its parent may be slow to wait for it, or never do so. */
static bool
runs(pid_t pid)
{
	char path[64], state = 'Z';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
			state = 'Z';
		fclose(f);
	}
	return state != 'Z' && state != 'X';
}

static pid_t
read_pid(const char *name)
{
	char path[PATH_MAX];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.pid", folder, name);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%d", &pid) != 1)
			pid = 0;
		fclose(f);
	}
	return pid > 1 && runs(pid) ? pid : 0;
}

/* What a daemon is given. */
static void
log_to(const char *name)
{
	char path[PATH_MAX];
	int fd, null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(path, sizeof(path), "%s/%s.log", folder, name);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	dup2(null, STDIN_FILENO);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	setsid();
}

static int
start_broker(void)
{
	int ready[2];
	pid_t pid;
	char byte;
	bool began;

	if (pipe2(ready, O_CLOEXEC) != 0)
		return EX_OSERR;
	pid = fork();
	if (pid == 0) {
		close(ready[0]);
		log_to("broker");
		_exit(broker_main(folder, ready[1]));
	}
	close(ready[1]);
	began = pid > 0 && read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	if (!began) {
		fprintf(stderr, "xenloop: the broker did not start: see %s/broker.log\n", folder);
		return EX_OSERR;
	}
	write_pid("broker", pid);
	return EX_OK;
}

/* Debian's packages have it per version. */
static const char *
find_xenstored(void)
{
	static char path[PATH_MAX];
	glob_t found;

	if (access("/usr/sbin/xenstored", X_OK) == 0)
		return "/usr/sbin/xenstored";
	if (glob("/usr/lib/xen-*/bin/xenstored", 0, NULL, &found) != 0)
		return NULL;
	snprintf(path, sizeof(path), "%s", found.gl_pathv[found.gl_pathc - 1]);
	globfree(&found);
	return path;
}

static bool
store_answers(void)
{
	struct xs_handle *xs = xs_open(0);
	unsigned length;
	char *value = xs != NULL ? xs_read(xs, XBT_NULL, "/tool/xenstored", &length) : NULL;
	bool there = value != NULL || (xs != NULL && errno == ENOENT);

	free(value);
	if (xs != NULL)
		xs_close(xs);
	return there;
}

static int
start_xenstored(const char *program)
{
	char rundir[PATH_MAX];
	pid_t pid;

	snprintf(rundir, sizeof(rundir), "%s/xenstored", folder);
	mkdir(rundir, 0700);
	session_enter("Domain-0");
	pid = fork();
	if (pid == 0) {
		char *const argv[] = {(char *)(uintptr_t)program, "-N", NULL};

		setenv("XENSTORED_RUNDIR", rundir, 1);
		unsetenv("XENSTORED_PATH");
		unsetenv("NOTIFY_SOCKET");
		log_to("xenstored");
		use_libraries();
		execv(program, argv);
		fprintf(stderr, "%s: %s\n", program, strerror(errno));
		_exit(EX_UNAVAILABLE);
	}
	write_pid("xenstored", pid);
	for (unsigned i = 0; i < 500; i++) {
		if (store_answers())
			return EX_OK;
		if (waitpid(pid, NULL, WNOHANG) == pid)
			break;
		nap();
	}
	fprintf(stderr, "xenloop: %s did not start: see %s/xenstored.log\n", program, folder);
	return EX_UNAVAILABLE;
}

/* As xen-init-dom0 does. */
static int
name_domain_0(void)
{
	struct xs_handle *xs = xs_open(0);
	bool named = xs != NULL && xs_write(xs, XBT_NULL, "/local/domain/0/domid", "0", 1) &&
		     xs_write(xs, XBT_NULL, "/local/domain/0/name", "Domain-0", 8);

	if (!named)
		fprintf(stderr, "xenloop: xenstored of %s: %s\n", folder, strerror(errno));
	if (xs != NULL)
		xs_close(xs);
	return named ? EX_OK : EX_OSERR;
}

int
session_start(const char *xenstored)
{
	int status;

	if (xenstored == NULL)
		xenstored = getenv("XENLOOP_XENSTORED");
	if (xenstored == NULL)
		xenstored = find_xenstored();
	if (xenstored == NULL || access(xenstored, X_OK) != 0) {
		fprintf(stderr,
		    "xenloop: no xenstored%s%s: install xen-utils (or unpack it anywhere) and say "
		    "--xenstored PATH or XENLOOP_XENSTORED=PATH\n",
		    xenstored != NULL ? ": " : "", xenstored != NULL ? xenstored : "");
		return EX_UNAVAILABLE;
	}
	if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
		fprintf(stderr, "xenloop: %s: %s\n", folder, strerror(errno));
		return EX_CANTCREAT;
	}
	if (read_pid("broker") != 0) {
		fprintf(stderr, "xenloop: there is a session in %s: \"xenloop stop\" ends it\n",
		    folder);
		return EX_TEMPFAIL;
	}
	status = start_broker();
	if (status == EX_OK)
		status = start_xenstored(xenstored);
	if (status == EX_OK)
		status = name_domain_0();
	if (status != EX_OK)
		session_stop();
	return status;
}

static void
end(const char *name)
{
	pid_t pid = read_pid(name);
	char path[PATH_MAX];

	if (pid != 0)
		kill(pid, SIGTERM);
	for (unsigned i = 0; pid != 0 && runs(pid) && i < 300; i++) {
		if (i == 200)
			kill(pid, SIGKILL);
		nap();
	}
	/* In "xenloop session" it is ours. */
	if (pid != 0)
		waitpid(pid, NULL, WNOHANG);
	snprintf(path, sizeof(path), "%s/%s.pid", folder, name);
	unlink(path);
}

static void
remove_files(const char *pattern)
{
	char path[PATH_MAX];
	glob_t found;

	snprintf(path, sizeof(path), "%s/%s", folder, pattern);
	if (glob(path, 0, NULL, &found) != 0)
		return;
	for (size_t i = 0; i < found.gl_pathc; i++)
		(void)(unlink(found.gl_pathv[i]) != 0 && rmdir(found.gl_pathv[i]));
	globfree(&found);
}

int
session_stop(void)
{
	if (read_pid("broker") == 0 && read_pid("xenstored") == 0) {
		fprintf(stderr, "xenloop: no session in %s\n", folder);
		return EX_UNAVAILABLE;
	}
	session_signal(NULL, SIGKILL);
	end("xenstored");
	end("broker");
	remove_files("broker");
	remove_files("xenstored/socket");
	remove_files("xenstored");
	remove_files("store-*");
	remove_files("devices-*");
	return EX_OK;
}

void
session_remove(void)
{
	remove_files("*.log");
	rmdir(folder);
}

/* --- processes --- */

/* By what "xenloop run" has put in its environment; the folder alone may be there for others, too.
 * NULL for the domain: any. */
static bool
is_in(pid_t pid, const char *domain)
{
	static const char in[] = "XENLOOP_DOMAIN=";
	char path[64], dir[PATH_MAX + 32], *text = NULL;
	bool in_session = false, in_domain = false;
	size_t room = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	snprintf(dir, sizeof(dir), "XENLOOP_DIR=%s", folder);
	while (getdelim(&text, &room, '\0', f) > 0) {
		in_session = in_session || strcmp(text, dir) == 0;
		if (strncmp(text, in, sizeof(in) - 1) == 0)
			in_domain = domain == NULL || strcmp(text + sizeof(in) - 1, domain) == 0;
	}
	free(text);
	fclose(f);
	return in_session && in_domain;
}

static bool
is_ancestor(pid_t pid)
{
	pid_t at = getpid();

	while (at > 1) {
		char path[64];
		int parent = 0;
		FILE *f;

		if (at == pid)
			return true;
		snprintf(path, sizeof(path), "/proc/%d/stat", (int)at);
		f = fopen(path, "re");
		if (f == NULL)
			return false;
		if (fscanf(f, "%*d (%*[^)]) %*c %d", &parent) != 1)
			parent = 0;
		fclose(f);
		at = parent;
	}
	return false;
}

unsigned
session_signal(const char *domain, int number)
{
	pid_t broker = read_pid("broker"), xenstored = read_pid("xenstored");
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	unsigned count = 0;

	while (proc != NULL && (entry = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (pid <= 1 || pid == broker || pid == xenstored || is_ancestor(pid) ||
		    !is_in(pid, domain))
			continue;
		if (kill(pid, number) == 0)
			count++;
	}
	if (proc != NULL)
		closedir(proc);
	return count;
}
