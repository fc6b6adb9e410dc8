/* SPDX-License-Identifier: BSD-2-Clause */
#include "status.h"

#include <stdlib.h>

#include <event2/buffer.h>
#include <jansson.h>

#include "balloon.h"
#include "settings.h"

static const char *const policies[] = {
    [POLICY_MANUAL] = "manual",
    [POLICY_AUTO] = "auto",
    [POLICY_STATIC] = "static",
};

void
status_write_json(struct evbuffer *out, void *arg)
{
	const struct balloon *b = arg;
	const struct policy_config *c = &b->settings->policy;
	json_t *json = json_pack(
	    "[{s:s, s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}]", "name",
	    "memory", "policy", policies[c->kind], "mechanism", b->mechanism->name, "pressure",
	    pressure_works(b->pressure), "dry_run", b->settings->dry_run, "boot_kib",
	    (json_int_t)b->boot, "host_kib", (json_int_t)host_target(b->host), "granted_kib",
	    (json_int_t)b->granted, "target_kib", (json_int_t)b->policy.target, "current_kib",
	    (json_int_t)b->current, "available_kib", (json_int_t)b->meminfo.available, "floor_kib",
	    (json_int_t)policy_floor(c, b->boot), "reserve_kib",
	    (json_int_t)policy_reserve(c, b->boot), "reason", policy_reason_name(b->policy.reason));
	char *text = json_dumps(json, JSON_INDENT(2));

	json_decref(json);
	if (text != NULL)
		evbuffer_add_printf(out, "%s\n", text);
	free(text);
}

static const struct xpv_metric metrics[] = {
    {"xenpv_balloon_target_bytes", XPV_GAUGE, "Memory the guest is to have", NULL,
	offsetof(struct balloon_stats, target_bytes)},
    {"xenpv_balloon_current_bytes", XPV_GAUGE, "Memory the guest has", NULL,
	offsetof(struct balloon_stats, current_bytes)},
    {"xenpv_balloon_available_bytes", XPV_GAUGE, "Of it, what is available to programs", NULL,
	offsetof(struct balloon_stats, available_bytes)},
    {"xenpv_balloon_granted_bytes", XPV_GAUGE, "What the host grants", NULL,
	offsetof(struct balloon_stats, granted_bytes)},
    {"xenpv_balloon_targets", XPV_COUNTER, "Targets set", "direction=\"up\"",
	offsetof(struct balloon_stats, up)},
    {"xenpv_balloon_targets", XPV_COUNTER, "Targets set", "direction=\"down\"",
	offsetof(struct balloon_stats, down)},
    {"xenpv_balloon_failures", XPV_COUNTER, "Targets refused by the mechanism", NULL,
	offsetof(struct balloon_stats, failures)},
    {"xenpv_balloon_overridden", XPV_COUNTER, "Targets replaced by another writer", NULL,
	offsetof(struct balloon_stats, overridden)},
    {"xenpv_balloon_pressure", XPV_COUNTER, "Times the kernel told of pressure", NULL,
	offsetof(struct balloon_stats, pressure)},
    {"xenpv_balloon_refaulting", XPV_COUNTER, "Times there were too many refaults", NULL,
	offsetof(struct balloon_stats, refaulting)},
    {"xenpv_balloon_pressure_microseconds", XPV_COUNTER, "Time that tasks waited for memory", NULL,
	offsetof(struct balloon_stats, pressure_us)},
    {"xenpv_balloon_host_targets", XPV_COUNTER, "Changes of memory/target", NULL,
	offsetof(struct balloon_stats, host_targets)},
    {"xenpv_balloon_host_nonsense", XPV_COUNTER, "Targets of the host that are no number", NULL,
	offsetof(struct balloon_stats, host_nonsense)},
    {"xenpv_balloon_published", XPV_COUNTER, "Times the host was told", NULL,
	offsetof(struct balloon_stats, published)},
};

void
status_write_metrics(struct evbuffer *out, void *arg)
{
	const struct balloon *b = arg;
	const struct xpv_metric_set set = {&b->stats, NULL};

	xpv_metrics_write(out, metrics, sizeof(metrics) / sizeof(metrics[0]), &set, 1);
	evbuffer_add_printf(out, "# EOF\n");
}
