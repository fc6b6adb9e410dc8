/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_journal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#define OFFSET_START (1 << 30) /* the offset is an int */
#define REARM_AFTER  (1u << 29)

size_t
nbd_journal_size(unsigned depth, unsigned payload_max)
{
	size_t slots = sizeof(struct nbd_journal) + depth * sizeof(struct nbd_slot);

	return ((slots + 4095) & ~(size_t)4095) + (size_t)depth * payload_max;
}

static int
get_offset(int fd, int *offset)
{
	socklen_t size = sizeof(*offset);

	return getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, offset, &size);
}

static int
set_offset(int fd)
{
	int offset = OFFSET_START;

	return setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset));
}

int
nbd_journal_reset(
    struct nbd_journal *j, unsigned depth, unsigned payload_max, int our_end, int kernels_end)
{
	memset(j, 0, sizeof(*j) + depth * sizeof(struct nbd_slot));
	j->depth = depth;
	j->payload_max = payload_max;
	j->payload_offset = nbd_journal_size(depth, 0);
	if (set_offset(our_end) != 0)
		return -1;
	return kernels_end < 0 ? 0 : set_offset(kernels_end);
}

void
nbd_journal_forget(struct nbd_journal *j, unsigned depth, unsigned payload_max)
{
	madvise(
	    (uint8_t *)j + nbd_journal_size(depth, 0), (size_t)depth * payload_max, MADV_REMOVE);
}

void *
nbd_journal_payload(struct nbd_journal *j, unsigned slot)
{
	return (uint8_t *)j + j->payload_offset + (size_t)slot * j->payload_max;
}

int
nbd_counter_read(struct nbd_counter *c, int fd, uint64_t *bytes)
{
	int offset;

	if (get_offset(fd, &offset) != 0)
		return -1;
	if (c->setting) {
		/* It had moved far when it was to be set: at the start again means it was. */
		if (offset == OFFSET_START)
			c->base = c->next_base;
		c->setting = false;
	}
	*bytes = c->base + (uint64_t)(OFFSET_START - offset);
	return 0;
}

int
nbd_counter_rearm(struct nbd_counter *c, int fd, uint64_t bytes)
{
	int offset;

	if (bytes - c->base < REARM_AFTER)
		return 0;
	/* All that the caller knows of must be counted, or a reader is still at it. */
	if (get_offset(fd, &offset) != 0)
		return -1;
	if (c->base + (uint64_t)(OFFSET_START - offset) != bytes)
		return 0;
	c->next_base = bytes;
	c->setting = true;
	if (set_offset(fd) != 0)
		return -1;
	c->base = bytes;
	c->setting = false;
	return 0;
}

int
nbd_journal_sent(struct nbd_journal *j, int kernels_end, uint64_t *bytes)
{
	const struct timespec moment = {.tv_nsec = 1000000};
	uint64_t before, after;
	int unread;

	/* The kernel reads meanwhile: until two looks agree. It always takes all there is. */
	do {
		if (nbd_counter_read(&j->taken, kernels_end, &before) != 0 ||
		    ioctl(kernels_end, FIONREAD, &unread) != 0)
			return -1;
		nanosleep(&moment, NULL);
		if (nbd_counter_read(&j->taken, kernels_end, &after) != 0)
			return -1;
	} while (before != after);
	*bytes = after + (uint64_t)unread;
	return 0;
}
