/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_OPTIONS_H
#define XENPV_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * One table per daemon describes every setting. Each is at once a long option ("--depth=64"),
 * optionally a short one, and a key of the configuration file ("depth = 64", libConfuse's syntax;
 * dashes in names stay dashes). The command line wins over the file, the file over the default.
 *
 * Every daemon has besides: -c/--config FILE, -t/--test (check the file and the options, exit 0 or
 * EX_CONFIG), -d/--daemonize, -p/--pidfile FILE, -v/--verbose (repeatable), -q/--quiet,
 * -V/--version, -h/--help. Unknown keys, out-of-range numbers and malformed booleans are errors
 * that name the file, the line, the value and what is accepted.
 */

enum xpv_option_type {
	XPV_OPTION_BOOL,   /* bool:         yes/no/true/false/on/off; as a flag "--name" or
			      "--name=no" */
	XPV_OPTION_INT,	   /* long:          min..max */
	XPV_OPTION_STRING, /* char *:     heap memory, replaced; NULL when unset */
	XPV_OPTION_CHOICE, /* int:        index in "choices" */
};

struct xpv_option {
	const char *name;
	char flag; /* short option or 0 */
	enum xpv_option_type type;
	void *value;		    /* where it goes; holds the default before parsing */
	long min, max;		    /* XPV_OPTION_INT */
	long multiple_of;	    /* XPV_OPTION_INT: 0 or 1: any number */
	const char *const *choices; /* XPV_OPTION_CHOICE: NULL-terminated */
	char **rest;	  /* XPV_OPTION_CHOICE: a choice that ends with a colon is followed
			     by a text, which goes here; heap memory, NULL else */
	bool at_start;	  /* reading the file again does not change it */
	const char *arg;  /* name of the argument in the help text */
	const char *help; /* one line */
};

struct xpv_program {
	const char *name; /* "xen-blkfrontd" */
	const char *version;
	const char *summary;		  /* one line for --help */
	const char *config_path;	  /* default file; a missing default file is not an error */
	const struct xpv_option *options; /* ends with .name == NULL */
	bool (*fit)(void); /* NULL, or: do the values, each in its range, go together? False after
			      a log line */
};

/* What the common flags asked for. Strings are heap memory owned by this struct. */
struct xpv_common {
	char *config; /* the file that was read, or NULL */
	bool daemonize;
	char *pidfile;
	int verbosity; /* -1 quiet, 0 normal, 1 and more verbose */
};

/*
 * Reads the command line and the file into the table's values, opens the log. Prints and exits for
 * -h and -V (0) and for -t (0 or EX_CONFIG); exits with EX_USAGE or EX_CONFIG after a message on
 * errors. Call once, before threads start.
 */
void xpv_options_parse(
    const struct xpv_program *program, int argc, char **argv, struct xpv_common *common);

/*
 * Reads the file again (SIGHUP) into the table's values; options given on the command line keep
 * their value, and so do those that are "at_start", with a log line for each that the file has
 * otherwise. Returns 0, or -1 after logging why: then no value has changed.
 */
int xpv_options_reload(const struct xpv_program *program, const struct xpv_common *common);

void xpv_options_free(const struct xpv_program *program, struct xpv_common *common);

/*
 * Daemonizes (fork, setsid, stdio to /dev/null, log to syslog) if asked, and writes the pidfile
 * (locked, so that a second start is refused with a message and EX_TEMPFAIL). The file is removed
 * by xpv_pidfile_remove().
 */
void xpv_daemonize(const struct xpv_common *common);

/*
 * Makes a directory unless it is there: the run-time directory ("name" is ""), or one in it
 * ("/empty"). Exits with EX_CONFIG if "rundir" is too long for the paths of sockets in it (64
 * characters), with EX_CANTCREAT if it cannot be made.
 */
void xpv_rundir_make(const char *rundir, const char *name, mode_t mode);

void xpv_pidfile_remove(const struct xpv_common *common);

#endif
