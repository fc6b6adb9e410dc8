/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "nbd.h"
#include "nbd_connection.h"

/*
 * A client that plays the kernel keeps 32 requests in flight over a socket pair and checks every
 * byte of every reply; the worker that serves it is killed at random moments and replaced. The disk
 * is shared memory, the ring a fake that answers late and out of order.
 */

#define DEPTH	    32
#define KILLS	    120
#define PAYLOAD_MAX (128 * 1024)
#define REGION	    PAYLOAD_MAX /* of the disk, per request in flight: none overlap */
#define DISK_SIZE   ((size_t)DEPTH * REGION)

static uint8_t *disk;
static struct attachment_nbd shared;
static int fds[2];
/* What the client and the test tell each other. */
static struct {
	_Atomic uint64_t answered;
	_Atomic bool enough; /* the client asks for no more */
} * told;
/* A client's connection (nbd_out.h): its end is its own, replies go through a pipe. */
static bool by_pipe;
static int out_pipe[2];
static struct nbd_limits limits = {.sectors = DISK_SIZE >> BLK_SECTOR_SHIFT, .block = 512};

/* ---- the fake ring, in the worker ---- */

struct blk_queue {
	const struct blk_host_ops *ops;
	void *host;
	struct event *answer;
	struct blk_request *waiting[DEPTH];
	unsigned nwaiting;
	bool answered;
};

static struct blk_queue queue;

void __wrap_blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host);
void __wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r);
void __wrap_blk_queue_push(struct blk_queue *q);
void __wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r);

void
__wrap_blk_queue_attach(struct blk_queue *q, const struct blk_host_ops *ops, void *host)
{
	q->ops = ops;
	q->host = host;
}

static struct iovec
on_disk(const struct blk_request *r)
{
	return (struct iovec){
	    disk + (r->sector << BLK_SECTOR_SHIFT), (size_t)r->sectors << BLK_SECTOR_SHIFT};
}

void
__wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r)
{
	struct iovec iov = on_disk(r);

	if (r->op == BLK_WRITE)
		q->ops->pull(q->host, r, &iov, 1);
	q->waiting[q->nwaiting++] = r;
}

void
__wrap_blk_queue_push(struct blk_queue *q)
{
	if (q->nwaiting > 0)
		event_add(q->answer, &(struct timeval){.tv_usec = rand() % 300});
}

void
__wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r)
{
}

static void
answer_some(evutil_socket_t fd, short events, void *arg)
{
	struct blk_queue *q = arg;

	for (unsigned n = (unsigned)rand() % 8 + 1; n > 0 && q->nwaiting > 0; n--) {
		unsigned which = (unsigned)rand() % q->nwaiting;
		struct blk_request *r = q->waiting[which];
		struct iovec iov = on_disk(r);

		q->waiting[which] = q->waiting[--q->nwaiting];
		/* The disk has a bad sector: number 1 of each region cannot be discarded. */
		q->ops->done(q->host, r, r->op == BLK_DISCARD ? -EIO : 0, &iov, 1);
	}
	q->ops->flush(q->host);
	__wrap_blk_queue_push(q);
}

static struct nbd_connection *connection;

static void
flush_connection(void *host)
{
	nbd_connection_send(connection);
}

static void
connection_over(void *arg)
{
	_exit(4);
}

static bool
serve_client(struct event_base *base)
{
	static const struct blk_host_ops ops = {
	    .pull = nbd_connection_pull, .done = nbd_connection_done, .flush = flush_connection};
	const struct nbd_connection_config config = {
	    .journal = shared.journals[0],
	    .limits = &limits,
	    .q = &queue,
	    .base = base,
	    .fd = fds[0],
	    .kernels_end = -1,
	    .pipe = {out_pipe[0], out_pipe[1]},
	    .over = connection_over,
	};

	close(fds[1]); /* the client's alone */
	__wrap_blk_queue_attach(&queue, &ops, NULL);
	connection = nbd_connection_start(&config);
	if (connection == NULL)
		return false;
	__wrap_blk_queue_push(&queue);
	return true;
}

static void __attribute__((noreturn)) worker(void)
{
	struct event_base *base = event_base_new();
	struct attach_grant grant = {
	    .host_queues = 1,
	    .depth = DEPTH,
	    .max_io_bytes = PAYLOAD_MAX,
	    .fds = {fds[0], fds[1]},
	    .nfds = 2,
	    .attachment = (struct attachment *)&shared, /* its first member */
	};

	srand((unsigned)getpid());
	queue.answer = evtimer_new(base, answer_some, &queue);
	if (by_pipe ? !serve_client(base) : io_nbd.start(&grant, &queue, base, 0, 1) == NULL)
		_exit(2);
	event_base_dispatch(base);
	_exit(3);
}

/* ---- the client ---- */

