/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FAKE_FUSE_H
#define FAKE_FUSE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * A file system that consists of one file, mounted on a file, whose writes end when the test says
 * so: a disk that is slow. The kernel waits for it whoever else is killed. Served by a thread.
 */

/* False: not possible here (no root, no FUSE). */
bool fake_fuse_mount(const char *path, size_t bytes);
/* If it is mounted. */
void fake_fuse_unmount(void);

/* Until a write has come, which then waits; one at a time. False after a minute. */
bool fake_fuse_wait_write(void);
/* Lets it end. */
void fake_fuse_end_write(void);

#endif
