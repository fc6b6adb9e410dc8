/* SPDX-License-Identifier: BSD-2-Clause */
#include "fake_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenstore.h>

#define PATH_MAX_LEN 1200

struct node {
	TAILQ_ENTRY(node) entry;
	char *path; /* absolute */
	char *value;
	size_t length;
};

TAILQ_HEAD(tree, node);

struct change {
	TAILQ_ENTRY(change) entry;
	char *path;
	bool removed;
};

TAILQ_HEAD(changes, change);

struct watch {
	TAILQ_ENTRY(watch) entry;
	char *path, *token; /* as given */
};

struct event_entry {
	TAILQ_ENTRY(event_entry) entry;
	char *path, *token;
};

struct xs_handle {
	int unused;
};

static struct {
	struct xs_handle handle;
	bool open, lost;
	bool waiting; /* the call that waits when the connection goes fails in another way */
	struct tree tree, in_transaction;
	struct changes changes; /* of the transaction */
	bool transaction;
	unsigned generation, started_at;
	TAILQ_HEAD(, watch) watches;
	TAILQ_HEAD(, event_entry) events;
	int pipe[2];
	int open_error;
	char *denied;
	int denied_error;
	unsigned refused; /* transactions */
	int refused_error;
} store = {.tree = TAILQ_HEAD_INITIALIZER(store.tree),
    .in_transaction = TAILQ_HEAD_INITIALIZER(store.in_transaction),
    .changes = TAILQ_HEAD_INITIALIZER(store.changes),
    .watches = TAILQ_HEAD_INITIALIZER(store.watches),
    .events = TAILQ_HEAD_INITIALIZER(store.events),
    .pipe = {-1, -1}};

/* ---- the tree ---- */

static void
absolute(const char *path, char out[PATH_MAX_LEN])
{
	snprintf(out, PATH_MAX_LEN, "%s%s", path[0] == '/' ? "" : FAKE_STORE_HOME "/", path);
}