struct flight {
	bool busy;
	uint32_t type;
	uint32_t offset, length; /* in the region */
	uint64_t handle;
};

static uint8_t *model; /* what the client knows the disk to be */

static void
must(bool good, const char *what)
{
	if (!good) {
		fprintf(stderr, "client: %s\n", what);
		_exit(1);
	}
}

static void
transfer(bool in, void *data, size_t length)
{
	while (length > 0) {
		ssize_t n = in ? recv(fds[1], data, length, MSG_WAITALL)
			       : send(fds[1], data, length, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		must(n > 0, "the connection broke");
		data = (uint8_t *)data + n;
		length -= (size_t)n;
	}
}

static void
send_request(struct flight *f, unsigned slot, uint64_t number)
{
	static const uint32_t types[] = {
	    NBD_CMD_READ, NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_WRITE, NBD_CMD_FLUSH, NBD_CMD_TRIM};
	struct nbd_request request = {.magic = htonl(NBD_REQUEST_MAGIC)};
	uint8_t *data = model + (size_t)slot * REGION;

	f->busy = true;
	f->type = types[(unsigned)rand() % 6];
	/* Mostly small, sometimes all. */
	f->length = rand() % 8 == 0 ? REGION : ((unsigned)rand() % 16 + 1) * 512;
	f->offset = (unsigned)rand() % ((REGION - f->length) / 512 + 1) * 512;
	f->handle = number << 8 | slot;
	if (f->type == NBD_CMD_FLUSH)
		f->offset = f->length = 0;
	request.type = htonl(f->type);
	request.from = htobe64((uint64_t)slot * REGION + f->offset);
	request.len = htonl(f->length);
	memcpy(&request.handle, &f->handle, 8);
	transfer(false, &request, sizeof(request));
	if (f->type == NBD_CMD_WRITE) {
		for (uint32_t i = 0; i < f->length; i++)
			data[f->offset + i] = (uint8_t)(number * 31 + i * 7 + (i >> 9));
		transfer(false, data + f->offset, f->length);
	}
}

static void
take_reply(struct flight flights[DEPTH])
{
	static uint8_t data[REGION];
	struct nbd_reply reply;
	struct flight *f;
	uint64_t handle;
	unsigned slot;

	transfer(true, &reply, sizeof(reply));
	must(ntohl(reply.magic) == NBD_REPLY_MAGIC, "no reply where one should begin");
	memcpy(&handle, &reply.handle, 8);
	slot = handle & 0xff;
	must(slot < DEPTH, "a reply to nothing we asked");
	f = &flights[slot];
	must(f->busy && f->handle == handle, "a reply that came twice");
	must((ntohl(reply.error) != 0) == (f->type == NBD_CMD_TRIM),
	    "an error where none should be, or none where one should");
	if (f->type == NBD_CMD_READ) {
		transfer(true, data, f->length);
		must(memcmp(data, model + (size_t)slot * REGION + f->offset, f->length) == 0,
		    "wrong data");
	}
	f->busy = false;
}

static void __attribute__((noreturn)) client(void)
{
	struct flight flights[DEPTH] = {0};
	uint64_t sent = 0, answered = 0;
	bool enough = false;

	model = calloc(1, DISK_SIZE);
	srand(1);
	while (!enough || sent > answered) {
		unsigned slot = (unsigned)rand() % DEPTH;

		enough = enough || told->enough;
		if (!enough && !flights[slot].busy && sent - answered < DEPTH) {
			send_request(&flights[slot], slot, ++sent);
		} else if (sent > answered && (enough || rand() % 4 == 0)) {
			take_reply(flights);
			told->answered = ++answered;
		}
	}
	must(memcmp(model, disk, DISK_SIZE) == 0, "the disk differs from what was written");
	_exit(0);
}

/* ---- the tests ---- */

static int
setup(void **state)
{
	size_t bytes = nbd_journal_size(DEPTH, PAYLOAD_MAX);

	xpv_log_open("test", XPV_LOG_ERR, false);
	disk = mmap(NULL, DISK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared.journals[0] =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (disk == MAP_FAILED || told == MAP_FAILED || shared.journals[0] == MAP_FAILED ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0)
		return -1;
	by_pipe = false;
	return nbd_journal_reset(shared.journals[0], DEPTH, PAYLOAD_MAX, fds[0], fds[1]);
}

static int
setup_by_pipe(void **state)
{
	if (setup(state) != 0)
		return -1;
	by_pipe = true;
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0 || pipe2(out_pipe, O_NONBLOCK) != 0)
		return -1;
	return nbd_journal_reset(shared.journals[0], DEPTH, PAYLOAD_MAX, fds[0], -1);
}

static int
teardown(void **state)
{
	munmap(disk, DISK_SIZE);
	munmap(told, sizeof(*told));
	munmap(shared.journals[0], nbd_journal_size(DEPTH, PAYLOAD_MAX));
	close(fds[0]);
	close(fds[1]);
	if (by_pipe) {
		close(out_pipe[0]);
		close(out_pipe[1]);
	}
	return 0;
}

static pid_t
start(void (*what)(void))
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		what();
	return pid;
}

