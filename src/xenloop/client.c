/* SPDX-License-Identifier: BSD-2-Clause */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hidden.h"

/* Pipes of other handles: what an event is sent to. */
struct pipe_slot {
	_Atomic uint64_t entry; /* handle << 32 | descriptor + 1 */
};

struct memory {
	uint32_t domid;
	int fd[2]; /* read-only, read-write */
	uint8_t *map;
};

static struct {
	pthread_once_t once;
	int fd;
	struct hv *hv;
	unsigned slot;
	struct hv_channel *channel;
	pthread_mutex_t mutex; /* of memory[] */
	struct memory memory[HV_DOMAINS];
	struct pipe_slot pipes[HV_HANDLES];
} self = {.once = PTHREAD_ONCE_INIT, .fd = -1, .mutex = PTHREAD_MUTEX_INITIALIZER};

/* --- calls --- */

static int
send_request(const struct hv_request *request)
{
	size_t size = sizeof(*request);

	if (request->operation == HV_MAP)
		size += request->count * sizeof(request->refs[0]);
	while (send(self.fd, request, size, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -1;
	return 0;
}

static unsigned
take_fds(struct msghdr *message, int *fds, unsigned nfds)
{
	unsigned taken = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		int got;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
			if (taken < nfds)
				fds[taken++] = got;
			else
				close(got);
		}
	}
	return taken;
}

