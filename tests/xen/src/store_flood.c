/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * store_flood PATH LOW HIGH COUNT: writes so many numbers of that range there, one request each, as
 * fast as xenstored answers, which no program that is started for each write can. Status 0: all
 * were accepted.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <xen/io/xs_wire.h>

static int
connect_to_store(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/run/xenstored/socket"};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return fd;
	perror("store_flood: /run/xenstored/socket");
	exit(69);
}

static int
read_all(int fd, void *bytes, size_t n)
{
	char *at = bytes;

	while (n > 0) {
		ssize_t got = read(fd, at, n);

		if (got <= 0)
			return -1;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

/* False if the store did not take it. */
static int
write_node(int fd, const char *path, long value)
{
	char request[sizeof(struct xsd_sockmsg) + XENSTORE_ABS_PATH_MAX + 32];
	char answer[XENSTORE_PAYLOAD_MAX];
	struct xsd_sockmsg head = {.type = XS_WRITE};
	/* The path with its zero, the value without. */
	int body = snprintf(
	    request + sizeof(head), sizeof(request) - sizeof(head), "%s%c%ld", path, '\0', value);

	head.len = (uint32_t)body;
	memcpy(request, &head, sizeof(head));
	if (write(fd, request, sizeof(head) + (size_t)body) != (ssize_t)sizeof(head) + body)
		return 0;
	return read_all(fd, &head, sizeof(head)) == 0 && head.len <= sizeof(answer) &&
	       read_all(fd, answer, head.len) == 0 && head.type == XS_WRITE;
}

int
main(int argc, char **argv)
{
	long low, high, count, value;
	int fd;

	if (argc != 5 || strlen(argv[1]) > XENSTORE_ABS_PATH_MAX) {
		fprintf(stderr, "usage: store_flood PATH LOW HIGH COUNT\n");
		return 64;
	}
	low = strtol(argv[2], NULL, 10);
	high = strtol(argv[3], NULL, 10);
	count = strtol(argv[4], NULL, 10);
	value = getpid(); /* of two at once, each writes others */
	fd = connect_to_store();
	for (long i = 0; i < count; i++) {
		value = (value * 1103515245 + 12345) & 0x7fffffff;
		if (!write_node(fd, argv[1], low + value % (high - low))) {
			fprintf(stderr, "store_flood: write %ld was not taken\n", i);
			return 1;
		}
	}
	return 0;
}
