/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/options.h>

static bool persistent;
static long depth, kib = 8;
static char *user, *fixed_path;
static bool early = true;
static int attach;
static const char *const kinds[] = {"auto", "ublk", "nbd", NULL};
static int where;
static char *where_path;
static const char *const places[] = {"nowhere", "at:", NULL};
/* A folder of this run's own, and in it the configuration. */
static char folder[] = "/tmp/xenpv-options-XXXXXX";
static char file[sizeof(folder) + 5];

static const struct xpv_option table[] = {
    {"persistent", 0, XPV_OPTION_BOOL, &persistent, .help = "keep"},
    {"depth", 'n', XPV_OPTION_INT, &depth, 1, 128, .arg = "N", .help = "depth"},
    {"size", 0, XPV_OPTION_INT, &kib, 4, 64, .multiple_of = 4, .arg = "KIB", .help = "size"},
    {"user-name", 0, XPV_OPTION_STRING, &user, .arg = "NAME", .help = "user"},
    {"attach", 'a', XPV_OPTION_CHOICE, &attach, .choices = kinds, .arg = "KIND", .help = "how"},
    {"where", 0, XPV_OPTION_CHOICE, &where, .choices = places, .rest = &where_path,
	.help = "where"},
    {"fixed_path", 0, XPV_OPTION_STRING, &fixed_path, .at_start = true, .help = "fixed"},
    {"early", 0, XPV_OPTION_BOOL, &early, .at_start = true, .help = "fixed"},
    {NULL},
};
static const struct xpv_program program = {
    .name = "prog", .version = "1", .summary = "a test", .config_path = file, .options = table};

