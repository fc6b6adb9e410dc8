/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_connection.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "nbd_out.h"

#define NBD_EPERM   1u
#define NBD_EIO	    5u
#define NBD_EINVAL  22u
#define NBD_ENOSPC  28u
#define NBD_ENOTSUP 95u

struct entry {			    /* one slot of the journal, as this worker knows it */
	struct blk_request request; /* first: a request leads to its entry */
	struct nbd_connection *connection;
	struct nbd_slot *slot;
	uint16_t index;
	bool has_pages; /* to be released when the reply has left */
	int iovcnt;
	struct iovec iov[BLK_MAX_IO_PAGES]; /* a read's data */
	STAILQ_ENTRY(entry) next;
};

struct nbd_connection {
	struct nbd_connection_config config;
	struct nbd_journal *journal;
	struct nbd_out out;
	struct event *readable, *writable, *over;
	struct entry *entries;
	struct entry *receiving;
	uint64_t rx_total;
	unsigned inflight;	      /* in the queue */
	STAILQ_HEAD(, entry) replies; /* the first is being sent */
	struct entry *resumed;	      /* must be answered first: its reply has begun */
	bool quiet;
	bool leaving; /* no more requests: the client said so, or we do */
	bool dead;    /* nothing can be sent any more */
};

static bool
is_client(const struct nbd_connection *c)
{
	return c->config.limits != NULL;
}

/* By way of the loop: whoever finds that it is over still uses the connection. */
static void
check_over(struct nbd_connection *c)
{
	if (is_client(c) && c->inflight == 0 &&
	    (c->dead || (c->leaving && STAILQ_EMPTY(&c->replies) && c->out.in_pipe == 0)))
		event_active(c->over, EV_TIMEOUT, 0);
}

static void
on_over(evutil_socket_t fd, short events, void *arg)
{
	struct nbd_connection *c = arg;

	c->config.over(c->config.arg);
}

/* A reply that will not be sent. */
static void
drop(struct nbd_connection *c, struct entry *e)
{
	e->slot->state = NBD_FREE;
	e->iovcnt = 0; /* the slot's next reply may have no data */
	if (!e->has_pages)
		return;
	e->has_pages = false;
	blk_queue_release(c->config.q, &e->request);
}

static void
connection_broken(struct nbd_connection *c, const char *what)
{
	struct entry *e;

	if (c->dead)
		return;
	c->dead = true;
	/* A client can break as many connections as it likes: no room in the log for that. */
	if (is_client(c))
		xpv_info("a client's connection: %s", what);
	else
		xpv_err("NBD connection: %s", what);
	event_del(c->readable);
	event_del(c->writable);
	shutdown(c->config.fd, SHUT_RDWR);
	while ((e = STAILQ_FIRST(&c->replies)) != NULL) {
		STAILQ_REMOVE_HEAD(&c->replies, next);
		drop(c, e);
	}
	check_over(c);
}

static void
no_more_requests(struct nbd_connection *c)
{
	c->leaving = true;
	event_del(c->readable);
	check_over(c);
}

/* ---- requests ---- */

static uint32_t
operation(const struct nbd_slot *slot)
{
	return ntohl(slot->header.type) & 0xffff;
}

static uint32_t
length(const struct nbd_slot *slot)
{
	return ntohl(slot->header.len);
}

static size_t
payload_length(const struct nbd_slot *slot)
{
	return operation(slot) == NBD_CMD_WRITE ? length(slot) : 0;
}

static bool
carries_data(const struct nbd_slot *slot)
{
	return operation(slot) == NBD_CMD_READ && slot->error == 0;
}

static size_t
reply_length(const struct nbd_slot *slot)
{
	return sizeof(struct nbd_reply) + (carries_data(slot) ? length(slot) : 0);
}

/* Gives a request its reply. "error" is NBD's. */
static void
answer(struct entry *e, uint32_t error)
{
	struct nbd_connection *c = e->connection;

	if (c->dead) {
		drop(c, e);
		check_over(c);
		return;
	}
	if (c->resumed == e) {
		/* Its header may have left: it cannot say anything else now. */
		if (error != e->slot->error) {
			connection_broken(c, "a read that was half answered fails now");
			drop(c, e);
			return;
		}
		c->resumed = NULL;
		STAILQ_INSERT_HEAD(&c->replies, e, next);
		return;
	}
	e->slot->error = error;
	STAILQ_INSERT_TAIL(&c->replies, e, next);
}

