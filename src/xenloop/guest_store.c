/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * What a guest's kernel does with xenstore: it shares the domain's one ring among the programs that
 * have opened the store, here through a socket. As in Linux' xenbus_dev_frontend.c, a program that
 * goes away takes its watches and transactions with it, and watches are registered again when the
 * domain is resumed.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <xen/io/xs_wire.h>

#include "broker.h"

struct watch {
	LIST_ENTRY(watch) next;
	uint32_t serial; /* on the ring its token is "CLIENT/serial": a client may have it twice */
	char *path;
	char *token; /* the client's */
};

struct transaction {
	LIST_ENTRY(transaction) next;
	uint32_t id;
};

struct client {
	LIST_ENTRY(client) next;
	struct guest_store *store;
	struct bufferevent *bev;
	uint32_t id;
	LIST_HEAD(, watch) watches;
	LIST_HEAD(, transaction) transactions;
};

/* A request on its way; it keeps its place when its client goes. */
struct pending {
	TAILQ_ENTRY(pending) next;
	uint32_t id;	  /* on the ring */
	uint32_t request; /* the client's */
	uint32_t client;  /* 0: nobody waits */
	uint32_t type;
	uint32_t transaction;
	uint32_t watch; /* serial of what it registers */
};

struct guest_store {
	struct broker *broker;
	struct domain *domain;
	struct xenstore_domain_interface *ring;
	struct evconnlistener *listener;
	struct event *readable;
	int events;
	bool ready;
	uint32_t next_client, next_request, next_watch;
	struct evbuffer *out; /* to the ring */
	struct evbuffer *in;  /* from it */
	LIST_HEAD(, client) clients;
	TAILQ_HEAD(pending_list, pending) pending;
	void (*quiet)(void *arg, int error); /* not NULL: somebody wants it quiet */
	void *quiet_arg;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
};

static void *
must(void *p)
{
	if (p == NULL)
		broker_give_up("memory");
	return p;
}

/* --- the ring --- */

static void
push(struct guest_store *s)
{
	struct xenstore_domain_interface *r = s->ring;
	bool moved = false;
	size_t left = evbuffer_get_length(s->out);

	while (s->ready && left > 0) {
		XENSTORE_RING_IDX prod = r->req_prod;
		uint32_t used = prod - r->req_cons;
		size_t at = MASK_XENSTORE_IDX(prod), n;

		if (used >= XENSTORE_RING_SIZE)
			break;
		n = XENSTORE_RING_SIZE - used;
		n = n < XENSTORE_RING_SIZE - at ? n : XENSTORE_RING_SIZE - at;
		n = n < left ? n : left;
		atomic_thread_fence(memory_order_acquire); /* room: req_cons before the bytes */
		evbuffer_remove(s->out, r->req + at, n);
		atomic_thread_fence(memory_order_release); /* the bytes before req_prod */
		r->req_prod = prod + (uint32_t)n;
		left -= n;
		moved = true;
	}
	if (moved)
		port_notify(s->broker, s->domain, HV_STORE_PORT);
}

static void
pull(struct guest_store *s)
{
	struct xenstore_domain_interface *r = s->ring;
	bool moved = false;

	for (;;) {
		XENSTORE_RING_IDX cons = r->rsp_cons;
		uint32_t n = r->rsp_prod - cons;
		size_t at = MASK_XENSTORE_IDX(cons);

		if (n == 0 || n > XENSTORE_RING_SIZE)
			break;
		if (n > XENSTORE_RING_SIZE - at)
			n = (uint32_t)(XENSTORE_RING_SIZE - at);
		atomic_thread_fence(memory_order_acquire); /* rsp_prod before the bytes */
		evbuffer_add(s->in, r->rsp + at, n);
		atomic_thread_fence(memory_order_release);
		r->rsp_cons = cons + n;
		moved = true;
	}
	if (moved)
		port_notify(s->broker, s->domain, HV_STORE_PORT);
}

/* --- requests --- */

static void
tell_if_quiet(struct guest_store *s)
{
	if (s->quiet == NULL || !s->ready || !TAILQ_EMPTY(&s->pending))
		return;
	s->ready = false;
	s->quiet(s->quiet_arg, 0);
}

static struct pending *
request(struct guest_store *s, struct client *c, const struct xsd_sockmsg *header,
    const void *payload, size_t size)
{
	struct xsd_sockmsg h = {.type = header->type,
	    .req_id = ++s->next_request,
	    .tx_id = header->tx_id,
	    .len = (uint32_t)size};
	struct pending *p = must(calloc(1, sizeof(*p)));

	*p = (struct pending){.id = h.req_id,
	    .request = header->req_id,
	    .client = c != NULL ? c->id : 0,
	    .type = h.type,
	    .transaction = h.tx_id};
	TAILQ_INSERT_TAIL(&s->pending, p, next);
	evbuffer_add(s->out, &h, sizeof(h));
	evbuffer_add(s->out, payload, size);
	push(s);
	return p;
}

