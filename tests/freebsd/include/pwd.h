/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_PWD_H
#define STUB_PWD_H

#include <sys/types.h>

struct passwd {
	uid_t pw_uid;
	gid_t pw_gid;
};
struct passwd *getpwnam(const char *name);

#endif
