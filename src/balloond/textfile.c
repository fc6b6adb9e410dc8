/* SPDX-License-Identifier: BSD-2-Clause */
#include "textfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
textfile_open(const char *folder, const char *name, int flags)
{
	char path[512];

	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return open(path, flags | O_CLOEXEC);
}

long
textfile_read(int fd, char *text, size_t size)
{
	size_t used = 0;
	ssize_t n;

	/* procfs gives a page at a time. */
	while (used + 1 < size) {
		n = pread(fd, text + used, size - 1 - used, (off_t)used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	text[used] = '\0';
	return (long)used;
}

/* Decimal digits, and where they end. */
static bool
parse(const char *text, const char **end, int64_t *value)
{
	char *stop;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoll(text, &stop, 10);
	*end = stop;
	return errno == 0;
}

int
textfile_read_number(int fd, int64_t *value)
{
	const char *end;
	char text[64];

	if (textfile_read(fd, text, sizeof(text)) < 0)
		return -1;
	if (!parse(text, &end, value) || end[strspn(end, "\n")] != '\0') {
		errno = EINVAL;
		return -1;
	}
	return 0;
}

int
textfile_number(const char *folder, const char *name, int64_t *value)
{
	int fd = textfile_open(folder, name, O_RDONLY), result, error;

	if (fd < 0)
		return -1;
	result = textfile_read_number(fd, value);
	error = errno;
	close(fd);
	errno = error;
	return result;
}

int
textfile_write_number(int fd, int64_t value)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%" PRId64 "\n", value);
	ssize_t written = pwrite(fd, text, (size_t)n, 0);

	if (written >= 0 && written != n)
		errno = EIO;
	return written == n ? 0 : -1;
}

bool
textfile_find(const char *text, const char *key, int64_t *value)
{
	size_t length = strlen(key);
	const char *end;

	while (text != NULL) {
		if (strncmp(text, key, length) == 0) {
			const char *number = text + length + strspn(text + length, " \t");

			if (number != text + length && parse(number, &end, value))
				return true;
		}
		text = strchr(text, '\n');
		if (text != NULL)
			text++;
	}
	return false;
}
