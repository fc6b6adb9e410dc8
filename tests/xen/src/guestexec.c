/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guestexec TTY SECONDS COMMAND: run a shell command in a guest by way of the
 * agent on its console (guestagent), from dom0.
 *
 * TTY is the pty of the guest's console. The command's output goes to stdout,
 * and its exit status is ours. 124: no answer in time; 125: the console is
 * gone; 126: it could not be used.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { NO_ANSWER = 124, GONE = 125, UNUSABLE = 126 };

/* Time the agent has to kill a command that ran too long and to say so. */
enum { GRACE = 5 };

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int
fail(int status, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "guestexec: ");
	vfprintf(stderr, format, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	return status;
}

static char *
base64(const char *in)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t n = strlen(in);
	char *out = malloc(n / 3 * 4 + 5), *p = out;

	if (out == NULL)
		return NULL;
	for (size_t i = 0; i < n; i += 3) {
		size_t left = n - i;
		unsigned v = (unsigned)(unsigned char)in[i] << 16;

		if (left > 1)
			v |= (unsigned)(unsigned char)in[i + 1] << 8;
		if (left > 2)
			v |= (unsigned char)in[i + 2];
		*p++ = digits[v >> 18];
		*p++ = digits[v >> 12 & 63];
		*p++ = left > 1 ? digits[v >> 6 & 63] : '=';
		*p++ = left > 2 ? digits[v & 63] : '=';
	}
	*p = '\0';
	return out;
}

static int
send_all(int fd, const char *data, size_t size, double end)
{
	while (size > 0) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		ssize_t n;

		if (now() > end)
			return NO_ANSWER;
		if (poll(&p, 1, 1000) <= 0)
			continue;
		n = write(fd, data, size);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return GONE;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
	}
	return 0;
}

/*
 * Copy what is between the line "<<id<<" and the line ">>id status>>" to
 * stdout as it comes. The agent puts a newline before the latter, which is
 * taken away again, so that output is passed on to the byte.
 */
static int
receive(int fd, const char *id, double end)
{
	char begin[64], finish[64], *at, *rest;
	static char buf[1 << 16];
	size_t used = 0, keep;
	int started = 0, status;
	ssize_t n;

	snprintf(begin, sizeof(begin), "\n<<%s<<\n", id);
	snprintf(finish, sizeof(finish), "\n>>%s ", id);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (now() > end)
			return NO_ANSWER;
		if (poll(&p, 1, 200) <= 0)
			continue;
		n = read(fd, buf + used, sizeof(buf) - 1 - used);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return GONE;
		used += (size_t)n;
		if (!started) {
			at = memmem(buf, used, begin, strlen(begin));
			keep = strlen(begin);
			if (at != NULL) {
				at += strlen(begin);
				used -= (size_t)(at - buf);
				memmove(buf, at, used);
				started = 1;
			} else if (used > keep) {
				memmove(buf, buf + used - keep, keep);
				used = keep;
			}
		}
		if (!started)
			continue;
		at = memmem(buf, used, finish, strlen(finish));
		if (at != NULL) {
			buf[used] = '\0';
			rest = at + strlen(finish);
			if (strstr(rest, ">>\n") != NULL) {
				status = atoi(rest);
				fwrite(buf, 1, (size_t)(at - buf), stdout);
				return fflush(stdout) == 0 ? status : UNUSABLE;
			}
			keep = used - (size_t)(at - buf);
		} else {
			keep = strlen(finish) < used ? strlen(finish) : used;
		}
		fwrite(buf, 1, used - keep, stdout);
		fflush(stdout);
		memmove(buf, buf + used - keep, keep);
		used = keep;
	}
}

int
main(int argc, char **argv)
{
	struct termios tio;
	struct timespec ts;
	char id[32], *code, *line;
	double end;
	int fd, limit, length, rc;

	if (argc != 4 || (limit = atoi(argv[2])) <= 0)
		return fail(UNUSABLE, "usage: guestexec tty seconds command");
	end = now() + limit + GRACE;
	fd = open(argv[1], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return fail(UNUSABLE, "%s: %s", argv[1], strerror(errno));
	/* The agent does one thing at a time. */
	while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		if (now() > end)
			return fail(NO_ANSWER, "%s is busy", argv[1]);
		usleep(20000);
	}
	if (tcgetattr(fd, &tio) == 0) {
		cfmakeraw(&tio);
		tcsetattr(fd, TCSANOW, &tio);
	}

	clock_gettime(CLOCK_REALTIME, &ts);
	snprintf(id, sizeof(id), "%d-%ld", (int)getpid(), ts.tv_nsec / 1000);
	code = base64(argv[3]);
	if (code == NULL || (length = asprintf(&line, "%s %d %s\n", id, limit, code)) < 0)
		return fail(UNUSABLE, "out of memory");
	rc = send_all(fd, line, (size_t)length, end);
	if (rc == 0)
		rc = receive(fd, id, end);
	if (rc == NO_ANSWER)
		return fail(rc, "no answer from %s in %d s", argv[1], limit + GRACE);
	if (rc == GONE)
		return fail(rc, "%s is gone", argv[1]);
	return rc;
}
