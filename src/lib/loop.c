/* SPDX-License-Identifier: BSD-2-Clause */
#include <xenpv/loop.h>

#include <pthread.h>

#include <event2/event.h>

#include "build_config.h"

#if HAVE_PTHREAD_NP_H
#include <pthread_np.h> /* where FreeBSD has pthread_setname_np() */
#endif

struct event_base *
xpv_loop_new(void)
{
	struct event_config *config = event_config_new();
	struct event_base *base = NULL;

	if (config == NULL)
		return NULL;
	if (event_config_avoid_method(config, "kqueue") == 0 &&
	    event_config_set_flag(config, EVENT_BASE_FLAG_NO_CACHE_TIME) == 0)
		base = event_base_new_with_config(config);
	event_config_free(config);
	return base;
}

void
xpv_thread_name(const char *name)
{
	pthread_setname_np(pthread_self(), name);
}