static bool
at_or_below(const char *path, const char *parent)
{
	size_t length = strlen(parent);

	return strncmp(path, parent, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

static struct node *
find(struct tree *tree, const char *path)
{
	struct node *n;

	TAILQ_FOREACH (n, tree, entry) {
		if (strcmp(n->path, path) == 0)
			return n;
	}
	return NULL;
}

static void
put(struct tree *tree, const char *path, const void *value, size_t length)
{
	struct node *n = find(tree, path);

	if (n == NULL) {
		const char *slash = strrchr(path, '/');

		if (slash != path) { /* the store makes parents */
			char *parent = strndup(path, (size_t)(slash - path));

			if (find(tree, parent) == NULL)
				put(tree, parent, "", 0);
			free(parent);
		}
		n = calloc(1, sizeof(*n));
		n->path = strdup(path);
		TAILQ_INSERT_TAIL(tree, n, entry);
	}
	free(n->value);
	n->value = malloc(length + 1);
	memcpy(n->value, value, length);
	n->value[length] = '\0';
	n->length = length;
}

static void
drop(struct tree *tree, const char *path)
{
	struct node *n = TAILQ_FIRST(tree), *next;

	for (; n != NULL; n = next) {
		next = TAILQ_NEXT(n, entry);
		if (path != NULL && !at_or_below(n->path, path))
			continue;
		TAILQ_REMOVE(tree, n, entry);
		free(n->path);
		free(n->value);
		free(n);
	}
}

/* ---- watches ---- */

static void
queue_event(const struct watch *w, const char *path)
{
	struct event_entry *e = calloc(1, sizeof(*e));

	if (TAILQ_EMPTY(&store.events))
		assert_int_equal(write(store.pipe[1], "", 1), 1);
	e->path = strdup(path);
	e->token = strdup(w->token);
	TAILQ_INSERT_TAIL(&store.events, e, entry);
}

static void
fire(const char *path, bool removed)
{
	char place[PATH_MAX_LEN];
	struct watch *w;

	store.generation++;
	TAILQ_FOREACH (w, &store.watches, entry) {
		absolute(w->path, place);
		if (at_or_below(path, place)) /* as relative as the watch is */
			queue_event(
			    w, w->path[0] == '/' ? path : path + strlen(FAKE_STORE_HOME "/"));
		else if (removed && at_or_below(place, path))
			queue_event(w, w->path);
	}
}

static void
changed(const char *path, bool removed)
{
	struct change *c;

	if (!store.transaction) {
		fire(path, removed);
		return;
	}
	c = calloc(1, sizeof(*c));
	c->path = strdup(path);
	c->removed = removed;
	TAILQ_INSERT_TAIL(&store.changes, c, entry);
}

static void
forget_changes(bool tell)
{
	struct change *c;

	while ((c = TAILQ_FIRST(&store.changes)) != NULL) {
		TAILQ_REMOVE(&store.changes, c, entry);
		if (tell)
			fire(c->path, c->removed);
		free(c->path);
		free(c);
	}
}

static char **
next_event(void)
{
	struct event_entry *e = TAILQ_FIRST(&store.events);
	char **result;
	char byte;

	TAILQ_REMOVE(&store.events, e, entry);
	if (TAILQ_EMPTY(&store.events))
		assert_int_equal(read(store.pipe[0], &byte, 1), 1);
	result = malloc(2 * sizeof(*result) + strlen(e->path) + strlen(e->token) + 2);
	result[XS_WATCH_PATH] = (char *)&result[2];
	result[XS_WATCH_TOKEN] = stpcpy(result[XS_WATCH_PATH], e->path) + 1;
	strcpy(result[XS_WATCH_TOKEN], e->token);
	free(e->path);
	free(e->token);
	free(e);
	return result;
}

static void
end_connection(void)
{
	struct watch *w;

	while (!TAILQ_EMPTY(&store.events))
		free(next_event());
	while ((w = TAILQ_FIRST(&store.watches)) != NULL) {
		TAILQ_REMOVE(&store.watches, w, entry);
		free(w->path);
		free(w->token);
		free(w);
	}
	forget_changes(false);
	drop(&store.in_transaction, NULL);
	store.transaction = store.open = store.lost = store.waiting = false;
	if (store.pipe[0] >= 0) {
		close(store.pipe[0]);
		close(store.pipe[1]);
		store.pipe[0] = store.pipe[1] = -1;
	}
}

/* ---- for tests ---- */

void
fake_store_reset(void)
{
	end_connection();
	drop(&store.tree, NULL);
	free(store.denied);
	store.denied = NULL;
	store.open_error = 0;
	store.refused = 0;
}

void
fake_store_set_bytes(const char *path, const void *value, size_t length)
{
	char place[PATH_MAX_LEN];

	absolute(path, place);
	put(&store.tree, place, value, length);
	fire(place, false);
}

void
fake_store_set(const char *path, const char *value)
{
	fake_store_set_bytes(path, value, strlen(value));
}

void
fake_store_remove(const char *path)
{
	char place[PATH_MAX_LEN];

	absolute(path, place);
	drop(&store.tree, place);
	fire(place, true);
}

const char *
fake_store_get(const char *path)
{
	char place[PATH_MAX_LEN];
	struct node *n;

	absolute(path, place);
	n = find(&store.tree, place);
	return n != NULL ? n->value : NULL;
}

void
fake_store_refuse_open(int error)
{
	store.open_error = error;
}

void
fake_store_deny(const char *path, int error)
{
	free(store.denied);
	store.denied = strdup(path);
	store.denied_error = error;
}

void
fake_store_refuse_transactions(unsigned number, int error)
{
	store.refused = number;
	store.refused_error = error;
}

void
fake_store_lose(void)
{
	store.lost = store.waiting = true;
}

unsigned
fake_store_watches(void)
{
	struct watch *w;
	unsigned n = 0;

	TAILQ_FOREACH (w, &store.watches, entry)
		n++;
	return n;
}

unsigned
fake_store_transactions(void)
{
	return store.transaction;
}

void
fake_store_settle(struct event_base *base)
{
	do
		event_base_loop(base, EVLOOP_NONBLOCK);
	while (!TAILQ_EMPTY(&store.events) && !store.lost);
}

/* ---- libxenstore ---- */

struct xs_handle *__wrap_xs_open(unsigned long flags);
void __wrap_xs_close(struct xs_handle *h);
int __wrap_xs_fileno(struct xs_handle *h);
void *__wrap_xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *len);
bool __wrap_xs_write(
    struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned len);
bool __wrap_xs_rm(struct xs_handle *h, xs_transaction_t t, const char *path);
char **__wrap_xs_directory(
    struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *num);
xs_transaction_t __wrap_xs_transaction_start(struct xs_handle *h);
bool __wrap_xs_transaction_end(struct xs_handle *h, xs_transaction_t t, bool discard);
bool __wrap_xs_watch(struct xs_handle *h, const char *path, const char *token);
bool __wrap_xs_unwatch(struct xs_handle *h, const char *path, const char *token);
char **__wrap_xs_check_watch(struct xs_handle *h);
char *__wrap_xs_get_domain_path(struct xs_handle *h, unsigned domid);

/* The tree a call works on; NULL with errno. */
static struct tree *
tree_for(xs_transaction_t t)
{
	assert_true(store.open);
	assert_true((t != XBT_NULL) == store.transaction);
	if (store.lost) { /* as libxenstore does */
		errno = store.waiting ? EINVAL : EBADF;
		store.waiting = false;
		return NULL;
	}
	return store.transaction ? &store.in_transaction : &store.tree;
}

struct xs_handle *
__wrap_xs_open(unsigned long flags)
{
	assert_true(flags & XS_UNWATCH_FILTER);
	if (store.open_error != 0) {
		errno = store.open_error;
		return NULL;
	}
	assert_false(store.open);
	assert_int_equal(pipe2(store.pipe, O_CLOEXEC), 0);
	store.open = true;
	return &store.handle;
}

void
__wrap_xs_close(struct xs_handle *h)
{
	assert_true(store.open);
	end_connection();
}

int
__wrap_xs_fileno(struct xs_handle *h)
{
	return store.pipe[0];
}

void *
__wrap_xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *len)
{
	struct tree *tree = tree_for(t);
	char place[PATH_MAX_LEN];
	struct node *n;
	char *value;

	if (tree == NULL)
		return NULL;
	if (store.denied != NULL && strcmp(store.denied, path) == 0) {
		errno = store.denied_error;
		return NULL;
	}
	absolute(path, place);
	n = find(tree, place);
	if (n == NULL) {
		errno = ENOENT;
		return NULL;
	}
	value = malloc(n->length + 1);
	memcpy(value, n->value, n->length + 1);
	*len = (unsigned)n->length;
	return value;
}

