/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_REQUESTS_H
#define CONTROL_REQUESTS_H

#include <stdbool.h>

/*
 * What a guest is asked for, and the order in which it is done: one request at a time, each with
 * hooks before, one action, hooks after. Nothing here does anything: it says what is to be done
 * next.
 */

enum request {
	REQUEST_POWEROFF,
	REQUEST_REBOOT,
	REQUEST_HALT,
	REQUEST_SUSPEND,
	REQUEST_CRASH,
	REQUEST_S3,
	REQUEST_S4,
	REQUEST_NAMED, /* the ones above can be asked for by name */
	/* The kernel has been asked for one of the first three, and does not tell for which. */
	REQUEST_SHUTDOWN = REQUEST_NAMED,
	REQUEST_NONE,
};

/* The name in xenstore and for hooks; "none". */
const char *request_name(enum request request);
/* REQUEST_NONE for what is none that can be asked for. */
enum request request_parse(const char *name);
/* After it the system is gone. */
bool request_is_final(enum request request);

enum requests_state {
	REQUESTS_IDLE,
	REQUESTS_BEFORE, /* hooks before the action run */
	REQUESTS_ACTING,
	REQUESTS_AFTER, /* hooks after it run */
	REQUESTS_GOING, /* the action of a final request has been done: the system goes */
};

struct requests {
	enum requests_state state;
	enum request current; /* unless idle */
	enum request waiting; /* the next one */
	enum request going;   /* the one that is done, while hooks after a resume run */
	bool done;	      /* the current one's action succeeded */
	bool resumed;	      /* hooks for that wait */
};

/* What becomes of a request that has been taken. */
enum requests_verdict {
	REQUESTS_STARTED,   /* run the hooks before its action */
	REQUESTS_PREEMPTED, /* end what runs, act at once */
	REQUESTS_WAITS,	    /* until the current one is through */
	REQUESTS_SAME,	    /* it is the one under way: nothing more to do */
	REQUESTS_TOO_LATE,  /* the system goes down already */
};

/* What is to be done next. */
enum requests_step {
	REQUESTS_NOTHING,
	REQUESTS_RUN_BEFORE,
	REQUESTS_ACT,
	REQUESTS_RUN_AFTER,
	REQUESTS_RUN_RESUMED, /* hooks after a suspend, whoever did it */
	REQUESTS_SETTLE, /* call requests_settled() when the system should have gone and has not */
};

void requests_init(struct requests *q);

enum requests_verdict requests_take(struct requests *q, enum request request);

/* The step under way has ended; "ok" counts for an action. Hooks have no say in what follows. */
enum requests_step requests_done(struct requests *q, bool ok);

/* The system was asked to go, and is still there: requests are taken again. */
enum requests_step requests_settled(struct requests *q);

/* The domain was suspended and goes on: hooks for that are due, now or when the step under way has
 * ended. Several that wait are one. */
enum requests_step requests_resumed(struct requests *q);

#endif
