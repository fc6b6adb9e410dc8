/* SPDX-License-Identifier: BSD-2-Clause */
#include "power.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>
#include <event2/event.h>
#include <jansson.h>
#include <xenpv/log.h>
#include <xenpv/stats.h>

#include "command.h"
#include "hooks.h"
#include "settings.h"
#include "system.h"

/* Between a request that the kernel has taken and the call of its helper program. */
#define HELPER_NS 10000000000u
/* How long after it a stop is still on its account. */
#define UNTOLD_NS 600000000000u
/* To learn whether the system is being shut down. */
#define CHECK_MS 5000

struct stats {
	xpv_counter taken[REQUEST_NAMED];
	xpv_counter refused, by_kernel, resumed;
	xpv_counter actions, actions_failed;
	xpv_counter hooks, hooks_failed;
	struct xpv_histogram hooks_time, action_time;
};

struct power {
	struct event_base *base;
	const struct control_config *config;
	struct requests requests;
	struct hooks *hooks;	 /* what runs: these, */
	struct command *command; /* or this */
	struct event *settle;
	uint64_t began_ns; /* the step under way */
	char from[16];	   /* of the current request */
	char waiting_from[16];
	bool diverted;
	bool other_domain;	     /* one of the resumes for which hooks have not run was one */
	uint64_t told_ns, untold_ns; /* by the kernel's helper; what it has not told */
	void (*stopped)(void *arg);
	void *stopped_arg;
	void (*slept)(void *arg);
	void *slept_arg;
	struct stats stats;
};

static void begin(struct power *p, enum requests_step step);
static void finish(struct power *p);

static double
seconds_since(uint64_t ns)
{
	return (double)(xpv_now_ns() - ns) / 1e9;
}

static const char *
current_name(const struct power *p)
{
	return request_name(p->requests.current);
}

/* ---- steps ---- */

/* The environment of hooks and actions: ours, and what it is about. */
static char **
make_env(const struct power *p, const char *name, char request[64], char from[64])
{
	extern char **environ;
	size_t n = 0;
	char **env;

	while (environ[n] != NULL)
		n++;
	env = calloc(n + 4, sizeof(*env));
	if (env == NULL)
		return NULL;
	memcpy(env, environ, n * sizeof(*env));
	snprintf(request, 64, "XENPV_REQUEST=%s", name);
	snprintf(from, 64, "XENPV_FROM=%s", p->from);
	env[n++] = request;
	env[n++] = from;
	if (getenv("PATH") == NULL)
		env[n++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	return env;
}

static void
on_hooks(const struct hooks_result *result, void *arg)
{
	struct power *p = arg;

	p->hooks = NULL;
	xpv_counter_add(&p->stats.hooks, result->run);
	xpv_counter_add(&p->stats.hooks_failed, result->failed + result->timed_out);
	xpv_histogram_record(&p->stats.hooks_time, xpv_now_ns() - p->began_ns);
	if (result->run > 0)
		xpv_notice("%u hooks in %.3f s (%u failed, %u took too long)", result->run,
		    seconds_since(p->began_ns), result->failed, result->timed_out);
	begin(p, requests_done(&p->requests, true));
}

static bool
start_hooks(
    struct power *p, const char *phase, const char *name, const char *result, hooks_ended *ended)
{
	char request[64], from[64];
	char **env = make_env(p, name, request, from);

	p->began_ns = xpv_now_ns();
	if (env != NULL)
		p->hooks = hooks_start(p->base, p->config->hooks, phase, name, result, env,
		    (unsigned)p->config->hook_timeout_s * 1000, ended, p);
	free(env);
	if (p->hooks == NULL)
		xpv_err("hooks %s %s: out of memory", phase, name);
	return p->hooks != NULL;
}

static void
run_hooks(struct power *p, const char *phase, const char *result)
{
	if (!start_hooks(p, phase, current_name(p), result, on_hooks))
		begin(p, requests_done(&p->requests, true));
}

static void
on_action(enum command_end end, const char *text, void *arg)
{
	struct power *p = arg;

	p->command = NULL;
	xpv_counter_add(&p->stats.actions_failed, end != COMMAND_OK);
	xpv_histogram_record(&p->stats.action_time, xpv_now_ns() - p->began_ns);
	xpv_log(end == COMMAND_OK ? XPV_LOG_NOTICE : XPV_LOG_ERR, "%s: action: %s after %.3f s",
	    current_name(p), text, seconds_since(p->began_ns));
	if (p->slept != NULL &&
	    (p->requests.current == REQUEST_S3 || p->requests.current == REQUEST_S4))
		p->slept(p->slept_arg);
	begin(p, requests_done(&p->requests, end == COMMAND_OK));
}

static void
act(struct power *p)
{
	char request[64], from[64];
	char **env = make_env(p, current_name(p), request, from);
	const char *why;
	const char *action = settings_action(p->config, p->requests.current, &why);
	char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)action, NULL};

	p->began_ns = xpv_now_ns();
	xpv_counter_add(&p->stats.actions, 1);
	if (action == NULL)
		xpv_warning("%s: %s", current_name(p), why);
	else
		xpv_notice("%s: %s", current_name(p), action);
	if (env != NULL && action != NULL)
		p->command = command_start(p->base, current_name(p), argv, env,
		    (unsigned)p->config->action_timeout_s * 1000, on_action, p);
	free(env);
	if (p->command == NULL)
		on_action(COMMAND_FAILED, "not started", p);
}

