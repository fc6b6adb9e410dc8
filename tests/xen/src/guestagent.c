/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guestagent: runs in a test guest, on its console (standard input and output), the commands that
 * guestexec sends from dom0, one after the other, until the console is gone.
 *
 * A request is a line: an id, a time limit in seconds, a shell script in base64. The answer is
 * framed by lines with the id, so that whatever else the console says before and after is told
 * apart. A program and no shell loop, as under emulation each process costs as much as a disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT "/run/command"

static char line[1 << 20];
static volatile sig_atomic_t late;

static void
on_alarm(int signal)
{
	late = signal;
}

/* In place; the number of bytes. What is no digit ends it. */
static size_t
decode(char *text)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	unsigned long bits = 0;
	unsigned have = 0;
	size_t n = 0;

	for (const char *at = text, *digit; *at != '\0'; at++) {
		digit = strchr(digits, *at);
		if (digit == NULL)
			break;
		bits = bits << 6 | (unsigned long)(digit - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			text[n++] = (char)(bits >> have);
		}
	}
	return n;
}

static int
write_script(const char *bytes, size_t n)
{
	int fd = open(SCRIPT, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int failed = fd < 0 || write(fd, bytes, n) != (ssize_t)n;

	if (fd >= 0)
		close(fd);
	return failed ? -1 : 0;
}

static void
child(void)
{
	int nothing = open("/dev/null", O_RDONLY);

	dup2(nothing, STDIN_FILENO);
	close(nothing);
	dup2(STDOUT_FILENO, STDERR_FILENO);
	/* By its path: busybox would run a shell of its own, and that one its own programs rather
	 * than those on the PATH. */
	execl("/bin/sh", "/bin/sh", SCRIPT, (char *)NULL);
	_exit(127);
}

/* Its exit status as a shell has it: 137 if it had to be killed. */
static int
run(unsigned limit)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0)
		child();
	if (pid < 0)
		return 126;
	late = 0;
	alarm(limit);
	while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {
		if (late)
			kill(pid, SIGKILL);
	}
	alarm(0);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void
serve(char *request)
{
	char id[64];
	unsigned limit;
	int at = 0, rc;

	if (sscanf(request, "%63s %u %n", id, &limit, &at) != 2 || at == 0)
		return;
	rc = write_script(request + at, decode(request + at));
	dprintf(STDOUT_FILENO, "\n<<%s<<\n", id);
	if (rc == 0)
		rc = run(limit);
	else
		rc = 126;
	dprintf(STDOUT_FILENO, "\n>>%s %d>>\n", id, rc);
}

/* The rest stays for the next one. */
static size_t
serve_lines(size_t used)
{
	char *end;

	while ((end = memchr(line, '\n', used)) != NULL) {
		*end++ = '\0';
		serve(line);
		used -= (size_t)(end - line);
		memmove(line, end, used);
	}
	return used < sizeof(line) ? used : 0;
}

int
main(void)
{
	const struct sigaction action = {.sa_handler = on_alarm};
	size_t used = 0;
	ssize_t n;

	sigaction(SIGALRM, &action, NULL);
	dprintf(STDOUT_FILENO, "\nagent ready\n");
	while ((n = read(STDIN_FILENO, line + used, sizeof(line) - used)) > 0 ||
	       (n < 0 && errno == EINTR)) {
		if (n > 0)
			used = serve_lines(used + (size_t)n);
	}
	return 0;
}
