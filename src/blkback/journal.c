/* SPDX-License-Identifier: BSD-2-Clause */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "lock.h"

#define MAGIC	UINT32_C(0x78767264)
#define VERSION 2u /* of the file: raised when anything in it means something else */

#define WAIT_MS	   10
#define PATIENCE_S 10 /* then say what we wait for */

enum slot_state { SLOT_FREE, SLOT_TAKEN, SLOT_ANSWERED };

/*
 * Plain stores would do for the CPU, since a reader comes only after the writer's death; the
 * compiler has to keep their order, and an atomic store with release does that.
 */
struct slot {
	_Atomic uint32_t state;
	uint32_t request_index;
	uint32_t response_index;
	uint32_t unused;
	uint8_t entry[JOURNAL_ENTRY_MAX];
};

struct queue_part {
	_Atomic uint32_t begun; /* since the file is for this connection: the rest has a meaning */
	_Atomic uint32_t taken, answered;
	struct slot slots[VBD_MAX_REQUESTS];
};

struct file {
	_Atomic uint32_t magic;
	uint32_t version;
	struct vbd_connection connection; /* that it was written for */
	struct queue_part queues[VBD_MAX_QUEUES];
};

struct journal_queue {
	struct queue_part *part;
	uint16_t free_slots[VBD_MAX_REQUESTS]; /* a stack */
	unsigned nfree;
	uint16_t answered_slots[VBD_MAX_REQUESTS]; /* since the last publication */
	unsigned nanswered;
};

struct journal {
	int fd;
	struct file *file;
	struct journal_queue queues[VBD_MAX_QUEUES];
};

/* ---- the file ---- */

/* Whoever served the disk before may have removed the file that we have just locked. */
static bool
still_there(int fd, const char *path)
{
	struct stat ours, there;

	return fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
	       ours.st_dev == there.st_dev;
}

static bool
lock(int fd, const char *path)
{
	uint64_t begun = xpv_now_ns(), told = begun, now;

	while (open_file_lock(fd, true) != 0) {
		if (errno != EAGAIN) {
			xpv_err("%s: cannot be locked: %s", path, strerror(errno));
			return false;
		}
		now = xpv_now_ns();
		if (now - told > PATIENCE_S * UINT64_C(1000000000)) {
			xpv_warning("waiting for the I/O of the last worker to end, for %u s now",
			    (unsigned)((now - begun) / 1000000000));
			told = now;
		}
		nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000}, NULL);
	}
	return true;
}

static int
open_locked(const char *path)
{
	for (;;) {
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

		if (fd < 0) {
			xpv_err("%s: %s", path, strerror(errno));
			return -1;
		}
		if (!lock(fd, path)) {
			close(fd);
			return -1;
		}
		if (still_there(fd, path))
			return fd;
		close(fd);
	}
}

/* From nothing, or from what another version left. Space is taken now: where there is none this is
 * an error, and later it would be a SIGBUS. */
static bool
resize(int fd)
{
	int error;

	if (ftruncate(fd, sizeof(struct file)) != 0)
		return false;
	error = posix_fallocate(fd, 0, sizeof(struct file));
	errno = error;
	return error == 0 || error == EINVAL || error == EOPNOTSUPP; /* not every kind can */
}

struct journal *
journal_open(const char *path)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (j == NULL)
		return NULL;
	j->fd = open_locked(path);
	if (j->fd < 0)
		goto fail;
	if (!resize(j->fd)) {
		xpv_err("%s: %s", path, strerror(errno));
		goto fail;
	}
	j->file = mmap(NULL, sizeof(*j->file), PROT_READ | PROT_WRITE, MAP_SHARED, j->fd, 0);
	if (j->file == MAP_FAILED) {
		xpv_err("%s: %s", path, strerror(errno));
		goto fail;
	}
	for (unsigned i = 0; i < VBD_MAX_QUEUES; i++)
		j->queues[i].part = &j->file->queues[i];
	return j;
fail:
	if (j->fd >= 0)
		close(j->fd);
	free(j);
	return NULL;
}

int
journal_fd(const struct journal *j)
{
	return j->fd;
}

void
journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	munmap(j->file, sizeof(*j->file));
	close(j->fd);
	free(j);
}

/* What makes a connection another one, and nothing else: no padding, no queue that is not in use,
 * not whether we go on or begin. */
static void
copy_identity(struct vbd_connection *to, const struct vbd_connection *from)
{
	memset(to, 0, sizeof(*to));
	to->domid = from->domid;
	to->abi = from->abi;
	to->persistent = from->persistent;
	to->live = true;
	to->queues = from->queues;
	to->ring_order = from->ring_order;
	for (unsigned i = 0; i < from->queues; i++) {
		to->queue[i].port = from->queue[i].port;
		memcpy(to->queue[i].grefs, from->queue[i].grefs,
		    sizeof(to->queue[i].grefs[0]) << from->ring_order);
	}
}

