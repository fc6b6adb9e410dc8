/* SPDX-License-Identifier: BSD-2-Clause */
#include "sysrq.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/store.h>

#include "command.h"
#include "settings.h"
#include "system.h"

#define NODE	"control/sysrq"
#define AGAIN_S 1 /* the store may answer again */

struct sysrq {
	struct event_base *base;
	struct xpv_store *store;
	const struct control_config *config;
	struct xpv_watch *watch;
	struct event *grace;
	struct command *command; /* further keys wait for its end */
	bool graced;
	char *refused; /* as long as it is there */
};

static void look(struct sysrq *s);

static void
on_ended(enum command_end end, const char *text, void *arg)
{
	struct sysrq *s = arg;

	s->command = NULL;
	xpv_log(end == COMMAND_OK ? XPV_LOG_NOTICE : XPV_LOG_ERR, "sysrq: %s", text);
	look(s);
}

static void
run(struct sysrq *s, const char *key)
{
	char *argv[] = {"/bin/sh", "-c", s->config->sysrq, "sysrq", (char *)(uintptr_t)key, NULL};
	extern char **environ;

	xpv_notice("sysrq %s: %s", key, s->config->sysrq);
	s->command = command_start(s->base, "sysrq", argv, environ,
	    (unsigned)s->config->action_timeout_s * 1000, on_ended, s);
}

static void
refuse(struct sysrq *s, const char *value, const char *why)
{
	if (s->refused != NULL && strcmp(s->refused, value) == 0)
		return;
	xpv_warning(NODE " has \"%s\": %s", value, why);
	free(s->refused);
	s->refused = strdup(value);
}

static bool
is_key(const char *value)
{
	return value[0] > ' ' && value[0] < 0x7f && value[1] == '\0';
}

struct taking {
	char *value;
	bool left; /* it is gone, or cannot be taken */
};

/* In a transaction, maybe several times. */
static int
take(struct xpv_store *store, void *arg)
{
	struct taking *t = arg;

	free(t->value);
	t->value = xpv_store_read(store, NODE);
	t->left =
	    t->value == NULL || !is_key(t->value) || xpv_store_write(store, NODE, "%s", "") != 0;
	return t->left ? -1 : 0;
}

static void
obey(struct sysrq *s)
{
	static const struct timeval again = {.tv_sec = AGAIN_S};
	struct taking t = {0};

	if (xpv_store_transaction(s->store, take, &t) == 0)
		run(s, t.value);
	else if (!t.left)
		event_add(s->grace, &again); /* after which it counts as graced */
	free(t.value);
}

static void
look(struct sysrq *s)
{
	struct timeval grace = {
	    .tv_sec = s->config->grace_ms / 1000, .tv_usec = s->config->grace_ms % 1000 * 1000};
	char *value = s->command == NULL ? xpv_store_read(s->store, NODE) : NULL;

	if (value == NULL || value[0] == '\0') {
		event_del(s->grace);
		free(s->refused);
		s->refused = NULL;
	} else if (system_has_sysrq() && !s->graced) {
		if (!event_pending(s->grace, EV_TIMEOUT, NULL))
			event_add(s->grace, &grace);
	} else if (!is_key(value)) {
		refuse(s, value, "this is no key");
	} else if (s->config->sysrq == NULL || strcmp(s->config->sysrq, CONTROL_REFUSE) == 0) {
		refuse(s, value, "the kernel does not take it, and no command is configured");
	} else {
		obey(s);
	}
	free(value);
}

static void
on_grace(evutil_socket_t fd, short what, void *arg)
{
	struct sysrq *s = arg;

	s->graced = true;
	look(s);
	s->graced = false;
}

static void
on_node(struct xpv_watch *watch, const char *changed, void *arg)
{
	look(arg);
}

struct sysrq *
sysrq_start(struct event_base *base, struct xpv_store *store, const struct control_config *config)
{
	struct sysrq *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->base = base;
	s->store = store;
	s->config = config;
	s->grace = evtimer_new(base, on_grace, s);
	if (s->grace != NULL)
		s->watch = xpv_store_watch(store, on_node, s, NODE);
	if (s->watch != NULL)
		return s;
	sysrq_stop(s);
	return NULL;
}

void
sysrq_stop(struct sysrq *s)
{
	if (s == NULL)
		return;
	xpv_store_unwatch(s->watch);
	if (s->grace != NULL)
		event_free(s->grace);
	if (s->command != NULL)
		command_leave(s->command);
	free(s->refused);
	free(s);
}