/* NBD's error if this client may not ask this; else 0. */
static uint32_t
check_limits(const struct nbd_connection *c, const struct nbd_slot *slot)
{
	const struct nbd_limits *limits = c->config.limits;
	uint64_t from = be64toh(slot->header.from);
	uint64_t size = limits->sectors << BLK_SECTOR_SHIFT;
	uint32_t op = operation(slot);

	/* No command has flags that we offer. */
	if (ntohl(slot->header.type) >> 16 != 0)
		return NBD_EINVAL;
	if (op == NBD_CMD_FLUSH)
		return 0;
	if (limits->read_only && op != NBD_CMD_READ)
		return NBD_EPERM;
	if (from % limits->block != 0 || length(slot) % limits->block != 0)
		return NBD_EINVAL;
	if (from > size || length(slot) > size - from)
		return op == NBD_CMD_WRITE ? NBD_ENOSPC : NBD_EINVAL;
	return 0;
}

/* NBD's error if the request cannot be done at all; else 0 and "r" is filled. */
static uint32_t
translate(const struct nbd_connection *c, const struct nbd_slot *slot, struct blk_request *r)
{
	uint64_t from = be64toh(slot->header.from);
	uint32_t bytes = length(slot);
	uint32_t error = 0;

	switch (operation(slot)) {
	case NBD_CMD_READ:
		r->op = BLK_READ;
		break;
	case NBD_CMD_WRITE:
		r->op = BLK_WRITE;
		break;
	case NBD_CMD_FLUSH:
		r->op = BLK_FLUSH;
		break;
	case NBD_CMD_TRIM:
		r->op = BLK_DISCARD;
		break;
	default:
		return NBD_EINVAL;
	}
	if (is_client(c))
		error = check_limits(c, slot);
	if (error != 0)
		return error;
	if (r->op == BLK_FLUSH) {
		r->sector = r->sectors = 0;
		return 0;
	}
	r->sector = from >> BLK_SECTOR_SHIFT;
	r->sectors = bytes >> BLK_SECTOR_SHIFT;
	if (bytes == 0 || from % BLK_SECTOR_SIZE != 0 || bytes % BLK_SECTOR_SIZE != 0 ||
	    (r->op != BLK_DISCARD && bytes > c->journal->payload_max))
		return NBD_EINVAL;
	return 0;
}

static void
submit(struct entry *e)
{
	struct nbd_connection *c = e->connection;
	uint32_t error = translate(c, e->slot, &e->request);

	if (error == 0) {
		c->inflight++;
		blk_queue_submit(c->config.q, &e->request);
	} else {
		answer(e, error);
	}
}

int
nbd_connection_pull(void *host, struct blk_request *r, const struct iovec *iov, int iovcnt)
{
	struct entry *e = (struct entry *)r;
	const uint8_t *data = nbd_journal_payload(e->connection->journal, e->index);

	for (int i = 0; i < iovcnt; i++) {
		memcpy(iov[i].iov_base, data, iov[i].iov_len);
		data += iov[i].iov_len;
	}
	return 0;
}

void
nbd_connection_done(
    void *host, struct blk_request *r, int status, const struct iovec *iov, int iovcnt)
{
	struct entry *e = (struct entry *)r;

	e->connection->inflight--;
	e->has_pages = true;
	e->iovcnt = 0;
	if (r->op == BLK_READ && status == 0) {
		memcpy(e->iov, iov, (size_t)iovcnt * sizeof(*iov));
		e->iovcnt = iovcnt;
	}
	answer(e, status == 0 ? 0 : status == -EOPNOTSUPP ? NBD_ENOTSUP : NBD_EIO);
}

/* ---- sending ---- */

/* The reply of "e" from byte "skip" on. */
static int
reply_iov(const struct entry *e, const struct nbd_reply *header, size_t skip, struct iovec *out)
{
	int n = 0;

	out[n++] = (struct iovec){(void *)(uintptr_t)header, sizeof(*header)};
	for (int i = 0; i < e->iovcnt; i++)
		out[n++] = e->iov[i];
	for (int i = 0; i < n && skip > 0; i++) {
		size_t cut = skip < out[i].iov_len ? skip : out[i].iov_len;

		out[i].iov_base = (uint8_t *)out[i].iov_base + cut;
		out[i].iov_len -= cut;
		skip -= cut;
	}
	return n;
}

static void
reply_left(struct nbd_connection *c, struct entry *e)
{
	bool was_full = c->receiving == NULL;

	STAILQ_REMOVE_HEAD(&c->replies, next);
	drop(c, e);
	if (!c->dead && nbd_out_rearm(&c->out) != 0)
		connection_broken(c, strerror(errno));
	if (was_full && !c->quiet && !c->leaving && !c->dead)
		event_active(c->readable, EV_READ, 0);
}

/*
 * The peer does not read: whatever waits for it moves to the journal's memory, which is of this
 * connection alone. The pages are needed by others. (The kernel reads always.)
 */
