/* SPDX-License-Identifier: BSD-2-Clause */
#include "settings.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include <xenpv/log.h>

#include "build_config.h"
#include "host.h"
#include "mechanism.h"

#define KIB_MAX (1L << 40) /* a PiB */

static struct settings settings = {
    .policy =
	{
	    .kind = POLICY_MANUAL,
	    .headroom = 10,
	    .hysteresis = 5,
	    .step = 25,
	    .settle_ms = 10000,
	    .calm_ms = 30000,
	},
    .interval_ms = 250,
    .stall_ms = 25,
    .window_ms = 500,
    .refaults = 500,
    .publish = HOST_KEYS_DATA,
    .publish_s = 10,
    .publish_kib = 4096,
    .mechanism = MECHANISM_AUTO,
};

static const char *const policy_names[] = {
    [POLICY_MANUAL] = "manual",
    [POLICY_AUTO] = "auto",
    [POLICY_STATIC] = "static",
    NULL,
};

static const char *const mechanism_names[] = {
    [MECHANISM_AUTO] = "auto",
    [MECHANISM_KERNEL] = "kernel",
    [MECHANISM_PRIVCMD] = "privcmd",
    NULL,
};

static const char *const publish_names[] = {
    [HOST_KEYS_NONE] = "none",
    [HOST_KEYS_DATA] = "data",
    [HOST_KEYS_XAPI] = "xapi",
    [HOST_KEYS_QUBES] = "qubes",
    NULL,
};

static const struct xpv_option options[] = {
    {"policy", 0, XPV_OPTION_CHOICE, &settings.policy.kind, .choices = policy_names, .arg = "NAME",
	.help = "how the size is chosen"},
    {"floor", 0, XPV_OPTION_INT, &settings.policy.floor, 0, KIB_MAX, .arg = "KIB",
	.help = "never less; 0: computed from the boot size"},
    {"maximum", 0, XPV_OPTION_INT, &settings.policy.maximum, 0, KIB_MAX, .arg = "KIB",
	.help = "never more, also if the host grants it; 0: none"},
    {"size", 0, XPV_OPTION_INT, &settings.policy.size, 0, KIB_MAX, .arg = "KIB",
	.help = "of policy static; 0: as at the start"},
    {"reserve", 0, XPV_OPTION_INT, &settings.policy.reserve, 0, KIB_MAX, .arg = "KIB",
	.help = "always left available; 0: computed from the boot size"},
    {"headroom", 0, XPV_OPTION_INT, &settings.policy.headroom, 0, 400, .arg = "PERCENT",
	.help = "auto: of what is in use, beyond the reserve, to grow into"},
    {"hysteresis", 0, XPV_OPTION_INT, &settings.policy.hysteresis, 0, 50, .arg = "PERCENT",
	.help = "of the target: smaller differences change nothing"},
    {"step", 0, XPV_OPTION_INT, &settings.policy.step, 1, 400, .arg = "PERCENT",
	.help = "auto: growth at once when tasks wait for memory"},
    {"up-rate", 0, XPV_OPTION_INT, &settings.policy.up, 0, KIB_MAX, .arg = "KIB",
	.help = "auto: growth per second otherwise; 0: computed"},
    {"down-rate", 0, XPV_OPTION_INT, &settings.policy.down, 0, KIB_MAX, .arg = "KIB",
	.help = "auto: shrinking per second; 0: computed"},
    {"settle", 0, XPV_OPTION_INT, &settings.policy.settle_ms, 0, 3600000, .arg = "MS",
	.help = "memory is surplus for so long before it is given"},
    {"calm", 0, XPV_OPTION_INT, &settings.policy.calm_ms, 0, 3600000, .arg = "MS",
	.help = "auto: nothing is given for so long after a wait for memory"},
    {"interval", 0, XPV_OPTION_INT, &settings.interval_ms, 20, 60000, .arg = "MS",
	.help = "between two looks at the memory, when nothing happens"},
    {"stall", 0, XPV_OPTION_INT, &settings.stall_ms, 1, 10000, .arg = "MS",
	.help = "tasks wait so long within a window: pressure"},
    {"window", 0, XPV_OPTION_INT, &settings.window_ms, 500, 10000, .arg = "MS",
	.help = "for stall"},
    {"refaults", 0, XPV_OPTION_INT, &settings.refaults, 0, KIB_MAX, .arg = "N",
	.help = "pages per second read again or from swap: pressure; 0: never"},
    {"publish", 0, XPV_OPTION_CHOICE, &settings.publish, .choices = publish_names, .arg = "KEYS",
	.help = "where the host is told what is in use"},
    {"publish-interval", 0, XPV_OPTION_INT, &settings.publish_s, 1, 3600, .arg = "S",
	.help = "not told more often"},
    {"publish-change", 0, XPV_OPTION_INT, &settings.publish_kib, 0, KIB_MAX, .arg = "KIB",
	.help = "nor of smaller changes"},
    {"mechanism", 0, XPV_OPTION_CHOICE, &settings.mechanism, .choices = mechanism_names,
	.at_start = true, .arg = "NAME",
	.help = "auto is the kernel's; privcmd has risks: xen-balloond(8)"},
    {"dry-run", 'n', XPV_OPTION_BOOL, &settings.dry_run, .at_start = true,
	.help = "change nothing, log what would be done"},
    {"rundir", 0, XPV_OPTION_STRING, &settings.rundir, .at_start = true, .arg = "DIR",
	.help = "directory of the control socket"},
    {"sysfs", 0, XPV_OPTION_STRING, &settings.sysfs, .at_start = true, .arg = "DIR",
	.help = "where sysfs is mounted"},
    {"procfs", 0, XPV_OPTION_STRING, &settings.procfs, .at_start = true, .arg = "DIR",
	.help = "where procfs is mounted"},
    {NULL},
};

static bool
fit(void)
{
	if (settings.stall_ms <= settings.window_ms)
		return true;
	xpv_err("stall = %ld is more than window = %ld: so long nobody can wait in a window",
	    settings.stall_ms, settings.window_ms);
	return false;
}

void
settings_init(struct settings **out, struct xpv_program *program)
{
	settings.rundir = strdup(XENPV_RUNDIR);
	settings.sysfs = strdup("/sys");
	settings.procfs = strdup("/proc");
	if (settings.rundir == NULL || settings.sysfs == NULL || settings.procfs == NULL)
		xpv_die(EX_OSERR, "out of memory");
	*out = &settings;
	program->options = options;
	program->fit = fit;
}
