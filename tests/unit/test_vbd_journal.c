/* SPDX-License-Identifier: BSD-2-Clause */
/* What a worker leaves to the next one, killed at any moment; and who may serve a disk. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xenpv/log.h>

#include "journal.h"

#define RING  32u
#define KILLS 200u

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

static char path[64];

static int
setup(void **state)
{
	snprintf(path, sizeof(path), "/dev/shm/vbd-journal-%d", (int)getpid());
	unlink(path);
	return 0;
}

static int
teardown(void **state)
{
	unlink(path);
	return 0;
}

static struct vbd_connection
a_connection(void)
{
	struct vbd_connection c;

	memset(&c, 0, sizeof(c));
	c.domid = 3;
	c.abi = VBD_ABI_X86_32;
	c.persistent = true;
	c.live = true;
	c.queues = 2;
	c.ring_order = 1;
	for (unsigned i = 0; i < 2; i++) {
		c.queue[i].port = 10 + i;
		c.queue[i].grefs[0] = 100 + i;
		c.queue[i].grefs[1] = 200 + i;
	}
	return c;
}

static struct journal *
open_journal(void)
{
	struct journal *j = journal_open(path);

	assert_non_null(j);
	return j;
}

/* ---- whose it is ---- */

static bool
matches(const struct vbd_connection *c)
{
	struct journal *j = open_journal();
	bool match = journal_match(j, c);

	journal_close(j);
	return match;
}

static void
other_connections(void **state)
{
	struct vbd_connection ours = a_connection(), other;

	assert_false(matches(&ours)); /* a new file */
	assert_true(matches(&ours));
#define assert_other(change)                                                                       \
	do {                                                                                       \
		other = ours;                                                                      \
		change;                                                                            \
		assert_false(matches(&other));                                                     \
		assert_int_equal(matches(&other), other.live);                                     \
		assert_false(other.live &&matches(&ours));                                         \
		matches(&ours);                                                                    \
		assert_true(matches(&ours));                                                       \
	} while (0)
	assert_other(other.domid = 4);
	assert_other(other.abi = VBD_ABI_X86_64);
	assert_other(other.persistent = false);
	assert_other(other.queues = 1);
	assert_other(other.ring_order = 0);
	assert_other(other.queue[0].port = 77);
	assert_other(other.queue[1].grefs[1] = 77);
	assert_other(other.live = false);
}

/* Bytes that mean nothing differ from one process to the next. */
static void
padding(void **state)
{
	struct vbd_connection ours, other;

	memset(&ours, 0x11, sizeof(ours));
	memset(&other, 0x22, sizeof(other));
	for (unsigned i = 0; i < 2; i++) {
		struct vbd_connection *c = i == 0 ? &ours : &other;

		c->domid = 3;
		c->abi = VBD_ABI_X86_64;
		c->persistent = c->live = true;
		c->queues = 1;
		c->ring_order = 0;
		c->queue[0].port = 9;
		c->queue[0].grefs[0] = 8;
	}
	assert_false(matches(&ours));
	assert_true(matches(&other));
}

/* Killed when the file was taken for this connection, and before a queue began. */
static void
killed_before_a_queue_began(void **state)
{
	struct vbd_connection ours = a_connection();
	struct journal *j = open_journal();

	assert_false(journal_match(j, &ours));
	journal_reset(journal_queue(j, 1), 1000, 1000);
	journal_close(j);
	j = open_journal();
	assert_true(journal_match(j, &ours));
	assert_false(journal_begun(journal_queue(j, 0)));
	assert_true(journal_begun(journal_queue(j, 1)));
	assert_int_equal(journal_taken(journal_queue(j, 1)), 1000);
	/* Another frontend begins from nothing. */
	ours.domid = 7;
	assert_false(journal_match(j, &ours));
	assert_false(journal_begun(journal_queue(j, 1)));
	journal_close(j);
}

