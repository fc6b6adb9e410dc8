/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_STDIO_H
#define STUB_STDIO_H

#include <stdarg.h>
#include <stddef.h>

typedef struct file FILE;

int snprintf(char *text, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int vsnprintf(char *text, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

#endif
