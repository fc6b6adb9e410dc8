/* SPDX-License-Identifier: BSD-2-Clause */
#include "requests.h"

#include <string.h>

static const char *const names[] = {
    [REQUEST_POWEROFF] = "poweroff",
    [REQUEST_REBOOT] = "reboot",
    [REQUEST_HALT] = "halt",
    [REQUEST_SUSPEND] = "suspend",
    [REQUEST_CRASH] = "crash",
    [REQUEST_S3] = "s3",
    [REQUEST_S4] = "s4",
    [REQUEST_SHUTDOWN] = "shutdown",
    [REQUEST_NONE] = "none",
};

const char *
request_name(enum request request)
{
	return names[request];
}

enum request
request_parse(const char *name)
{
	for (unsigned i = 0; i < REQUEST_NAMED; i++) {
		if (strcmp(name, names[i]) == 0)
			return (enum request)i;
	}
	return REQUEST_NONE;
}

bool
request_is_final(enum request request)
{
	return request == REQUEST_POWEROFF || request == REQUEST_REBOOT ||
	       request == REQUEST_HALT || request == REQUEST_CRASH;
}

void
requests_init(struct requests *q)
{
	*q = (struct requests){
	    .current = REQUEST_NONE, .waiting = REQUEST_NONE, .going = REQUEST_NONE};
}

/* The request that has been done and after which the system goes. */
static enum request
going(const struct requests *q)
{
	if (request_is_final(q->current) && q->done)
		return q->current;
	return q->going;
}

static void
begin(struct requests *q, enum request request, enum requests_state state)
{
	q->current = request;
	q->state = state;
	q->done = false;
}

enum requests_verdict
requests_take(struct requests *q, enum request request)
{
	if (request == q->current && q->state != REQUESTS_AFTER && q->state != REQUESTS_GOING)
		return REQUESTS_SAME;
	/* For a guest that is beyond help: nothing is waited for. */
	if (request == REQUEST_CRASH) {
		q->waiting = q->going = REQUEST_NONE;
		begin(q, request, REQUESTS_ACTING);
		return REQUESTS_PREEMPTED;
	}
	if (q->state == REQUESTS_IDLE) {
		begin(q, request, REQUESTS_BEFORE);
		return REQUESTS_STARTED;
	}
	if (going(q) != REQUEST_NONE)
		return request == going(q) ? REQUESTS_SAME : REQUESTS_TOO_LATE;
	if (request == q->waiting)
		return REQUESTS_SAME;
	q->waiting = request; /* in place of an older one: the newest wish counts */
	return REQUESTS_WAITS;
}

static enum requests_step
go(struct requests *q, enum request request)
{
	begin(q, request, REQUESTS_GOING);
	q->done = true;
	q->waiting = q->going = REQUEST_NONE; /* there is no after */
	return REQUESTS_SETTLE;
}

static enum requests_step
next(struct requests *q)
{
	enum request request = q->waiting;

	if (q->resumed) {
		q->resumed = false;
		q->going = going(q);
		begin(q, REQUEST_SUSPEND, REQUESTS_AFTER);
		q->done = true;
		return REQUESTS_RUN_RESUMED;
	}
	if (going(q) != REQUEST_NONE)
		return go(q, going(q));
	q->waiting = REQUEST_NONE;
	begin(q, request, request != REQUEST_NONE ? REQUESTS_BEFORE : REQUESTS_IDLE);
	return request != REQUEST_NONE ? REQUESTS_RUN_BEFORE : REQUESTS_NOTHING;
}

enum requests_step
requests_done(struct requests *q, bool ok)
{
	switch (q->state) {
	case REQUESTS_BEFORE:
		q->state = REQUESTS_ACTING;
		return REQUESTS_ACT;
	case REQUESTS_ACTING:
		q->done = ok;
		q->state = REQUESTS_AFTER;
		return REQUESTS_RUN_AFTER;
	case REQUESTS_AFTER:
		return next(q);
	case REQUESTS_IDLE:
	case REQUESTS_GOING:
		break;
	}
	return REQUESTS_NOTHING;
}

enum requests_step
requests_settled(struct requests *q)
{
	if (q->state != REQUESTS_GOING)
		return REQUESTS_NOTHING;
	q->done = false;
	return next(q);
}

enum requests_step
requests_resumed(struct requests *q)
{
	q->resumed = true;
	return q->state == REQUESTS_IDLE || q->state == REQUESTS_GOING ? next(q) : REQUESTS_NOTHING;
}
