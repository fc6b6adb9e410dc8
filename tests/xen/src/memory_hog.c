/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * memory_hog MIB [MIB-PER-SECOND [SECONDS]]: takes so much memory, so fast (0: as fast as it can),
 * keeps it for so long, and looks whether all of it still is what was written. Status 0: it is.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB	     (1024 * 1024)
#define WORDS(bytes) ((bytes) / sizeof(uint64_t))

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Differs from word to word, so that a page in another's place is seen. */
static uint64_t
pattern(size_t word)
{
	return (word + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

int
main(int argc, char **argv)
{
	size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	double rate = argc > 2 ? strtod(argv[2], NULL) : 0, begun = now(), late;
	unsigned keep = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	size_t words = WORDS(mib * MIB);
	uint64_t *memory;

	if (mib == 0) {
		fprintf(stderr, "usage: memory_hog MIB [MIB-PER-SECOND [SECONDS]]\n");
		return 64;
	}
	/* Like a program that takes little at a time: the kernel refuses at once one piece that is
	 * larger than all the memory it has. */
	memory = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		perror("memory_hog: mmap");
		return 71;
	}
	for (size_t i = 0; i < words; i++) {
		memory[i] = pattern(i);
		late = rate > 0 && i % WORDS(MIB) == 0
			   ? (double)(i / WORDS(MIB)) / rate - (now() - begun)
			   : 0;
		if (late > 0)
			usleep((useconds_t)(late * 1e6));
	}
	printf("%zu MiB after %.2f s\n", mib, now() - begun);
	fflush(stdout);
	sleep(keep);
	for (size_t i = 0; i < words; i++) {
		if (memory[i] != pattern(i)) {
			printf("word %zu is %llx\n", i, (unsigned long long)memory[i]);
			return 1;
		}
	}
	puts("all of it is right");
	return 0;
}
