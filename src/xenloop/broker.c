/* SPDX-License-Identifier: BSD-2-Clause */
#include "broker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include <xen/xen.h>

#include "broker_main.h"

struct connection {
	struct broker *broker;
	struct event *readable;
	int fd;
	unsigned channel;
	struct domain *domain;	   /* NULL: before HV_HELLO */
	struct guest_store *quiet; /* by HV_QUIESCE, and until HV_SUSPEND */
	uint32_t sequence;	   /* of the HV_QUIESCE; 0: it has its reply */
};

/* What a request has brought about. */
struct answer {
	struct hv_reply *reply;
	int fds[2];
	unsigned nfds;
	int close_after; /* -1: none */
	bool later;
};

static struct broker broker;
static bool channel_taken[HV_CHANNELS];

void
broker_give_up(const char *what)
{
	fprintf(stderr, "xenloop: out of %s: %s\n", what, strerror(errno));
	exit(EX_OSERR);
}

/* --- replies --- */

static void
send_reply(struct connection *c, const struct answer *a)
{
	union {
		char space[CMSG_SPACE(sizeof(a->fds))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {
	    a->reply, sizeof(*a->reply) + a->reply->count * sizeof(a->reply->list[0])};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (a->nfds > 0) {
		struct cmsghdr *header;

		message.msg_control = control.space;
		message.msg_controllen = CMSG_SPACE(a->nfds * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(a->nfds * sizeof(int));
		memcpy(CMSG_DATA(header), a->fds, a->nfds * sizeof(int));
	}
	/* Who does not take its replies gets no more of them. */
	(void)!sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* --- requests --- */

static int
hello(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct domain *d = r->name[0] != '\0' ? domain_by_name(c->broker, r->name)
					      : domain_find(c->broker, r->domid);

	if (d == NULL)
		return ESRCH;
	c->domain = d;
	a->reply->value = d->slot;
	a->reply->value2 = c->channel;
	a->fds[a->nfds++] = c->broker->tables;
	return 0;
}

static int
open_handle(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct handle *h;
	int error;

	if (r->count < HV_EVTCHN || r->count > HV_GNTSHR)
		return EINVAL;
	error = handle_open(c->broker, c->domain, (enum hv_kind)r->count, &a->close_after, &h);
	if (error != 0)
		return error;
	a->reply->value = h->id;
	a->fds[a->nfds++] = a->close_after;
	return 0;
}

static int
give_memory(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct domain *d = domain_find(c->broker, r->domid);

	if (d == NULL)
		return ESRCH;
	a->reply->value = d->slot;
	a->fds[a->nfds++] = d->ram_ro;
	a->fds[a->nfds++] = d->ram;
	return 0;
}

/* The running domain with the lowest number from domid on. */
static const struct domain *
by_domid(const struct broker *b, uint32_t domid)
{
	const struct domain *best = NULL;

	for (unsigned i = 0; i < HV_DOMAINS; i++) {
		const struct domain *d = &b->domains[i];

		if (d->exists && !d->suspended && d->domid >= domid &&
		    (best == NULL || d->domid < best->domid))
			best = d;
	}
	return best;
}

/* Any domain, suspended or not, from this slot on. */
static const struct domain *
by_slot(const struct broker *b, unsigned slot)
{
	while (slot < HV_DOMAINS && !b->domains[slot].exists)
		slot++;
	return slot < HV_DOMAINS ? &b->domains[slot] : NULL;
}

static int
info(struct connection *c, const struct hv_request *r, struct answer *a)
{
	const struct domain *d = (r->flags & HV_FLAG_BY_SLOT) != 0 ? by_slot(c->broker, r->count)
								   : by_domid(c->broker, r->domid);

	if (d == NULL)
		return ESRCH;
	domain_info(c->broker, d, (struct hv_info *)(void *)a->reply->list);
	a->reply->value = d->slot;
	a->reply->count = sizeof(struct hv_info) / sizeof(a->reply->list[0]);
	return 0;
}

static int
of_handle(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct broker *b = c->broker;
	struct handle *h = handle_find(b, r->handle);
	struct hv_reply *reply = a->reply;
	struct notify notify = {.flags = r->flags, .offset = r->offset, .port = r->port};
	bool writable = (r->flags & HV_FLAG_WRITABLE) != 0;
	int error;

	if (h == NULL || (h->domain != c->domain && r->operation != HV_PIPE))
		return EBADF;
	switch (r->operation) {
	case HV_PIPE:
		a->fds[a->nfds++] = h->pipe;
		return 0;
	case HV_ALLOC_UNBOUND:
		return port_alloc_unbound(b, h, r->domid, &reply->value);
	case HV_BIND_INTERDOMAIN:
		return port_bind_interdomain(b, h, r->domid, r->port, &reply->value);
	case HV_BIND_VIRQ:
		return port_bind_virq(b, h, r->port, &reply->value);
	case HV_UNBIND:
		return port_unbind(b, h, r->port);
	case HV_TAKE_CONSOLE:
		return port_take_console(b, h);
	case HV_SHARE:
		error =
		    grants_share(b, h, r->domid, r->count, writable, &reply->value, reply->list);
		reply->count = error == 0 ? r->count : 0;
		return error;
	case HV_SHARE_NOTIFY:
		return grants_share_notify(b, h, r->frame, &notify);
	case HV_UNSHARE:
		return grants_unshare(b, h, r->frame, r->count);
	case HV_MAP:
		error = grants_map(b, h, r->refs, r->count, writable, &reply->value, reply->list);
		reply->count = error == 0 ? 2 * r->count : 0;
		return error;
	case HV_MAP_NOTIFY:
		return grants_map_notify(b, h, r->frame, &notify);
	case HV_UNMAP:
		return grants_unmap(b, h, r->frame);
	case HV_MAX_GRANTS:
		return 0; /* Linux' gntdev has no such limit either */
	case HV_RESTRICT:
		if (h->restricted != HV_NO_DOMID)
			return EACCES;
		if (r->domid == 0 || r->domid >= DOMID_FIRST_RESERVED)
			return EINVAL;
		h->restricted = r->domid;
		return 0;
	default:
		return ENOSYS;
	}
}

static void
is_quiet(void *arg, int error)
{
	struct connection *c = arg;
	struct hv_reply reply = {.sequence = c->sequence, .error = error};
	struct answer a = {.reply = &reply};

	if (error != 0)
		c->quiet = NULL;
	if (c->sequence != 0)
		send_reply(c, &a);
	c->sequence = 0;
}

static int
of_toolstack(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct broker *b = c->broker;
	struct domain *d = r->operation == HV_CREATE ? NULL : domain_by_name(b, r->name);
	int error = 0;

	if (r->operation == HV_QUIT) {
		event_base_loopexit(b->base, NULL);
		return 0;
	}
	if (r->operation != HV_CREATE && d == NULL)
		return ESRCH;
	if (r->operation != HV_CREATE && d->slot == 0)
		return EPERM;
	switch (r->operation) {
	case HV_CREATE:
		error = domain_create(b, r->name, r->count, &d);
		break;
	case HV_DESTROY:
		domain_destroy(b, d);
		return 0;
	case HV_QUIESCE:
		if (d->suspended)
			return EALREADY;
		if (c->quiet != NULL)
			return EBUSY;
		c->sequence = r->sequence;
		error = guest_store_quiesce(d->store, is_quiet, c);
		c->quiet = error == 0 ? d->store : NULL;
		a->later = error == 0;
		return error;
	case HV_SUSPEND:
		if (d->suspended)
			return EALREADY;
		if (c->quiet != d->store)
			return EBUSY;
		c->quiet = NULL;
		guest_store_suspend(d->store);
		domain_suspend(b, d);
		return 0;
	case HV_RESUME:
		error = domain_resume(b, d);
		break;
	case HV_SHUTDOWN:
		domain_shutdown(b, d, r->flags);
		return 0;
	case HV_START_STORE:
		guest_store_begin(d->store);
		return 0;
	default:
		return ENOSYS;
	}
	if (error == 0)
		a->reply->value = d->domid;
	return error;
}

static int
serve(struct connection *c, const struct hv_request *r, struct answer *a)
{
	struct handle *h;

	if (r->operation == HV_HELLO)
		return hello(c, r, a);
	if (c->domain == NULL || !c->domain->exists)
		return ENODEV;
	switch (r->operation) {
	case HV_OPEN:
		return open_handle(c, r, a);
	case HV_FIND:
		h = handle_by_inode(c->broker, (ino_t)r->inode);
		a->reply->value = h != NULL ? h->id : 0;
		return h != NULL ? 0 : EBADF;
	case HV_RAM:
		return give_memory(c, r, a);
	case HV_INFO:
		return info(c, r, a);
	default:
		return r->operation < HV_CREATE ? of_handle(c, r, a) : of_toolstack(c, r, a);
	}
}

static bool
is_whole(const struct hv_request *r, ssize_t size)
{
	if (size < (ssize_t)sizeof(*r) || r->name[HV_NAME_SIZE - 1] != '\0')
		return false;
	return r->operation != HV_MAP ||
	       (r->count > 0 && r->count <= HV_MAX_REFS &&
		   size == (ssize_t)(sizeof(*r) + r->count * sizeof(r->refs[0])));
}

static void
disconnect(struct connection *c)
{
	if (c->quiet != NULL)
		guest_store_cancel(c->quiet);
	channel_taken[c->channel] = false;
	event_free(c->readable);
	close(c->fd);
	free(c);
}

static void
on_request(evutil_socket_t fd, short events, void *arg)
{
	static union {
		struct hv_request request;
		char space[HV_MAX_REQUEST];
	} in;
	static union {
		struct hv_reply reply;
		char space[HV_MAX_REPLY];
	} out;
	struct connection *c = arg;
	struct answer a = {.reply = &out.reply, .close_after = -1};
	ssize_t n = recv(fd, &in, sizeof(in), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || !is_whole(&in.request, n)) {
		disconnect(c);
		return;
	}
	handles_take_closed(c->broker);
	out.reply = (struct hv_reply){.sequence = in.request.sequence};
	out.reply.error = serve(c, &in.request, &a);
	if (!a.later)
		send_reply(c, &a);
	if (a.close_after >= 0)
		close(a.close_after);
}

static void
on_connection(evutil_socket_t listener, short events, void *arg)
{
	struct broker *b = arg;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct connection *c;
	unsigned channel = 0;

	if (fd < 0)
		return;
	while (channel < HV_CHANNELS && channel_taken[channel])
		channel++;
	c = calloc(1, sizeof(*c));
	if (channel == HV_CHANNELS || c == NULL) {
		close(fd);
		free(c);
		return;
	}
	*c = (struct connection){.broker = b, .fd = fd, .channel = channel};
	channel_taken[channel] = true;
	c->readable = event_new(b->base, fd, EV_READ | EV_PERSIST, on_request, c);
	if (c->readable == NULL)
		broker_give_up("memory");
	event_add(c->readable, NULL);
}

/* --- start --- */

static void
make_tables(struct broker *b)
{
	pthread_mutexattr_t attributes;

	b->tables = memfd_create("xenloop-tables", MFD_CLOEXEC);
	if (b->tables < 0 || ftruncate(b->tables, sizeof(struct hv)) != 0)
		broker_give_up("memory");
	b->hv = mmap(NULL, sizeof(struct hv), PROT_READ | PROT_WRITE, MAP_SHARED, b->tables, 0);
	if (b->hv == MAP_FAILED)
		broker_give_up("memory");
	for (unsigned i = 0; i < HV_DOMAINS; i++)
		atomic_store(&b->hv->domains[i].domid, HV_NO_DOMID);
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	for (unsigned i = 0; i < HV_CHANNELS; i++)
		pthread_mutex_init(&b->hv->channels[i].lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
}

static int
listen_at(const char *dir)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd;

	if (snprintf(at.sun_path, sizeof(at.sun_path), "%s/broker", dir) >=
	    (int)sizeof(at.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	unlink(at.sun_path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 64) != 0)
		return -1;
	return fd;
}

static void
on_term(evutil_socket_t signal, short events, void *arg)
{
	struct broker *b = arg;

	event_base_loopexit(b->base, NULL);
}

int
broker_main(const char *dir, int ready)
{
	struct rlimit files;
	struct domain *dom0;
	struct event *accepting, *term;
	int listener, error;

	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	broker.dir = dir;
	broker.base = event_base_new();
	listener = listen_at(dir);
	if (broker.base == NULL || listener < 0) {
		fprintf(stderr, "xenloop: %s/broker: %s\n", dir, strerror(errno));
		return EX_CANTCREAT;
	}
	make_tables(&broker);
	error = handles_init(&broker);
	if (error == 0)
		error = ports_init(&broker);
	if (error == 0)
		error = domain_create(&broker, "Domain-0", HV_FRAMES, &dom0);
	if (error != 0) {
		fprintf(stderr, "xenloop: domain 0: %s\n", strerror(error));
		return EX_OSERR;
	}
	accepting = event_new(broker.base, listener, EV_READ | EV_PERSIST, on_connection, &broker);
	term = evsignal_new(broker.base, SIGTERM, on_term, &broker);
	if (accepting == NULL || term == NULL)
		broker_give_up("memory");
	event_add(accepting, NULL);
	event_add(term, NULL);
	(void)!write(ready, "", 1);
	close(ready);
	event_base_dispatch(broker.base);
	for (unsigned i = HV_DOMAINS; i-- > 0;)
		if (broker.domains[i].exists)
			domain_destroy(&broker, &broker.domains[i]);
	return EX_OK;
}
