/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_TOOLSTACK_H
#define XENLOOP_TOOLSTACK_H

/* What xl does: domains and devices, as they look in xenstore. All functions return exit statuses
 * and have said what is wrong. The session is entered as domain 0. */

#include <stdbool.h>
#include <stdint.h>

#include <xenstore.h>

#include "hv.h"

int toolstack_create(const char *name, unsigned limit);
int toolstack_destroy(const char *name);
int toolstack_suspend(const char *name);
int toolstack_resume(const char *name);
int toolstack_shutdown(const char *name, const char *reason);
int toolstack_list(void);

/* key=value pairs go to the backend's folder. */
int devices_attach_disk(const char *domain, const char *vdev, const char *target,
    const char *backend, const char *type, char *const settings[]);
int devices_attach_net(
    const char *domain, const char *number, const char *backend, char *const settings[]);
int devices_detach(const char *domain, const char *kind, const char *device, bool force);
/* When the domain is resumed, and when it is destroyed. */
int devices_bring_back(const char *domain);
void devices_forget(const char *domain);
/* Both folders of each, which ends their backends' connections. */
void devices_remove_all(struct xs_handle *xs, uint32_t domid);

struct xs_handle *toolstack_store(void); /* NULL: said why */
/* The name of a domain, by name or number. False: there is none, which has been said. */
bool toolstack_name(const char *given, char name[HV_NAME_SIZE]);
/* Its number; -1: it has none, which has been said. */
int64_t toolstack_domid(const char *name);

#endif
