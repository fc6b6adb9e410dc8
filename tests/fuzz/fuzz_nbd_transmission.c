/* SPDX-License-Identifier: BSD-2-Clause */

/* A client of an NBD export after the handshake: it sends requests of any kind, or anything, in
 * pieces of any size, and reads the answers when it likes; workers are replaced meanwhile. As long
 * as it sends requests, each is answered once and with the right data. */

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include <xenpv/log.h>

#include "fuzz.h"
#include "nbd_connection.h"

#define DEPTH	    4
#define PAYLOAD_MAX 8192
#define SECTORS	    64
#define BLOCK	    1024
#define REQUESTS    64
#define SENT_MAX    (1 << 17)
#define REPLY_ERROR UINT32_C(1) /* bits of outcomes */
#define REPLY_OK    UINT32_C(2)

/* --- the disk: the ring's queue, for the connection --- */

static struct {
	struct blk_request *r; /* NULL: free */
	bool done;
	uint8_t data[PAYLOAD_MAX];
} disk[DEPTH];

void __wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r);
void __wrap_blk_queue_push(struct blk_queue *q);
void __wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r);
void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

/* --- the client --- */

static struct expected {
	uint32_t op, length;
	uint64_t from;
	uint32_t outcomes; /* that the disk has had for it, or REPLY_ERROR if it must be refused */
	bool answered;
} expected[REQUESTS];

static unsigned requested;
static bool any;  /* it has sent what is no request: no more is known */
static bool left; /* it has said that it goes */
static uint8_t out[SENT_MAX], in[sizeof(struct nbd_reply) + PAYLOAD_MAX];
static size_t out_length, out_sent, in_length;
static int client, server, ends[2];

/* --- the connection --- */

static struct event_base *base;
static struct nbd_journal *journal;
static struct nbd_connection *connection;
static struct nbd_limits limits = {.sectors = SECTORS, .block = BLOCK};
static bool over;

static uint8_t
pattern(uint64_t byte)
{
	return (uint8_t)(byte >> BLK_SECTOR_SHIFT) * 5 + (uint8_t)byte;
}

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

void
__wrap_blk_queue_push(struct blk_queue *q)
{
}

void
__wrap_blk_queue_submit(struct blk_queue *q, struct blk_request *r)
{
	unsigned at = DEPTH;

	check(
	    r->op == BLK_READ || r->op == BLK_WRITE || r->op == BLK_FLUSH || r->op == BLK_DISCARD);
	if (r->op == BLK_FLUSH) {
		check(r->sectors == 0);
	} else {
		check(r->sectors > 0 && r->sectors <= SECTORS);
		check(r->sector <= SECTORS - r->sectors);
		check(r->sector % (BLOCK / BLK_SECTOR_SIZE) == 0);
		check(r->sectors % (BLOCK / BLK_SECTOR_SIZE) == 0);
		check(r->op == BLK_DISCARD || r->sectors <= PAYLOAD_MAX >> BLK_SECTOR_SHIFT);
		check(r->op == BLK_READ || !limits.read_only);
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		check(disk[i].r != r);
		if (disk[i].r == NULL)
			at = i;
	}
	check(at < DEPTH);
	disk[at].r = r;
	disk[at].done = false;
}

void
__wrap_blk_queue_release(struct blk_queue *q, struct blk_request *r)
{
	unsigned i;

	for (i = 0; i < DEPTH && disk[i].r != r; i++)
		;
	check(i < DEPTH && disk[i].done);
	disk[i].r = NULL;
	memset(disk[i].data, 0xee, sizeof(disk[i].data));
}

/* Requests of the same kind for the same place are the same for us. */
static void
note_outcome(const struct blk_request *r, uint32_t outcome)
{
	static const uint32_t commands[] = {[BLK_READ] = NBD_CMD_READ,
	    [BLK_WRITE] = NBD_CMD_WRITE,
	    [BLK_FLUSH] = NBD_CMD_FLUSH,
	    [BLK_DISCARD] = NBD_CMD_TRIM};
	bool found = any;

	for (unsigned i = 0; i < requested; i++) {
		struct expected *e = &expected[i];

		if (e->op != commands[r->op] ||
		    (r->op != BLK_FLUSH && (e->from != r->sector << BLK_SECTOR_SHIFT ||
					       e->length != r->sectors << BLK_SECTOR_SHIFT)))
			continue;
		e->outcomes |= outcome;
		found = true;
	}
	check(found);
}

