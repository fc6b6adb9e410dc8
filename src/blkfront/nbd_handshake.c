/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_handshake.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/event.h>

#define MAGIC	     0x4e42444d41474943ull /* "NBDMAGIC" */
#define OPTION_MAGIC 0x49484156454f5054ull /* "IHAVEOPT" */
#define REPLY_MAGIC  0x0003e889045565a9ull

/* Both sides' handshake flags have the same meaning. */
#define FIXED_NEWSTYLE 1u
#define NO_ZEROES      2u

enum {
	OPT_EXPORT_NAME = 1,
	OPT_ABORT = 2,
	OPT_LIST = 3,
	OPT_INFO = 6,
	OPT_GO = 7,
};

enum {
	REP_ACK = 1,
	REP_SERVER = 2,
	REP_INFO = 3,
};
#define REP_ERROR(n)	((1u << 31) | (n))
#define REP_ERR_UNSUP	REP_ERROR(1)
#define REP_ERR_INVALID REP_ERROR(3)
#define REP_ERR_UNKNOWN REP_ERROR(6)
#define REP_ERR_TOO_BIG REP_ERROR(9)

enum { INFO_EXPORT = 0, INFO_NAME = 1, INFO_BLOCK_SIZE = 3 };

#define NAME_MAX_BYTES 4096
/* The longest option that is looked at: a name, and more information requests than there are. */
#define DATA_MAX (4 + NAME_MAX_BYTES + 2 + 2 * 64)
/* What is longer is read and thrown away up to here; nobody has a reason for more. */
#define SKIP_MAX (64 * 1024)

#define OPTIONS_A_TURN 16

struct option_header {
	uint64_t magic;
	uint32_t option;
	uint32_t length;
} __attribute__((packed));

struct nbd_handshake {
	const struct nbd_exports *exports;
	nbd_handshake_ended *ended;
	void *arg;
	int fd;
	struct event *readable, *writable, *deadline;
	struct evbuffer *out;

	enum { FLAGS, HEADER, DATA, SKIP } phase;
	size_t wanted, got; /* of this phase */
	uint32_t option;
	uint32_t skip; /* bytes of the option still to be thrown away */
	bool no_zeroes;
	bool fixed;
	bool leaving; /* ends when all is written */
	struct nbd_export chosen;
	bool done;

	uint8_t data[DATA_MAX];
};

static void
end(struct nbd_handshake *h, bool success)
{
	nbd_handshake_ended *ended = h->ended;
	struct nbd_export chosen = h->chosen;
	void *arg = h->arg;
	int fd = h->fd;

	if (!success)
		close(fd);
	if (h->readable != NULL)
		event_free(h->readable);
	if (h->writable != NULL)
		event_free(h->writable);
	if (h->deadline != NULL)
		event_free(h->deadline);
	if (h->out != NULL)
		evbuffer_free(h->out);
	free(h);
	if (ended != NULL)
		ended(success ? &chosen : NULL, success ? fd : -1, arg);
}

/* ---- what we say ---- */

static void
put(struct nbd_handshake *h, const void *data, size_t length)
{
	/* Without memory the answer has a hole: better to end. */
	if (evbuffer_add(h->out, data, length) != 0)
		h->leaving = true;
}

static void
put16(struct nbd_handshake *h, uint16_t value)
{
	value = htobe16(value);
	put(h, &value, sizeof(value));
}

static void
put32(struct nbd_handshake *h, uint32_t value)
{
	value = htobe32(value);
	put(h, &value, sizeof(value));
}

static void
put64(struct nbd_handshake *h, uint64_t value)
{
	value = htobe64(value);
	put(h, &value, sizeof(value));
}

/* "length" bytes have to follow. */
static void
put_reply(struct nbd_handshake *h, uint32_t type, uint32_t length)
{
	put64(h, REPLY_MAGIC);
	put32(h, h->option);
	put32(h, type);
	put32(h, length);
}

static void
put_error(struct nbd_handshake *h, uint32_t type, const char *why)
{
	put_reply(h, type, (uint32_t)strlen(why));
	put(h, why, strlen(why));
}

/* ---- what they say ---- */

static void
next_option(struct nbd_handshake *h)
{
	h->phase = HEADER;
	h->wanted = sizeof(struct option_header);
	h->got = 0;
}

static void
begin_transmission(struct nbd_handshake *h, const struct nbd_export *export)
{
	h->chosen = *export;
	h->done = true;
}

