/* SPDX-License-Identifier: BSD-2-Clause */
#include "report.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <time.h>

#include <event2/event.h>
#include <xenpv/log.h>
#include <xenpv/store.h>

#include "build_config.h"
#include "os_release.h"
#include "settings.h"
#include "system.h"

/* The quota for all of a guest's nodes is 1000. */
#define FACTS_MAX     150
#define VIFS_MAX      16
#define ADDRESSES_MAX 8 /* per interface and family */

struct fact {
	char node[64];
	char *value;
};

struct facts {
	struct fact list[FACTS_MAX];
	unsigned count;
};

struct report {
	struct xpv_store *store;
	const struct control_config *config;
	struct event *timer;
	struct facts *said; /* what is there now */
};

/* ---- facts ---- */

static void __attribute__((format(printf, 3, 4)))
add(struct facts *facts, const char *node, const char *fmt, ...)
{
	struct fact *fact = &facts->list[facts->count];
	va_list args;

	if (facts->count == FACTS_MAX)
		return;
	va_start(args, fmt);
	if (vasprintf(&fact->value, fmt, args) >= 0) {
		snprintf(fact->node, sizeof(fact->node), "%s", node);
		facts->count++;
	}
	va_end(args);
}

static void
facts_free(struct facts *facts)
{
	for (unsigned i = 0; facts != NULL && i < facts->count; i++)
		free(facts->list[i].value);
	free(facts);
}

static const char *
find(const struct facts *facts, const char *node)
{
	for (unsigned i = 0; i < facts->count; i++) {
		if (strcmp(facts->list[i].node, node) == 0)
			return facts->list[i].value;
	}
	return NULL;
}

static void
add_version(struct facts *facts)
{
	int major = 0, minor = 0, micro = 0;

	sscanf(XENPV_VERSION, "%d.%d.%d", &major, &minor, &micro);
	add(facts, "attr/PVAddons/Installed", "1");
	add(facts, "attr/PVAddons/MajorVersion", "%d", major);
	add(facts, "attr/PVAddons/MinorVersion", "%d", minor);
	add(facts, "attr/PVAddons/MicroVersion", "%d", micro);
	add(facts, "attr/PVAddons/BuildVersion", "0");
}

static void
add_system(struct facts *facts)
{
	static const char *const files[] = {
	    "/etc/os-release", "/usr/lib/os-release", "/var/run/os-release", NULL};
	struct os_release release;
	struct utsname kernel;
	char *minor;

	if (uname(&kernel) != 0)
		return;
	os_release_read(files, &release);
	minor = strchr(release.version_id, '.');
	if (minor != NULL)
		*minor++ = '\0';
	add(facts, "data/os_name", "%s",
	    release.pretty_name[0] != '\0' ? release.pretty_name : kernel.sysname);
	add(facts, "data/os_distro", "%s", release.id[0] != '\0' ? release.id : kernel.sysname);
	add(facts, "data/os_majorver", "%s", release.version_id);
	add(facts, "data/os_minorver", "%s", minor != NULL ? minor : "");
	add(facts, "data/os_uname", "%s", kernel.release);
}

static void
add_memory(struct facts *facts)
{
	uint64_t total, available;

	if (!system_memory(&total, &available))
		return;
	add(facts, "data/meminfo_total", "%" PRIu64, total);
	add(facts, "data/meminfo_free", "%" PRIu64, available);
}

/* ---- network interfaces ---- */

static bool
has_mac(const struct ifaddrs *address, const uint8_t mac[6])
{
	uint8_t its[6];

	return address->ifa_addr != NULL && system_mac(address->ifa_addr, its) &&
	       memcmp(its, mac, sizeof(its)) == 0;
}

/* By whichever driver: the one with the address that the toolstack has given to the vif. */
static const char *
interface_of(const struct ifaddrs *all, const uint8_t mac[6])
{
	for (; all != NULL; all = all->ifa_next) {
		if (has_mac(all, mac))
			return all->ifa_name;
	}
	return NULL;
}

static void
add_addresses(struct facts *facts, const struct ifaddrs *all, const char *vif, const char *name,
    int family, const char *what)
{
	char node[64], text[INET6_ADDRSTRLEN];
	unsigned n = 0;

	for (; all != NULL && n < ADDRESSES_MAX; all = all->ifa_next) {
		const struct sockaddr *a = all->ifa_addr;
		const void *bytes;

		if (a == NULL || a->sa_family != family || strcmp(all->ifa_name, name) != 0)
			continue;
		if (family == AF_INET)
			bytes = &((const struct sockaddr_in *)(const void *)a)->sin_addr;
		else
			bytes = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
		if (inet_ntop(family, bytes, text, sizeof(text)) == NULL)
			continue;
		snprintf(node, sizeof(node), "attr/vif/%.10s/%s/%u", vif, what, n++);
		add(facts, node, "%s", text);
	}
}

