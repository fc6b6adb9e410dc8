/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_FUZZ_H
#define XENPV_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What must hold whatever the input. */
#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* The input, taken from its front; zeros when it is used up. */
struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t
take_byte(struct input *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint32_t
take_u32(struct input *in)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < 4; i++)
		value = value << 8 | take_byte(in);
	return value;
}

/* Up to a newline: for text. */
static inline void
take_line(struct input *in, char *line, size_t size)
{
	size_t n = 0;

	while (in->left > 0) {
		char c = (char)take_byte(in);

		if (c == '\n')
			break;
		if (n < size - 1)
			line[n++] = c;
	}
	line[n] = '\0';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