static void
make_room(struct nbd_connection *c)
{
	if (!is_client(c))
		return;
	for (unsigned i = 0; i < c->journal->depth; i++) {
		struct entry *e = &c->entries[i];
		uint8_t *to = nbd_journal_payload(c->journal, i), *end = to;

		if (!e->has_pages)
			continue;
		for (int k = 0; k < e->iovcnt; k++) {
			memcpy(end, e->iov[k].iov_base, e->iov[k].iov_len);
			end += e->iov[k].iov_len;
		}
		if (e->iovcnt > 0) {
			e->iov[0] = (struct iovec){to, (size_t)(end - to)};
			e->iovcnt = 1;
		}
		e->has_pages = false;
		blk_queue_release(c->config.q, &e->request);
	}
}

static void
wait_for_peer(struct nbd_connection *c)
{
	event_add(c->writable, NULL);
	make_room(c);
}

/* One reply, or a part of it. False: no more now. */
static bool
send_one(struct nbd_connection *c, struct entry *e)
{
	struct nbd_reply header = {.magic = htonl(NBD_REPLY_MAGIC), .error = htonl(e->slot->error)};
	struct iovec iov[BLK_MAX_IO_PAGES + 1];
	ssize_t sent;
	int count;

	memcpy(&header.handle, &e->slot->header.handle, sizeof(header.handle));
	if (e->slot->state != NBD_ANSWERING) {
		c->journal->tx_start = c->out.total;
		e->slot->state = NBD_ANSWERING;
	}
	count = reply_iov(e, &header, (size_t)(c->out.total - c->journal->tx_start), iov);
	sent = nbd_out_send(&c->out, iov, count);
	if (sent < 0) {
		if (errno == EAGAIN)
			wait_for_peer(c);
		else if (errno != EINTR)
			connection_broken(c, strerror(errno));
		return false;
	}
	if (c->out.total - c->journal->tx_start == reply_length(e->slot))
		reply_left(c, e);
	return true;
}

void
nbd_connection_send(struct nbd_connection *c)
{
	struct entry *e;
	int pushed;

	/* A reply that a dead worker began goes on before any other. */
	while (!c->dead && c->resumed == NULL && (e = STAILQ_FIRST(&c->replies)) != NULL &&
	       send_one(c, e))
		;
	if (c->dead)
		return;
	pushed = nbd_out_push(&c->out);
	if (pushed < 0)
		connection_broken(c, strerror(errno));
	else if (pushed == 0)
		wait_for_peer(c);
	check_over(c);
}

static void
on_writable(evutil_socket_t fd, short events, void *arg)
{
	struct nbd_connection *c = arg;

	nbd_connection_send(c);
	blk_queue_push(c->config.q);
}

/* ---- receiving ---- */

static struct entry *
free_entry(struct nbd_connection *c)
{
	for (unsigned i = 0; i < c->journal->depth; i++) {
		if (c->entries[i].slot->state == NBD_FREE)
			return &c->entries[i];
	}
	return NULL;
}

/* Where byte "got" of the request goes, and how many may go there. */
static size_t
destination(struct nbd_connection *c, struct entry *e, size_t got, void **to)
{
	const size_t head = sizeof(e->slot->header);
	size_t at, left;

	if (got < head) {
		*to = (uint8_t *)&e->slot->header + got;
		return head - got;
	}
	/* What is too long to be kept is taken off the stream all the same, and refused after. */
	at = (got - head) % c->journal->payload_max;
	left = payload_length(e->slot) - (got - head);
	*to = (uint8_t *)nbd_journal_payload(c->journal, e->index) + at;
	return left < c->journal->payload_max - at ? left : c->journal->payload_max - at;
}

static bool
complete(const struct entry *e, size_t got)
{
	return got >= sizeof(e->slot->header) &&
	       got == sizeof(e->slot->header) + payload_length(e->slot);
}

static void
accept_request(struct nbd_connection *c, struct entry *e)
{
	c->receiving = NULL;
	if (ntohl(e->slot->header.magic) != NBD_REQUEST_MAGIC) {
		connection_broken(c, "something came that is no request");
		return;
	}
	if (operation(e->slot) == NBD_CMD_DISC) {
		c->journal->left = true;
		e->slot->state = NBD_FREE;
		if (is_client(c))
			no_more_requests(c);
		return;
	}
	e->slot->state = NBD_ACCEPTED;
	submit(e);
}

