/* SPDX-License-Identifier: BSD-2-Clause */
#include "throttle.h"

#define NS_PER_S UINT64_C(1000000000)

void
throttle_set(struct throttle *t, const struct vbd_limits *limits)
{
	/* A debt at the old rate is no debt at the new one. */
	atomic_store(&t->iops_full_ns, 0);
	atomic_store(&t->bytes_full_ns, 0);
	atomic_store(&t->iops, limits->iops);
	atomic_store(&t->bytes_per_s, limits->bytes_per_s);
	atomic_store(&t->burst_ns, (uint64_t)limits->burst_ms * 1000000);
}

/* A bucket is empty when it would be full only after the burst's time. */
static uint64_t
wait_for(uint64_t full_ns, uint64_t burst_ns, uint64_t now_ns)
{
	return full_ns > now_ns + burst_ns ? full_ns - now_ns - burst_ns : 0;
}

bool
throttle_allows(struct throttle *t, uint64_t now_ns, uint64_t *wait_ns)
{
	uint64_t burst = atomic_load(&t->burst_ns), other;

	*wait_ns = 0;
	if (atomic_load(&t->iops) != 0)
		*wait_ns = wait_for(atomic_load(&t->iops_full_ns), burst, now_ns);
	if (atomic_load(&t->bytes_per_s) != 0) {
		other = wait_for(atomic_load(&t->bytes_full_ns), burst, now_ns);
		if (other > *wait_ns)
			*wait_ns = other;
	}
	return *wait_ns == 0;
}

static void
take(_Atomic uint64_t *full_ns, uint64_t rate, uint64_t amount, uint64_t now_ns)
{
	uint64_t old, from;

	if (rate == 0)
		return;
	old = atomic_load(full_ns);
	do {
		from = old > now_ns ? old : now_ns;
	} while (!atomic_compare_exchange_weak(full_ns, &old, from + amount * NS_PER_S / rate));
}

void
throttle_take(struct throttle *t, uint64_t now_ns, uint64_t bytes)
{
	take(&t->iops_full_ns, atomic_load(&t->iops), 1, now_ns);
	take(&t->bytes_full_ns, atomic_load(&t->bytes_per_s), bytes, now_ns);
}
