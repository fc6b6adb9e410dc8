/* SPDX-License-Identifier: BSD-2-Clause */
#include "hooks.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>
#include <xenpv/log.h>

#include "command.h"

#define HOOKS_MAX 100

struct hooks {
	struct event_base *base;
	char **names;
	unsigned next;
	char *dir, *phase, *request, *outcome;
	char **env;
	unsigned timeout_ms;
	struct hooks_result result;
	struct command *command; /* what runs */
	struct event *turn;
	hooks_ended *ended;
	void *arg;
};

/* ---- what is a hook ---- */

/* Not what editors and package managers leave beside a file: "x~", "x.dpkg-old". */
static bool
is_plain(const char *name)
{
	static const char *const leftovers[] = {
	    ".dpkg-", ".rpm", ".bak", ".orig", ".rej", ".sample", ".swp"};
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789_-.";

	if (name[0] == '.' || name[strspn(name, plain)] != '\0')
		return false;
	for (unsigned i = 0; i < sizeof(leftovers) / sizeof(leftovers[0]); i++) {
		if (strstr(name, leftovers[i]) != NULL)
			return false;
	}
	return true;
}

/* It is run as root: nobody else may have a say in what it is. */
static bool
is_safe(const struct stat *st)
{
	return (st->st_uid == 0 || st->st_uid == geteuid()) &&
	       (st->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static bool
is_hook(int dir, const char *dir_name, const char *name)
{
	struct stat st;

	if (!is_plain(name) || fstatat(dir, name, &st, 0) != 0 || !S_ISREG(st.st_mode) ||
	    (st.st_mode & S_IXUSR) == 0)
		return false;
	if (!is_safe(&st))
		xpv_warning("%s/%s: is not run: others than root can write to it", dir_name, name);
	return is_safe(&st);
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static unsigned
read_names(DIR *dir, const char *dir_name, char **names)
{
	struct dirent *entry;
	unsigned n = 0;

	while ((entry = readdir(dir)) != NULL) {
		if (!is_hook(dirfd(dir), dir_name, entry->d_name))
			continue;
		if (n == HOOKS_MAX) {
			xpv_warning("%s: more than %d hooks: not all are run", dir_name, HOOKS_MAX);
			break;
		}
		names[n] = strdup(entry->d_name);
		if (names[n] != NULL)
			n++;
	}
	return n;
}

char **
hooks_list(const char *path)
{
	char **names = calloc(HOOKS_MAX + 1, sizeof(*names));
	DIR *dir = opendir(path);
	struct stat st;

	if (dir == NULL && errno != ENOENT)
		xpv_warning("%s: %s: no hooks are run", path, strerror(errno));
	if (names != NULL && dir != NULL && fstat(dirfd(dir), &st) == 0) {
		if (is_safe(&st))
			qsort(names, read_names(dir, path, names), sizeof(*names), by_name);
		else
			xpv_warning("%s: others than root can write to it: no hooks are run", path);
	}
	if (dir != NULL)
		closedir(dir);
	return names;
}

void
hooks_list_free(char **names)
{
	for (char **name = names; name != NULL && *name != NULL; name++)
		free(*name);
	free(names);
}

/* ---- running them ---- */

static void
forget(struct hooks *h)
{
	if (h->turn != NULL)
		event_free(h->turn);
	hooks_list_free(h->names);
	hooks_list_free(h->env);
	free(h->dir);
	free(h->phase);
	free(h->request);
	free(h->outcome);
	free(h);
}

static void run_next(struct hooks *h);

static void
on_ended(enum command_end end, const char *text, void *arg)
{
	struct hooks *h = arg;

	h->command = NULL;
	if (end != COMMAND_OK)
		xpv_warning("hook %s %s %s: %s", h->names[h->next - 1], h->phase, h->request, text);
	h->result.failed += end == COMMAND_FAILED;
	h->result.timed_out += end == COMMAND_TIMED_OUT;
	run_next(h);
}

static bool
run(struct hooks *h, const char *name)
{
	char path[1024], label[64];
	char *argv[] = {path, h->phase, h->request, h->outcome, NULL};

	snprintf(label, sizeof(label), "hook %s", name);
	if (snprintf(path, sizeof(path), "%s/%s", h->dir, name) >= (int)sizeof(path))
		return false;
	h->command = command_start(h->base, label, argv, h->env, h->timeout_ms, on_ended, h);
	return h->command != NULL;
}

static void
run_next(struct hooks *h)
{
	struct hooks_result result;
	hooks_ended *ended = h->ended;
	void *arg = h->arg;

	while (h->names[h->next] != NULL) {
		h->result.run++;
		if (run(h, h->names[h->next++]))
			return;
		h->result.failed++;
	}
	result = h->result;
	forget(h);
	ended(&result, arg);
}

static void
on_turn(evutil_socket_t fd, short what, void *arg)
{
	run_next(arg);
}

static char **
copy_list(char *const list[])
{
	size_t n = 0;
	char **copy;

	while (list[n] != NULL)
		n++;
	copy = calloc(n + 1, sizeof(*copy));
	for (size_t i = 0; copy != NULL && i < n; i++) {
		copy[i] = strdup(list[i]);
		if (copy[i] == NULL) {
			hooks_list_free(copy);
			return NULL;
		}
	}
	return copy;
}

struct hooks *
hooks_start(struct event_base *base, const char *dir, const char *phase, const char *request,
    const char *result, char *const env[], unsigned timeout_ms, hooks_ended *ended, void *arg)
{
	static const struct timeval at_once;
	struct hooks *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->base = base;
	h->timeout_ms = timeout_ms;
	h->ended = ended;
	h->arg = arg;
	h->names = hooks_list(dir);
	h->dir = strdup(dir);
	h->phase = strdup(phase);
	h->request = strdup(request);
	h->outcome = result != NULL ? strdup(result) : NULL;
	h->env = copy_list(env);
	h->turn = evtimer_new(base, on_turn, h);
	if (h->names == NULL || h->dir == NULL || h->phase == NULL || h->request == NULL ||
	    (result != NULL && h->outcome == NULL) || h->env == NULL || h->turn == NULL ||
	    event_add(h->turn, &at_once) != 0) {
		forget(h);
		return NULL;
	}
	return h;
}

void
hooks_kill(struct hooks *h)
{
	if (h->command != NULL)
		command_kill(h->command);
	forget(h);
}
