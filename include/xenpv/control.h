/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_CONTROL_H
#define XENPV_CONTROL_H

struct event_base;
struct evbuffer;

/*
 * The control socket of a daemon: HTTP/1.1 on a Unix socket (mode 0600), GET and HEAD, answered by
 * libevent's evhttp. Each daemon has a page of JSON, /devices or /status, and /metrics, which is
 * OpenMetrics. It has 16 connections at a time, further ones wait; one is closed when nothing has
 * moved on it for 10 s.
 *     curl --unix-socket /run/xenpv/xen-blkfrontd.sock http://xenpv/devices
 *
 * Threading: all runs in the event base's thread, so a page may read what its daemon does there.
 */
struct xpv_control;

struct xpv_control_page {
	const char *path; /* "/devices" */
	const char *content_type;
	void (*write)(struct evbuffer *out, void *arg); /* appends the whole page */
};

/* "pages" ends with .path == NULL and stays valid; "socket_path" is copied. A stale socket is
 * replaced; a living daemon's is not: NULL with a log line. Makes the directory. */
struct xpv_control *xpv_control_open(struct event_base *base, const char *socket_path,
    const struct xpv_control_page *pages, void *arg);
void xpv_control_close(struct xpv_control *c); /* removes the socket; NULL is allowed */

#endif