/* -2: the reply to an earlier call, whose caller was killed before it came. */
static int
receive_reply(uint32_t sequence, struct hv_reply *reply, size_t max_list, int *fds, unsigned nfds)
{
	union {
		char space[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {reply, sizeof(*reply) + max_list * sizeof(reply->list[0])};
	struct msghdr message = {.msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = sizeof(control.space)};
	unsigned taken;
	ssize_t n;

	while ((n = recvmsg(self.fd, &message, MSG_CMSG_CLOEXEC)) < 0)
		if (errno != EINTR)
			return -1;
	if (n < (ssize_t)sizeof(*reply)) {
		errno = ENODEV; /* the session is over */
		return -1;
	}
	taken = take_fds(&message, fds, nfds);
	if (reply->sequence != sequence || (reply->error == 0 && taken < nfds)) {
		while (taken > 0)
			close(fds[--taken]);
		if (reply->sequence != sequence)
			return -2;
		errno = EMFILE;
		return -1;
	}
	if (reply->error == 0)
		return 0;
	errno = reply->error;
	return -1;
}

static int
call(struct hv_request *request, struct hv_reply *reply, size_t max_list, int *fds, unsigned nfds)
{
	int result;

	request->sequence =
	    self.channel != NULL ? atomic_fetch_add(&self.channel->sequence, 1) + 1 : 0;
	if (send_request(request) != 0)
		return -1;
	do
		result = receive_reply(request->sequence, reply, max_list, fds, nfds);
	while (result == -2);
	return result;
}

int
loop_call(
    struct hv_request *request, struct hv_reply *reply, size_t max_list, int *fds, unsigned nfds)
{
	int result, error;

	if (loop_hv() == NULL)
		return -1;
	if (pthread_mutex_lock(&self.channel->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&self.channel->lock);
	result = call(request, reply, max_list, fds, nfds);
	error = errno;
	pthread_mutex_unlock(&self.channel->lock);
	errno = error;
	return result;
}

int64_t
loop_simple(struct hv_request request)
{
	struct hv_reply reply;

	return loop_call(&request, &reply, 0, NULL, 0) == 0 ? (int64_t)reply.value : -1;
}

/* --- joining the session --- */

static int
connect_to_broker(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	const char *dir = getenv("XENLOOP_DIR");
	int fd;

	if (dir == NULL || snprintf(to.sun_path, sizeof(to.sun_path), "%s/broker", dir) >=
			       (int)sizeof(to.sun_path)) {
		errno = ENOENT;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return loop_hide(fd);
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool
say_hello(int *tables)
{
	struct hv_request request = {.operation = HV_HELLO, .domid = 0};
	const char *domain = getenv("XENLOOP_DOMAIN");
	struct hv_reply reply;

	if (domain != NULL)
		snprintf(request.name, sizeof(request.name), "%s", domain);
	if (call(&request, &reply, 0, tables, 1) != 0)
		return false;
	self.slot = reply.value % HV_DOMAINS;
	self.hv = mmap(NULL, sizeof(struct hv), PROT_READ | PROT_WRITE, MAP_SHARED, *tables, 0);
	close(*tables);
	if (self.hv == MAP_FAILED)
		self.hv = NULL;
	else
		self.channel = &self.hv->channels[reply.value2 % HV_CHANNELS];
	return self.hv != NULL;
}

static void
join(void)
{
	int tables;

	self.fd = connect_to_broker();
	if (self.fd >= 0 && !say_hello(&tables)) {
		loop_reveal(self.fd);
		self.fd = -1;
	}
}

struct hv *
loop_hv(void)
{
	pthread_once(&self.once, join);
	if (self.hv == NULL)
		errno = ENOENT; /* as without /dev/xen */
	return self.hv;
}

struct hv_domain *
loop_domain(void)
{
	return &self.hv->domains[self.slot];
}

unsigned
loop_slot(const struct hv_domain *domain)
{
	return (unsigned)(domain - self.hv->domains);
}

int64_t
loop_open(enum hv_kind kind, int *fd, bool cloexec)
{
	struct hv_request request = {.operation = HV_OPEN, .count = kind};
	struct hv_reply reply;

	if (loop_call(&request, &reply, 0, fd, 1) != 0)
		return -1;
	if (!cloexec)
		fcntl(*fd, F_SETFD, 0);
	return reply.value;
}

/* --- memory --- */

/* With self.mutex held. */
static struct memory *
memory_of(struct hv_domain *domain)
{
	uint32_t domid = atomic_load(&domain->domid);
	struct memory *m = &self.memory[loop_slot(domain)];
	struct hv_request request = {.operation = HV_RAM, .domid = domid};
	struct hv_reply reply;
	int fds[2];

	if (m->fd[0] > 0 && m->domid == domid)
		return m;
	if (loop_call(&request, &reply, 0, fds, 2) != 0)
		return NULL;
	for (unsigned i = 0; i < 2; i++) {
		if (m->fd[i] > 0)
			loop_reveal(m->fd[i]);
		m->fd[i] = loop_hide(fds[i]);
	}
	m->map = NULL; /* another domain's stays mapped for those that use it */
	m->domid = domid;
	return m->fd[0] > 0 && m->fd[1] > 0 ? m : NULL;
}

uint8_t *
loop_ram(struct hv_domain *domain)
{
	struct memory *m;
	uint8_t *map = NULL;

	pthread_mutex_lock(&self.mutex);
	m = memory_of(domain);
	if (m != NULL && m->map == NULL) {
		map = mmap(NULL, (size_t)HV_FRAMES * HV_PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_NORESERVE, m->fd[1], 0);
		m->map = map != MAP_FAILED ? map : NULL;
	}
	map = m != NULL ? m->map : NULL;
	pthread_mutex_unlock(&self.mutex);
	return map;
}

int
loop_ram_fd(struct hv_domain *domain, bool writable)
{
	struct memory *m;
	int fd;

	pthread_mutex_lock(&self.mutex);
	m = memory_of(domain);
	fd = m != NULL ? m->fd[writable] : -1;
	pthread_mutex_unlock(&self.mutex);
	return fd;
}

/* --- events --- */

static int
pipe_of(uint32_t handle)
{
	struct pipe_slot *slot = &self.pipes[handle % HV_HANDLES];
	uint64_t entry = atomic_load(&slot->entry), fresh;
	struct hv_request request = {.operation = HV_PIPE, .handle = handle};
	struct hv_reply reply;
	int fd;

	if (entry >> 32 == handle && (uint32_t)entry != 0)
		return (int)(uint32_t)entry - 1;
	if (loop_call(&request, &reply, 0, &fd, 1) != 0)
		return -1; /* closed meanwhile */
	fd = loop_hide(fd);
	if (fd < 0)
		return -1;
	fresh = (uint64_t)handle << 32 | (uint32_t)(fd + 1);
	if (!atomic_compare_exchange_strong(&slot->entry, &entry, fresh)) {
		loop_reveal(fd); /* another thread was faster */
		return entry >> 32 == handle ? (int)(uint32_t)entry - 1 : -1;
	}
	if ((uint32_t)entry != 0)
		loop_reveal((int)(uint32_t)entry - 1); /* of a handle that is no more */
	return fd;
}

void
loop_deliver(void *unused, uint32_t handle, uint32_t port)
{
	int fd = pipe_of(handle);

	/* Never full, as each port is in it once; never without a reader, as the broker is one. */
	if (fd >= 0)
		(void)!write(fd, &port, sizeof(port));
}
