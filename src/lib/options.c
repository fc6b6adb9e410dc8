/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/options.h"

#include <confuse.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "xenpv/log.h"

#define OPTIONS_MAX 64
#define FILE_MAX    (1024 * 1024)
#define HELP_COLUMN 32

enum { TABLE_FIRST = 256 }; /* getopt_long(3)'s value of the table's first option */

static const struct common_option {
	const char *name;
	char flag;
	const char *arg, *help;
} common_options[] = {
    {"config", 'c', "FILE", "read this file"},
    {"test", 't', NULL, "check the file and the options, and end"},
    {"daemonize", 'd', NULL, "go to the background, log to syslog"},
    {"pidfile", 'p', "FILE", "write the process id there"},
    {"verbose", 'v', NULL, "say more; twice: everything"},
    {"quiet", 'q', NULL, "say only what is wrong"},
    {"version", 'V', NULL, "print the version"},
    {"help", 'h', NULL, "print this"},
};
#define COMMON_COUNT (sizeof(common_options) / sizeof(common_options[0]))

/* A value of any type until all of a file's are known to be good. */
struct value {
	bool set;
	bool flag;
	long number;
	char *text;
};

/* What reading the file again needs to know of the start. */
static struct value defaults[OPTIONS_MAX];
static bool on_line[OPTIONS_MAX]; /* given on the command line: the file does not count */
static bool config_named;
static bool started; /* the file has been read once */
static const char *program_name = "xenpv";

static int pidfile_fd = -1;

/* ---- one value ---- */

static bool
parse_bool(const char *text, bool *value)
{
	static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(text, words[i]) == 0) {
			*value = i % 2 != 0;
			return true;
		}
	}
	return false;
}

/* "text" is this choice, or begins with it and goes on: then "rest" is where. */
static bool
is_choice(const struct xpv_option *o, const char *choice, const char *text, const char **rest)
{
	size_t length = strlen(choice);

	*rest = NULL;
	if (o->rest == NULL || length == 0 || choice[length - 1] != ':')
		return strcmp(text, choice) == 0;
	*rest = text + length;
	return strncmp(text, choice, length) == 0 && **rest != '\0';
}

/* The value of "text" for an option; on failure "why" says what is accepted. */
static bool
parse_value(const struct xpv_option *o, const char *text, struct value *v, char *why, size_t size)
{
	const char *rest;
	char *end;
	size_t used;

	v->set = true;
	switch (o->type) {
	case XPV_OPTION_BOOL:
		if (parse_bool(text, &v->flag))
			return true;
		snprintf(why, size, "%s: \"%.64s\" is neither yes nor no", o->name, text);
		return false;
	case XPV_OPTION_INT:
		errno = 0;
		v->number = strtol(text, &end, 10);
		if (errno != 0 || end == text || *end != '\0' || v->number < o->min ||
		    v->number > o->max) {
			snprintf(why, size, "%s: \"%.64s\" is not a number from %ld to %ld",
			    o->name, text, o->min, o->max);
			return false;
		}
		if (o->multiple_of > 1 && v->number % o->multiple_of != 0) {
			snprintf(why, size, "%s: %ld is not a multiple of %ld", o->name, v->number,
			    o->multiple_of);
			return false;
		}
		return true;
	case XPV_OPTION_STRING:
		v->text = strdup(text);
		snprintf(why, size, "%s: out of memory", o->name);
		return v->text != NULL;
	case XPV_OPTION_CHOICE:
		for (v->number = 0; o->choices[v->number] != NULL; v->number++) {
			if (!is_choice(o, o->choices[v->number], text, &rest))
				continue;
			v->text = rest != NULL ? strdup(rest) : NULL;
			snprintf(why, size, "%s: out of memory", o->name);
			return rest == NULL || v->text != NULL;
		}
		used = (size_t)snprintf(why, size, "%s: \"%.64s\" is none of", o->name, text);
		for (unsigned i = 0; o->choices[i] != NULL && used < size; i++)
			used += (size_t)snprintf(why + used, size - used, " %s", o->choices[i]);
		return false;
	}
	return false;
}