static void
run_resumed(struct power *p)
{
	const char *result = p->other_domain ? "resumed" : "continued";

	p->other_domain = false;
	snprintf(p->from, sizeof(p->from), "%s", "kernel");
	run_hooks(p, "after", result);
}

static void
stop_now(struct power *p)
{
	void (*stopped)(void *arg) = p->stopped;

	if (stopped == NULL)
		return;
	p->stopped = NULL;
	/* The action under way may be what stops us: its end is not waited for. */
	if (p->requests.waiting != REQUEST_NONE)
		xpv_warning("%s: was taken and is lost: it has waited for %s, during which this "
			    "daemon ends",
		    request_name(p->requests.waiting), current_name(p));
	stopped(p->stopped_arg);
}

static void
settle(struct power *p)
{
	struct timeval when = {.tv_sec = p->config->again_after_s};

	if (p->config->again_after_s == 0)
		begin(p, requests_settled(&p->requests));
	else
		event_add(p->settle, &when);
}

static void
begin(struct power *p, enum requests_step step)
{
	switch (step) {
	case REQUESTS_RUN_BEFORE:
		memcpy(p->from, p->waiting_from, sizeof(p->from));
		run_hooks(p, "before", NULL);
		break;
	case REQUESTS_ACT:
		act(p);
		if (p->command != NULL)
			stop_now(p); /* if that is wished for: it may be for this action */
		break;
	case REQUESTS_RUN_AFTER:
		run_hooks(p, "after", p->requests.done ? "done" : "failed");
		break;
	case REQUESTS_RUN_RESUMED:
		event_del(p->settle);
		run_resumed(p);
		break;
	case REQUESTS_SETTLE:
		stop_now(p);
		settle(p);
		break;
	case REQUESTS_NOTHING:
		finish(p);
		break;
	}
}

static void
on_settle(evutil_socket_t fd, short what, void *arg)
{
	struct power *p = arg;

	xpv_warning("%s: was done %ld s ago, and the system is still here", current_name(p),
	    p->config->again_after_s);
	begin(p, requests_settled(&p->requests));
}

static void
kill_step(struct power *p)
{
	if (p->hooks != NULL)
		hooks_kill(p->hooks);
	if (p->command != NULL)
		command_kill(p->command);
	p->hooks = NULL;
	p->command = NULL;
	event_del(p->settle);
}

void
power_on_slept(struct power *p, void (*slept)(void *arg), void *arg)
{
	p->slept = slept;
	p->slept_arg = arg;
}

/* ---- requests ---- */

const char *
power_refuse(const struct power *p, enum request request)
{
	const char *why;

	return settings_action(p->config, request, &why) == NULL ? why : NULL;
}

void
power_told(struct power *p)
{
	p->told_ns = xpv_now_ns();
	p->untold_ns = 0;
}