static void
write_file(const char *text)
{
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int
reset(void **state)
{
	persistent = true;
	depth = 64;
	attach = 0;
	where = 0;
	free(where_path);
	where_path = NULL;
	free(user);
	user = strdup("nobody");
	write_file("");
	return 0;
}

/* Parses with up to three arguments in this process. */
static void
parse(struct xpv_common *common, const char *a, const char *b, const char *c)
{
	char *argv[] = {
	    (char *)"prog", (char *)(uintptr_t)a, (char *)(uintptr_t)b, (char *)(uintptr_t)c, NULL};
	int argc = 1 + (a != NULL) + (b != NULL) + (c != NULL);

	optind = 0;
	xpv_options_parse(&program, argc, argv, common);
}

/* The exit status of a run, its output in "text". */
static int
run(char *text, size_t size, const char *a, const char *b)
{
	int out[2], status;
	ssize_t n = 0, got;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct xpv_common common;

		dup2(out[1], STDOUT_FILENO);
		dup2(out[1], STDERR_FILENO);
		close(out[0]);
		close(out[1]);
		parse(&common, a, b, NULL);
		fflush(NULL);
		_exit(100); /* went on to serve */
	}
	close(out[1]);
	while ((got = read(out[0], text + n, size - 1 - (size_t)n)) > 0)
		n += got;
	text[n] = '\0';
	close(out[0]);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
defaults(void **state)
{
	struct xpv_common common;

	parse(&common, NULL, NULL, NULL);
	assert_true(persistent);
	assert_int_equal(depth, 64);
	assert_int_equal(attach, 0);
	assert_string_equal(user, "nobody");
	xpv_options_free(&program, &common);
}

static void
file_and_line(void **state)
{
	struct xpv_common common;

	write_file("# a comment\ndepth = 32\npersistent = no\nattach = nbd\nuser-name = \"x y\"\n");
	parse(&common, "--depth", "16", NULL);
	assert_int_equal(depth, 16);
	assert_false(persistent);
	assert_int_equal(attach, 2);
	assert_string_equal(user, "x y");
	xpv_options_free(&program, &common);
}

static void
flags(void **state)
{
	struct xpv_common common;

	parse(&common, "--persistent=no", "-n8", "-vv");
	assert_false(persistent);
	assert_int_equal(depth, 8);
	assert_int_equal(common.verbosity, 2);
	xpv_options_free(&program, &common);
}

static void
bad_lines(void **state)
{
	char text[2048];

	assert_int_equal(run(text, sizeof(text), "--depth", "129"), EX_USAGE);
	assert_non_null(strstr(text, "from 1 to 128"));
	assert_int_equal(run(text, sizeof(text), "--depth", "8x"), EX_USAGE);
	assert_int_equal(run(text, sizeof(text), "--size", "10"), EX_USAGE);
	assert_non_null(strstr(text, "not a multiple of 4"));
	assert_int_equal(run(text, sizeof(text), "--attach", "scsi"), EX_USAGE);
	assert_non_null(strstr(text, "auto ublk nbd"));
	assert_int_equal(run(text, sizeof(text), "--persistent=maybe", NULL), EX_USAGE);
	assert_int_equal(run(text, sizeof(text), "--frobnicate", NULL), EX_USAGE);
	assert_int_equal(run(text, sizeof(text), "stray", NULL), EX_USAGE);
}

static void
bad_files(void **state)
{
	char text[2048];

	write_file("depth = 8\nspeed = 11\n");
	assert_int_equal(run(text, sizeof(text), "-t", NULL), EX_CONFIG);
	assert_non_null(strstr(text, ":2:"));
	assert_non_null(strstr(text, "speed"));
	write_file("depth = 8\nsize = 10\n");
	assert_int_equal(run(text, sizeof(text), "-t", NULL), EX_CONFIG);
	assert_non_null(strstr(text, ":2:"));
	write_file("depth = 1000\n");
	assert_int_equal(run(text, sizeof(text), "-t", NULL), EX_CONFIG);
	assert_non_null(strstr(text, "from 1 to 128"));
	write_file("depth = \n");
	assert_int_equal(run(text, sizeof(text), "-t", NULL), EX_CONFIG);
	assert_int_equal(run(text, sizeof(text), "-c", "/nonexistent/file"), EX_CONFIG);
	assert_non_null(strstr(text, "/nonexistent/file"));
}

static void
test_help_version(void **state)
{
	char text[4096];

	write_file("depth = 8\n");
	assert_int_equal(run(text, sizeof(text), "-t", NULL), EX_OK);
	assert_non_null(strstr(text, ": ok"));
	assert_int_equal(run(text, sizeof(text), "--help", NULL), EX_OK);
	assert_non_null(strstr(text, "--user-name NAME"));
	assert_non_null(strstr(text, "[64]"));
	assert_int_equal(run(text, sizeof(text), "-V", NULL), EX_OK);
	assert_string_equal(text, "prog 1\n");
}

static void
reload(void **state)
{
	struct xpv_common common;

	parse(&common, "--depth", "16", NULL);
	write_file("depth = 99\npersistent = off\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(depth, 16); /* the command line's */
	assert_false(persistent);
	/* All or nothing. */
	write_file("persistent = on\nattach = scsi\n");
	assert_int_equal(xpv_options_reload(&program, &common), -1);
	assert_false(persistent);
	assert_int_equal(attach, 0);
	xpv_options_free(&program, &common);
}

static void
reload_leaves_what_is_read_at_the_start(void **state)
{
	struct xpv_common common;
	const char *before;

	write_file("fixed_path = /a\nearly = no\n");
	parse(&common, NULL, NULL, NULL);
	assert_string_equal(fixed_path, "/a");
	assert_false(early);
	before = fixed_path;
	write_file("fixed_path = /b\nearly = yes\ndepth = 32\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_ptr_equal(fixed_path, before);
	assert_string_equal(fixed_path, "/a");
	assert_false(early);
	assert_int_equal(depth, 32);
	/* Not the default either. */
	write_file("");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_string_equal(fixed_path, "/a");
	assert_false(early);
	xpv_options_free(&program, &common);
	/* A start is a start. */
	early = true;
	write_file("fixed_path = /b\n");
	parse(&common, NULL, NULL, NULL);
	assert_string_equal(fixed_path, "/b");
	assert_true(early);
	xpv_options_free(&program, &common);
}

static void
errors_name_line_and_value(void **state)
{
	char text[2048];

	write_file("# one\n\ndepth = 129\nattach = nbd\n");
	assert_int_equal(run(text, sizeof(text), NULL, NULL), EX_CONFIG);
	assert_non_null(strstr(text, file));
	assert_non_null(strstr(text, ":3: depth: \"129\" is not a number from 1 to 128"));
	write_file("attach = scsi\n");
	assert_int_equal(run(text, sizeof(text), NULL, NULL), EX_CONFIG);
	assert_non_null(strstr(text, ":1: attach: \"scsi\" is none of auto ublk nbd"));
	write_file("persistent = 1\n");
	assert_int_equal(run(text, sizeof(text), NULL, NULL), EX_CONFIG);
	assert_non_null(strstr(text, ":1: persistent: \"1\" is neither yes nor no"));
	write_file("depth = { 1, 2 }\n");
	assert_int_equal(run(text, sizeof(text), NULL, NULL), EX_CONFIG);
	/* The line does not excuse the file. */
	write_file("depth = 129\n");
	assert_int_equal(run(text, sizeof(text), "--depth", "5"), EX_CONFIG);
}

/* Comments neither shift the line of an error nor reach into quoted text. */
static void
comments(void **state)
{
	static const struct {
		const char *text;
		unsigned line;
	} cases[] = {
	    {"# one\n# two\n#\n### four\ndepth = 129\n", 5},
	    {"depth = 5 # one\ndepth = 129\n", 2},
	    {"// it's one\n/* two\nthree */\ndepth = 129\n", 4},
	    {"depth = 5# it's\ndepth = 129\n", 2},
	    {"# the last line has no end\ndepth = 129", 2},
	};
	struct xpv_common common;
	char text[2048], expected[64];

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_file(cases[i].text);
		assert_int_equal(run(text, sizeof(text), NULL, NULL), EX_CONFIG);
		snprintf(expected, sizeof(expected), "%s:%u: ", file, cases[i].line);
		assert_non_null(strstr(text, expected));
	}
	write_file("# \"\nuser-name = \"a # b // c \\\" # /* d */\" # e\ndepth = 7 /* f */\n#");
	parse(&common, NULL, NULL, NULL);
	assert_string_equal(user, "a # b // c \" # /* d */");
	assert_int_equal(depth, 7);
	xpv_options_free(&program, &common);
	user = strdup("nobody");
	write_file("user-name = //c\n/a//b\n");
	parse(&common, NULL, NULL, NULL);
	assert_string_equal(user, "/a//b");
	xpv_options_free(&program, &common);
}

static void
test_finds_bad_line_options(void **state)
{
	char text[2048];

	assert_int_equal(run(text, sizeof(text), "-t", "--depth=129"), EX_CONFIG);
	assert_null(strstr(text, ": ok"));
	assert_int_equal(run(text, sizeof(text), "-t", "--frobnicate"), EX_CONFIG);
	assert_int_equal(run(text, sizeof(text), "--frobnicate", "-t"), EX_CONFIG);
}

static void
unreadable_file_is_an_error(void **state)
{
	char text[2048];

	assert_int_equal(run(text, sizeof(text), "-c", "/tmp"), EX_CONFIG);
	assert_non_null(strstr(text, "/tmp: Is a directory"));
}

/* The help's columns: each text starts where the others do. */
static void
help_is_aligned(void **state)
{
	char text[4096], *line, *rest = text;
	unsigned options = 0;

	assert_int_equal(run(text, sizeof(text), "--help", NULL), EX_OK);
	while ((line = strsep(&rest, "\n")) != NULL) {
		if (strncmp(line, "  ", 2) != 0)
			continue;
		assert_true(strlen(line) > 32);
		assert_int_equal(line[31], ' ');
		assert_int_not_equal(line[32], ' ');
		assert_memory_equal(line + 6, "--", 2);
		options++;
	}
	assert_int_equal(options, 8 + 8);
}

static void
missing_default_file(void **state)
{
	struct xpv_common common;

	unlink(file);
	parse(&common, NULL, NULL, NULL);
	assert_null(common.config);
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(depth, 64);
	/* It may come later. */
	write_file("depth = 7\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(depth, 7);
	xpv_options_free(&program, &common);

	depth = 64;
	user = strdup("nobody");
	parse(&common, NULL, NULL, NULL);
	assert_string_equal(common.config, file);
	assert_int_equal(depth, 7);
	xpv_options_free(&program, &common);
}

static void
reload_goes_back_to_defaults(void **state)
{
	struct xpv_common common;
	const char *before;

	write_file("depth = 99\nuser-name = alice\npersistent = no\nattach = nbd\n");
	parse(&common, "--attach", "ublk", NULL);
	assert_string_equal(user, "alice");
	before = user;
	write_file("user-name = alice\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(depth, 64);
	assert_true(persistent);
	assert_int_equal(attach, 1);	/* the command line's */
	assert_ptr_equal(user, before); /* unchanged, and not moved */
	write_file("");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_string_equal(user, "nobody");
	xpv_options_free(&program, &common);
}

/* A daemon must live on when its file has become unreadable. */
static void
reload_survives_any_file(void **state)
{
	char moved[128];
	struct xpv_common common = {0};
	int status;
	pid_t pid;

	snprintf(moved, sizeof(moved), "%s/moved", folder);
	write_file("depth = 99\n");
	pid = fork();
	if (pid == 0) {
		int result;

		close(STDERR_FILENO);
		parse(&common, "-c", file, NULL);
		if (rename(file, moved) != 0 || mkdir(file, 0700) != 0)
			_exit(10);
		result = xpv_options_reload(&program, &common);
		rmdir(file);
		unlink(moved);
		/* A file that was named and is gone is an error too. */
		if (xpv_options_reload(&program, &common) != -1)
			_exit(11);
		_exit(result == -1 && depth == 99 ? 0 : 12);
	}
	waitpid(pid, &status, 0);
	rmdir(file);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* The number in the file, or 0. */
static pid_t
read_pid(const char *path)
{
	FILE *f = fopen(path, "r");
	long pid = 0;

	if (f == NULL)
		return 0;
	if (fscanf(f, "%ld", &pid) != 1)
		pid = 0;
	fclose(f);
	return (pid_t)pid;
}

/* Starts "prog -d -p background.pid" and waits for the process that was started, not the daemon. */
static int
start_background(int ready, int stop)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct xpv_common common;
		char byte = 1;

		close(STDERR_FILENO);
		parse(&common, "-d", "-p", "background.pid");
		xpv_daemonize(&common);
		if (write(ready, &byte, 1) != 1 || read(stop, &byte, 1) != 0)
			_exit(1);
		xpv_pidfile_remove(&common);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
background_has_pidfile(void **state)
{
	char directory[] = "/tmp/xenpv-options-dir-XXXXXX", path[128], byte;
	int ready[2], stop[2];
	pid_t pid;

	assert_non_null(mkdtemp(directory));
	assert_int_equal(chdir(directory), 0);
	snprintf(path, sizeof(path), "%s/background.pid", directory);
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(stop), 0);
	pid = fork();
	if (pid == 0) { /* so that the daemon alone holds the pipes' other ends */
		close(stop[1]);
		_exit(start_background(ready[1], stop[0]));
	}
	waitpid(pid, NULL, 0);
	close(ready[1]);
	close(stop[0]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	pid = read_pid(path);
	assert_true(pid > 1 && pid != getpid());
	assert_int_equal(kill(pid, 0), 0);
	/* Who starts a second one learns it, and the first one's file is left alone. */
	assert_int_equal(start_background(-1, -1), EX_TEMPFAIL);
	assert_int_equal(read_pid(path), pid);
	close(stop[1]);
	assert_int_equal(read(ready[0], &byte, 1), 0); /* it has ended */
	close(ready[0]);
	assert_int_not_equal(access(path, F_OK), 0);
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(rmdir(directory), 0);
}

static void
second_pidfile_is_refused(void **state)
{
	char pidfile[128];
	struct xpv_common common = {.pidfile = pidfile};
	int status;
	pid_t pid;

	snprintf(pidfile, sizeof(pidfile), "%s/pid", folder);
	xpv_daemonize(&common);
	pid = fork();
	if (pid == 0) {
		close(STDERR_FILENO);
		xpv_daemonize(&common);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(WEXITSTATUS(status), EX_TEMPFAIL);
	xpv_pidfile_remove(&common);
	assert_int_not_equal(access(common.pidfile, F_OK), 0);
}

/* A choice that a text follows. */
static void
choice_and_rest(void **state)
{
	struct xpv_common common = {0};
	char text[2048];

	parse(&common, "--where=at:/run/x:y", NULL, NULL);
	assert_int_equal(where, 1);
	assert_string_equal(where_path, "/run/x:y");
	write_file("where = nowhere\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(where, 1); /* the command line wins */
	xpv_options_free(&program, &common);
	assert_null(where_path);

	reset(state);
	write_file("where = \"at:/a\"\n");
	parse(&common, NULL, NULL, NULL);
	assert_int_equal(where, 1);
	assert_string_equal(where_path, "/a");
	write_file("where = nowhere\n");
	assert_int_equal(xpv_options_reload(&program, &common), 0);
	assert_int_equal(where, 0);
	assert_null(where_path);
	xpv_options_free(&program, &common);

	reset(state);
	assert_int_equal(run(text, sizeof(text), "--where=at:", NULL), EX_USAGE);
	assert_int_equal(run(text, sizeof(text), "--where=at", NULL), EX_USAGE);
	assert_int_equal(run(text, sizeof(text), "--where=nowhere:/a", NULL), EX_USAGE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(defaults, reset),
	    cmocka_unit_test_setup(file_and_line, reset),
	    cmocka_unit_test_setup(flags, reset),
	    cmocka_unit_test_setup(choice_and_rest, reset),
	    cmocka_unit_test_setup(bad_lines, reset),
	    cmocka_unit_test_setup(bad_files, reset),
	    cmocka_unit_test_setup(test_help_version, reset),
	    cmocka_unit_test_setup(reload, reset),
	    cmocka_unit_test_setup(reload_leaves_what_is_read_at_the_start, reset),
	    cmocka_unit_test_setup(errors_name_line_and_value, reset),
	    cmocka_unit_test_setup(comments, reset),
	    cmocka_unit_test_setup(test_finds_bad_line_options, reset),
	    cmocka_unit_test_setup(unreadable_file_is_an_error, reset),
	    cmocka_unit_test_setup(help_is_aligned, reset),
	    cmocka_unit_test_setup(missing_default_file, reset),
	    cmocka_unit_test_setup(reload_goes_back_to_defaults, reset),
	    cmocka_unit_test_setup(reload_survives_any_file, reset),
	    cmocka_unit_test_setup(background_has_pidfile, reset),
	    cmocka_unit_test_setup(second_pidfile_is_refused, reset),
	};
	int result;

	if (mkdtemp(folder) == NULL)
		return EXIT_FAILURE;
	snprintf(file, sizeof(file), "%s/conf", folder);
	result = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(file);
	rmdir(folder);
	free(user);
	return result;
}