static void
option_list(struct nbd_handshake *h, size_t length)
{
	if (length > 0) {
		put_error(h, REP_ERR_INVALID, "a list takes no data");
		return;
	}
	for (size_t i = 0; i < h->exports->count; i++) {
		const char *name = h->exports->list[i].name;
		uint32_t bytes = (uint32_t)strlen(name);

		put_reply(h, REP_SERVER, 4 + bytes);
		put32(h, bytes);
		put(h, name, bytes);
	}
	put_reply(h, REP_ACK, 0);
}

/* The name has no reply of its own if it is unknown: the protocol wants the connection closed. */
static bool
option_export_name(struct nbd_handshake *h, size_t length)
{
	static const uint8_t zeroes[124];
	const struct nbd_export *export =
	    nbd_exports_find(h->exports, (const char *)h->data, length);

	if (export == NULL)
		return false;
	put64(h, export->bytes);
	put16(h, export->flags);
	if (!h->no_zeroes)
		put(h, zeroes, sizeof(zeroes));
	begin_transmission(h, export);
	return true;
}

static uint32_t
get32(const uint8_t *data)
{
	uint32_t value;

	memcpy(&value, data, sizeof(value));
	return be32toh(value);
}

static uint16_t
get16(const uint8_t *data)
{
	uint16_t value;

	memcpy(&value, data, sizeof(value));
	return be16toh(value);
}

static void
put_info(struct nbd_handshake *h, const struct nbd_export *export, bool with_name)
{
	uint32_t name_bytes = (uint32_t)strlen(export->name);

	put_reply(h, REP_INFO, 2 + 8 + 2);
	put16(h, INFO_EXPORT);
	put64(h, export->bytes);
	put16(h, export->flags);
	/* Also to clients that did not ask: the protocol allows it and they may respect it. */
	put_reply(h, REP_INFO, 2 + 3 * 4);
	put16(h, INFO_BLOCK_SIZE);
	put32(h, export->block_min);
	put32(h, export->block_preferred);
	put32(h, export->block_max);
	if (with_name) {
		put_reply(h, REP_INFO, 2 + name_bytes);
		put16(h, INFO_NAME);
		put(h, export->name, name_bytes);
	}
	put_reply(h, REP_ACK, 0);
}

/* INFO and GO: 32 bits length of the name, the name, 16 bits count, count times 16 bits. */
static void
option_info(struct nbd_handshake *h, size_t length)
{
	const struct nbd_export *export;
	uint32_t name_bytes;
	unsigned count;
	bool with_name = false;
	const uint8_t *list;

	if (length < 6 || (name_bytes = get32(h->data)) > length - 6) {
		put_error(h, REP_ERR_INVALID, "the name is longer than the option");
		return;
	}
	list = h->data + 4 + name_bytes;
	count = get16(list);
	if (length - 6 - name_bytes != 2 * (size_t)count) {
		put_error(h, REP_ERR_INVALID, "the information requests do not fill the option");
		return;
	}
	for (unsigned i = 0; i < count; i++)
		with_name |= get16(list + 2 + 2 * i) == INFO_NAME;
	export = nbd_exports_find(h->exports, (const char *)h->data + 4, name_bytes);
	if (export == NULL) {
		put_error(h, REP_ERR_UNKNOWN,
		    name_bytes > 0 ? "there is no such export"
				   : "there is not just one export: name one");
		return;
	}
	put_info(h, export, with_name);
	if (h->option == OPT_GO)
		begin_transmission(h, export);
}

/* False: the connection is to be closed. */
static bool
take_option(struct nbd_handshake *h)
{
	size_t length = h->got;

	/* Before "fixed", there was just one option, and no way to answer another. */
	if (!h->fixed && h->option != OPT_EXPORT_NAME)
		return false;
	switch (h->option) {
	case OPT_EXPORT_NAME:
		return option_export_name(h, length);
	case OPT_ABORT:
		put_reply(h, REP_ACK, 0);
		h->leaving = true;
		return true;
	case OPT_LIST:
		option_list(h, length);
		break;
	case OPT_INFO:
	case OPT_GO:
		option_info(h, length);
		break;
	default: /* STARTTLS, STRUCTURED_REPLY, ... */
		put_reply(h, REP_ERR_UNSUP, 0);
		break;
	}
	next_option(h);
	return true;
}

static bool
take_header(struct nbd_handshake *h)
{
	struct option_header header;
	uint32_t length;

	memcpy(&header, h->data, sizeof(header));
	if (be64toh(header.magic) != OPTION_MAGIC)
		return false;
	h->option = be32toh(header.option);
	length = be32toh(header.length);
	h->got = 0;
	if (length > SKIP_MAX)
		return false;
	if (length > DATA_MAX) {
		h->phase = SKIP;
		h->skip = length;
		h->wanted = length < DATA_MAX ? length : DATA_MAX;
		return h->option != OPT_EXPORT_NAME;
	}
	h->phase = DATA;
	h->wanted = length;
	return true;
}

