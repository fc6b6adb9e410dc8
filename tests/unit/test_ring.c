/* SPDX-License-Identifier: BSD-2-Clause */
/* A front and a back ring over the same memory; the indices start just before they wrap. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "xenpv/ring.h"

#include <xen/io/blkif.h>

#define PAGE 4096u

struct scene {
	blkif_sring_t *shared;
	blkif_front_ring_t front;
	blkif_back_ring_t back;
	RING_IDX pending;
	uint64_t sent, served, answered; /* ids in the order of each step */
};

static void
make(struct scene *s, unsigned pages, RING_IDX start)
{
	memset(s, 0, sizeof(*s));
	s->shared = aligned_alloc(PAGE, pages * PAGE);
	memset(s->shared, 0xff, pages * PAGE);
	SHARED_RING_INIT(s->shared);
	s->shared->req_prod = s->shared->rsp_prod = start;
	s->shared->req_event = s->shared->rsp_event = start + 1;
	FRONT_RING_ATTACH(&s->front, s->shared, start, pages * PAGE);
	BACK_RING_ATTACH(&s->back, s->shared, start, pages * PAGE);
}

static bool
send(struct scene *s, unsigned count)
{
	int notify;

	for (unsigned i = 0; i < count; i++) {
		blkif_request_t *request = RING_GET_REQUEST(&s->front, s->front.req_prod_pvt);

		assert_false(RING_FULL(&s->front));
		memset(request, 0, sizeof(*request));
		request->id = s->sent++;
		s->front.req_prod_pvt++;
	}
	RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&s->front, notify);
	return notify;
}

static void
serve(struct scene *s, unsigned count)
{
	int notify;

	assert_true(xpv_ring_requests(&s->back, &s->pending));
	assert_true(s->pending >= count);
	for (unsigned i = 0; i < count; i++) {
		blkif_request_t request;
		blkif_response_t *response;

		xpv_ring_copy_request(&s->back, s->back.req_cons, &request);
		s->back.req_cons++;
		assert_int_equal(request.id, s->served++);
		response = RING_GET_RESPONSE(&s->back, s->back.rsp_prod_pvt);
		response->id = request.id;
		response->status = BLKIF_RSP_OKAY;
		s->back.rsp_prod_pvt++;
	}
	RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&s->back, notify);
	(void)notify;
}

static void
collect(struct scene *s, unsigned count)
{
	assert_true(xpv_ring_responses(&s->front, &s->pending));
	assert_int_equal(s->pending, count);
	while (s->pending-- > 0) {
		blkif_response_t response;

		xpv_ring_copy_response(&s->front, s->front.rsp_cons, &response);
		s->front.rsp_cons++;
		assert_int_equal(response.id, s->answered++);
	}
}

static void
sizes(void **state)
{
	struct scene s;

	make(&s, 1, 0);
	assert_int_equal(RING_SIZE(&s.front), 32);
	assert_int_equal(RING_SIZE(&s.back), 32);
	free(s.shared);
	make(&s, 16, 0);
	assert_int_equal(RING_SIZE(&s.front), 512);
	free(s.shared);
}

static void
run_over_the_wrap(unsigned pages)
{
	struct scene s;
	unsigned size;

	make(&s, pages, UINT32_MAX - 100);
	size = RING_SIZE(&s.front);
	for (unsigned i = 0; i < 4 * size; i++) {
		unsigned count = 1 + i % size;

		send(&s, count);
		serve(&s, count);
		collect(&s, count);
	}
	assert_true(s.front.rsp_cons < UINT32_MAX - 100);
	free(s.shared);
}

static void
indices_wrap(void **state)
{
	run_over_the_wrap(1);
	run_over_the_wrap(16);
}

static void
a_full_ring(void **state)
{
	struct scene s;

	make(&s, 1, UINT32_MAX - 15);
	send(&s, 32);
	assert_true(RING_FULL(&s.front));
	assert_true(xpv_ring_requests(&s.back, &s.pending));
	assert_int_equal(s.pending, 32);
	serve(&s, 32);
	collect(&s, 32);
	assert_int_equal(RING_FREE_REQUESTS(&s.front), 32);
	free(s.shared);
}

/* The backend claims "excess" more answers than there were requests. */
static void
claim_responses(RING_IDX start, RING_IDX excess)
{
	struct scene s;

	make(&s, 1, start);
	assert_true(xpv_ring_responses(&s.front, &s.pending));
	assert_int_equal(s.pending, 0);
	s.shared->rsp_prod = start + excess; /* nothing was asked */
	assert_false(xpv_ring_responses(&s.front, &s.pending));

	s.shared->rsp_prod = start;
	send(&s, 5);
	serve(&s, 2);
	collect(&s, 2);
	s.shared->rsp_prod = start + 5;
	assert_true(xpv_ring_responses(&s.front, &s.pending));
	assert_int_equal(s.pending, 3);
	s.shared->rsp_prod = start + 5 + excess;
	assert_false(xpv_ring_responses(&s.front, &s.pending));
	s.shared->rsp_prod = start + 1; /* backwards */
	assert_false(xpv_ring_responses(&s.front, &s.pending));
	free(s.shared);
}

