/* SPDX-License-Identifier: BSD-2-Clause */
#include "nbd_listen.h"

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <xenpv/log.h>

#define BACKLOG	    16
#define PATIENCE_MS 2000
#define PAUSE_MS    50

static struct sockaddr_un
address(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	memcpy(a.sun_path, path, strlen(path));
	return a;
}

/* 1: somebody listens there, 0: nobody, -1 with errno: who knows. */
static int
listened_to(const char *path)
{
	struct sockaddr_un a = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc, error;

	if (fd < 0)
		return -1;
	rc = connect(fd, (struct sockaddr *)&a, sizeof(a));
	error = errno;
	close(fd);
	errno = error;
	/* EAGAIN: its backlog is full. */
	if (rc == 0 || error == EAGAIN || error == EINPROGRESS)
		return 1;
	return error == ECONNREFUSED || error == ENOENT ? 0 : -1;
}

/* The processes of a xen-blkfrontd that was killed take a moment to end. */
static int
still_listened_to(const char *path)
{
	const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
	int rc;

	for (unsigned ms = 0; (rc = listened_to(path)) == 1 && ms < PATIENCE_MS; ms += PAUSE_MS)
		nanosleep(&pause, NULL);
	return rc;
}

/* To the caller: another time it will be no better. */
static bool
wrong(void)
{
	errno = EINVAL;
	return false;
}

/* What is at "path" is a socket of ours that nobody listens to any more: removed. */
static bool
clear_stale(const char *path)
{
	struct stat st;

	if (lstat(path, &st) != 0) {
		if (errno != ENOENT)
			xpv_err("%s: %s", path, strerror(errno));
		return errno == ENOENT;
	}
	if (!S_ISSOCK(st.st_mode)) {
		xpv_err("%s: exists and is not a socket: remove it, or choose another path", path);
		return wrong();
	}
	switch (still_listened_to(path)) {
	case 0:
		break;
	case 1:
		xpv_err("%s: another program listens there: end it, or choose another path", path);
		errno = EADDRINUSE;
		return false;
	default:
		xpv_err("%s: cannot tell whether it is in use: %s", path, strerror(errno));
		return false;
	}
	if (st.st_uid != geteuid()) {
		xpv_err("%s: a socket of another user (%u): remove it, or choose another path",
		    path, (unsigned)st.st_uid);
		return wrong();
	}
	if (unlink(path) == 0)
		return true;
	xpv_err("%s: cannot remove what an earlier run left: %s", path, strerror(errno));
	return false;
}

static bool
give_to_group(const char *path, const char *name)
{
	const struct group *group;

	if (name == NULL)
		return true;
	group = getgrnam(name);
	if (group == NULL) {
		xpv_err("nbd-group: there is no group \"%s\"", name);
		return wrong();
	}
	if (chown(path, (uid_t)-1, group->gr_gid) == 0 && chmod(path, 0660) == 0)
		return true;
	xpv_err("%s: cannot give it to group %s: %s", path, name, strerror(errno));
	return false;
}

static int
bind_privately(int fd, const char *path)
{
	struct sockaddr_un a = address(path);
	mode_t before = umask(0177);
	int rc = bind(fd, (struct sockaddr *)&a, sizeof(a)), error = errno;

	umask(before);
	errno = error;
	return rc;
}

int
nbd_listen_open(struct nbd_listen *l, const char *path, const char *group)
{
	struct stat st;

	*l = (struct nbd_listen){.fd = -1};
	if (path[0] != '/' || strlen(path) >= sizeof(l->path)) {
		xpv_err("nbd-unix: \"%s\": not an absolute path of less than %zu bytes", path,
		    sizeof(l->path));
		wrong();
		return -1;
	}
	if (!clear_stale(path))
		return -1;
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || bind_privately(l->fd, path) != 0 || lstat(path, &st) != 0) {
		xpv_err("%s: %s", path, strerror(errno));
		nbd_listen_close(l);
		return -1;
	}
	memcpy(l->path, path, strlen(path) + 1);
	l->device = st.st_dev;
	l->inode = st.st_ino;
	if (!give_to_group(path, group)) {
		nbd_listen_close(l);
		return -1;
	}
	if (listen(l->fd, BACKLOG) != 0) {
		xpv_err("%s: %s", path, strerror(errno));
		nbd_listen_close(l);
		return -1;
	}
	return 0;
}

void
nbd_listen_close(struct nbd_listen *l)
{
	int error = errno;
	struct stat st;

	if (l->path[0] != '\0' && lstat(l->path, &st) == 0 && st.st_dev == l->device &&
	    st.st_ino == l->inode)
		unlink(l->path);
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	l->path[0] = '\0';
	errno = error;
}