static bool
take_flags(struct nbd_handshake *h)
{
	uint32_t flags = get32(h->data);

	if ((flags & ~(FIXED_NEWSTYLE | NO_ZEROES)) != 0)
		return false;
	h->fixed = flags & FIXED_NEWSTYLE;
	h->no_zeroes = flags & NO_ZEROES;
	next_option(h);
	return true;
}

static bool
take_skipped(struct nbd_handshake *h)
{
	h->skip -= (uint32_t)h->got;
	h->got = 0;
	h->wanted = h->skip < DATA_MAX ? h->skip : DATA_MAX;
	if (h->skip > 0)
		return true;
	if (!h->fixed)
		return false;
	put_reply(h, REP_ERR_TOO_BIG, 0);
	next_option(h);
	return true;
}

static bool
take(struct nbd_handshake *h)
{
	switch (h->phase) {
	case FLAGS:
		return take_flags(h);
	case HEADER:
		return take_header(h);
	case DATA:
		return take_option(h);
	case SKIP:
		return take_skipped(h);
	}
	return false;
}

/* ---- the socket ---- */

/* 1: all is written, 0: the client has to read, -1: it is gone. */
static int
write_out(struct nbd_handshake *h)
{
	while (evbuffer_get_length(h->out) > 0) {
		struct evbuffer_iovec piece;
		ssize_t n;

		evbuffer_peek(h->out, -1, NULL, &piece, 1);
		n = send(h->fd, piece.iov_base, piece.iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			evbuffer_drain(h->out, (size_t)n);
		else if (n < 0 && errno == EAGAIN)
			return 0;
		else if (n == 0 || errno != EINTR)
			return -1;
	}
	return 1;
}

/* Reads what this phase wants and no more. 1: it is there, 0: not yet, -1: it will never be. */
static int
read_in(struct nbd_handshake *h)
{
	while (h->got < h->wanted) {
		ssize_t n = recv(h->fd, h->data + h->got, h->wanted - h->got, MSG_DONTWAIT);

		if (n > 0)
			h->got += (size_t)n;
		else if (n < 0 && errno == EAGAIN)
			return 0;
		else if (n == 0 || errno != EINTR)
			return -1;
	}
	return 1;
}

/* Options are taken one at a time, each after the answers to the one before have left. */
static void
go_on(struct nbd_handshake *h)
{
	for (unsigned turn = 0; turn < OPTIONS_A_TURN; turn++) {
		int state = write_out(h);

		if (state == 0) {
			event_del(h->readable);
			event_add(h->writable, NULL);
			return;
		}
		if (state < 0 || h->leaving || h->done) {
			end(h, state > 0 && h->done && !h->leaving);
			return;
		}
		state = read_in(h);
		if (state == 0) {
			event_add(h->readable, NULL);
			return;
		}
		if (state < 0 || !take(h)) {
			end(h, false);
			return;
		}
	}
	/* Others, and the deadline, have their turn. */
	event_add(h->readable, NULL);
	event_active(h->readable, EV_READ, 0);
}

static void
on_event(evutil_socket_t fd, short events, void *arg)
{
	go_on(arg);
}

static void
on_deadline(evutil_socket_t fd, short events, void *arg)
{
	end(arg, false);
}

struct nbd_handshake *
nbd_handshake_start(struct event_base *base, int fd, const struct nbd_exports *exports,
    unsigned timeout_ms, nbd_handshake_ended *ended, void *arg)
{
	const struct timeval timeout = {
	    .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
	struct nbd_handshake *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->exports = exports;
	h->fd = fd;
	h->phase = FLAGS;
	h->wanted = sizeof(uint32_t);
	h->out = evbuffer_new();
	h->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_event, h);
	h->writable = event_new(base, fd, EV_WRITE, on_event, h);
	h->deadline = evtimer_new(base, on_deadline, h);
	if (h->out == NULL || h->readable == NULL || h->writable == NULL || h->deadline == NULL ||
	    event_add(h->deadline, &timeout) != 0 || event_add(h->writable, NULL) != 0) {
		h->fd = -1;
		end(h, false);
		errno = ENOMEM;
		return NULL;
	}
	h->ended = ended;
	h->arg = arg;
	put64(h, MAGIC);
	put64(h, OPTION_MAGIC);
	put16(h, FIXED_NEWSTYLE | NO_ZEROES);
	return h;
}