/* c: NULL if the client waits for no reply. */
static void
request_watch(struct guest_store *s, struct client *c, uint32_t type, uint32_t req_id,
    uint32_t client, const struct watch *w)
{
	struct xsd_sockmsg h = {.type = type, .req_id = req_id};
	char payload[XENSTORE_PAYLOAD_MAX + 32];
	int n = snprintf(payload, sizeof(payload), "%s%c%u/%u%c", w->path, 0, client, w->serial, 0);
	struct pending *p = request(s, c, &h, payload, (size_t)n);

	if (type == XS_WATCH && c != NULL)
		p->watch = w->serial;
}

/* --- clients --- */

static struct client *
find_client(struct guest_store *s, uint32_t id)
{
	struct client *c;

	LIST_FOREACH (c, &s->clients, next)
		if (c->id == id)
			return c;
	return NULL;
}

static void
answer(struct client *c, uint32_t type, uint32_t req_id, uint32_t tx_id, const void *payload,
    size_t size)
{
	struct xsd_sockmsg h = {
	    .type = type, .req_id = req_id, .tx_id = tx_id, .len = (uint32_t)size};

	bufferevent_write(c->bev, &h, sizeof(h));
	bufferevent_write(c->bev, payload, size);
}

static void
forget_watch(struct watch *w)
{
	LIST_REMOVE(w, next);
	free(w->path);
	free(w->token);
	free(w);
}

static struct watch *
watch_by_serial(struct client *c, uint32_t serial)
{
	struct watch *w;

	LIST_FOREACH (w, &c->watches, next)
		if (w->serial == serial)
			return w;
	return NULL;
}

static struct watch *
find_watch(struct client *c, const char *path, const char *token)
{
	struct watch *w;

	LIST_FOREACH (w, &c->watches, next)
		if (strcmp(w->path, path) == 0 && strcmp(w->token, token) == 0)
			return w;
	return NULL;
}

static void
watch_request(struct client *c, const struct xsd_sockmsg *h, const char *path, size_t size)
{
	const char *token = memchr(path, '\0', size);
	struct watch *w;

	if (token == NULL || memchr(token + 1, '\0', size - (size_t)(token + 1 - path)) == NULL) {
		answer(c, XS_ERROR, h->req_id, h->tx_id, "EINVAL", sizeof("EINVAL"));
		return;
	}
	token++;
	if (h->type == XS_WATCH) {
		w = must(calloc(1, sizeof(*w)));
		w->serial = ++c->store->next_watch;
		w->path = must(strdup(path));
		w->token = must(strdup(token));
		LIST_INSERT_HEAD(&c->watches, w, next);
		request_watch(c->store, c, XS_WATCH, h->req_id, c->id, w);
		return;
	}
	w = find_watch(c, path, token);
	if (w == NULL) {
		answer(c, XS_UNWATCH, h->req_id, h->tx_id, "OK", sizeof("OK"));
		return;
	}
	request_watch(c->store, c, XS_UNWATCH, h->req_id, c->id, w);
	forget_watch(w);
}

static struct transaction *
find_transaction(struct client *c, uint32_t id)
{
	struct transaction *t;

	LIST_FOREACH (t, &c->transactions, next)
		if (t->id == id)
			return t;
	return NULL;
}

static void
on_client_data(struct bufferevent *bev, void *arg)
{
	struct client *c = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	struct xsd_sockmsg h;

	/* While the domain is being suspended, and until the store is there, they wait. */
	while (c->store->ready && c->store->quiet == NULL &&
	       evbuffer_copyout(in, &h, sizeof(h)) == sizeof(h)) {
		if (h.len > XENSTORE_PAYLOAD_MAX) {
			bufferevent_disable(bev, EV_READ);
			return;
		}
		if (evbuffer_get_length(in) < sizeof(h) + h.len)
			return;
		evbuffer_drain(in, sizeof(h));
		if (h.type == XS_WATCH || h.type == XS_UNWATCH)
			watch_request(c, &h, (const char *)evbuffer_pullup(in, h.len), h.len);
		else if (h.tx_id != 0 && find_transaction(c, h.tx_id) == NULL)
			/* Another's, perhaps; xenstored knows only whose domain's it is. */
			answer(c, XS_ERROR, h.req_id, h.tx_id, "ENOENT", sizeof("ENOENT"));
		else
			request(c->store, c, &h, evbuffer_pullup(in, h.len), h.len);
		evbuffer_drain(in, h.len);
	}
}

