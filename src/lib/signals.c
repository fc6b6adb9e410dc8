/* SPDX-License-Identifier: BSD-2-Clause */
#include <signal.h>
#include <stdlib.h>
#include <sysexits.h>

#include <event2/event.h>

#include "xenpv/log.h"
#include "xenpv/supervisor.h"

struct xpv_signals {
	struct event *terminate, *interrupt, *hangup;
	void (*stop)(void *arg);
	void (*reload)(void *arg);
	void *arg;
};

static void
on_stop(evutil_socket_t number, short events, void *arg)
{
	struct xpv_signals *s = arg;

	s->stop(s->arg);
}

static void
on_reload(evutil_socket_t number, short events, void *arg)
{
	struct xpv_signals *s = arg;

	s->reload(s->arg);
}

static struct event *
listen_to(struct event_base *base, int number, event_callback_fn fn, struct xpv_signals *s)
{
	struct event *event = evsignal_new(base, number, fn, s);

	if (event == NULL || event_add(event, NULL) != 0)
		xpv_die(EX_OSERR, "cannot wait for signals");
	return event;
}

struct xpv_signals *
xpv_signals_listen(
    struct event_base *base, void (*stop)(void *arg), void (*reload)(void *arg), void *arg)
{
	struct xpv_signals *s = calloc(1, sizeof(*s));

	if (s == NULL)
		xpv_die(EX_OSERR, "cannot wait for signals");
	s->stop = stop;
	s->reload = reload;
	s->arg = arg;
	s->terminate = listen_to(base, SIGTERM, on_stop, s);
	s->interrupt = listen_to(base, SIGINT, on_stop, s);
	s->hangup = listen_to(base, SIGHUP, on_reload, s);
	signal(SIGPIPE, SIG_IGN);
	return s;
}

void
xpv_signals_free(struct xpv_signals *s)
{
	if (s == NULL)
		return;
	event_free(s->terminate);
	event_free(s->interrupt);
	event_free(s->hangup);
	free(s);
}
