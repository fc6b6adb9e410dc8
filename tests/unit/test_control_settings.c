/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os_release.h"
#include "settings.h"

static char file[] = "/tmp/xenpv-os-release-XXXXXX";

static struct os_release
read_text(const char *text)
{
	const char *const files[] = {"/nonexistent/os-release", file, NULL};
	struct os_release release;
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	os_release_read(files, &release);
	return release;
}

static void
test_usual(void **state)
{
	struct os_release r = read_text("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"
					"NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12.5\"\n"
					"ID=debian\nHOME_URL=\"https://www.debian.org/\"\n");

	assert_string_equal(r.pretty_name, "Debian GNU/Linux 12 (bookworm)");
	assert_string_equal(r.id, "debian");
	assert_string_equal(r.version_id, "12.5");
}

static void
test_quotes(void **state)
{
	struct os_release r = read_text("# ID=comment\nID='fedora'\nVERSION_ID=40 # new\n"
					"PRETTY_NAME=\"The \\\"best\\\" \\$ystem\"");

	assert_string_equal(r.id, "fedora");
	assert_string_equal(r.version_id, "40");
	assert_string_equal(r.pretty_name, "The \"best\" $ystem");
}

static void
test_odd(void **state)
{
	char text[2048];
	struct os_release r = read_text("");

	assert_string_equal(r.pretty_name, "");
	r = read_text("ID=\nVERSION_ID=\"\nPRETTY_NAME=\"open\n");
	assert_string_equal(r.id, "");
	assert_string_equal(r.version_id, "");
	assert_string_equal(r.pretty_name, "open");
	r = read_text("ID=\\\n PRETTY_NAME=indented\nXID=x\n");
	assert_string_equal(r.id, "\\");
	assert_string_equal(r.pretty_name, "");
	memset(text, 'x', sizeof(text));
	memcpy(text, "ID=", 3);
	text[sizeof(text) - 1] = '\0';
	r = read_text(text);
	assert_int_equal(strlen(r.id), sizeof(r.id) - 1);
}

static void
test_no_file(void **state)
{
	const char *const files[] = {"/nonexistent/os-release", NULL};
	struct os_release r;

	os_release_read(files, &r);
	assert_string_equal(r.id, "");
}

static void
test_actions(void **state)
{
	struct control_config config = {0};
	const char *why;

	assert_non_null(settings_action(&config, REQUEST_POWEROFF, &why));
	assert_null(settings_action(&config, REQUEST_S3, &why));
	assert_non_null(why);
	assert_null(settings_action(&config, REQUEST_SUSPEND, &why));
	config.action[REQUEST_POWEROFF] = CONTROL_REFUSE;
	assert_null(settings_action(&config, REQUEST_POWEROFF, &why));
	config.action[REQUEST_SUSPEND] = "zzz";
	assert_string_equal(settings_action(&config, REQUEST_SUSPEND, &why), "zzz");
}

static int
make_file(void **state)
{
	int fd = mkstemp(file);

	close(fd);
	return fd >= 0 ? 0 : -1;
}

static int
remove_file(void **state)
{
	return unlink(file);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_usual),
	    cmocka_unit_test(test_quotes),
	    cmocka_unit_test(test_odd),
	    cmocka_unit_test(test_no_file),
	    cmocka_unit_test(test_actions),
	};

	return cmocka_run_group_tests_name("control_settings", tests, make_file, remove_file);
}