static void
end_client(struct client *c, bool tell)
{
	struct guest_store *s = c->store;

	while (!LIST_EMPTY(&c->watches)) {
		struct watch *w = LIST_FIRST(&c->watches);

		if (tell)
			request_watch(s, NULL, XS_UNWATCH, 0, c->id, w);
		forget_watch(w);
	}
	while (!LIST_EMPTY(&c->transactions)) {
		struct transaction *t = LIST_FIRST(&c->transactions);
		struct xsd_sockmsg h = {.type = XS_TRANSACTION_END, .tx_id = t->id};

		if (tell)
			request(s, NULL, &h, "F", 2);
		LIST_REMOVE(t, next);
		free(t);
	}
	LIST_REMOVE(c, next);
	bufferevent_free(c->bev);
	free(c);
}

static void
on_client_event(struct bufferevent *bev, short what, void *arg)
{
	struct client *c = arg;

	if ((what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) != 0)
		end_client(c, !c->store->domain->suspended);
}

static void
on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
    void *arg)
{
	struct guest_store *s = arg;
	struct client *c = must(calloc(1, sizeof(*c)));

	c->store = s;
	c->id = ++s->next_client;
	c->bev = must(bufferevent_socket_new(s->broker->base, fd, BEV_OPT_CLOSE_ON_FREE));
	LIST_INIT(&c->watches);
	LIST_INIT(&c->transactions);
	LIST_INSERT_HEAD(&s->clients, c, next);
	bufferevent_setcb(c->bev, on_client_data, NULL, on_client_event, c);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

/* --- replies --- */

static void
watch_event(struct guest_store *s, const char *payload, size_t size)
{
	const char *token = memchr(payload, '\0', size);
	struct client *c;
	struct watch *w;
	struct evbuffer *event;
	char *end;

	if (token == NULL || payload[size - 1] != '\0')
		return;
	token++;
	c = find_client(s, (uint32_t)strtoul(token, &end, 10));
	w = c != NULL && *end == '/' ? watch_by_serial(c, (uint32_t)strtoul(end + 1, NULL, 10))
				     : NULL;
	if (w == NULL)
		return; /* it has gone meanwhile */
	event = must(evbuffer_new());
	evbuffer_add(event, payload, (size_t)(token - payload));
	evbuffer_add(event, w->token, strlen(w->token) + 1);
	size = evbuffer_get_length(event);
	answer(c, XS_WATCH_EVENT, 0, 0, evbuffer_pullup(event, -1), size);
	evbuffer_free(event);
}

/* What the client has, once the reply is here. */
static void
note(struct client *c, const struct pending *p, bool failed, const char *payload, size_t size)
{
	struct transaction *t;

	if (p->type == XS_TRANSACTION_START && !failed && size > 0 && payload[size - 1] == '\0') {
		t = must(calloc(1, sizeof(*t)));
		t->id = (uint32_t)strtoul(payload, NULL, 10);
		LIST_INSERT_HEAD(&c->transactions, t, next);
	} else if (p->type == XS_TRANSACTION_END) {
		/* Also if it has failed. */
		t = find_transaction(c, p->transaction);
		if (t != NULL) {
			LIST_REMOVE(t, next);
			free(t);
		}
	} else if (p->type == XS_WATCH && failed) {
		struct watch *w = watch_by_serial(c, p->watch);

		if (w != NULL)
			forget_watch(w);
	}
}

static void
reply(struct guest_store *s, const struct xsd_sockmsg *h, const char *payload)
{
	struct pending *p;
	struct client *c;

	TAILQ_FOREACH (p, &s->pending, next)
		if (p->id == h->req_id)
			break;
	if (p == NULL)
		return;
	TAILQ_REMOVE(&s->pending, p, next);
	c = find_client(s, p->client);
	if (c != NULL) {
		note(c, p, h->type == XS_ERROR, payload, h->len);
		answer(c, h->type, p->request, h->tx_id, payload, h->len);
	} else if (p->type == XS_TRANSACTION_START && h->type != XS_ERROR && h->len > 0) {
		/* Its client has gone before it knew of it. */
		struct xsd_sockmsg end = {
		    .type = XS_TRANSACTION_END, .tx_id = (uint32_t)strtoul(payload, NULL, 10)};

		request(s, NULL, &end, "F", 2);
	}
	free(p);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
	struct guest_store *s = arg;
	struct hv_port *port = &s->broker->hv->domains[s->domain->slot].ports[HV_STORE_PORT];
	struct xsd_sockmsg h;
	uint32_t number;

	while (read(fd, &number, sizeof(number)) == sizeof(number)) {
		struct hv_port *p =
		    &s->broker->hv->domains[s->domain->slot].ports[number % HV_PORTS];

		atomic_fetch_and(&p->state, ~(HV_PORT_QUEUED | HV_PORT_MASKED));
	}
	hv_kick(port, HV_STORE_PORT, handle_deliver, s->broker);
	pull(s);
	push(s);
	while (evbuffer_copyout(s->in, &h, sizeof(h)) == sizeof(h) &&
	       evbuffer_get_length(s->in) >= sizeof(h) + h.len) {
		const char *payload;

		evbuffer_drain(s->in, sizeof(h));
		payload = (const char *)evbuffer_pullup(s->in, h.len);
		if (h.type == XS_WATCH_EVENT)
			watch_event(s, payload, h.len);
		else
			reply(s, &h, payload);
		evbuffer_drain(s->in, h.len);
	}
	tell_if_quiet(s);
}

/* --- life --- */

struct guest_store *
guest_store_open(struct broker *b, struct domain *d, int events)
{
	struct guest_store *s = must(calloc(1, sizeof(*s)));
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	*s = (struct guest_store){.broker = b, .domain = d, .events = events};
	LIST_INIT(&s->clients);
	TAILQ_INIT(&s->pending);
	s->out = must(evbuffer_new());
	s->in = must(evbuffer_new());
	fcntl(events, F_SETFL, O_NONBLOCK);
	s->readable = must(event_new(b->base, events, EV_READ | EV_PERSIST, on_event, s));
	event_add(s->readable, NULL);
	s->ring = mmap(NULL, HV_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->ram,
	    (off_t)HV_STORE_FRAME * HV_PAGE);
	if (s->ring == MAP_FAILED)
		broker_give_up("memory");
	if (d->slot == 0)
		return s; /* domain 0's programs use xenstored's own socket */
	if (snprintf(s->path, sizeof(s->path), "%s/store-%s", b->dir, d->name) >=
	    (int)sizeof(s->path)) {
		errno = ENAMETOOLONG;
		guest_store_close(s);
		return NULL;
	}
	memcpy(address.sun_path, s->path, sizeof(s->path));
	unlink(s->path);
	s->listener = evconnlistener_new_bind(b->base, on_accept, s,
	    LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 64, (struct sockaddr *)&address,
	    sizeof(address));
	if (s->listener == NULL) {
		guest_store_close(s);
		return NULL;
	}
	return s;
}

void
guest_store_close(struct guest_store *s)
{
	int error = errno;

	if (s == NULL)
		return;
	if (s->quiet != NULL)
		s->quiet(s->quiet_arg, ESRCH);
	while (!LIST_EMPTY(&s->clients))
		end_client(LIST_FIRST(&s->clients), false);
	while (!TAILQ_EMPTY(&s->pending)) {
		struct pending *p = TAILQ_FIRST(&s->pending);

		TAILQ_REMOVE(&s->pending, p, next);
		free(p);
	}
	if (s->listener != NULL) {
		evconnlistener_free(s->listener);
		unlink(s->path);
	}
	evbuffer_free(s->out);
	evbuffer_free(s->in);
	event_free(s->readable);
	close(s->events);
	munmap(s->ring, HV_PAGE);
	free(s);
	errno = error;
}

/* Those that have waited. */
static void
take_requests(struct guest_store *s)
{
	struct client *c;

	LIST_FOREACH (c, &s->clients, next)
		on_client_data(c->bev, c);
}

void
guest_store_begin(struct guest_store *s)
{
	struct client *c;
	struct watch *w;

	s->ready = true;
	evbuffer_drain(s->in, evbuffer_get_length(s->in));
	LIST_FOREACH (c, &s->clients, next)
		LIST_FOREACH (w, &c->watches, next)
			request_watch(s, NULL, XS_WATCH, 0, c->id, w);
	push(s);
	take_requests(s);
}

int
guest_store_quiesce(struct guest_store *s, void (*done)(void *arg, int error), void *arg)
{
	if (s->quiet != NULL || !s->ready)
		return EBUSY;
	s->quiet = done;
	s->quiet_arg = arg;
	tell_if_quiet(s);
	return 0;
}

void
guest_store_cancel(struct guest_store *s)
{
	s->quiet = NULL;
	s->ready = true;
	push(s);
	take_requests(s);
}

void
guest_store_suspend(struct guest_store *s)
{
	s->quiet = NULL;
}
