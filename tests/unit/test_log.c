/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xenpv/log.h>

static char captured[4096];
static int capture[2], real_stderr;

static void
begin(void)
{
	assert_int_equal(pipe(capture), 0);
	real_stderr = dup(STDERR_FILENO);
	dup2(capture[1], STDERR_FILENO);
}

static const char *
end(void)
{
	ssize_t n;

	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(capture[1]);
	n = read(capture[0], captured, sizeof(captured) - 1);
	close(capture[0]);
	captured[n < 0 ? 0 : n] = '\0';
	return captured;
}

static void
plain_line(void **state)
{
	begin();
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_log_device(NULL);
	xpv_notice("disk %d is ready", 3);
	assert_string_equal(end(), "prog: disk 3 is ready\n");
}

static void
device_in_line(void **state)
{
	begin();
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_log_device("xvda");
	xpv_err("gone");
	xpv_log_device(NULL);
	assert_string_equal(end(), "prog/xvda: gone\n");
}

static void
levels_are_filtered(void **state)
{
	begin();
	xpv_log_open("prog", XPV_LOG_WARNING, false);
	xpv_notice("unseen");
	xpv_debug("unseen");
	xpv_warning("seen");
	assert_string_equal(end(), "prog: seen\n");
	assert_false(xpv_log_enabled(XPV_LOG_NOTICE));
	assert_true(xpv_log_enabled(XPV_LOG_ERR));
}

static void
control_characters_are_visible(void **state)
{
	begin();
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_notice("a\nb\033[31m\xc3\xa4");
	assert_string_equal(end(), "prog: a\\x0ab\\x1b[31m\\xc3\\xa4\n");
}

static void
long_lines_are_bounded(void **state)
{
	char text[3000];

	memset(text, '\a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	begin();
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_notice("%s", text);
	end();
	assert_true(strlen(captured) <= 1024);
	assert_int_equal(captured[strlen(captured) - 1], '\n');
}

static void
journal_gets_priorities(void **state)
{
	char stream[64];
	struct stat st;

	begin();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
	    (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	unsetenv("JOURNAL_STREAM");
	xpv_warning("hot");
	assert_string_equal(end(), "<4>hot\n");
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
}

static void
journal_line_with_device(void **state)
{
	char stream[64];
	struct stat st;

	begin();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
	    (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_log_device("a>");
	xpv_err("gone");
	xpv_log_device(NULL);
	assert_string_equal(end(), "<3>a>: gone\n");

	/* systemd's variable is inherited by what has its stderr elsewhere. */
	begin();
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
	    (unsigned long long)st.st_ino + 1000000);
	setenv("JOURNAL_STREAM", stream, 1);
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_err("gone");
	assert_string_equal(end(), "prog: gone\n");
	unsetenv("JOURNAL_STREAM");
}

static void
long_names_are_bounded(void **state)
{
	char name[3000];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	begin();
	xpv_log_open(name, XPV_LOG_NOTICE, false);
	xpv_log_device(name);
	xpv_err("%s", name);
	xpv_log_device(NULL);
	end();
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	assert_true(strlen(captured) <= 1024);
	assert_int_equal(captured[strlen(captured) - 1], '\n');
}

/* An escape that does not fit is left out whole. */
static void
escapes_are_not_split(void **state)
{
	char text[1024];

	for (unsigned lead = 0; lead < 4; lead++) {
		memset(text, '\a', sizeof(text) - 1);
		memset(text, 'x', lead);
		text[sizeof(text) - 1] = '\0';
		begin();
		xpv_log_open("prog", XPV_LOG_NOTICE, false);
		xpv_notice("%s", text);
		end();
		assert_string_equal(captured + strlen(captured) - 5, "\\x07\n");
	}
}

/* Each packet of this socket is one write. */
static void
line_is_one_write(void **state)
{
	int pair[2], saved = dup(STDERR_FILENO);
	char line[2048];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	dup2(pair[1], STDERR_FILENO);
	xpv_log_open("prog", XPV_LOG_NOTICE, false);
	xpv_log_device("xvda");
	xpv_err("a\nb");
	xpv_log_device(NULL);
	dup2(saved, STDERR_FILENO);
	assert_int_equal(recv(pair[0], line, sizeof(line), MSG_DONTWAIT), 18);
	assert_memory_equal(line, "prog/xvda: a\\x0ab\n", 18);
	assert_int_equal(recv(pair[0], line, sizeof(line), MSG_DONTWAIT), -1);
	close(saved);
	close(pair[0]);
	close(pair[1]);
}

static void
errno_is_kept(void **state)
{
	int saved = dup(STDERR_FILENO);

	close(STDERR_FILENO);
	errno = ENOSPC;
	xpv_err("nobody hears it");
	assert_int_equal(errno, ENOSPC);
	dup2(saved, STDERR_FILENO);
	close(saved);
}

static void
die_exits(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		close(STDERR_FILENO);
		xpv_die(69, "no way");
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 69);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain_line),
	    cmocka_unit_test(device_in_line),
	    cmocka_unit_test(levels_are_filtered),
	    cmocka_unit_test(control_characters_are_visible),
	    cmocka_unit_test(long_lines_are_bounded),
	    cmocka_unit_test(journal_gets_priorities),
	    cmocka_unit_test(journal_line_with_device),
	    cmocka_unit_test(long_names_are_bounded),
	    cmocka_unit_test(escapes_are_not_split),
	    cmocka_unit_test(line_is_one_write),
	    cmocka_unit_test(errno_is_kept),
	    cmocka_unit_test(die_exits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
