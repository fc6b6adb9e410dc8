/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/stats.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <event2/buffer.h>

uint64_t
xpv_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void
xpv_histogram_record(struct xpv_histogram *h, uint64_t ns)
{
	uint64_t us = ns / 1000 + (ns % 1000 != 0);
	unsigned bucket = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);

	if (bucket >= XPV_HISTOGRAM_BUCKETS)
		bucket = XPV_HISTOGRAM_BUCKETS - 1;
	xpv_counter_add(&h->bucket[bucket], 1);
	xpv_counter_add(&h->sum_ns, ns);
}

uint64_t
xpv_histogram_percentile(const struct xpv_histogram *h, double percent)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < XPV_HISTOGRAM_BUCKETS; i++)
		total += xpv_counter_get(&h->bucket[i]);
	for (unsigned i = 0; i < XPV_HISTOGRAM_BUCKETS; i++) {
		seen += xpv_counter_get(&h->bucket[i]);
		if (seen > 0 && (double)seen >= (double)total * percent / 100.0)
			return (UINT64_C(1) << i) * 1000;
	}
	return 0;
}

/* Text that must stay on its line. What stands between quotes has its quotes escaped already. */
static void
write_escaped(struct evbuffer *out, const char *text, const char *special)
{
	for (size_t plain; *text != '\0'; text += plain) {
		plain = strcspn(text, special);
		evbuffer_add(out, text, plain);
		if (text[plain] == '\0')
			return;
		if (text[plain] == '\n')
			evbuffer_add(out, "\\n", 2);
		else
			evbuffer_add_printf(out, "\\%c", text[plain]);
		plain++;
	}
}

/* "{a,b}", "{a}" or nothing, with "le" last for a histogram's buckets. */
static void
write_labels(struct evbuffer *out, const char *fixed, const char *set, const char *le)
{
	const char *parts[] = {set, fixed, le};
	const char *separator = "{";

	for (unsigned i = 0; i < 3; i++) {
		if (parts[i] == NULL || parts[i][0] == '\0')
			continue;
		evbuffer_add(out, separator, 1);
		write_escaped(out, parts[i], "\n");
		separator = ",";
	}
	if (separator[0] == ',')
		evbuffer_add(out, "}", 1);
}

static void
write_histogram(struct evbuffer *out, const struct xpv_metric *m, const char *labels,
    const struct xpv_histogram *h)
{
	uint64_t sum, count = 0;
	char le[48];

	for (unsigned i = 0; i < XPV_HISTOGRAM_BUCKETS; i++) {
		count += xpv_counter_get(&h->bucket[i]);
		if (i + 1 < XPV_HISTOGRAM_BUCKETS)
			/* OpenMetrics' canonical numbers are the shortest: 1e-06, 0.001024. */
			snprintf(le, sizeof(le), "le=\"%.8g\"", (double)(UINT64_C(1) << i) / 1e6);
		else
			snprintf(le, sizeof(le), "le=\"+Inf\"");
		evbuffer_add_printf(out, "%s_seconds_bucket", m->name);
		write_labels(out, m->labels, labels, le);
		evbuffer_add_printf(out, " %" PRIu64 "\n", count);
	}
	evbuffer_add_printf(out, "%s_seconds_sum", m->name);
	write_labels(out, m->labels, labels, NULL);
	sum = xpv_counter_get(&h->sum_ns);
	evbuffer_add_printf(
	    out, " %" PRIu64 ".%09" PRIu64 "\n", sum / 1000000000, sum % 1000000000);
	evbuffer_add_printf(out, "%s_seconds_count", m->name);
	write_labels(out, m->labels, labels, NULL);
	evbuffer_add_printf(out, " %" PRIu64 "\n", count);
}

static void
write_sample(struct evbuffer *out, const struct xpv_metric *m, const struct xpv_metric_set *set)
{
	const void *member = (const char *)set->base + m->offset;

	if (m->kind == XPV_HISTOGRAM) {
		write_histogram(out, m, set->labels, member);
		return;
	}
	evbuffer_add_printf(out, "%s%s", m->name, m->kind == XPV_COUNTER ? "_total" : "");
	write_labels(out, m->labels, set->labels, NULL);
	evbuffer_add_printf(out, " %" PRIu64 "\n", xpv_counter_get(member));
}

void
xpv_metrics_write(struct evbuffer *out, const struct xpv_metric *table, size_t rows,
    const struct xpv_metric_set *sets, size_t nsets)
{
	static const char *const types[] = {
	    [XPV_COUNTER] = "counter", [XPV_GAUGE] = "gauge", [XPV_HISTOGRAM] = "histogram"};

	for (size_t row = 0; row < rows; row++) {
		const struct xpv_metric *m = &table[row];
		const char *unit = m->kind == XPV_HISTOGRAM ? "_seconds" : "";

		if (row == 0 || strcmp(table[row - 1].name, m->name) != 0) {
			evbuffer_add_printf(out, "# TYPE %s%s %s\n", m->name, unit, types[m->kind]);
			if (m->kind == XPV_HISTOGRAM)
				evbuffer_add_printf(out, "# UNIT %s_seconds seconds\n", m->name);
			evbuffer_add_printf(out, "# HELP %s%s ", m->name, unit);
			write_escaped(out, m->help, "\n\\\"");
			evbuffer_add(out, ".\n", 2);
		}
		for (size_t set = 0; set < nsets; set++)
			write_sample(out, m, &sets[set]);
	}
}

void
xpv_metrics_write_devices(struct evbuffer *out, const struct xpv_metric *table, size_t rows,
    size_t size, const struct xpv_metric_device *devices, size_t ndevices)
{
	struct xpv_metric_set *sets;
	char(*labels)[64];
	size_t count = 0, n = 0;

	for (size_t d = 0; d < ndevices; d++)
		count += devices[d].count;
	sets = calloc(count + 1, sizeof(*sets));
	labels = calloc(count + 1, sizeof(*labels));
	for (size_t d = 0; sets != NULL && labels != NULL && d < ndevices; d++) {
		for (unsigned i = 0; i < devices[d].count; i++, n++) {
			snprintf(labels[n], sizeof(labels[n]), "device=\"%s\",queue=\"%u\"",
			    devices[d].name, i);
			sets[n].base = (const char *)devices[d].queues + i * size;
			sets[n].labels = labels[n];
		}
	}
	xpv_metrics_write(out, table, rows, sets, n);
	evbuffer_add_printf(out, "# EOF\n");
	free(labels);
	free(sets);
}