static void
too_many_responses(void **state)
{
	static const RING_IDX starts[] = {0, 1, UINT32_MAX - 2, UINT32_MAX, UINT32_C(1) << 31};

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		claim_responses(starts[i], 1);
		claim_responses(starts[i], 28); /* a ring's worth minus what is open */
		claim_responses(starts[i], UINT32_C(1) << 31);
		claim_responses(starts[i], UINT32_MAX - 5);
	}
}

static void
too_many_requests(void **state)
{
	struct scene s;

	make(&s, 1, UINT32_MAX - 2);
	s.shared->req_prod = UINT32_MAX - 2 + 32;
	assert_true(xpv_ring_requests(&s.back, &s.pending));
	assert_int_equal(s.pending, 32);
	s.shared->req_prod = UINT32_MAX - 2 + 33;
	assert_false(xpv_ring_requests(&s.back, &s.pending));
	s.shared->req_prod = UINT32_MAX - 2 + (UINT32_C(1) << 31);
	assert_false(xpv_ring_requests(&s.back, &s.pending));
	s.shared->req_prod = UINT32_MAX - 3;
	assert_false(xpv_ring_requests(&s.back, &s.pending));

	/* Taken but not answered ones still take their slots. */
	s.shared->req_prod = UINT32_MAX - 2;
	send(&s, 10);
	assert_true(xpv_ring_requests(&s.back, &s.pending));
	s.back.req_cons += 10;
	s.shared->req_prod = UINT32_MAX - 2 + 32;
	assert_true(xpv_ring_requests(&s.back, &s.pending));
	assert_int_equal(s.pending, 22);
	s.shared->req_prod++;
	assert_false(xpv_ring_requests(&s.back, &s.pending));
	free(s.shared);
}

static void
a_copy_does_not_change(void **state)
{
	blkif_response_t response;
	blkif_request_t request;
	struct scene s;

	make(&s, 1, 0);
	send(&s, 1);
	RING_GET_REQUEST(&s.front, 0)->nr_segments = 3;
	xpv_ring_copy_request(&s.back, 0, &request);
	RING_GET_REQUEST(&s.front, 0)->nr_segments = 255; /* the peer changes its mind */
	assert_int_equal(request.nr_segments, 3);
	RING_GET_RESPONSE(&s.back, 0)->id = 7;
	xpv_ring_copy_response(&s.front, 32, &response); /* the same slot, a lap later */
	RING_GET_RESPONSE(&s.back, 0)->id = 8;
	assert_int_equal(response.id, 7);
	free(s.shared);
}

static void
the_index_is_read_once(void **state)
{
	struct scene s;
	RING_IDX limit = 5, produced = 3;

	/* What was checked is what is returned, whatever the peer writes after. */
	assert_true(xpv_ring_claimed(&produced, 0, limit, &s.pending));
	produced = 100;
	assert_int_equal(s.pending, 3);
	assert_false(xpv_ring_claimed(&produced, 0, limit, &s.pending));
}

static void
events_only_when_asked_for(void **state)
{
	struct scene s;
	int more;

	make(&s, 1, UINT32_MAX);
	assert_true(send(&s, 1));  /* the other side sleeps */
	assert_false(send(&s, 1)); /* it was woken and has not gone to sleep again */
	serve(&s, 2);
	RING_FINAL_CHECK_FOR_REQUESTS(&s.back, more);
	assert_int_equal(more, 0);
	assert_true(send(&s, 3));

	/* Something came between the last look and the sleep: it is found, or there is an event. */
	RING_FINAL_CHECK_FOR_REQUESTS(&s.back, more);
	assert_int_not_equal(more, 0);
	serve(&s, 3);
	collect(&s, 5);
	RING_FINAL_CHECK_FOR_RESPONSES(&s.front, more);
	assert_int_equal(more, 0);
	assert_int_equal(s.shared->rsp_event, s.front.rsp_cons + 1);
	RING_FINAL_CHECK_FOR_REQUESTS(&s.back, more);
	assert_int_equal(more, 0);
	assert_true(send(&s, 1));
	serve(&s, 1);
	RING_FINAL_CHECK_FOR_RESPONSES(&s.front, more);
	assert_int_not_equal(more, 0);
	free(s.shared);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes),
	    cmocka_unit_test(indices_wrap),
	    cmocka_unit_test(a_full_ring),
	    cmocka_unit_test(too_many_responses),
	    cmocka_unit_test(too_many_requests),
	    cmocka_unit_test(a_copy_does_not_change),
	    cmocka_unit_test(the_index_is_read_once),
	    cmocka_unit_test(events_only_when_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
