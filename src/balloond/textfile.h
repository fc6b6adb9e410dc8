/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_TEXTFILE_H
#define BALLOON_TEXTFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The kernel's small text files, of sysfs and procfs. One that is read often is kept open: whoever
 * has to do something about a lack of memory does not ask for it first.
 */

/* A descriptor, or -1 with errno. */
int textfile_open(const char *folder, const char *name, int flags);

/* All that fits, as a string. Its length, or -1 with errno. */
long textfile_read(int fd, char *text, size_t size);

/* The whole file is one number, but for newlines. 0, or -1 with errno (EINVAL). */
int textfile_read_number(int fd, int64_t *value);
int textfile_number(const char *folder, const char *name, int64_t *value);

/* 0 or -1 with errno. */
int textfile_write_number(int fd, int64_t value);

/* The number after "key" at the start of a line, with blanks (and a colon that belongs to "key")
 * in between. False if there is no such line or no number. */
bool textfile_find(const char *text, const char *key, int64_t *value);

#endif
