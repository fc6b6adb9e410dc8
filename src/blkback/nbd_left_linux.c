/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_left.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

/*
 * The kernel lists the Unix sockets of a network namespace (sock_diag(7)), each with its name and
 * its peer's inode number. A server's end has the name that it listens at, and no peer once that is
 * closed.
 */

struct look {
	struct sockaddr_un name; /* of the server's ends */
	size_t name_length;
	uint32_t own; /* our end's inode number */
	bool seen;    /* the server's end of our connection: so it is in our namespace */
	int left;
};

static bool
begin(struct look *look, int fd)
{
	socklen_t length = sizeof(look->name);
	struct stat status;

	if (getpeername(fd, (struct sockaddr *)&look->name, &length) != 0 ||
	    look->name.sun_family != AF_UNIX || length <= offsetof(struct sockaddr_un, sun_path) ||
	    length > sizeof(look->name) || fstat(fd, &status) != 0)
		return false;
	look->name_length = length - offsetof(struct sockaddr_un, sun_path);
	look->own = (uint32_t)status.st_ino;
	return true;
}

static bool
ask(int netlink)
{
	const struct {
		struct nlmsghdr header;
		struct unix_diag_req request;
	} message = {
	    .header = {.nlmsg_len = sizeof(message),
		.nlmsg_type = SOCK_DIAG_BY_FAMILY,
		.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
	    .request = {.sdiag_family = AF_UNIX,
		.udiag_states = UINT32_MAX,
		.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER},
	};

	return send(netlink, &message, sizeof(message), 0) == (ssize_t)sizeof(message);
}

static void
look_at(struct look *look, const struct nlmsghdr *message)
{
	const struct unix_diag_msg *socket = NLMSG_DATA(message);
	int length = (int)(message->nlmsg_len - NLMSG_LENGTH(sizeof(*socket)));
	const struct rtattr *attribute = (const struct rtattr *)(socket + 1);
	bool named = false, connected = false;
	uint32_t peer = 0;

	for (; RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length)) {
		const void *data = RTA_DATA(attribute);

		if (attribute->rta_type == UNIX_DIAG_NAME) {
			named = RTA_PAYLOAD(attribute) == look->name_length &&
				memcmp(data, look->name.sun_path, look->name_length) == 0;
		} else if (attribute->rta_type == UNIX_DIAG_PEER &&
			   RTA_PAYLOAD(attribute) == sizeof(peer)) {
			memcpy(&peer, data, sizeof(peer));
			connected = true;
		}
	}
	/* One that nobody has accepted has no number. */
	if (!named || !connected || socket->udiag_ino == 0)
		return;
	if (peer == look->own)
		look->seen = true;
	else if (peer == 0)
		look->left++;
}

/* 1: there is more to come, 0: that was all, -1: it cannot be done. */
static int
take_answer(struct look *look, int netlink)
{
	_Alignas(struct nlmsghdr) char answer[32768];
	ssize_t length = recv(netlink, answer, sizeof(answer), 0);

	if (length <= 0)
		return -1;
	for (struct nlmsghdr *m = (struct nlmsghdr *)answer; NLMSG_OK(m, (size_t)length);
	     m = NLMSG_NEXT(m, length)) {
		if (m->nlmsg_type == NLMSG_DONE)
			return 0;
		if (m->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
		    m->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
			return -1;
		look_at(look, m);
	}
	return 1;
}

int
nbd_left(int fd)
{
	struct look look = {.left = 0};
	int netlink, more;

	if (!begin(&look, fd))
		return -1;
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (netlink < 0)
		return -1;
	more = ask(netlink) ? 1 : -1;
	while (more == 1)
		more = take_answer(&look, netlink);
	close(netlink);
	return more == 0 && look.seen ? look.left : -1;
}
