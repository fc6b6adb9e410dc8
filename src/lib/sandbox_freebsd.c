/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/sandbox.h"

#include <sys/types.h>
#include <sys/capsicum.h>
#include <sys/procctl.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "process.h"
#include "xenpv/log.h"

void
xpv_process_name(const char *name)
{
	setproctitle("%s", name);
}

/* What only root can give up is an error for root and nothing for others. */
static int
refused(const char *what)
{
	if (geteuid() == 0) {
		xpv_err("sandbox: %s: %s", what, strerror(errno));
		return -1;
	}
	xpv_debug("sandbox: not root, without %s: %s", what, strerror(errno));
	return 0;
}

int
xpv_sandbox_enter(const struct xpv_sandbox *sandbox)
{
	const struct passwd *user = NULL;
	int no_privileges = PROC_NO_NEW_PRIVS_ENABLE;

	if (sandbox->disabled) {
		xpv_warning("sandbox: disabled");
		return 0;
	}
	/* While there are files to find it in. */
	if (sandbox->user != NULL) {
		user = getpwnam(sandbox->user);
		if (user == NULL)
			xpv_warning("sandbox: no user \"%s\", user stays as it is", sandbox->user);
	}

	if (sandbox->empty_dir != NULL && (chroot(sandbox->empty_dir) != 0 || chdir("/") != 0) &&
	    refused("chroot") != 0)
		return -1;
	if (user != NULL &&
	    (setgroups(0, NULL) != 0 || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0 ||
		setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0) &&
	    refused("change of user") != 0)
		return -1;
	/* FreeBSD 13; Capsicum forbids execve without it too. */
	if (procctl(P_PID, 0, PROC_NO_NEW_PRIVS_CTL, &no_privileges) != 0)
		xpv_debug("sandbox: no new privileges: %s", strerror(errno));
	if (cap_enter() != 0) {
		xpv_err("sandbox: cap_enter: %s", strerror(errno));
		return -1;
	}
	return 0;
}