static void
complete(unsigned i, int status)
{
	struct blk_request *r = disk[i].r;
	uint64_t from = r->sector << BLK_SECTOR_SHIFT;
	bool has_data = r->op == BLK_READ || r->op == BLK_WRITE;
	size_t length = has_data ? (size_t)r->sectors << BLK_SECTOR_SHIFT : 0, half = length / 2;
	struct iovec iov[2] = {{disk[i].data, half}, {disk[i].data + half, length - half}};

	if (disk[i].done)
		return;
	disk[i].done = true;
	note_outcome(r, status == 0 ? REPLY_OK : REPLY_ERROR);
	if (r->op == BLK_WRITE) {
		check(nbd_connection_pull(NULL, r, iov, 2) == 0);
		for (size_t k = 0; k < length && !any; k++)
			check(disk[i].data[k] == pattern(from + k));
	} else if (r->op == BLK_READ) {
		for (size_t k = 0; k < length; k++)
			disk[i].data[k] = pattern(from + k);
	}
	nbd_connection_done(NULL, r, status, iov, has_data ? 2 : 0);
}

static void
complete_some(unsigned which, int status)
{
	if (connection == NULL)
		return;
	if (disk[which % DEPTH].r != NULL)
		complete(which % DEPTH, status);
	nbd_connection_send(connection);
}

static void
run(void)
{
	for (unsigned i = 0; i < 4; i++)
		event_base_loop(base, EVLOOP_NONBLOCK);
}

static void
on_over(void *arg)
{
	check(!over);
	over = true;
	for (unsigned i = 0; i < DEPTH; i++)
		check(disk[i].r == NULL);
	nbd_connection_free(connection);
	connection = NULL;
}

static void
start_worker(void)
{
	const struct nbd_connection_config config = {
	    .journal = journal,
	    .limits = &limits,
	    .base = base,
	    .fd = server,
	    .kernels_end = -1,
	    .pipe = {ends[0], ends[1]},
	    .over = on_over,
	};

	/* The queue is empty when the new worker takes over. */
	memset(disk, 0, sizeof(disk));
	connection = nbd_connection_start(&config);
	check(connection != NULL);
	run();
}

/* --- what the client does --- */

static void
put(const void *bytes, size_t n)
{
	if (n > sizeof(out) - out_length)
		return;
	memcpy(out + out_length, bytes, n);
	out_length += n;
}

static bool
must_be_refused(uint32_t type, uint64_t from, uint32_t length)
{
	if (type == NBD_CMD_FLUSH)
		return false;
	return type > NBD_CMD_TRIM || (limits.read_only && type != NBD_CMD_READ) ||
	       from % BLOCK != 0 || length % BLOCK != 0 || length == 0 ||
	       from + length > SECTORS << BLK_SECTOR_SHIFT ||
	       (type != NBD_CMD_TRIM && length > PAYLOAD_MAX);
}

static void
put_request(struct input *input)
{
	static const uint32_t lengths[] = {BLOCK, 4096, PAYLOAD_MAX, 512, 3 * BLOCK,
	    PAYLOAD_MAX + BLOCK, 0, SECTORS << BLK_SECTOR_SHIFT};
	uint8_t what = take_byte(input), place = take_byte(input);
	uint32_t type = what % 8 == 7 ? (uint32_t)take_byte(input) << 16 | NBD_CMD_WRITE : what % 8;
	uint32_t length = lengths[what / 8 % 8];
	uint64_t from = (uint64_t)place * 512;
	struct nbd_request header = {.magic = htonl(NBD_REQUEST_MAGIC),
	    .type = htonl(type),
	    .from = htobe64(from),
	    .len = htonl(length)};
	size_t payload = (type & 0xffff) == NBD_CMD_WRITE ? length : 0;
	uint64_t handle = requested;

	if (requested == REQUESTS || sizeof(out) - out_length < sizeof(header) + payload || left)
		return;
	memcpy(&header.handle, &handle, sizeof(handle));
	put(&header, sizeof(header));
	for (uint64_t i = 0; i < payload; i++)
		out[out_length++] = pattern(from + i);
	if (type == NBD_CMD_DISC) {
		left = true;
		return;
	}
	expected[requested++] = (struct expected){.op = type,
	    .length = length,
	    .from = from,
	    .outcomes = must_be_refused(type, from, length) ? REPLY_ERROR : 0};
}