void
power_request(struct power *p, enum request request, const char *from)
{
	const char *name = request_name(request);
	enum request waiting = p->requests.waiting;

	xpv_counter_add(&p->stats.taken[request], 1);
	if (strcmp(from, "kernel") == 0)
		power_told(p);
	switch (requests_take(&p->requests, request)) {
	case REQUESTS_STARTED:
		xpv_notice("%s asked for, by way of the %s", name, from);
		snprintf(p->waiting_from, sizeof(p->waiting_from), "%s", from);
		begin(p, REQUESTS_RUN_BEFORE);
		break;
	case REQUESTS_PREEMPTED:
		xpv_notice("%s asked for, by way of the %s: at once, without hooks", name, from);
		kill_step(p);
		snprintf(p->from, sizeof(p->from), "%s", from);
		begin(p, REQUESTS_ACT);
		break;
	case REQUESTS_WAITS:
		xpv_notice("%s asked for, by way of the %s: waits for the end of %s", name, from,
		    current_name(p));
		if (waiting != REQUEST_NONE)
			xpv_notice("%s: is no longer wanted", request_name(waiting));
		snprintf(p->waiting_from, sizeof(p->waiting_from), "%s", from);
		break;
	case REQUESTS_SAME:
		xpv_notice("%s asked for again, by way of the %s: is under way", name, from);
		break;
	case REQUESTS_TOO_LATE:
		xpv_notice("%s asked for, by way of the %s: too late, %s is under way", name, from,
		    current_name(p));
		break;
	}
}

void
power_refused(struct power *p, const char *name, const char *why)
{
	xpv_counter_add(&p->stats.refused, 1);
	xpv_warning("refused: \"%s\": %s", name, why);
}

void
power_taken_by_kernel(struct power *p, enum request request)
{
	xpv_counter_add(&p->stats.by_kernel, 1);
	xpv_info("the kernel has taken a request");
	/* One that it could not do stops nothing. */
	if (request == REQUEST_SUSPEND)
		return;
	if (p->told_ns == 0 || xpv_now_ns() - p->told_ns > HELPER_NS)
		p->untold_ns = xpv_now_ns();
}

void
power_resumed(struct power *p, bool other_domain)
{
	xpv_counter_add(&p->stats.resumed, 1);
	xpv_notice("the domain was suspended and goes on%s",
	    other_domain ? ", as another one" : ": it is the same");
	p->other_domain |= other_domain;
	p->untold_ns = 0;
	begin(p, requests_resumed(&p->requests));
}

/* ---- the end ---- */

static void
on_untold(const struct hooks_result *result, void *arg)
{
	struct power *p = arg;

	p->hooks = NULL;
	xpv_notice("%u hooks in %.3f s (%u failed, %u took too long)", result->run,
	    seconds_since(p->began_ns), result->failed, result->timed_out);
	stop_now(p);
}

static void
run_untold(struct power *p)
{
	enum request untold = system_untold(p->diverted);

	xpv_notice("%s: the kernel has been asked for it and does it", request_name(untold));
	snprintf(p->from, sizeof(p->from), "%s", "kernel");
	if (!start_hooks(p, "before", request_name(untold), NULL, on_untold))
		stop_now(p);
}

static void
on_checked(enum command_end end, const char *text, void *arg)
{
	struct power *p = arg;

	p->command = NULL;
	if (end == COMMAND_FAILED) {
		xpv_notice("the system is not being shut down: no hooks for what the kernel took");
		stop_now(p);
	} else {
		run_untold(p);
	}
}

/* This daemon may also be stopped for another reason, long after something was taken that was no
 * reboot. */
static void
check_untold(struct power *p)
{
	extern char **environ;
	const char *check = system_stopping_check();
	char *argv[] = {"/bin/sh", "-c", (char *)(uintptr_t)check, NULL};

	if (check != NULL)
		p->command =
		    command_start(p->base, "check", argv, environ, CHECK_MS, on_checked, p);
	if (p->command == NULL)
		run_untold(p);
}

/* If a stop is wished for. */
static void
finish(struct power *p)
{
	bool untold = p->untold_ns != 0 && xpv_now_ns() - p->untold_ns < UNTOLD_NS;

	if (p->stopped != NULL && p->requests.state == REQUESTS_IDLE && untold)
		check_untold(p);
	else
		stop_now(p);
}

void
power_stop(struct power *p, void (*stopped)(void *arg), void *arg)
{
	p->stopped = stopped;
	p->stopped_arg = arg;
	if (p->hooks != NULL) {
		/* The one that runs has begun before the stop did. */
		command_announce((unsigned)p->config->hook_timeout_s * 1000);
		return; /* when they have ended */
	}
	finish(p);
}

struct power *
power_new(struct event_base *base, const struct control_config *config, bool diverted)
{
	struct power *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return NULL;
	p->base = base;
	p->config = config;
	p->diverted = diverted;
	requests_init(&p->requests);
	p->settle = evtimer_new(base, on_settle, p);
	if (p->settle != NULL)
		return p;
	free(p);
	return NULL;
}

