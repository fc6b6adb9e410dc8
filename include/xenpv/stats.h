/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_STATS_H
#define XENPV_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct evbuffer;

/*
 * Counters and latency histograms that one thread writes and any other thread or process reads.
 * They live in memory shared with the supervisor (xenpv/shared.h), so they outlive a worker.
 * Writers use relaxed stores, no locked instruction; readers may see one value older than another.
 *
 * A driver declares a struct of xpv_counter and xpv_histogram members, one instance per queue, and
 * a table of xpv_metric that names them.
 */

typedef _Atomic uint64_t xpv_counter;

static inline void
xpv_counter_add(xpv_counter *c, uint64_t n)
{
	/* One writer: a relaxed load and store is enough and costs no bus lock. */
	atomic_store_explicit(
	    c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline void
xpv_counter_set(xpv_counter *c, uint64_t value)
{
	atomic_store_explicit(c, value, memory_order_relaxed);
}

static inline uint64_t
xpv_counter_get(const xpv_counter *c)
{
	return atomic_load_explicit((xpv_counter *)(uintptr_t)c, memory_order_relaxed);
}

/* Bucket i counts values up to and including 2^i microseconds; the last one all larger values. */
#define XPV_HISTOGRAM_BUCKETS 28

struct xpv_histogram {
	xpv_counter bucket[XPV_HISTOGRAM_BUCKETS];
	xpv_counter sum_ns;
};

void xpv_histogram_record(struct xpv_histogram *h, uint64_t ns);

/* The value in nanoseconds below which "percent" of the records lie (upper bound of its bucket; for
 * the last, which has none, 2^27 us); 0 when nothing was recorded. */
uint64_t xpv_histogram_percentile(const struct xpv_histogram *h, double percent);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t xpv_now_ns(void);

enum xpv_metric_kind { XPV_COUNTER, XPV_GAUGE, XPV_HISTOGRAM };

struct xpv_metric {
	const char *name; /* "xenpv_blkfront_requests": OpenMetrics name without unit or _total */
	enum xpv_metric_kind kind;
	const char *help;
	const char *labels; /* fixed labels such as op="read", or NULL */
	size_t offset;	    /* of the member in the driver's struct */
};

/* One instance of the driver's struct and the labels that tell it from the others, or NULL. In the
 * values of labels, here and in xpv_metric, \ and " come escaped. */
struct xpv_metric_set {
	const void *base;
	const char *labels; /* device="vbd-51712",queue="0" */
};

/*
 * Appends OpenMetrics text for all sets: TYPE, UNIT and HELP (with a full stop) once per name, then
 * one sample per set. Consecutive table rows with the same name form one metric family. Does not
 * append "# EOF".
 */
void xpv_metrics_write(struct evbuffer *out, const struct xpv_metric *table, size_t rows,
    const struct xpv_metric_set *sets, size_t nsets);

/* A device with an array of the driver's struct, one per queue. */
struct xpv_metric_device {
	const char *name; /* as a label's value */
	const void *queues;
	unsigned count;
};

/* The whole page of a daemon of such devices, with labels device="..." and queue="..." and "# EOF".
 * "size" is that of the driver's struct. */
void xpv_metrics_write_devices(struct evbuffer *out, const struct xpv_metric *table, size_t rows,
    size_t size, const struct xpv_metric_device *devices, size_t ndevices);

#endif