static void
put_bytes(struct input *input)
{
	uint8_t bytes[64];
	size_t n = take_byte(input) % sizeof(bytes);

	for (size_t i = 0; i < n; i++)
		bytes[i] = take_byte(input);
	put(bytes, n);
	any = true;
}

static void
send_some(size_t n)
{
	size_t have = out_length - out_sent;
	ssize_t sent =
	    send(client, out + out_sent, n < have ? n : have, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent > 0)
		out_sent += (size_t)sent;
	run();
}

/* What is in "in" begins with a reply's header. False: it is not all there. */
static bool
take_reply(void)
{
	struct nbd_reply header;
	struct expected *e;
	uint64_t handle;
	size_t length = sizeof(header);

	if (in_length < sizeof(header))
		return false;
	memcpy(&header, in, sizeof(header));
	memcpy(&handle, &header.handle, sizeof(handle));
	check(ntohl(header.magic) == NBD_REPLY_MAGIC);
	check(handle < requested);
	e = &expected[handle];
	if (e->op == NBD_CMD_READ && header.error == 0)
		length += e->length;
	check(length <= sizeof(in));
	if (in_length < length)
		return false;
	check(!e->answered);
	check((e->outcomes & (header.error == 0 ? REPLY_OK : REPLY_ERROR)) != 0);
	for (size_t i = sizeof(header); i < length; i++)
		check(in[i] == pattern(e->from + i - sizeof(header)));
	e->answered = true;
	in_length -= length;
	memmove(in, in + length, in_length);
	return true;
}

/* Returns whether there was something. */
static bool
read_some(size_t n)
{
	size_t room = sizeof(in) - in_length;
	ssize_t got = recv(client, in + in_length, n < room ? n : room, MSG_DONTWAIT);

	if (got <= 0)
		return false;
	/* Nobody knows where an answer to just anything ends. */
	if (any)
		return true;
	in_length += (size_t)got;
	while (take_reply())
		;
	return true;
}

static void
step(struct input *input)
{
	uint8_t what = take_byte(input);
	unsigned amount = what >> 3;

	switch (what & 7) {
	case 0:
	case 1:
		put_request(input);
		break;
	case 2:
		send_some(1 + amount * 11);
		break;
	case 3:
		send_some(sizeof(out));
		break;
	case 4:
		complete_some(amount, amount < 24 ? 0 : amount < 28 ? -EIO : -EOPNOTSUPP);
		break;
	case 5:
		read_some(1 + amount * amount * 8);
		break;
	case 6:
		if (connection == NULL)
			break;
		nbd_connection_free(connection);
		start_worker();
		break;
	case 7:
		if (amount == 0 && connection != NULL) {
			nbd_connection_leave(connection);
			left = true;
			any = true; /* who knows what was read by then */
		} else if (amount < 3) {
			put_bytes(input);
		}
		break;
	}
	run();
}

/* Everything is sent, done and read until nothing happens any more. */
static void
finish(void)
{
	for (bool moved = true; moved;) {
		size_t sent = out_sent;

		moved = false;
		send_some(sizeof(out));
		for (unsigned i = 0; i < DEPTH && connection != NULL; i++)
			if (disk[i].r != NULL && !disk[i].done) {
				complete_some(i, 0);
				moved = true;
			}
		run();
		while (read_some(sizeof(in)))
			moved = true;
		moved = moved || out_sent != sent;
	}
}

static bool
all_answered(void)
{
	for (unsigned i = 0; i < requested; i++)
		if (!expected[i].answered)
			return false;
	return in_length == 0;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	base = event_base_new();
	journal = malloc(nbd_journal_size(DEPTH, PAYLOAD_MAX));
	check(base != NULL && journal != NULL);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	int pair[2];

	requested = 0;
	any = left = over = false;
	out_length = out_sent = in_length = 0;
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	check(pipe2(ends, O_NONBLOCK) == 0);
	client = pair[0];
	server = pair[1];
	limits.read_only = (take_byte(&input) & 1) != 0;
	check(nbd_journal_reset(journal, DEPTH, PAYLOAD_MAX, server, -1) == 0);
	start_worker();
	while (input.left > 0)
		step(&input);
	finish();
	/* A read that was half answered and then fails ends the connection. */
	if (!any && !over)
		check(all_answered());
	if (!any && left)
		check(over);
	shutdown(client, SHUT_WR);
	finish();
	check(over);
	close(client);
	close(server);
	close(ends[0]);
	close(ends[1]);
	return 0;
}