static void
store_value(const struct xpv_option *o, struct value *v)
{
	char **text = o->value;

	switch (o->type) {
	case XPV_OPTION_BOOL:
		*(bool *)o->value = v->flag;
		break;
	case XPV_OPTION_INT:
		*(long *)o->value = v->number;
		break;
	case XPV_OPTION_CHOICE:
		*(int *)o->value = (int)v->number;
		if (o->rest == NULL)
			break;
		free(*o->rest);
		*o->rest = v->text;
		v->text = NULL;
		break;
	case XPV_OPTION_STRING:
		/* The daemon may hold a string that has not changed. */
		if (*text != NULL && v->text != NULL && strcmp(*text, v->text) == 0)
			break;
		free(*text);
		*text = v->text;
		v->text = NULL;
		break;
	}
}

static void
load_value(const struct xpv_option *o, struct value *v)
{
	*v = (struct value){0};
	switch (o->type) {
	case XPV_OPTION_BOOL:
		v->flag = *(bool *)o->value;
		break;
	case XPV_OPTION_INT:
		v->number = *(long *)o->value;
		break;
	case XPV_OPTION_CHOICE:
		v->number = *(int *)o->value;
		if (o->rest == NULL || *o->rest == NULL)
			break;
		v->text = strdup(*o->rest);
		if (v->text == NULL)
			xpv_die(EX_OSERR, "out of memory");
		break;
	case XPV_OPTION_STRING:
		if (*(char **)o->value == NULL)
			break;
		v->text = strdup(*(char **)o->value);
		if (v->text == NULL)
			xpv_die(EX_OSERR, "out of memory");
		break;
	}
}

/* ---- the file ---- */

static void
file_error(cfg_t *cfg, const char *fmt, va_list args)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, args);
	xpv_err("%s:%d: %s", cfg->filename != NULL ? cfg->filename : "?", cfg->line, text);
}

/* libConfuse checks each value where it stands, so that the message has its line. */
static const struct xpv_option *checked_table;

static int
check_value(cfg_t *cfg, cfg_opt_t *opt)
{
	char why[256];

	for (const struct xpv_option *o = checked_table; o->name != NULL; o++) {
		struct value v = {0};
		bool good;

		if (strcmp(o->name, cfg_opt_name(opt)) != 0)
			continue;
		good = parse_value(
		    o, cfg_opt_getnstr(opt, cfg_opt_size(opt) - 1), &v, why, sizeof(why));
		free(v.text);
		if (!good)
			cfg_error(cfg, "%s", why);
		return good ? 0 : -1;
	}
	return 0;
}

/* The file's text, "size" bytes. NULL with errno. */
static char *
read_text(const char *path, size_t *size)
{
	char *text = malloc(FILE_MAX);
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	ssize_t n = -1;

	*size = 0;
	if (text != NULL && fd >= 0) {
		while ((n = read(fd, text + *size, FILE_MAX - *size)) > 0)
			*size += (size_t)n;
	}
	error = *size == FILE_MAX ? EFBIG : errno;
	if (fd >= 0)
		close(fd);
	if (n != 0 || *size == FILE_MAX) {
		free(text);
		text = NULL;
	}
	errno = error;
	return text;
}

/* Where the quoted text ends that starts at text[i]. */
static size_t
quote_end(const char *text, size_t i, size_t size)
{
	char quote = text[i++];

	while (i < size && text[i] != quote)
		i += text[i] == '\\' ? 2 : 1;
	return i < size ? i + 1 : size;
}

/* Where the comment ends that starts at text[i]; i if none does. A slash within a word is one. */
static size_t
comment_end(const char *text, size_t i, size_t size)
{
	bool slash = text[i] == '/' && i + 1 < size &&
		     (i == 0 || strchr(" \t\r\n={}()+,\"'", text[i - 1]) != NULL);
	const char *end;

	if (text[i] == '#' || (slash && text[i + 1] == '/')) {
		end = memchr(text + i, '\n', size - i);
		return end != NULL ? (size_t)(end - text) : size;
	}
	if (!slash || text[i + 1] != '*')
		return i;
	end = memmem(text + i + 2, size - i - 2, "*/", 2);
	return end != NULL ? (size_t)(end - text) + 2 : i;
}

