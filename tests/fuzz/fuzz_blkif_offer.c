/* SPDX-License-Identifier: BSD-2-Clause */

/* What a backend writes to xenstore before and after it connects, in lines "node=value". */

#include <event2/event.h>

#include <xenpv/log.h>
#include <xenpv/store.h>

#include "../unit/fake_store.h"
#include "fuzz.h"
#include "negotiate.h"

#define BACKEND "/local/domain/3/backend/vbd/7/51712"

void __wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...);

void
__wrap_xpv_log(enum xpv_log_level level, const char *fmt, ...)
{
}

static void
write_nodes(struct input *in)
{
	char line[256], path[320], *equals;

	while (in->left > 0) {
		take_line(in, line, sizeof(line));
		equals = strchr(line, '=');
		if (equals == NULL || equals == line || line[0] == '/' ||
		    strstr(line, "//") != NULL)
			continue;
		*equals = '\0';
		if (strspn(line, "abcdefghijklmnopqrstuvwxyz-/0123456789") != strlen(line))
			continue;
		snprintf(path, sizeof(path), BACKEND "/%s", line);
		fake_store_set(path, equals + 1);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blk_config config = {.depth = 64,
	    .ring_page_order = 4,
	    .max_io_kb = 128,
	    .max_indirect = 256,
	    .persistent = true};
	struct event_base *base = event_base_new();
	struct input in = {data, size};
	struct xpv_store *store;
	struct blk_link link;
	const char *why;

	fake_store_reset();
	write_nodes(&in);
	store = xpv_store_open(base);
	memset(&link, 0xff, sizeof(link));
	blk_negotiate(store, BACKEND, &config, 4, &link);
	check(link.queues >= 1 && link.queues <= 4);
	check(link.ring_order <= 4);
	check(link.max_indirect <= 256);
	if (blk_read_geometry(store, BACKEND, &config, &link, &why) == 0)
		check(blk_geometry_valid(&link.geometry, &why));
	else
		check(why != NULL);
	xpv_store_close(store);
	event_base_free(base);
	fake_store_reset();
	return 0;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}
