/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BALLOON_STATUS_H
#define BALLOON_STATUS_H

struct evbuffer;

/* What the control socket tells of a struct balloon. */
void status_write_json(struct evbuffer *out, void *balloon);
void status_write_metrics(struct evbuffer *out, void *balloon);

#endif
