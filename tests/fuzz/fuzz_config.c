/* SPDX-License-Identifier: BSD-2-Clause */

/* A configuration file that is read again, as on SIGHUP. */

#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenpv/log.h>
#include <xenpv/options.h>

#include "fuzz.h"

static const char *const kinds[] = {"auto", "nbd", "unix:", NULL};
static int kind;
static long depth = 64;
static bool persistent = true;
static char *user, *rest;

static const struct xpv_option options[] = {
    {"attach", 'a', XPV_OPTION_CHOICE, &kind, .choices = kinds, .rest = &rest, .help = "x"},
    {"depth", 0, XPV_OPTION_INT, &depth, 1, 128, .help = "x"},
    {"pages", 0, XPV_OPTION_INT, &(long){4}, 4, 4096, .multiple_of = 4, .help = "x"},
    {"persistent", 0, XPV_OPTION_BOOL, &persistent, .help = "x"},
    {"user", 0, XPV_OPTION_STRING, &user, .help = "x"},
    {NULL},
};

static struct xpv_program program = {
    .name = "fuzz", .version = "0", .summary = "x", .options = options};
static struct xpv_common common;
static char path[64];
static int file;

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char *arguments[] = {"fuzz", "--quiet", "--config", path, NULL};
	file = memfd_create("config", 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	xpv_options_parse(&program, 4, arguments, &common);
	/* What is wrong in the file would be told at length. */
	xpv_log_open("fuzz", (enum xpv_log_level)0, false);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	long before = depth;

	check(ftruncate(file, 0) == 0);
	check(pwrite(file, data, size, 0) == (ssize_t)size);
	if (xpv_options_reload(&program, &common) != 0)
		check(depth == before);
	check(depth >= 1 && depth <= 128);
	check(kind >= 0 && kind < 3);
	return 0;
}
