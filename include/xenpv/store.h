/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_STORE_H
#define XENPV_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct xpv_store;
struct xpv_watch;

/*
 * xenstore on libevent. Paths are printf-formatted and bounded (XPV_STORE_PATH); a path without a
 * leading slash is relative to this domain's directory.
 *
 * Source: docs/misc/xenstore.txt, xen/include/public/io/xs_wire.h, libxenstore.
 * Errors: -1/NULL with errno; nothing is logged for ENOENT, everything else is, though not more
 * than some lines a minute. When the connection is lost (logged once) all calls fail with ENOTCONN.
 * Values written by another domain are untrusted text: the typed reads accept exactly what they
 * say and fail with EINVAL on anything else.
 * Threading: one thread per handle.
 */

#define XPV_STORE_PATH 1024

/* Opens a connection and delivers watches in "base". NULL after a log line that says what to do. */
struct xpv_store *xpv_store_open(struct event_base *base);
/* "lost" is called once, from the event loop, when the connection is lost; it may close it. Without
 * one, the line in the log asks for a restart. */
void xpv_store_on_lost(struct xpv_store *s, void (*lost)(void *arg), void *arg);
/* Also drops and frees all watches. Not in a handler. NULL is allowed. */
void xpv_store_close(struct xpv_store *s);

/*
 * A transaction groups reads and writes. "fn" runs with the transaction open and may run again if
 * another domain interfered (EAGAIN, at most 32 times). It returns 0 to commit, -1 to abort.
 * Inside fn every read and write of "s" takes part; a transaction inside it is part of it.
 */
int xpv_store_transaction(
    struct xpv_store *s, int (*fn)(struct xpv_store *s, void *arg), void *arg);

/* A heap string, the caller's to free, without its trailing newline. NULL with errno: ENOENT, E2BIG
 * for more than 4096 bytes, EINVAL for an embedded NUL. */
char *xpv_store_read(struct xpv_store *s, const char *path_fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Decimal numbers without sign or blanks. 0 or -1 (ENOENT, EINVAL, ERANGE). */
int xpv_store_read_u32(struct xpv_store *s, uint32_t *value, const char *path_fmt, ...)
    __attribute__((format(printf, 3, 4)));
int xpv_store_read_u64(struct xpv_store *s, uint64_t *value, const char *path_fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A feature flag: true for a non-zero number; false when absent or malformed. */
bool xpv_store_read_flag(struct xpv_store *s, const char *path_fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Makes the node and its parents if need be. 0 or -1; E2BIG for more than 4096 bytes. */
int xpv_store_write(struct xpv_store *s, const char *path, const char *value_fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The node and all below it. 0 or -1; that it is not there is success. */
int xpv_store_remove(struct xpv_store *s, const char *path);

/* False with errno: ENOENT when it is not there, anything else when that cannot be told. */
bool xpv_store_exists(struct xpv_store *s, const char *path);

/* Children of a directory; NULL-terminated heap array to be released with one free(). NULL with
 * errno. */
char **xpv_store_list(struct xpv_store *s, const char *path);

/*
 * Called when something at or below "path" may have changed, and once right after the watch is
 * set. Nothing guarantees that anything did change: re-read and compare. "changed" is the path
 * the store reported.
 */
typedef void xpv_watch_handler(struct xpv_watch *w, const char *changed, void *arg);

/* The watch belongs to the store, which frees it when it is closed. NULL with errno. */
struct xpv_watch *xpv_store_watch(struct xpv_store *s, xpv_watch_handler *handler, void *arg,
    const char *path_fmt, ...) __attribute__((format(printf, 4, 5)));
void xpv_store_unwatch(struct xpv_watch *w); /* allowed in a handler; NULL is allowed */

#endif
