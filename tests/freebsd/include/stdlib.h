/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_STDLIB_H
#define STUB_STDLIB_H

#include <stddef.h>

#define EXIT_SUCCESS 0
#define EXIT_FAILURE 1

void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *reallocarray(void *memory, size_t count, size_t size);
void free(void *memory);

#endif
