/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKBACK_JOURNAL_H
#define BLKBACK_JOURNAL_H

#include "blkback.h"

/*
 * What must outlive a worker, and even its supervisor: for each queue, a copy of every request that
 * was taken from the ring and is not answered, and how far both indices are. It is a file in the
 * run-time directory, mapped by the worker.
 *
 * A ring cannot tell this itself: answers are written in the order in which I/O ends, over the
 * slots of requests that are not answered yet.
 *
 * The file's lock says who serves the disk. It belongs to the open file, which the kernel also
 * keeps for each io_uring that has it registered (image_params.keep_fd): so the next worker, of
 * whichever supervisor, gets the lock only after the last I/O of a killed worker has ended, and no
 * late write of the old one can land on a newer one of the new.
 *
 * Order of writes, per queue (one thread writes; a reader comes only after its death):
 *   taking     copy the request into a free slot, mark it taken with its ring index, then raise
 *              "taken" over that index
 *   answering  write the response into the ring, note its ring index in the slot, raise "answered"
 *              (which covers a batch), then the ring's own index, then free the slots
 * A slot is thus in flight if its request's index is below "taken" and its response's index, if it
 * has one, is not below "answered".
 *
 * Threading: a queue's part is its thread's.
 */

#define JOURNAL_ENTRY_MAX 112u

struct journal;
struct journal_queue;

/*
 * Opens or makes the file; waits, with a log line now and then, until nobody else serves the disk.
 * NULL after a log line.
 */
struct journal *journal_open(const char *path);
void journal_close(struct journal *j); /* also gives up the lock; NULL is allowed */
int journal_fd(const struct journal *j);

/* True if the connection is live and the journal was written for just this one: it is to be gone on
 * with. If not it is emptied, for this connection. */
bool journal_match(struct journal *j, const struct vbd_connection *connection);

struct journal_queue *journal_queue(struct journal *j, unsigned index);

/* Starts a queue's part: at these ring indices, with nothing in flight. */
void journal_reset(struct journal_queue *q, uint32_t taken, uint32_t answered);
/* False if a worker died between journal_match() and journal_reset(): there is nothing to go on
 * with. */
bool journal_begun(const struct journal_queue *q);

uint32_t journal_taken(const struct journal_queue *q);
uint32_t journal_answered(const struct journal_queue *q);

/* Calls "fn" for each request that is in flight, oldest first, and frees the slots of those that
 * are not. "slot" is what answering needs. False if the journal makes no sense: nothing of it is to
 * be used. */
bool journal_replay(struct journal_queue *q, uint32_t ring_size,
    void (*fn)(unsigned slot, const void *entry, void *arg), void *arg);

/* A request has been copied out of the ring at "index". There is always a free slot for it, as
 * there are as many as ring entries. */
unsigned journal_take(
    struct journal_queue *q, uint32_t index, const volatile void *entry, unsigned size);
const void *journal_entry(const struct journal_queue *q, unsigned slot); /* the copy */

/* Its response is in the ring at "index", not yet published. */
void journal_answer(struct journal_queue *q, unsigned slot, uint32_t index);

/* Just before and just after the ring's index is published. */
void journal_publish(struct journal_queue *q, uint32_t answered);
void journal_published(struct journal_queue *q);

#endif
