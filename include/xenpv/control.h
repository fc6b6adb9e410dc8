/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_CONTROL_H
#define XENPV_CONTROL_H

struct event_base;
struct evbuffer;

/*
 * The control socket of a daemon: HTTP/1.1 on a Unix socket (mode 0600), GET only, answered by
 * libevent's evhttp: /devices is JSON, /metrics is OpenMetrics.
 *     curl --unix-socket /run/xenpv/xen-blkfrontd.sock http://xenpv/devices
 */
struct xpv_control;

struct xpv_control_page {
	const char *path; /* "/devices" */
	const char *content_type;
	void (*write)(struct evbuffer *out, void *arg);
};

/* "pages" ends with .path == NULL and stays valid. A stale socket is replaced; a living daemon's is
 * not: NULL with a log line. Makes the directory. */
struct xpv_control *xpv_control_open(struct event_base *base, const char *socket_path,
    const struct xpv_control_page *pages, void *arg);
void xpv_control_close(struct xpv_control *c); /* removes the socket; NULL is allowed */

#endif