/* libConfuse 3.3 counts a line with a comment three times: it does not get to see comments. */
static void
blank_comments(char *text, size_t size)
{
	size_t i = 0, end;

	while (i < size) {
		if (text[i] == '"' || text[i] == '\'') {
			i = quote_end(text, i, size);
			continue;
		}
		end = comment_end(text, i, size);
		if (end == i)
			i++;
		for (; i < end; i++) {
			if (text[i] != '\n')
				text[i] = ' ';
		}
	}
}

/*
 * Parses the file. libConfuse gets it from memory: its scanner ends the process when it cannot read
 * (a directory, say), and that must not happen to a running daemon.
 */
static int
parse_file(cfg_t *cfg, const char *path, bool may_be_missing)
{
	size_t size;
	char *text = read_text(path, &size);
	FILE *stream = NULL;
	int result = -1;

	if (text == NULL && errno == ENOENT && may_be_missing)
		return 0;
	if (text != NULL && size > 0) {
		blank_comments(text, size);
		stream = fmemopen(text, size, "r");
	}
	cfg->filename = strdup(path);
	if (text != NULL && size == 0)
		result = 0;
	else if (stream == NULL || cfg->filename == NULL)
		xpv_err("%s: %s", path, strerror(errno));
	else if (cfg_parse_fp(cfg, stream) == CFG_SUCCESS)
		result = 0; /* else file_error() has said it */
	if (stream != NULL)
		fclose(stream);
	free(text);
	return result;
}

/* What the file says of option i, or its default, for store_value(). */
static int
new_value(cfg_t *cfg, const struct xpv_option *o, unsigned i, struct value *v)
{
	char why[256];

	if (cfg_size(cfg, o->name) > 0) {
		if (parse_value(o, cfg_getstr(cfg, o->name), v, why, sizeof(why)))
			return 0;
		xpv_err("%s", why);
		return -1;
	}
	*v = defaults[i];
	if (v->text != NULL) {
		v->text = strdup(v->text);
		if (v->text == NULL) {
			xpv_err("%s: out of memory", o->name);
			return -1;
		}
	}
	return 0;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
is_value(const struct xpv_option *o, const struct value *v)
{
	switch (o->type) {
	case XPV_OPTION_BOOL:
		return *(bool *)o->value == v->flag;
	case XPV_OPTION_INT:
		return *(long *)o->value == v->number;
	case XPV_OPTION_CHOICE:
		return *(int *)o->value == v->number &&
		       (o->rest == NULL || same_text(*o->rest, v->text));
	case XPV_OPTION_STRING:
		return same_text(*(char **)o->value, v->text);
	}
	return true;
}

/* An option that is not to change while the daemon runs; a value that would is told of. */
static bool
keeps_its_own(const struct xpv_option *o, const struct value *v)
{
	if (!started || !o->at_start)
		return false;
	if (!is_value(o, v))
		xpv_warning("%s is read at the start only: it keeps its value until the next start",
		    o->name);
	return true;
}

static bool
fit(const struct xpv_program *p)
{
	return p->fit == NULL || p->fit();
}

/* Takes the new values of those that may change; "values" has the old ones then. */
static void
exchange_values(const struct xpv_option *table, struct value *values, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct value old;

		if (on_line[i] || keeps_its_own(&table[i], &values[i]))
			continue;
		load_value(&table[i], &old);
		store_value(&table[i], &values[i]);
		free(values[i].text);
		values[i] = old;
	}
}

static void
restore_values(const struct xpv_option *table, struct value *values, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (!on_line[i] && !(started && table[i].at_start))
			store_value(&table[i], &values[i]);
	}
}