bool
__wrap_xs_write(
    struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned len)
{
	struct tree *tree = tree_for(t);
	char place[PATH_MAX_LEN];

	if (tree == NULL)
		return false;
	if (store.denied != NULL && strcmp(store.denied, path) == 0) {
		errno = store.denied_error;
		return false;
	}
	absolute(path, place);
	put(tree, place, data, len);
	changed(place, false);
	return true;
}

bool
__wrap_xs_rm(struct xs_handle *h, xs_transaction_t t, const char *path)
{
	struct tree *tree = tree_for(t);
	char place[PATH_MAX_LEN];

	if (tree == NULL)
		return false;
	absolute(path, place);
	if (find(tree, place) == NULL) {
		errno = ENOENT;
		return false;
	}
	drop(tree, place);
	changed(place, true);
	return true;
}

char **
__wrap_xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned *num)
{
	struct tree *tree = tree_for(t);
	char place[PATH_MAX_LEN];
	size_t bytes = 1;
	char **list, *text;
	struct node *n;

	if (tree == NULL)
		return NULL;
	absolute(path, place);
	if (find(tree, place) == NULL) {
		errno = ENOENT;
		return NULL;
	}
	*num = 0;
	strcat(place, "/");
	TAILQ_FOREACH (n, tree, entry) {
		if (strncmp(n->path, place, strlen(place)) != 0 ||
		    strchr(n->path + strlen(place), '/') != NULL)
			continue;
		bytes += strlen(n->path + strlen(place)) + 1;
		++*num;
	}
	list = malloc(*num * sizeof(*list) + bytes);
	text = (char *)&list[*num];
	*num = 0;
	TAILQ_FOREACH (n, tree, entry) {
		if (strncmp(n->path, place, strlen(place)) != 0 ||
		    strchr(n->path + strlen(place), '/') != NULL)
			continue;
		list[(*num)++] = text;
		text = stpcpy(text, n->path + strlen(place)) + 1;
	}
	return list;
}

xs_transaction_t
__wrap_xs_transaction_start(struct xs_handle *h)
{
	struct node *n;

	if (tree_for(XBT_NULL) == NULL)
		return XBT_NULL;
	if (store.refused > 0) {
		store.refused--;
		errno = store.refused_error;
		return XBT_NULL;
	}
	TAILQ_FOREACH (n, &store.tree, entry)
		put(&store.in_transaction, n->path, n->value, n->length);
	store.transaction = true;
	store.started_at = store.generation;
	return 1;
}

bool
__wrap_xs_transaction_end(struct xs_handle *h, xs_transaction_t t, bool discard)
{
	bool clean = store.generation == store.started_at;

	if (tree_for(t) == NULL)
		return false;
	store.transaction = false;
	if (!discard && clean) {
		drop(&store.tree, NULL);
		TAILQ_CONCAT(&store.tree, &store.in_transaction, entry);
	}
	drop(&store.in_transaction, NULL);
	forget_changes(!discard && clean);
	if (discard || clean)
		return true;
	errno = EAGAIN;
	return false;
}

bool
__wrap_xs_watch(struct xs_handle *h, const char *path, const char *token)
{
	struct watch *w;

	if (store.lost) {
		errno = EBADF;
		return false;
	}
	TAILQ_FOREACH (w, &store.watches, entry)
		assert_string_not_equal(w->token, token);
	w = calloc(1, sizeof(*w));
	w->path = strdup(path);
	w->token = strdup(token);
	TAILQ_INSERT_TAIL(&store.watches, w, entry);
	queue_event(w, path);
	return true;
}

/* Leaves the events in the queue, as a connection without XS_UNWATCH_FILTER does: harder for us. */
bool
__wrap_xs_unwatch(struct xs_handle *h, const char *path, const char *token)
{
	struct watch *w;

	TAILQ_FOREACH (w, &store.watches, entry) {
		if (strcmp(w->path, path) == 0 && strcmp(w->token, token) == 0)
			break;
	}
	assert_non_null(w);
	TAILQ_REMOVE(&store.watches, w, entry);
	free(w->path);
	free(w->token);
	free(w);
	return true;
}

char **
__wrap_xs_check_watch(struct xs_handle *h)
{
	if (!TAILQ_EMPTY(&store.events))
		return next_event();
	errno = store.lost ? EINVAL : EAGAIN;
	return NULL;
}

char *
__wrap_xs_get_domain_path(struct xs_handle *h, unsigned domid)
{
	errno = EBADF;
	return store.lost ? NULL : strdup(FAKE_STORE_HOME);
}
