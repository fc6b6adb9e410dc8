/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_EVENT2_EVENT_H
#define STUB_EVENT2_EVENT_H

#include <sys/time.h>

/* libevent, as far as it is used. */

typedef int evutil_socket_t;
struct event;
struct event_base;
struct event_config;
typedef void (*event_callback_fn)(evutil_socket_t fd, short events, void *arg);

#define EV_TIMEOUT 0x01
#define EV_READ	   0x02
#define EV_SIGNAL  0x08
#define EV_PERSIST 0x10

#define EVENT_BASE_FLAG_NO_CACHE_TIME 0x08

struct event *event_new(struct event_base *base, evutil_socket_t fd, short events,
    event_callback_fn callback, void *arg);
#define evtimer_new(base, callback, arg) event_new(base, -1, 0, callback, arg)
#define evsignal_new(base, number, callback, arg)                                                  \
	event_new(base, number, EV_SIGNAL | EV_PERSIST, callback, arg)
int event_add(struct event *event, const struct timeval *after);
int event_del(struct event *event);
void event_free(struct event *event);
void event_active(struct event *event, int result, short calls);

struct event_config *event_config_new(void);
void event_config_free(struct event_config *config);
int event_config_set_flag(struct event_config *config, int flag);
int event_config_avoid_method(struct event_config *config, const char *method);
struct event_base *event_base_new_with_config(const struct event_config *config);
int event_base_dispatch(struct event_base *base);
int event_base_loopbreak(struct event_base *base);

#endif