static void
other_sizes(void **state)
{
	struct vbd_connection ours = a_connection();
	int fd = open(path, O_RDWR | O_CREAT, 0600);

	assert_int_equal(write(fd, "what another program left", 25), 25);
	assert_false(matches(&ours));
	assert_true(matches(&ours));
	assert_int_equal(ftruncate(fd, 16), 0);
	assert_false(matches(&ours));
	assert_int_equal(ftruncate(fd, 16 << 20), 0);
	assert_true(matches(&ours));
	close(fd);
}

/* ---- who serves the disk ---- */

static int
exit_of(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

/* A killed worker's I/O, for which the kernel keeps the file: here another process does. The next
 * worker gets the journal only after that. */
static void
lock_waits_for_the_last_io(void **state)
{
	atomic_bool *released = mmap(
	    NULL, sizeof(*released), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t worker, io, next;
	int ready[2], go[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	worker = fork();
	if (worker == 0) {
		struct journal *j = journal_open(path);

		io = fork();
		if (io == 0) {
			close(go[1]);
			(void)!write(ready[1], &(pid_t){getpid()}, sizeof(pid_t));
			(void)!read(go[0], &byte, 1); /* its end is told by the pipe's */
			atomic_store(released, true);
			_exit(j == NULL);
		}
		pause();
	}
	close(go[0]);
	assert_int_equal(read(ready[0], &io, sizeof(io)), sizeof(io));
	kill(worker, SIGKILL);
	exit_of(worker);
	next = fork();
	if (next == 0) {
		struct journal *j;

		close(go[1]);
		(void)!write(ready[1], "n", 1);
		j = journal_open(path);
		_exit(j != NULL && atomic_load(released) ? 0 : 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(usleep(30000), 0); /* it would fail now, did it not wait */
	close(go[1]);
	assert_int_equal(exit_of(next), 0);
	close(ready[0]);
	close(ready[1]);
	munmap(released, sizeof(*released));
}

/* The last one to serve it removed the file while the next waited for its lock. */
static void
removed_meanwhile(void **state)
{
	struct journal *j = open_journal();
	struct stat ours, there;
	int ready[2];
	char byte;
	pid_t next;

	assert_int_equal(pipe(ready), 0);
	next = fork();
	if (next == 0) {
		journal_close(j); /* inherited: the lock stays the parent's */
		(void)!write(ready[1], "n", 1);
		j = journal_open(path);
		_exit(j != NULL && fstat(journal_fd(j), &ours) == 0 && stat(path, &there) == 0 &&
			      ours.st_ino == there.st_ino
			  ? 0
			  : 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(usleep(20000), 0); /* either way it must do right */
	unlink(path);
	journal_close(j);
	assert_int_equal(exit_of(next), 0);
	close(ready[0]);
	close(ready[1]);
}

static void
cannot_be_opened(void **state)
{
	assert_null(journal_open("/dev/shm/no-such-directory/journal"));
	/* Nobody makes us write where a link leads. */
	assert_int_equal(symlink("/dev/shm/vbd-journal-elsewhere", path), 0);
	assert_null(journal_open(path));
	assert_int_equal(access("/dev/shm/vbd-journal-elsewhere", F_OK), -1);
}

/* ---- what was in flight ---- */

struct replayed {
	unsigned count;
	unsigned slots[VBD_MAX_REQUESTS];
	uint64_t ids[VBD_MAX_REQUESTS];
};

static void
note(unsigned slot, const void *entry, void *arg)
{
	struct replayed *r = arg;

	r->slots[r->count] = slot;
	memcpy(&r->ids[r->count++], entry, sizeof(uint64_t));
}

static unsigned
take(struct journal_queue *q, uint32_t index, uint64_t id)
{
	uint8_t entry[JOURNAL_ENTRY_MAX];

	for (unsigned i = 0; i < sizeof(entry); i += sizeof(id))
		memcpy(entry + i, &id, sizeof(id));
	return journal_take(q, index, entry, sizeof(entry));
}

/* Five are taken near the end of the counter, the second is answered, the fourth half. */
static struct journal *
five_in_flight(void)
{
	struct vbd_connection ours = a_connection();
	struct journal *j = open_journal();
	struct journal_queue *q = journal_queue(j, 0);
	unsigned slots[5];

	assert_false(journal_match(j, &ours));
	journal_reset(q, UINT32_MAX - 1, UINT32_MAX - 1);
	for (unsigned i = 0; i < 5; i++)
		slots[i] = take(q, UINT32_MAX - 1 + i, 50 + i);
	journal_answer(q, slots[1], UINT32_MAX - 1);
	journal_publish(q, UINT32_MAX);
	journal_published(q);
	journal_answer(q, slots[3], UINT32_MAX);
	return j;
}

static void
oldest_first(void **state)
{
	struct vbd_connection ours = a_connection();
	struct journal *j = five_in_flight();

	for (unsigned twice = 0; twice < 2; twice++) {
		struct replayed r = {0};
		struct journal_queue *q;

		journal_close(j);
		j = open_journal();
		q = journal_queue(j, 0);
		assert_true(journal_match(j, &ours));
		assert_true(journal_begun(q));
		assert_int_equal(journal_taken(q), 3);
		assert_int_equal(journal_answered(q), UINT32_MAX);
		assert_true(journal_replay(q, RING, note, &r));
		assert_int_equal(r.count, 4);
		assert_int_equal(r.ids[0], 50);
		assert_int_equal(r.ids[1], 52);
		assert_int_equal(r.ids[2], 53);
		assert_int_equal(r.ids[3], 54);
		for (unsigned i = 0; i < r.count; i++)
			assert_memory_equal(journal_entry(q, r.slots[i]), &r.ids[i], 8);
	}
	journal_close(j);
}

static void
more_than_the_ring_holds(void **state)
{
	struct vbd_connection ours = a_connection();
	struct journal *j = five_in_flight();
	struct replayed r = {0};

	assert_true(journal_match(j, &ours));
	assert_false(journal_replay(journal_queue(j, 0), 3, note, &r));
	assert_false(journal_replay(journal_queue(j, 0), 2 * VBD_MAX_REQUESTS, note, &r));
	assert_int_equal(r.count, 0);
	assert_true(journal_replay(journal_queue(j, 0), 4, note, &r));
	journal_close(j);
}

/* Whatever stands where: it is refused, or what comes of it is within bounds. */
static bool
sane_or_refused(struct journal *j, const struct vbd_connection *ours)
{
	struct journal_queue *q = journal_queue(j, 0);
	struct replayed r = {0};
	bool seen[VBD_MAX_REQUESTS] = {false};

	if (!journal_match(j, ours) || !journal_begun(q) || !journal_replay(q, RING, note, &r)) {
		assert_int_equal(r.count, 0);
		return false;
	}
	assert_in_range(r.count, 0, RING);
	assert_int_equal(r.count, journal_taken(q) - journal_answered(q));
	for (unsigned i = 0; i < r.count; i++) {
		assert_in_range(r.slots[i], 0, VBD_MAX_REQUESTS - 1);
		assert_false(seen[r.slots[i]]);
		seen[r.slots[i]] = true;
	}
	return true;
}

/* Each word of the header and of the first queue's part, by values that are likely to hurt. */
static void
nonsense(void **state)
{
	static const uint32_t values[] = {0, 1, 2, 3, UINT32_MAX, UINT32_MAX - 1, 0x80000000};
	struct vbd_connection ours = a_connection();
	struct journal *j = five_in_flight();
	size_t bytes = 12 + sizeof(ours) + VBD_MAX_REQUESTS * (16 + JOURNAL_ENTRY_MAX);
	uint32_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, journal_fd(j), 0);
	uint32_t *good = malloc(bytes);
	unsigned refused = 0;

	assert_ptr_not_equal(words, MAP_FAILED);
	memcpy(good, words, bytes);
	for (size_t i = 0; i < bytes / 4; i++) {
		bool entry = i * 4 >= 12 + sizeof(ours) && i % 8 > 3 && i % 16 != 0;

		for (unsigned v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
			if (good[i] == values[v] || (entry && v > 0))
				continue;
			words[i] = values[v];
			if (!sane_or_refused(j, &ours))
				refused++;
			memcpy(words, good, bytes);
		}
	}
	/* Of each slot but its four in flight, that it is in flight; of those, that it is not. */
	assert_in_range(refused, 2 * (VBD_MAX_REQUESTS - 4), UINT32_MAX);
	assert_true(sane_or_refused(j, &ours));
	munmap(words, bytes);
	free(good);
	journal_close(j);
}

static void
random_bytes(void **state)
{
	struct vbd_connection ours = a_connection();
	struct journal *j = five_in_flight();
	size_t bytes = 64 * 1024;
	uint32_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, journal_fd(j), 0);

	assert_ptr_not_equal(words, MAP_FAILED);
	srand(7);
	for (unsigned turn = 0; turn < 500; turn++) {
		journal_match(j, &ours);
		/* The connection stands, or nothing would be looked at. */
		for (size_t i = (8 + sizeof(ours)) / 4; i < bytes / 4; i++)
			words[i] = turn % 2 ? (uint32_t)rand() : (uint32_t)rand() % 4;
		sane_or_refused(j, &ours);
	}
	munmap(words, bytes);
	journal_close(j);
}

/* ---- killed at any moment ---- */

/* A ring as both ends see it. */
struct ring {
	_Atomic uint32_t req_prod, rsp_prod;
	struct {
		uint8_t bytes[JOURNAL_ENTRY_MAX];
	} entries[RING];
	_Atomic unsigned error; /* line in this file where a worker saw nonsense */
};

#define worker_check(condition)                                                                    \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			atomic_store(&ring->error, __LINE__);                                      \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

struct work {
	struct ring *ring;
	struct journal_queue *q;
	unsigned slots[RING], count; /* in flight */
	uint32_t taken, answered;
};

/* An entry is its number again and again, so that a torn one is seen. */
static bool
whole(const uint8_t *entry, uint64_t *id)
{
	memcpy(id, entry, sizeof(*id));
	for (unsigned i = 0; i < JOURNAL_ENTRY_MAX; i += sizeof(*id)) {
		if (memcmp(entry + i, id, sizeof(*id)) != 0)
			return false;
	}
	return true;
}

static void
worker_replays(unsigned slot, const void *entry, void *arg)
{
	struct work *w = arg;
	struct ring *ring = w->ring;
	uint64_t id;

	worker_check(w->count < RING);
	worker_check(whole(entry, &id));
	w->slots[w->count++] = slot;
}

static void
worker_takes(struct work *w)
{
	uint32_t index = w->taken;

	if (index == atomic_load(&w->ring->req_prod))
		return;
	w->slots[w->count++] =
	    journal_take(w->q, index, w->ring->entries[index % RING].bytes, JOURNAL_ENTRY_MAX);
	w->taken++;
}

static void
worker_answers(struct work *w)
{
	unsigned which = (unsigned)rand() % w->count, slot = w->slots[which];
	uint8_t *response = w->ring->entries[w->answered % RING].bytes;

	memset(response, 0, 16);
	memcpy(response, journal_entry(w->q, slot), 8);
	journal_answer(w->q, slot, w->answered++);
	w->slots[which] = w->slots[--w->count];
}

static void
worker_publishes(struct work *w)
{
	journal_publish(w->q, w->answered);
	atomic_store(&w->ring->rsp_prod, w->answered);
	journal_published(w->q);
}

static void __attribute__((noreturn)) worker(struct ring *ring, unsigned seed)
{
	struct vbd_connection c = a_connection();
	struct journal *j = journal_open(path);
	struct work w = {.ring = ring};

	srand(seed);
	worker_check(j != NULL);
	w.q = journal_queue(j, 0);
	if (journal_match(j, &c) && journal_begun(w.q)) {
		w.taken = journal_taken(w.q);
		w.answered = journal_answered(w.q);
		worker_check(journal_replay(w.q, RING, worker_replays, &w));
		worker_check(w.count == w.taken - w.answered);
		atomic_store(&ring->rsp_prod, w.answered);
	} else {
		w.taken = w.answered = atomic_load(&ring->rsp_prod);
		journal_reset(w.q, w.taken, w.answered);
	}
	for (;;) {
		switch (rand() % 5) {
		case 0:
		case 1:
			worker_takes(&w);
			break;
		case 2:
		case 3:
			if (w.count > 0)
				worker_answers(&w);
			break;
		case 4:
			worker_publishes(&w);
			break;
		}
	}
}

/* The frontend: each request it makes must be answered once. */
struct front {
	struct ring *ring;
	uint32_t req_prod, rsp_cons;
	uint64_t next;
	bool out[4 * RING]; /* by number, of which no two in flight are the same */
	uint64_t oldest[4 * RING];
	uint64_t answered;
};

static void
front_asks(struct front *f)
{
	while (f->req_prod - f->rsp_cons < RING && !f->out[f->next % (4 * RING)]) {
		uint64_t id = f->next++;

		for (unsigned i = 0; i < JOURNAL_ENTRY_MAX; i += 8)
			memcpy(f->ring->entries[f->req_prod % RING].bytes + i, &id, 8);
		f->out[id % (4 * RING)] = true;
		f->oldest[id % (4 * RING)] = id;
		atomic_store(&f->ring->req_prod, ++f->req_prod);
	}
}

static void
front_hears(struct front *f)
{
	uint32_t produced = atomic_load(&f->ring->rsp_prod);

	assert_in_range(produced - f->rsp_cons, 0, f->req_prod - f->rsp_cons);
	while (f->rsp_cons != produced) {
		uint64_t id;

		memcpy(&id, f->ring->entries[f->rsp_cons % RING].bytes, 8);
		assert_true(f->out[id % (4 * RING)]);
		assert_int_equal(f->oldest[id % (4 * RING)], id);
		f->out[id % (4 * RING)] = false;
		f->answered++;
		f->rsp_cons++;
	}
}

static void
front_goes_on(struct front *f, unsigned turns)
{
	for (; turns > 0; turns--) {
		front_hears(f);
		front_asks(f);
		if (turns % 16 == 0)
			sched_yield();
	}
}

static void
killed_at_any_moment(void **state)
{
	struct ring *ring =
	    mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct front f = {.ring = ring, .req_prod = UINT32_MAX - 500, .rsp_cons = UINT32_MAX - 500};

	assert_ptr_not_equal(ring, MAP_FAILED);
	atomic_store(&ring->req_prod, f.req_prod);
	atomic_store(&ring->rsp_prod, f.req_prod);
	for (unsigned n = 0; n <= KILLS; n++) {
		pid_t child = fork();
		uint64_t begun = f.answered;

		if (child == 0)
			worker(ring, n);
		srand(n);
		front_goes_on(&f, (unsigned)rand() % 200);
		/* Some die as soon as they are born; most, and the last, have done something. */
		while (atomic_load(&ring->error) == 0 && f.answered == begun &&
		       (n == KILLS || n % 4 != 0))
			front_goes_on(&f, 16);
		while (n == KILLS && atomic_load(&ring->error) == 0 && f.rsp_cons != f.req_prod) {
			front_hears(&f);
			sched_yield();
		}
		kill(child, SIGKILL);
		exit_of(child);
		assert_int_equal(atomic_load(&ring->error), 0);
	}
	assert_int_equal(f.answered, f.next);
	munmap(ring, sizeof(*ring));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(other_connections),
	    TEST(padding),
	    TEST(killed_before_a_queue_began),
	    TEST(other_sizes),
	    TEST(lock_waits_for_the_last_io),
	    TEST(removed_meanwhile),
	    TEST(cannot_be_opened),
	    TEST(oldest_first),
	    TEST(more_than_the_ring_holds),
	    TEST(nonsense),
	    TEST(random_bytes),
	    TEST(killed_at_any_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
