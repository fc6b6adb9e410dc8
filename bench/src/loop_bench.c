/* SPDX-License-Identifier: BSD-2-Clause */

/*
 * Measures event channels and a shared ring, and beside them the same with bare eventfds and bare
 * shared memory, in turn. Runs in a session of xenloop(1), as one domain that talks to itself; on a
 * real Xen it would run as well.
 *
 *   loop_bench RUNS MILLISECONDS
 *
 * Prints lines for bench/report.py.
 */

#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>
#include <xen/xen.h>
#include <xen/io/ring.h>

/* What the ring's macros expect; its pairs are the peer's. */
#define xen_mb()  __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)

#define DEPTH 32

struct echo_request {
	uint64_t id;
	uint64_t words[13];
};

struct echo_response {
	uint64_t id;
	uint64_t result;
};

DEFINE_RING_TYPES(echo, struct echo_request, struct echo_response);

/* One side of a way to wake the other: an event channel, or two eventfds. */
struct bell {
	xenevtchn_handle *xce;
	evtchn_port_t port;
	int in, out;
};

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void
ring_bell(const struct bell *b)
{
	uint64_t one = 1;

	if (b->xce != NULL) {
		if (xenevtchn_notify(b->xce, b->port) != 0)
			err(EX_OSERR, "notify");
	} else if (write(b->out, &one, sizeof(one)) != sizeof(one)) {
		err(EX_OSERR, "eventfd");
	}
}

/* Both are waited for as a program with a loop of events would. */
static void
wait_bell(const struct bell *b)
{
	struct pollfd fd = {.fd = b->xce != NULL ? xenevtchn_fd(b->xce) : b->in, .events = POLLIN};
	uint64_t count;

	if (poll(&fd, 1, 5000) != 1)
		errx(EX_SOFTWARE, "no event within five seconds");
	if (b->xce == NULL) {
		if (read(b->in, &count, sizeof(count)) != sizeof(count))
			err(EX_OSERR, "eventfd");
	} else {
		xenevtchn_port_or_error_t port = xenevtchn_pending(b->xce);

		if (port < 0 || xenevtchn_unmask(b->xce, (evtchn_port_t)port) != 0)
			err(EX_OSERR, "event channel");
	}
}

/* --- the far side, in a process of its own --- */

static void
bounce(const struct bell *b)
{
	for (;;) {
		wait_bell(b);
		ring_bell(b);
	}
}

static void
echo(const struct bell *b, void *page)
{
	echo_back_ring_t ring;
	int more, notify;

	BACK_RING_INIT(&ring, (echo_sring_t *)page, 4096);
	for (;;) {
		wait_bell(b);
		do {
			RING_IDX end = ring.sring->req_prod;

			xen_rmb();
			while (ring.req_cons != end) {
				struct echo_request request =
				    *RING_GET_REQUEST(&ring, ring.req_cons++);
				struct echo_response *response =
				    RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt++);

				response->id = request.id;
				response->result = request.words[0];
			}
			RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
			if (notify)
				ring_bell(b);
			RING_FINAL_CHECK_FOR_REQUESTS(&ring, more);
		} while (more);
	}
}

struct far {
	pid_t pid;
	struct bell bell; /* ours */
	void *page;	  /* NULL: it bounces */
};

static struct bell
open_channel(void)
{
	struct bell b = {.xce = xenevtchn_open(NULL, 0)};

	if (b.xce == NULL)
		err(EX_UNAVAILABLE, "event channels: run this in a session: xenloop session");
	return b;
}

static struct far
start(bool bare, void *page, uint32_t gref)
{
	struct far far = {.page = page};
	int fds[2] = {-1, -1}, told[2];
	evtchn_port_t port = 0;

	if (pipe(told) != 0)
		err(EX_OSERR, "pipe");
	if (bare) {
		for (int i = 0; i < 2; i++)
			fds[i] = eventfd(0, 0);
		far.bell = (struct bell){.in = fds[0], .out = fds[1]};
	} else {
		far.bell = open_channel();
		far.bell.port = port = (evtchn_port_t)xenevtchn_bind_unbound_port(far.bell.xce, 0);
	}
	far.pid = fork();
	if (far.pid == 0) {
		struct bell b = {.in = fds[1], .out = fds[0]};

		if (!bare) {
			b = open_channel();
			b.port = (evtchn_port_t)xenevtchn_bind_interdomain(b.xce, 0, port);
			xenevtchn_pending(b.xce); /* the one that binding raises */
			xenevtchn_unmask(b.xce, b.port);
			if (page != NULL)
				page = xengnttab_map_grant_ref(
				    xengnttab_open(NULL, 0), 0, gref, PROT_READ | PROT_WRITE);
		}
		(void)!write(told[1], "", 1);
		if (page != NULL)
			echo(&b, page);
		bounce(&b);
	}
	if (far.pid < 0 || read(told[0], &(char){0}, 1) != 1)
		errx(EX_OSERR, "the other process did not start");
	close(told[0]);
	close(told[1]);
	return far;
}