static void
add_vif(struct facts *facts, struct xpv_store *store, const struct ifaddrs *all, const char *vif)
{
	char *text = xpv_store_read(store, "device/vif/%.10s/mac", vif);
	const char *name = NULL;
	unsigned m[6];

	if (text != NULL &&
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]) == 6)
		name = interface_of(all, (uint8_t[6]){(uint8_t)m[0], (uint8_t)m[1], (uint8_t)m[2],
					     (uint8_t)m[3], (uint8_t)m[4], (uint8_t)m[5]});
	if (name != NULL) {
		char node[64];

		snprintf(node, sizeof(node), "attr/vif/%.10s/name", vif);
		add(facts, node, "%s", name);
		snprintf(node, sizeof(node), "attr/vif/%.10s/mac", vif);
		add(facts, node, "%s", text);
		add_addresses(facts, all, vif, name, AF_INET, "ipv4");
		add_addresses(facts, all, vif, name, AF_INET6, "ipv6");
	}
	free(text);
}

static bool
is_number(const char *name)
{
	return name[0] != '\0' && name[strspn(name, "0123456789")] == '\0' && strlen(name) <= 10;
}

static void
add_network(struct facts *facts, struct xpv_store *store)
{
	char **vifs = xpv_store_list(store, "device/vif");
	struct ifaddrs *all = NULL;

	if (vifs != NULL && getifaddrs(&all) == 0) {
		for (unsigned i = 0; vifs[i] != NULL && i < VIFS_MAX; i++) {
			if (is_number(vifs[i]))
				add_vif(facts, store, all, vifs[i]);
		}
		freeifaddrs(all);
	}
	free(vifs);
}

/* ---- telling them ---- */

static bool
is_said(const struct report *r, const struct fact *fact)
{
	const char *before = r->said != NULL ? find(r->said, fact->node) : NULL;

	return before != NULL && strcmp(before, fact->value) == 0;
}

/* Writes what is new in "facts", or all of it; true if anything was. What cannot be written is
 * dropped from it: that is to be tried again. */
static bool
tell(struct report *r, struct facts *facts, bool all)
{
	bool told = false;
	unsigned i = 0;

	while (i < facts->count) {
		struct fact *fact = &facts->list[i];
		bool fresh = all || !is_said(r, fact);

		if (fresh && xpv_store_write(r->store, fact->node, "%s", fact->value) != 0) {
			free(fact->value);
			*fact = facts->list[--facts->count];
			continue;
		}
		told |= fresh;
		i++;
	}
	return told;
}

/* Not what somebody else has written there since: xen-balloond tells of the memory, too. */
static void
remove_ours(struct report *r, const struct fact *fact)
{
	char *now = xpv_store_read(r->store, "%s", fact->node);

	if (now != NULL && strcmp(now, fact->value) == 0)
		xpv_store_remove(r->store, fact->node);
	free(now);
}

/* Removes what was said and is not in "facts", or all of it; true if there was any. */
static bool
take_back(struct report *r, const struct facts *facts)
{
	bool gone = false;

	for (unsigned i = 0; r->said != NULL && i < r->said->count; i++) {
		const struct fact *fact = &r->said->list[i];

		if (facts == NULL || find(facts, fact->node) == NULL) {
			remove_ours(r, fact);
			gone = true;
		}
	}
	return gone;
}

static void
look(struct report *r, bool all)
{
	struct facts *facts = calloc(1, sizeof(*facts));
	struct timeval interval = {.tv_sec = r->config->report_interval_s};
	bool changed;

	event_add(r->timer, &interval);
	if (facts == NULL)
		return;
	add_version(facts);
	add_system(facts);
	add_memory(facts);
	add_network(facts, r->store);
	changed = tell(r, facts, all);
	changed |= take_back(r, facts);
	if (changed)
		xpv_store_write(r->store, "data/updated", "%lld", (long long)time(NULL));
	facts_free(r->said);
	r->said = facts;
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	look(arg, false);
}

struct report *
report_start(struct event_base *base, struct xpv_store *store, const struct control_config *config)
{
	struct report *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return NULL;
	r->store = store;
	r->config = config;
	r->timer = evtimer_new(base, on_timer, r);
	if (r->timer == NULL) {
		free(r);
		return NULL;
	}
	look(r, true);
	return r;
}

void
report_again(struct report *r)
{
	look(r, true);
}

void
report_stop(struct report *r)
{
	if (r == NULL)
		return;
	if (take_back(r, NULL))
		xpv_store_remove(r->store, "data/updated");
	event_free(r->timer);
	facts_free(r->said);
	free(r);
}