void
power_free(struct power *p)
{
	if (p == NULL)
		return;
	if (p->command != NULL) {
		command_leave(p->command);
		p->command = NULL;
	}
	kill_step(p);
	event_free(p->settle);
	free(p);
}

/* ---- pages ---- */

static const char *const state_names[] = {
    [REQUESTS_IDLE] = "idle",
    [REQUESTS_BEFORE] = "hooks before",
    [REQUESTS_ACTING] = "action",
    [REQUESTS_AFTER] = "hooks after",
    [REQUESTS_GOING] = "going",
};

void
power_write_json(struct evbuffer *out, void *arg)
{
	const struct power *p = arg;
	const struct stats *s = &p->stats;
	json_t *taken = json_object(), *root;
	char *text;

	for (unsigned i = 0; i < REQUEST_NAMED; i++)
		json_object_set_new(taken, request_name((enum request)i),
		    json_integer((json_int_t)xpv_counter_get(&s->taken[i])));
	root = json_pack("{s:s, s:s, s:s, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
	    state_names[p->requests.state], "request", current_name(p), "waiting",
	    request_name(p->requests.waiting), "diverted", p->diverted, "taken", taken, "refused",
	    (json_int_t)xpv_counter_get(&s->refused), "taken by the kernel",
	    (json_int_t)xpv_counter_get(&s->by_kernel), "resumed",
	    (json_int_t)xpv_counter_get(&s->resumed), "actions",
	    (json_int_t)xpv_counter_get(&s->actions), "actions failed",
	    (json_int_t)xpv_counter_get(&s->actions_failed), "hooks",
	    (json_int_t)xpv_counter_get(&s->hooks), "hooks failed",
	    (json_int_t)xpv_counter_get(&s->hooks_failed));
	text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	if (text != NULL)
		evbuffer_add_printf(out, "%s\n", text);
	free(text);
}

#define TAKEN(name, request)                                                                       \
	{                                                                                          \
		"xenpv_control_requests", XPV_COUNTER, "Requests taken", "request=\"" name "\"",   \
		    offsetof(struct stats, taken[request])                                         \
	}

static const struct xpv_metric metrics[] = {
    TAKEN("poweroff", REQUEST_POWEROFF),
    TAKEN("reboot", REQUEST_REBOOT),
    TAKEN("halt", REQUEST_HALT),
    TAKEN("suspend", REQUEST_SUSPEND),
    TAKEN("crash", REQUEST_CRASH),
    TAKEN("s3", REQUEST_S3),
    TAKEN("s4", REQUEST_S4),
    {"xenpv_control_refused", XPV_COUNTER, "Requests refused", NULL,
	offsetof(struct stats, refused)},
    {"xenpv_control_kernel", XPV_COUNTER, "Requests that the kernel has taken", NULL,
	offsetof(struct stats, by_kernel)},
    {"xenpv_control_resumed", XPV_COUNTER, "Times this domain was resumed", NULL,
	offsetof(struct stats, resumed)},
    {"xenpv_control_actions", XPV_COUNTER, "Actions started", NULL,
	offsetof(struct stats, actions)},
    {"xenpv_control_actions_failed", XPV_COUNTER, "Actions that failed or took too long", NULL,
	offsetof(struct stats, actions_failed)},
    {"xenpv_control_hooks", XPV_COUNTER, "Hooks started", NULL, offsetof(struct stats, hooks)},
    {"xenpv_control_hooks_failed", XPV_COUNTER, "Hooks that failed or took too long", NULL,
	offsetof(struct stats, hooks_failed)},
    {"xenpv_control_hooks_duration", XPV_HISTOGRAM, "Time of all hooks of one phase", NULL,
	offsetof(struct stats, hooks_time)},
    {"xenpv_control_action_duration", XPV_HISTOGRAM, "Time of an action", NULL,
	offsetof(struct stats, action_time)},
};

void
power_write_metrics(struct evbuffer *out, void *arg)
{
	const struct power *p = arg;
	const struct xpv_metric_set set = {&p->stats, NULL};

	xpv_metrics_write(out, metrics, sizeof(metrics) / sizeof(metrics[0]), &set, 1);
	evbuffer_add_printf(out, "# EOF\n");
}
