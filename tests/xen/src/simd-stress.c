/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * simd-stress [SECONDS [PROCESSES]]: does vector state survive being switched
 * between processes and between domains?
 *
 * An emulator that loses or mixes up vector registers shows itself as random
 * crashes and corrupt data in whatever runs. libc's string functions use these
 * registers, so run them on known data in several processes at once and look.
 * Exit status 0: no difference in the given time.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 8192, MAX_PROCESSES = 64 };

static unsigned char source[SIZE], copy[SIZE];

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool
round_ok(uint32_t *seed)
{
	size_t offset, length;
	unsigned char fill;

	*seed = *seed * 1664525u + 1013904223u;
	offset = (*seed >> 8) % 64;
	length = 1 + (*seed >> 14) % (SIZE - 128);
	fill = (unsigned char)(1 + *seed % 255);

	memset(source, fill, sizeof(source));
	source[offset + length] = '\0';
	if (strlen((char *)source + offset) != length)
		return false;
	memcpy(copy, source, sizeof(copy));
	if (memcmp(copy, source, sizeof(copy)) != 0)
		return false;
	/* Not by libc: what memset and memcpy left must be there for plain loads. */
	for (size_t i = 0; i < sizeof(copy); i += 61)
		if (copy[i] != (i == offset + length ? 0 : fill))
			return false;
	return memchr(copy + offset, 0, SIZE - offset) == (void *)(copy + offset + length);
}

static int
stress(double seconds, uint32_t seed)
{
	unsigned long rounds = 0, errors = 0;
	double end = now() + seconds;

	while (now() < end)
		for (int i = 0; i < 64; i++, rounds++)
			if (!round_ok(&seed))
				errors++;
	if (errors > 0)
		printf("simd-stress: %lu of %lu rounds wrong\n", errors, rounds);
	return errors > 0 || rounds == 0;
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 10;
	int processes = argc > 2 ? atoi(argv[2]) : 4, status, bad = 0;

	if (processes < 1 || processes > MAX_PROCESSES) {
		fprintf(stderr, "usage: simd-stress [seconds [processes]]\n");
		return 2;
	}
	for (int i = 0; i < processes; i++) {
		switch (fork()) {
		case -1:
			perror("fork");
			return 2;
		case 0:
			exit(stress(seconds, 12345u + 977u * (uint32_t)i));
		}
	}
	while (wait(&status) > 0)
		if (status != 0)
			bad++;
	printf("simd-stress: %d of %d processes saw errors in %g s\n", bad, processes, seconds);
	return bad > 0;
}
