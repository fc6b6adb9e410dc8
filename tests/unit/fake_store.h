/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_TEST_FAKE_STORE_H
#define XENPV_TEST_FAKE_STORE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * A xenstore in memory behind libxenstore's functions (linked with --wrap). We
 * are domain 7: relative paths are below /local/domain/7. Watches fire as xenstored's do: once when
 * set, then for each write or removal at or below the path, and for removals above it.
 */
#define FAKE_STORE_HOME "/local/domain/7"

struct event_base;

/* An empty store; forgets all connections. */
void fake_store_reset(void);

/* What another domain does. Paths as ours. A removal takes the children along. */
void fake_store_set(const char *path, const char *value);
void fake_store_set_bytes(const char *path, const void *value, size_t length);
void fake_store_remove(const char *path);

/* NULL: no such node. Valid until the next change. */
const char *fake_store_get(const char *path);

/* Faults: how xs_open() fails; reading and writing this path fails; so many transactions do not
 * begin; the connection goes. */
void fake_store_refuse_open(int error);
void fake_store_deny(const char *path, int error);
void fake_store_refuse_transactions(unsigned number, int error);
void fake_store_lose(void);

/* What is set at the moment. */
unsigned fake_store_watches(void);
unsigned fake_store_transactions(void); /* open ones */

/* Runs the loop until all watch events are handled. */
void fake_store_settle(struct event_base *base);

#endif