/* Reads the file into the table's values, all or none. */
static int
read_file(const struct xpv_program *p, const char *path, bool may_be_missing)
{
	const struct xpv_option *table = p->options;
	cfg_opt_t opts[OPTIONS_MAX + 1] = {0};
	struct value values[OPTIONS_MAX] = {0};
	unsigned n = 0;
	int result;
	cfg_t *cfg;

	for (; table[n].name != NULL; n++)
		opts[n] = (cfg_opt_t)CFG_STR(table[n].name, NULL, CFGF_NODEFAULT);
	opts[n] = (cfg_opt_t)CFG_END();
	cfg = cfg_init(opts, CFGF_NONE);
	if (cfg == NULL) {
		xpv_err("%s: out of memory", path);
		return -1;
	}
	cfg_set_error_function(cfg, file_error);
	checked_table = table;
	for (unsigned i = 0; i < n; i++)
		cfg_set_validate_func(cfg, table[i].name, check_value);
	result = parse_file(cfg, path, may_be_missing);
	for (unsigned i = 0; result == 0 && i < n; i++)
		result = new_value(cfg, &table[i], i, &values[i]);
	if (result == 0)
		exchange_values(table, values, n);
	/* At the start the command line is still to come. */
	if (result == 0 && started && !fit(p)) {
		restore_values(table, values, n);
		result = -1;
	}
	for (unsigned i = 0; i < n; i++)
		free(values[i].text);
	cfg_free(cfg);
	return result;
}

/* ---- help ---- */

static void
print_default(const struct xpv_option *o)
{
	switch (o->type) {
	case XPV_OPTION_BOOL:
		printf(" [%s]\n", *(bool *)o->value ? "yes" : "no");
		break;
	case XPV_OPTION_INT:
		printf(" [%ld]\n", *(long *)o->value);
		break;
	case XPV_OPTION_STRING:
		if (*(char **)o->value != NULL)
			printf(" [%s]", *(char **)o->value);
		printf("\n");
		break;
	case XPV_OPTION_CHOICE:
		printf(":");
		for (unsigned i = 0; o->choices[i] != NULL; i++)
			printf(" %s", o->choices[i]);
		printf(" [%s]\n", o->choices[*(int *)o->value]);
		break;
	}
}

/* "  -f, --name ARG", then spaces up to the column of the help text. */
static void
print_left(char flag, const char *name, const char *separator, const char *arg)
{
	char flag_text[] = {'-', flag, ',', '\0'};
	int used;

	used = printf("  %3s --%s%s%s", flag != 0 ? flag_text : "", name, separator, arg);
	if (used >= HELP_COLUMN) {
		printf("\n");
		used = 0;
	}
	printf("%*s", HELP_COLUMN - used, "");
}