/* The worker is left alone until the client has what it asked for. */
static void
let_finish(pid_t user, pid_t server)
{
	int status;

	told->enough = true;
	assert_int_equal(waitpid(user, &status, 0), user);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	assert_int_equal(status, 0);
}

/* Until the client has "more" answers, or ended. */
static void
wait_for_answers(pid_t user, uint64_t more)
{
	uint64_t goal = told->answered + more;

	for (unsigned ms = 0; told->answered < goal; ms++) {
		siginfo_t end = {0};

		assert_int_equal(waitid(P_PID, user, &end, WEXITED | WNOHANG | WNOWAIT), 0);
		if (end.si_pid == user)
			return;
		assert_true(ms < 60000);
		usleep(1000);
	}
}

static void
one_worker(void **state)
{
	pid_t server = start(worker), user = start(client);

	wait_for_answers(user, 1500);
	let_finish(user, server);
}

/*
 * The heart: at whatever instruction a worker is killed, the next one goes on exactly. Every other
 * one is killed by the clock, perhaps before it has come to anything; those between once they have
 * answered something, however slow the machine is.
 */
static void
killed_again_and_again(void **state)
{
	pid_t user = start(client);
	int status;

	srand(7);
	for (unsigned kills = 0; kills < KILLS; kills++) {
		pid_t server = start(worker);

		if (kills % 2 == 0)
			wait_for_answers(user, (unsigned)rand() % 20 + 1);
		usleep((unsigned)rand() % 6000);
		kill(server, SIGKILL);
		waitpid(server, &status, 0);
		assert_true(WIFSIGNALED(status)); /* it did not end by itself */
		if (waitpid(user, &status, WNOHANG) == user)
			fail_msg("the client ended after %u kills: %#x", kills, (unsigned)status);
	}
	let_finish(user, start(worker));
}

/* The kernel counts bytes for us; this is what all else stands on. */
static void
peek_offset_counts(void **state)
{
	struct nbd_counter c = {0};
	uint64_t bytes;
	char data[100] = {0};

	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_int_equal(write(fds[1], data, 100), 100);
	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_int_equal(recv(fds[0], data, 33, 0), 33);
	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 33);
	assert_int_equal(recv(fds[0], data, 100, 0), 67);
	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 100);
}

static void
rearm_survives_a_kill(void **state)
{
	struct nbd_counter c = {0};
	uint64_t bytes;
	char data[10] = {0};

	assert_int_equal(write(fds[1], data, 10), 10);
	assert_int_equal(recv(fds[0], data, 10, 0), 10);
	/* Killed before the offset was set: ten bytes are still missing from it. */
	c.next_base = 10;
	c.setting = true;
	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 10);
	/* Killed after: the offset is at its start again. */
	assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_PEEK_OFF, &(int){1 << 30}, 4), 0);
	c.next_base = 10;
	c.setting = true;
	assert_int_equal(nbd_counter_read(&c, fds[0], &bytes), 0);
	assert_int_equal(bytes, 10);
}

/* Two journals side by side, as a disk's are, and a worker that has been taken over. */
static void
forgets_nothing_of_others(void **state)
{
	const size_t size = nbd_journal_size(DEPTH, PAYLOAD_MAX);
	uint8_t *both =
	    mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct nbd_journal *first = (struct nbd_journal *)both;

	assert_ptr_not_equal(both, MAP_FAILED);
	memset(both, 0xa5, 2 * size);
	nbd_journal_forget(first, DEPTH, PAYLOAD_MAX);
	for (size_t at = 0; at < 2 * size; at += 4096)
		assert_int_equal(
		    both[at], at < size && at >= nbd_journal_size(DEPTH, 0) ? 0 : 0xa5);
	first->payload_offset = size;
	first->depth = UINT32_MAX;
	first->payload_max = UINT32_MAX;
	nbd_journal_forget(first, DEPTH, PAYLOAD_MAX);
	for (size_t at = size; at < 2 * size; at += 4096)
		assert_int_equal(both[at], 0xa5);
	munmap(both, 2 * size);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(peek_offset_counts, setup, teardown),
	    cmocka_unit_test_setup_teardown(rearm_survives_a_kill, setup, teardown),
	    cmocka_unit_test(forgets_nothing_of_others),
	    cmocka_unit_test_setup_teardown(one_worker, setup, teardown),
	    cmocka_unit_test_setup_teardown(killed_again_and_again, setup, teardown),
	    {"one_worker by pipe", one_worker, setup_by_pipe, teardown, NULL},
	    {"killed_again_and_again by pipe", killed_again_and_again, setup_by_pipe, teardown,
		NULL},
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
