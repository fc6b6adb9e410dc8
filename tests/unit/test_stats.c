/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <event2/buffer.h>
#include <xenpv/stats.h>

struct sample {
	xpv_counter reads, writes, depth;
	struct xpv_histogram latency;
};

static const struct xpv_metric table[] = {
    {"t_requests", XPV_COUNTER, "Requests", "op=\"read\"", offsetof(struct sample, reads)},
    {"t_requests", XPV_COUNTER, "Requests", "op=\"write\"", offsetof(struct sample, writes)},
    {"t_depth", XPV_GAUGE, "Depth", NULL, offsetof(struct sample, depth)},
    {"t_latency", XPV_HISTOGRAM, "Latency", NULL, offsetof(struct sample, latency)},
};

static char *
text_of(const struct xpv_metric_set *sets, size_t n)
{
	struct evbuffer *out = evbuffer_new();
	char *text;
	size_t size;

	xpv_metrics_write(out, table, sizeof(table) / sizeof(table[0]), sets, n);
	size = evbuffer_get_length(out);
	text = calloc(1, size + 1);
	evbuffer_remove(out, text, size);
	evbuffer_free(out);
	return text;
}

static unsigned
occurrences(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)) != NULL; text++)
		n++;
	return n;
}

static void
histogram_buckets(void **state)
{
	struct xpv_histogram h = {0};

	xpv_histogram_record(&h, 0);
	xpv_histogram_record(&h, 1000);	   /* 1 us: the first bucket's bound */
	xpv_histogram_record(&h, 1001);	   /* beyond it */
	xpv_histogram_record(&h, 1024000); /* 2^10 us exactly */
	xpv_histogram_record(&h, UINT64_MAX / 2);
	assert_int_equal(xpv_counter_get(&h.bucket[0]), 2);
	assert_int_equal(xpv_counter_get(&h.bucket[1]), 1);
	assert_int_equal(xpv_counter_get(&h.bucket[10]), 1);
	assert_int_equal(xpv_counter_get(&h.bucket[XPV_HISTOGRAM_BUCKETS - 1]), 1);
}

static void
percentiles(void **state)
{
	struct xpv_histogram h = {0};

	assert_int_equal(xpv_histogram_percentile(&h, 50), 0);
	for (int i = 0; i < 99; i++)
		xpv_histogram_record(&h, 3000);
	xpv_histogram_record(&h, 900000);
	assert_int_equal(xpv_histogram_percentile(&h, 50), 4000);
	assert_int_equal(xpv_histogram_percentile(&h, 99), 4000);
	assert_int_equal(xpv_histogram_percentile(&h, 100), 1024000);
}

static void
metrics_text(void **state)
{
	static struct sample a, b;
	const struct xpv_metric_set sets[] = {
	    {&a, "device=\"xvda\",queue=\"0\""}, {&b, "device=\"xvdb\",queue=\"0\""}};
	char *text;

	xpv_counter_add(&a.reads, 7);
	xpv_counter_set(&b.depth, 5);
	xpv_histogram_record(&a.latency, 1500000000);
	text = text_of(sets, 2);
	assert_int_equal(occurrences(text, "# TYPE t_requests counter\n"), 1);
	assert_non_null(
	    strstr(text, "t_requests_total{device=\"xvda\",queue=\"0\",op=\"read\"} 7\n"));
	assert_non_null(
	    strstr(text, "t_requests_total{device=\"xvdb\",queue=\"0\",op=\"write\"} 0\n"));
	assert_non_null(strstr(text, "t_depth{device=\"xvdb\",queue=\"0\"} 5\n"));
	assert_non_null(strstr(text, "# UNIT t_latency_seconds seconds\n"));
	assert_non_null(
	    strstr(text, "t_latency_seconds_bucket{device=\"xvda\",queue=\"0\",le=\"+Inf\"} 1\n"));
	assert_non_null(
	    strstr(text, "t_latency_seconds_sum{device=\"xvda\",queue=\"0\"} 1.500000000\n"));
	assert_null(strstr(text, "# EOF"));
	free(text);
}

/* Each line of "text" that starts with "start", the n-th of them; its end is cut off in "line". */
static bool
nth_line(const char *text, const char *start, unsigned n, char *line, size_t size)
{
	for (; *text != '\0'; text += strcspn(text, "\n") + 1) {
		if (strncmp(text, start, strlen(start)) == 0 && n-- == 0) {
			snprintf(line, size, "%.*s", (int)strcspn(text, "\n"), text);
			return true;
		}
	}
	return false;
}