static void
print_help(const struct xpv_program *p)
{
	printf("%s: %s\n\nusage: %s [options]\n\n", p->name, p->summary, p->name);
	for (const struct xpv_option *o = p->options; o->name != NULL; o++) {
		if (o->type == XPV_OPTION_BOOL)
			print_left(o->flag, o->name, "[=no]", "");
		else
			print_left(o->flag, o->name, " ", o->arg != NULL ? o->arg : "VALUE");
		printf("%s", o->help);
		print_default(o);
	}
	printf("\n");
	for (const struct common_option *o = common_options; o < common_options + COMMON_COUNT;
	     o++) {
		print_left(
		    o->flag, o->name, o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");
		printf("%s", o->help);
		if (o->flag == 'c')
			printf(" [%s]", p->config_path);
		printf("\n");
	}
}

/* ---- the command line ---- */

struct line {
	char shorts[2 * (OPTIONS_MAX + COMMON_COUNT) + 1];
	struct option longs[OPTIONS_MAX + COMMON_COUNT + 1];
	const char *texts[OPTIONS_MAX]; /* each option's value, NULL: not given */
	bool test, help, bad;
};

/* getopt_long(3)'s tables: every option of the daemon's is TABLE_FIRST + its index. */
static void
make_getopt_tables(const struct xpv_option *table, struct line *line)
{
	char *s = line->shorts;
	unsigned n = 0;

	for (; table[n].name != NULL; n++) {
		bool is_bool = table[n].type == XPV_OPTION_BOOL;

		line->longs[n] = (struct option){.name = table[n].name,
		    .has_arg = is_bool ? optional_argument : required_argument,
		    .val = TABLE_FIRST + (int)n};
		if (table[n].flag != 0) {
			*s++ = table[n].flag;
			if (!is_bool)
				*s++ = ':';
		}
	}
	for (unsigned i = 0; i < COMMON_COUNT; i++, n++) {
		const struct common_option *o = &common_options[i];

		line->longs[n] = (struct option){.name = o->name,
		    .has_arg = o->arg != NULL ? required_argument : no_argument,
		    .val = o->flag};
		*s++ = o->flag;
		if (o->arg != NULL)
			*s++ = ':';
	}
	*s = '\0';
}

static int
option_index(const struct xpv_option *table, int c)
{
	if (c >= TABLE_FIRST)
		return c - TABLE_FIRST;
	for (int i = 0; table[i].name != NULL; i++) {
		if (table[i].flag == c)
			return i;
	}
	return -1;
}

static void
replace_text(char **text, const char *with)
{
	free(*text);
	*text = strdup(with);
	if (*text == NULL)
		xpv_die(EX_OSERR, "out of memory");
}

/* One option of getopt_long(3)'s. */
static void
take_option(const struct xpv_program *p, int c, struct line *line, struct xpv_common *common)
{
	int i;

	switch (c) {
	case 'c':
		replace_text(&common->config, optarg);
		break;
	case 't':
		line->test = true;
		break;
	case 'd':
		common->daemonize = true;
		break;
	case 'p':
		replace_text(&common->pidfile, optarg);
		break;
	case 'v':
		common->verbosity++;
		break;
	case 'q':
		common->verbosity = -1;
		break;
	case 'V':
		printf("%s %s\n", p->name, p->version);
		exit(EX_OK);
	case 'h':
		line->help = true;
		break;
	default:
		i = option_index(p->options, c);
		if (i >= 0)
			line->texts[i] = optarg != NULL ? optarg : "yes";
		else
			line->bad = true; /* getopt_long(3) has said it */
		break;
	}
}

static void
parse_line(const struct xpv_program *p, int argc, char **argv, struct line *line,
    struct xpv_common *common)
{
	int c;

	make_getopt_tables(p->options, line);
	while ((c = getopt_long(argc, argv, line->shorts, line->longs, NULL)) != -1)
		take_option(p, c, line, common);
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument \"%s\"\n", p->name, argv[optind]);
		line->bad = true;
	}
	if (!line->bad)
		return;
	fprintf(stderr, "Try \"%s --help\".\n", p->name);
	exit(line->test ? EX_CONFIG : EX_USAGE);
}

static void
apply_line(const struct xpv_program *p, const struct line *line)
{
	char why[256];

	for (unsigned i = 0; p->options[i].name != NULL; i++) {
		struct value v = {0};

		if (line->texts[i] == NULL)
			continue;
		if (!parse_value(&p->options[i], line->texts[i], &v, why, sizeof(why)))
			xpv_die(line->test ? EX_CONFIG : EX_USAGE, "--%s", why);
		store_value(&p->options[i], &v);
		free(v.text);
		on_line[i] = true;
	}
}

/* The background's working directory is "/". */
static void
make_absolute(char **path)
{
	char *directory, *absolute;

	if (*path == NULL || (*path)[0] == '/')
		return;
	directory = getcwd(NULL, 0);
	if (directory == NULL || asprintf(&absolute, "%s/%s", directory, *path) < 0)
		xpv_die(EX_OSERR, "%s: %s", *path, strerror(errno));
	free(directory);
	free(*path);
	*path = absolute;
}

static void
free_defaults(void)
{
	for (unsigned i = 0; i < OPTIONS_MAX; i++) {
		free(defaults[i].text);
		defaults[i].text = NULL;
	}
}

static void
keep_defaults(const struct xpv_program *p)
{
	free_defaults();
	memset(on_line, 0, sizeof(on_line));
	for (unsigned i = 0; p->options[i].name != NULL; i++) {
		if (i == OPTIONS_MAX)
			xpv_die(EX_SOFTWARE, "more than %d options", OPTIONS_MAX);
		load_value(&p->options[i], &defaults[i]);
	}
}

static enum xpv_log_level
log_level(int verbosity)
{
	int level = XPV_LOG_NOTICE + verbosity;

	return level < XPV_LOG_WARNING ? XPV_LOG_WARNING
	       : level > XPV_LOG_DEBUG ? XPV_LOG_DEBUG
				       : (enum xpv_log_level)level;
}

