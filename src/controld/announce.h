/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_ANNOUNCE_H
#define CONTROL_ANNOUNCE_H

#include <stdbool.h>

#include "requests.h"

struct control_config;
struct xpv_store;

/*
 * control/feature-*: what a toolstack may ask for. The nodes are the toolstack's, made for the
 * guest to write to; one that is not there is no error, as requests are done all the same.
 */
struct announced {
	bool suspend; /* as the kernel has said it, before the first resume made it forgotten */
	struct {
		bool said, value;
		char *before; /* what was there at first; NULL: no node */
	} features[REQUEST_NAMED];
};

/* At the start, after a resume, and when the configuration has changed. */
void announce(struct announced *a, struct xpv_store *store, const struct control_config *config);
/* Puts back what was there before, where nobody else has changed it, and forgets it. */
void announce_end(struct announced *a, struct xpv_store *store);

#endif