static void
buckets_are_cumulative(void **state)
{
	static const char *const bounds[] = {"1e-06", "2e-06", "4e-06", "8e-06", "1.6e-05",
	    "3.2e-05", "6.4e-05", "0.000128", "0.000256", "0.000512", "0.001024"};
	static struct sample a;
	const struct xpv_metric_set set = {&a, NULL};
	char line[256], expected[256], *text;

	xpv_histogram_record(&a.latency, 900);
	xpv_histogram_record(&a.latency, 1900);
	xpv_histogram_record(&a.latency, 1900);
	xpv_histogram_record(&a.latency, 1000000);
	xpv_histogram_record(&a.latency, UINT64_C(200000000000));
	text = text_of(&set, 1);
	for (unsigned i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
		snprintf(expected, sizeof(expected), "t_latency_seconds_bucket{le=\"%s\"} %u",
		    bounds[i],
		    i == 0    ? 1
		    : i == 10 ? 4
			      : 3);
		assert_true(nth_line(text, "t_latency_seconds_bucket", i, line, sizeof(line)));
		assert_string_equal(line, expected);
	}
	assert_true(nth_line(text, "t_latency_seconds_bucket", 26, line, sizeof(line)));
	assert_string_equal(line, "t_latency_seconds_bucket{le=\"67.108864\"} 4");
	assert_true(nth_line(text, "t_latency_seconds_bucket", 27, line, sizeof(line)));
	assert_string_equal(line, "t_latency_seconds_bucket{le=\"+Inf\"} 5");
	assert_false(nth_line(text, "t_latency_seconds_bucket", 28, line, sizeof(line)));
	assert_non_null(strstr(text, "\nt_latency_seconds_count 5\n"));
	assert_non_null(strstr(text, "\nt_latency_seconds_sum 200.001004700\n"));
	free(text);
}

/* The sum has all its digits: a double would lose the last. */
static void
sum_is_exact(void **state)
{
	static struct sample a;
	const struct xpv_metric_set set = {&a, NULL};
	char *text;

	xpv_counter_set(&a.latency.sum_ns, UINT64_C(1234567890123456789));
	text = text_of(&set, 1);
	assert_non_null(strstr(text, "\nt_latency_seconds_sum 1234567890.123456789\n"));
	free(text);
}

/* TYPE, UNIT and HELP stand before a family's samples, which nothing interrupts. */
static void
families_are_whole(void **state)
{
	static struct sample a, b;
	const struct xpv_metric_set sets[] = {{&a, "q=\"0\""}, {&b, "q=\"1\""}};
	static const char expected[] = "# TYPE t_requests counter\n"
				       "# HELP t_requests Requests.\n"
				       "t_requests_total{q=\"0\",op=\"read\"} 0\n"
				       "t_requests_total{q=\"1\",op=\"read\"} 0\n"
				       "t_requests_total{q=\"0\",op=\"write\"} 0\n"
				       "t_requests_total{q=\"1\",op=\"write\"} 0\n"
				       "# TYPE t_depth gauge\n"
				       "# HELP t_depth Depth.\n"
				       "t_depth{q=\"0\"} 0\n"
				       "t_depth{q=\"1\"} 0\n"
				       "# TYPE t_latency_seconds histogram\n"
				       "# UNIT t_latency_seconds seconds\n"
				       "# HELP t_latency_seconds Latency.\n"
				       "t_latency_seconds_bucket{q=\"0\",le=\"1e-06\"} 0\n";
	char *text = text_of(sets, 2);

	assert_memory_equal(text, expected, sizeof(expected) - 1);
	free(text);
}

static void
special_characters_are_escaped(void **state)
{
	static const struct xpv_metric odd[] = {
	    {"t_odd", XPV_GAUGE, "a\nb\\c\"d", NULL, offsetof(struct sample, depth)}};
	static struct sample a;
	const struct xpv_metric_set set = {&a, "name=\"x\ny\\\"z\""};
	struct evbuffer *out = evbuffer_new();
	static const char expected[] = "# TYPE t_odd gauge\n"
				       "# HELP t_odd a\\nb\\\\c\\\"d.\n"
				       "t_odd{name=\"x\\ny\\\"z\"} 0\n";

	xpv_metrics_write(out, odd, 1, &set, 1);
	assert_int_equal(evbuffer_get_length(out), sizeof(expected) - 1);
	assert_memory_equal(evbuffer_pullup(out, -1), expected, sizeof(expected) - 1);
	evbuffer_free(out);
}

static void
no_sets_no_samples(void **state)
{
	char *text = text_of(NULL, 0);

	assert_int_equal(occurrences(text, "# TYPE"), 3);
	assert_int_equal(occurrences(text, "_total"), 0);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(histogram_buckets),
	    cmocka_unit_test(percentiles),
	    cmocka_unit_test(metrics_text),
	    cmocka_unit_test(buckets_are_cumulative),
	    cmocka_unit_test(sum_is_exact),
	    cmocka_unit_test(families_are_whole),
	    cmocka_unit_test(special_characters_are_escaped),
	    cmocka_unit_test(no_sets_no_samples),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