void
xpv_options_parse(const struct xpv_program *p, int argc, char **argv, struct xpv_common *common)
{
	struct line line = {0};
	const char *path;

	program_name = p->name;
	started = false;
	*common = (struct xpv_common){0};
	keep_defaults(p);
	parse_line(p, argc, argv, &line, common);
	if (line.help) {
		print_help(p);
		exit(EX_OK);
	}
	xpv_log_open(p->name, log_level(common->verbosity), false);
	if (common->daemonize) {
		make_absolute(&common->config);
		make_absolute(&common->pidfile);
	}
	config_named = common->config != NULL;
	path = config_named ? common->config : p->config_path;
	if (read_file(p, path, !config_named) != 0)
		exit(EX_CONFIG);
	apply_line(p, &line);
	if (!fit(p))
		exit(EX_CONFIG);
	started = true;
	if (line.test) {
		printf("%s: ok\n", path);
		exit(EX_OK);
	}
	if (!config_named && access(path, F_OK) == 0)
		replace_text(&common->config, path);
}

int
xpv_options_reload(const struct xpv_program *p, const struct xpv_common *common)
{
	/* A default file may have come or gone since the start. */
	return read_file(p, config_named ? common->config : p->config_path, !config_named);
}

void
xpv_options_free(const struct xpv_program *p, struct xpv_common *common)
{
	for (const struct xpv_option *o = p->options; o->name != NULL; o++) {
		if (o->type == XPV_OPTION_CHOICE && o->rest != NULL) {
			free(*o->rest);
			*o->rest = NULL;
		}
		if (o->type == XPV_OPTION_STRING) {
			free(*(char **)o->value);
			*(char **)o->value = NULL;
		}
	}
	free_defaults();
	free(common->config);
	free(common->pidfile);
	*common = (struct xpv_common){0};
}

/* ---- daemon ---- */

/* True if "path" is still the file behind "fd", and not one that its last owner has just removed.
 */
static bool
is_same_file(const char *path, int fd)
{
	struct stat opened, named;

	return fstat(fd, &opened) == 0 && stat(path, &named) == 0 &&
	       opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

static void
lock_pidfile(const char *path)
{
	for (;;) {
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

		/* Not one of the first three, which daemon(3) replaces. */
		pidfile_fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1) : -1;
		if (pidfile_fd < 0)
			xpv_die(EX_CANTCREAT, "%s: %s", path, strerror(errno));
		close(fd);
		if (flock(pidfile_fd, LOCK_EX | LOCK_NB) != 0)
			xpv_die(EX_TEMPFAIL, "%s: %s", path,
			    errno == EWOULDBLOCK ? "another one is already running"
						 : strerror(errno));
		if (is_same_file(path, pidfile_fd))
			return;
		close(pidfile_fd);
	}
}

static void
write_pidfile(const char *path)
{
	char pid[24];
	int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

	if (ftruncate(pidfile_fd, 0) != 0 || pwrite(pidfile_fd, pid, (size_t)n, 0) != n)
		xpv_die(EX_IOERR, "%s: %s", path, strerror(errno));
}

void
xpv_rundir_make(const char *rundir, const char *name, mode_t mode)
{
	char path[128];

	if (strlen(rundir) > 64)
		xpv_die(EX_CONFIG, "rundir: more than 64 characters");
	snprintf(path, sizeof(path), "%s%s", rundir, name);
	if (mkdir(path, mode) != 0 && errno != EEXIST)
		xpv_die(EX_CANTCREAT, "%s: %s", path, strerror(errno));
}

void
xpv_daemonize(const struct xpv_common *common)
{
	/* Before the fork, which keeps the lock: the refusal is for who starts us to see. */
	if (common->pidfile != NULL)
		lock_pidfile(common->pidfile);
	if (common->daemonize) {
		if (daemon(0, 0) != 0)
			xpv_die(EX_OSERR, "cannot go to the background: %s", strerror(errno));
		xpv_log_open(program_name, log_level(common->verbosity), true);
	}
	if (common->pidfile != NULL)
		write_pidfile(common->pidfile);
}

void
xpv_pidfile_remove(const struct xpv_common *common)
{
	if (common->pidfile == NULL || pidfile_fd < 0)
		return;
	unlink(common->pidfile);
	close(pidfile_fd);
	pidfile_fd = -1;
}
