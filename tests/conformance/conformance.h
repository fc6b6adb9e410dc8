/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONFORMANCE_H
#define CONFORMANCE_H

/*
 * What the programs of this folder share. Each runs as two processes in two domains,
 *
 *     conform-NAME a PEER [RUN]	conform-NAME b PEER [RUN]
 *
 * one of them in domain 0, the other in a guest; PEER is the other's number, RUN tells this run's
 * nodes in xenstore from those of earlier ones. The output is TAP, and the names of the tests are
 * the same on Xen and on xenloop(1).
 *
 * All that waits has a time limit, and the process has one: nothing hangs.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <xenevtchn.h>
#include <xenstore.h>

#define PAGE	 4096u
#define NOBODY	 9999u /* a domain that does not exist */
#define LIMIT_S	 60
#define SOON_MS	 5000 /* what shall happen, happens by then */
#define QUIET_MS 200  /* what shall not happen would have by then */

/* role(): what this process does, with 'a' or 'b'. The value is main's. */
int conform(int argc, char *argv[], void (*role)(char role));

extern uint32_t self, peer;
extern struct xs_handle *store;
extern bool on_xenloop;
extern bool peer_has_gone; /* nobody to wait for at the end */

/* --- results; all of them return whether the test passed --- */

#define PRINTF(f) __attribute__((format(printf, (f), (f) + 1)))

bool ok(bool passed, const char *name, ...) PRINTF(2);
bool is(int64_t got, int64_t wanted, const char *name, ...) PRINTF(3);
/* The call has returned -1 and set errno. */
bool fails(int64_t result, int error, const char *name, ...) PRINTF(3);
/* The same for calls that return NULL. */
bool fails_null(const void *result, int error, const char *name, ...) PRINTF(3);

/* A difference that is known and stays: which of the values is this system's. */
int64_t differs(const char *what, int64_t xen, int64_t loop);

void bail(const char *why, ...) PRINTF(1) __attribute__((noreturn));

/* --- the other process --- */

/* A number for the peer, and one from it; a key is used once. */
void tell(const char *key, uint32_t value);
uint32_t hear(const char *key);
/* Both are here. */
void meet(const char *key);

/* Where the nodes are; the guest owns them. */
const char *sync_dir(void);

/* --- events --- */

bool readable(int fd, int ms);
void nonblocking(int fd);
/* The port of the next event; -1: none within that time. */
int64_t next_event(xenevtchn_handle *xce, int ms);
/* A bound port: what its binding left pending is taken, and it is unmasked. */
void settle(xenevtchn_handle *xce);

/* --- a child to be killed --- */

struct child {
	pid_t pid;
	int in, out;
};

/* It says a number, or more, and then waits for its end. */
struct child child_start(void (*run)(void *arg), void *arg);
void child_says(uint32_t value);
uint32_t child_hear(const struct child *c);
/* A number for the child, which takes it with child_waits(). */
void child_tell(const struct child *c, uint32_t value);
uint32_t child_waits(void);
void child_kill(const struct child *c);
/* Its status if it ended by itself: the exit status, or -signal. */
int child_status(const struct child *c);

/* Would this access end the process? */
bool faults(volatile uint8_t *byte, bool write);

/* Until *byte is this, or SOON_MS. */
bool becomes(volatile uint8_t *byte, uint8_t wanted);

#endif