static void
stop(const struct far *far)
{
	kill(far->pid, SIGKILL);
	waitpid(far->pid, NULL, 0);
	if (far->bell.xce != NULL) {
		xenevtchn_close(far->bell.xce);
	} else {
		close(far->bell.in);
		close(far->bell.out);
	}
}

/* --- measurements --- */

static double
rtt_us(bool bare, uint64_t duration_ns)
{
	struct far far = start(bare, NULL, 0);
	uint64_t begin = now_ns(), rounds = 0;

	do {
		for (unsigned i = 0; i < 64; i++) {
			ring_bell(&far.bell);
			wait_bell(&far.bell);
		}
		rounds += 64;
	} while (now_ns() - begin < duration_ns);
	stop(&far);
	return (double)(now_ns() - begin) / 1000 / (double)rounds;
}

static uint64_t
exchange(const struct far *far, uint64_t duration_ns)
{
	echo_front_ring_t ring;
	uint64_t begin = now_ns(), answered = 0, asked = 0;
	int notify, more;

	FRONT_RING_INIT(&ring, (echo_sring_t *)far->page, 4096);
	while (now_ns() - begin < duration_ns) {
		while (asked - answered < DEPTH && !RING_FULL(&ring)) {
			struct echo_request *request = RING_GET_REQUEST(&ring, ring.req_prod_pvt++);

			request->id = request->words[0] = asked++;
		}
		RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);
		if (notify)
			ring_bell(&far->bell);
		do {
			while (ring.rsp_cons != ring.sring->rsp_prod) {
				xen_rmb();
				if (RING_GET_RESPONSE(&ring, ring.rsp_cons++)->result >= asked)
					errx(EX_SOFTWARE, "a wrong answer");
				answered++;
			}
			RING_FINAL_CHECK_FOR_RESPONSES(&ring, more);
		} while (more);
		if (asked - answered == DEPTH)
			wait_bell(&far->bell);
	}
	return answered;
}

static double
requests_per_second(bool bare, uint64_t duration_ns)
{
	xengntshr_handle *xgs = bare ? NULL : xengntshr_open(NULL, 0);
	uint32_t gref = 0;
	void *page =
	    bare ? mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
		 : xengntshr_share_pages(xgs, 0, 1, &gref, 1);
	struct far far;
	uint64_t answered;

	if (page == NULL || page == MAP_FAILED)
		err(EX_OSERR, "a page");
	SHARED_RING_INIT((echo_sring_t *)page);
	far = start(bare, page, gref);
	answered = exchange(&far, duration_ns);
	stop(&far);
	if (bare) {
		munmap(page, 4096);
	} else {
		xengntshr_unshare(xgs, page, 1);
		xengntshr_close(xgs);
	}
	return (double)answered * 1e9 / (double)duration_ns;
}

int
main(int argc, char *argv[])
{
	int runs = argc > 1 ? atoi(argv[1]) : 5;
	uint64_t duration = (argc > 2 ? strtoull(argv[2], NULL, 10) : 500) * 1000000;

	for (int run = 1; run <= runs; run++) {
		printf(
		    "sample %d eventfd evtchn time %.3f us/round\n", run, rtt_us(true, duration));
		printf("sample %d rtt evtchn time %.3f us/round\n", run, rtt_us(false, duration));
		printf("sample %d memory ring requests %.0f per_second\n", run,
		    requests_per_second(true, duration));
		printf("sample %d xenloop ring requests %.0f per_second\n", run,
		    requests_per_second(false, duration));
		fflush(stdout);
	}
	return EX_OK;
}
