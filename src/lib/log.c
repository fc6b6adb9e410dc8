/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static const char *log_program = "xenpv";
static enum xpv_log_level log_max = XPV_LOG_NOTICE;
static bool log_to_syslog;
static bool log_to_journal;
static char log_device[48];
static struct {
	pthread_mutex_t mutex;
	char text[256];
} last_error = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* systemd says which file its journal reads; stderr may have been redirected since. */
static bool
stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void
xpv_log_open(const char *program, enum xpv_log_level max, bool to_syslog)
{
	log_program = program;
	log_max = max;
	log_to_syslog = to_syslog;
	log_to_journal = !to_syslog && stderr_is_journal();
	if (to_syslog)
		openlog(program, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

void
xpv_log_device(const char *device)
{
	snprintf(log_device, sizeof(log_device), "%s", device != NULL ? device : "");
	/* A new worker has closed the descriptor it had inherited. */
	if (log_to_syslog)
		openlog(log_program, LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

bool
xpv_log_enabled(enum xpv_log_level level)
{
	return level <= log_max;
}

/* Appends text with everything a terminal could act on made visible; what does not fit is cut. */
static size_t
append(char *line, size_t used, const char *text)
{
	for (; *text != '\0' && used + sizeof("\\x00") < LINE_MAX_BYTES; text++) {
		unsigned char c = (unsigned char)*text;

		if (c >= ' ' && c < 0x7f)
			line[used++] = (char)c;
		else
			used += (size_t)snprintf(line + used, LINE_MAX_BYTES - used, "\\x%02x", c);
	}
	return used;
}

static void
remember(const char *text)
{
	pthread_mutex_lock(&last_error.mutex);
	snprintf(last_error.text, sizeof(last_error.text), "%.*s", (int)sizeof(last_error.text) - 1,
	    text);
	pthread_mutex_unlock(&last_error.mutex);
}

void
xpv_log_last_error(char *text, size_t size)
{
	pthread_mutex_lock(&last_error.mutex);
	snprintf(text, size, "%s", last_error.text);
	pthread_mutex_unlock(&last_error.mutex);
}

static void
log_line(enum xpv_log_level level, const char *fmt, va_list args)
{
	char text[LINE_MAX_BYTES], line[LINE_MAX_BYTES];
	bool named = !log_to_syslog && !log_to_journal; /* these name the program themselves */
	int error = errno;
	size_t used = 0;

	if (vsnprintf(text, sizeof(text), fmt, args) < 0)
		snprintf(text, sizeof(text), "%s", fmt);
	if (level == XPV_LOG_ERR)
		remember(text);
	if (log_to_journal)
		used = (size_t)snprintf(line, sizeof(line), "<%d>", level);
	if (named)
		used = append(line, used, log_program);
	if (named && log_device[0] != '\0')
		used = append(line, used, "/");
	used = append(line, used, log_device);
	if (named || log_device[0] != '\0')
		used = append(line, used, ": ");
	used = append(line, used, text);
	if (log_to_syslog) {
		line[used] = '\0';
		syslog((int)level, "%s", line);
	} else {
		line[used++] = '\n';
		/* Nobody is left to tell if stderr does not take it. */
		(void)!write(STDERR_FILENO, line, used);
	}
	errno = error;
}

void
xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
	va_list args;

	if (level > log_max)
		return;
	va_start(args, fmt);
	log_line(level, fmt, args);
	va_end(args);
}

void
xpv_die(int exit_code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	log_line(XPV_LOG_ERR, fmt, args);
	va_end(args);
	exit(exit_code);
}
