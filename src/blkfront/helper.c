/* SPDX-License-Identifier: BSD-2-Clause */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void __attribute__((noreturn)) execute(const char *const argv[])
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	execvp(argv[0], (char *const *)argv);
	_exit(127);
}

static int
wait_for(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

bool
blk_run_helper(const char *const argv[])
{
	pid_t pid = fork();

	if (pid == 0)
		execute(argv);
	return pid > 0 && wait_for(pid) == 0;
}

void
blk_start_helper(const char *const argv[])
{
	pid_t pid = fork();

	/* A grandchild: init collects it, whenever that is. */
	if (pid == 0) {
		if (fork() == 0)
			execute(argv);
		_exit(0);
	}
	if (pid > 0)
		wait_for(pid);
}