/* One request at most, so that every connection has its turn. False: nothing more to read now. */
static bool
receive_one(struct nbd_connection *c)
{
	if (c->receiving == NULL) {
		c->receiving = free_entry(c);
		if (c->receiving == NULL)
			return false; /* reply_left() wakes us */
		c->journal->rx_start = c->rx_total;
		c->receiving->slot->state = NBD_RECEIVING;
	}
	for (;;) {
		size_t got = (size_t)(c->rx_total - c->journal->rx_start);
		ssize_t n;
		void *to;

		if (complete(c->receiving, got)) {
			accept_request(c, c->receiving);
			return !c->dead && !c->leaving;
		}
		size_t room = destination(c, c->receiving, got, &to);

		n = recv(c->config.fd, to, room, MSG_DONTWAIT);
		if (n > 0) {
			c->rx_total += (uint64_t)n;
			continue;
		}
		if (n == 0 && is_client(c)) {
			no_more_requests(c);
		} else if (n == 0) {
			/* The kernel has let the device go: the supervisor knows. */
			event_del(c->readable);
			c->dead = true;
		} else if (errno != EAGAIN && errno != EINTR) {
			connection_broken(c, strerror(errno));
		}
		return false;
	}
}

static void
receive(struct nbd_connection *c)
{
	while (!c->dead && !c->quiet && !c->leaving && receive_one(c))
		;
	if (!c->dead && nbd_counter_rearm(&c->journal->received, c->config.fd, c->rx_total) != 0)
		connection_broken(c, strerror(errno));
	/* All slots taken: no use to be told that there is more. */
	if (!c->dead && c->receiving == NULL && free_entry(c) == NULL)
		event_del(c->readable);
}

static void
on_readable(evutil_socket_t fd, short events, void *arg)
{
	struct nbd_connection *c = arg;

	if (c->dead || c->quiet || c->leaving)
		return;
	event_add(c->readable, NULL);
	receive(c);
	nbd_connection_send(c);
	blk_queue_push(c->config.q);
}

/* ---- start: go on where the last worker was ---- */

static void
resume_reply(struct nbd_connection *c, struct entry *e)
{
	if (c->out.total - c->journal->tx_start == reply_length(e->slot)) {
		e->slot->state = NBD_FREE;
	} else if (carries_data(e->slot)) {
		c->resumed = e;
		submit(e);
	} else {
		STAILQ_INSERT_HEAD(&c->replies, e, next);
	}
}

/* First the reply that has begun: no other can leave before it, so its read must not wait for pages
 * that they hold. */
static void
resume(struct nbd_connection *c)
{
	for (unsigned i = 0; i < c->journal->depth; i++) {
		if (c->entries[i].slot->state == NBD_ANSWERING)
			resume_reply(c, &c->entries[i]);
	}
	for (unsigned i = 0; i < c->journal->depth; i++) {
		struct entry *e = &c->entries[i];

		if (e->slot->state == NBD_RECEIVING)
			c->receiving = e;
		else if (e->slot->state == NBD_ACCEPTED)
			submit(e);
	}
}

static bool
prepare(struct nbd_connection *c)
{
	const struct nbd_connection_config *config = &c->config;

	STAILQ_INIT(&c->replies);
	c->entries = calloc(c->journal->depth, sizeof(*c->entries));
	c->readable = event_new(config->base, config->fd, EV_READ | EV_PERSIST, on_readable, c);
	c->writable = event_new(config->base, config->fd, EV_WRITE, on_writable, c);
	c->over = evtimer_new(config->base, on_over, c);
	return c->entries != NULL && c->readable != NULL && c->writable != NULL &&
	       c->over != NULL &&
	       nbd_counter_read(&c->journal->received, config->fd, &c->rx_total) == 0 &&
	       nbd_out_open(&c->out, c->journal, config->fd, config->kernels_end, config->pipe) ==
		   0;
}

struct nbd_connection *
nbd_connection_start(const struct nbd_connection_config *config)
{
	struct nbd_connection *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->config = *config;
	c->journal = config->journal;
	if (!prepare(c)) {
		nbd_connection_free(c);
		return NULL;
	}
	for (unsigned i = 0; i < c->journal->depth; i++) {
		c->entries[i].connection = c;
		c->entries[i].slot = &c->journal->slots[i];
		c->entries[i].index = (uint16_t)i;
	}
	resume(c);
	event_add(c->readable, NULL);
	event_active(c->readable, EV_READ, 0);
	/* The last worker's answers may be in the pipe still. */
	event_active(c->writable, EV_WRITE, 0);
	if (is_client(c) && c->journal->left)
		no_more_requests(c);
	return c;
}

void
nbd_connection_quiesce(struct nbd_connection *c)
{
	c->quiet = true;
	event_del(c->readable);
}

void
nbd_connection_leave(struct nbd_connection *c)
{
	if (!c->dead)
		no_more_requests(c);
}

bool
nbd_connection_waits(const struct nbd_connection *c)
{
	return !c->dead && !STAILQ_EMPTY(&c->replies);
}

void
nbd_connection_free(struct nbd_connection *c)
{
	if (c == NULL)
		return;
	if (c->readable != NULL)
		event_free(c->readable);
	if (c->writable != NULL)
		event_free(c->writable);
	if (c->over != NULL)
		event_free(c->over);
	free(c->entries);
	free(c);
}
