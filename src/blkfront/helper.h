/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_HELPER_H
#define BLKFRONT_HELPER_H

#include <stdbool.h>

/* Programs of the host that do what has no system call. "argv" is searched on the PATH. */

/* Runs one and waits. True if it ended with 0. */
bool blk_run_helper(const char *const argv[]);

/* Starts one that may take as long as it likes; nobody waits for it. */
void blk_start_helper(const char *const argv[]);

#endif
