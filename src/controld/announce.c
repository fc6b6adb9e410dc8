/* SPDX-License-Identifier: BSD-2-Clause */
#include "announce.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xenpv/store.h>

#include "settings.h"

static void
name_node(char node[64], enum request request)
{
	snprintf(node, 64, "control/feature-%s", request_name(request));
}

static void
say(struct announced *a, struct xpv_store *store, enum request request, bool can)
{
	char node[64];
	char *now;

	name_node(node, request);
	now = xpv_store_read(store, "%s", node);
	if ((now == NULL ? can : strcmp(now, can ? "1" : "0") != 0) &&
	    xpv_store_write(store, node, "%d", can) == 0) {
		a->features[request].value = can;
		if (!a->features[request].said) {
			a->features[request].said = true;
			a->features[request].before = now;
			now = NULL;
		}
	}
	free(now);
}

void
announce(struct announced *a, struct xpv_store *store, const struct control_config *config)
{
	static const enum request ours[] = {
	    REQUEST_POWEROFF, REQUEST_REBOOT, REQUEST_S3, REQUEST_S4};
	const char *why;
	char *now;

	for (unsigned i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		say(a, store, ours[i], settings_action(config, ours[i], &why) != NULL);
	/* The kernel's, which knows whether it can. Linux says so once, when it boots, and a
	 * toolstack that misses it in the new domain does not migrate the guest a second time. */
	now = xpv_store_read(store, "control/feature-suspend");
	if (now != NULL && strcmp(now, "1") == 0 && !a->features[REQUEST_SUSPEND].said)
		a->suspend = true;
	free(now);
	if (a->suspend || settings_action(config, REQUEST_SUSPEND, &why) != NULL)
		say(a, store, REQUEST_SUSPEND, true);
}

static void
take_back(struct announced *a, struct xpv_store *store, enum request request)
{
	const char *before = a->features[request].before;
	char node[64];
	char *now;

	name_node(node, request);
	now = xpv_store_read(store, "%s", node);
	if (now != NULL && strcmp(now, a->features[request].value ? "1" : "0") == 0) {
		if (before == NULL)
			xpv_store_remove(store, node);
		else
			xpv_store_write(store, node, "%s", before);
	}
	free(now);
}

void
announce_end(struct announced *a, struct xpv_store *store)
{
	for (unsigned i = 0; i < REQUEST_NAMED; i++) {
		/* The kernel can suspend without us, too. */
		if (a->features[i].said && !(i == REQUEST_SUSPEND && a->suspend))
			take_back(a, store, (enum request)i);
		free(a->features[i].before);
	}
	*a = (struct announced){0};
}
