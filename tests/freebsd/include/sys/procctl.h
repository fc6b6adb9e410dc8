/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_PROCCTL_H
#define STUB_SYS_PROCCTL_H

#include <sys/types.h>

typedef enum { P_PID } idtype_t;
typedef int64_t id_t;

#define PROC_NO_NEW_PRIVS_CTL	 19
#define PROC_NO_NEW_PRIVS_ENABLE 1

int procctl(idtype_t type, id_t id, int command, void *data);

#endif