bool
journal_match(struct journal *j, const struct vbd_connection *connection)
{
	struct file *f = j->file;
	struct vbd_connection ours;

	copy_identity(&ours, connection);
	if (connection->live && atomic_load(&f->magic) == MAGIC && f->version == VERSION &&
	    memcmp(&f->connection, &ours, sizeof(ours)) == 0)
		return true;
	/* Until all is said it is a journal of nothing. */
	atomic_store(&f->magic, 0);
	for (unsigned i = 0; i < VBD_MAX_QUEUES; i++)
		atomic_store(&f->queues[i].begun, 0);
	f->version = VERSION;
	memcpy(&f->connection, &ours, sizeof(ours));
	atomic_store(&f->magic, MAGIC);
	return false;
}

/* ---- a queue's part ---- */

struct journal_queue *
journal_queue(struct journal *j, unsigned index)
{
	return &j->queues[index];
}

static void
free_slot(struct journal_queue *q, unsigned slot)
{
	atomic_store_explicit(&q->part->slots[slot].state, SLOT_FREE, memory_order_release);
	q->free_slots[q->nfree++] = slot;
}

void
journal_reset(struct journal_queue *q, uint32_t taken, uint32_t answered)
{
	atomic_store(&q->part->begun, 0);
	q->nfree = q->nanswered = 0;
	for (unsigned i = VBD_MAX_REQUESTS; i-- > 0;)
		free_slot(q, i);
	atomic_store_explicit(&q->part->taken, taken, memory_order_release);
	atomic_store_explicit(&q->part->answered, answered, memory_order_release);
	atomic_store(&q->part->begun, 1);
}

bool
journal_begun(const struct journal_queue *q)
{
	return atomic_load(&q->part->begun) != 0;
}

uint32_t
journal_taken(const struct journal_queue *q)
{
	return atomic_load_explicit(&q->part->taken, memory_order_relaxed);
}

uint32_t
journal_answered(const struct journal_queue *q)
{
	return atomic_load_explicit(&q->part->answered, memory_order_relaxed);
}

/* "a" is before "b" on a ring's free-running counter. */
static bool
before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static bool
in_flight(const struct slot *slot, uint32_t taken, uint32_t answered)
{
	uint32_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);

	if (state == SLOT_FREE || !before(slot->request_index, taken))
		return false;
	return state != SLOT_ANSWERED || !before(slot->response_index, answered);
}

/* Puts a slot in its place among those that are older. False if one has the same index. */
static bool
insert_by_age(const struct journal_queue *q, uint16_t *sorted, unsigned count, unsigned slot)
{
	const struct slot *slots = q->part->slots;
	unsigned at = count;

	while (at > 0 && before(slots[slot].request_index, slots[sorted[at - 1]].request_index))
		at--;
	if (at > 0 && slots[sorted[at - 1]].request_index == slots[slot].request_index)
		return false;
	memmove(&sorted[at + 1], &sorted[at], (count - at) * sizeof(*sorted));
	sorted[at] = slot;
	return true;
}

/* Answers come in any order, so how far apart the indices of what is in flight are has no bound;
 * how many there are has. */
bool
journal_replay(struct journal_queue *q, uint32_t ring_size,
    void (*fn)(unsigned slot, const void *entry, void *arg), void *arg)
{
	uint32_t taken = journal_taken(q), answered = journal_answered(q), found = 0;
	uint16_t sorted[VBD_MAX_REQUESTS];

	if (ring_size > VBD_MAX_REQUESTS || taken - answered > ring_size)
		return false;
	q->nfree = q->nanswered = 0;
	for (unsigned i = VBD_MAX_REQUESTS; i-- > 0;) {
		struct slot *slot = &q->part->slots[i];

		if (slot->state > SLOT_ANSWERED)
			return false;
		if (!in_flight(slot, taken, answered))
			free_slot(q, i);
		else if (insert_by_age(q, sorted, found, i))
			found++;
		else
			return false;
	}
	if (found != taken - answered)
		return false;
	for (unsigned i = 0; i < found; i++) {
		struct slot *slot = &q->part->slots[sorted[i]];

		atomic_store_explicit(&slot->state, SLOT_TAKEN, memory_order_release);
		fn(sorted[i], slot->entry, arg);
	}
	return true;
}

unsigned
journal_take(struct journal_queue *q, uint32_t index, const volatile void *entry, unsigned size)
{
	unsigned i = q->free_slots[--q->nfree];
	struct slot *slot = &q->part->slots[i];

	memcpy(slot->entry, (const void *)(uintptr_t)entry, size);
	atomic_signal_fence(memory_order_seq_cst); /* what is read from here on is the copy */
	slot->request_index = index;
	atomic_store_explicit(&slot->state, SLOT_TAKEN, memory_order_release);
	atomic_store_explicit(&q->part->taken, index + 1, memory_order_release);
	return i;
}

const void *
journal_entry(const struct journal_queue *q, unsigned slot)
{
	return q->part->slots[slot].entry;
}

void
journal_answer(struct journal_queue *q, unsigned slot, uint32_t index)
{
	q->part->slots[slot].response_index = index;
	atomic_store_explicit(&q->part->slots[slot].state, SLOT_ANSWERED, memory_order_release);
	q->answered_slots[q->nanswered++] = slot;
}

void
journal_publish(struct journal_queue *q, uint32_t answered)
{
	atomic_store_explicit(&q->part->answered, answered, memory_order_release);
}

void
journal_published(struct journal_queue *q)
{
	while (q->nanswered > 0)
		free_slot(q, q->answered_slots[--q->nanswered]);
}
