/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CONTROL_OS_RELEASE_H
#define CONTROL_OS_RELEASE_H

/* What os-release(5) says; "" for what it does not. */
struct os_release {
	char pretty_name[128], id[64], version_id[64];
};

/* Reads the first of the files (a NULL-terminated list) that is there; all "" if none is. */
void os_release_read(const char *const files[], struct os_release *release);

#endif
