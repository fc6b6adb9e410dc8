/* SPDX-License-Identifier: BSD-2-Clause */
#include "xenpv/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <pwd.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "build_config.h"
#include "process.h"
#include "xenpv/log.h"

#if HAVE_SECCOMP
#include <seccomp.h>
#endif

#ifndef __has_feature
#define __has_feature(x) 0
#endif

/* The sanitizers' runtimes open files, run helpers and look at other threads. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define SANITIZER 1
#else
#define SANITIZER 0
#endif

void
xpv_process_name(const char *name)
{
	char comm[16];

	/* Linux puts it in names of files: "evtchn:NAME" below /proc/irq, with a warning and a
	 * stack trace if there is a slash in it. */
	snprintf(comm, sizeof(comm), "%s", name);
	for (char *c = comm; *c != '\0'; c++) {
		if (*c == '/')
			*c = '.';
	}
	prctl(PR_SET_NAME, comm);
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

static int
leave_filesystem(const char *empty_dir)
{
	if (empty_dir == NULL)
		return 0;
	if (chroot(empty_dir) != 0)
		return refused("chroot");
	if (chdir("/") != 0)
		return refused("chdir");
	return 0;
}

/* Needs CAP_SETPCAP, thus before all are gone. Nothing is lost if it fails: with no new privileges
 * the bounding set gives nothing either. */
static void
drop_bounding_set(void)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap) != 0) {
			xpv_debug("sandbox: the bounding set stays: %s", strerror(errno));
			return;
		}
}

static int
become(const char *name, uid_t uid, gid_t gid)
{
	if (name == NULL)
		return 0;
	if (setgroups(0, NULL) != 0 || setresgid(gid, gid, gid) != 0 ||
	    setresuid(uid, uid, uid) != 0)
		return refused("change of user");
	return 0;
}

static int
drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0,
	    0); /* Linux 4.3; capset empties it too */
	if (syscall(SYS_capset, &header, none) != 0) {
		xpv_err("sandbox: capset: %s", strerror(errno));
		return -1;
	}
	return 0;
}

#if HAVE_SECCOMP

/* Whatever the arguments. Names of other architectures are no rule on this one. */
static const int allowed[] = {
    /* data */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(recv),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(send),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(splice),
    SCMP_SYS(lseek),
    SCMP_SYS(_llseek),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate),
    SCMP_SYS(fstat),
    SCMP_SYS(fstat64),
    SCMP_SYS(ioctl),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(dup),
    SCMP_SYS(close),
    /* waiting */
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(ppoll_time64),
    SCMP_SYS(select),
    SCMP_SYS(_newselect),
    SCMP_SYS(pselect6),
    SCMP_SYS(pselect6_time64),
    SCMP_SYS(epoll_create),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(timerfd_settime64),
    SCMP_SYS(timerfd_gettime),
    SCMP_SYS(timerfd_gettime64),
    /* memory; mmap and mprotect have rules of their own */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    /* time */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_gettime64),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_getres_time64),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_nanosleep_time64),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(restart_syscall),
    /* threads and signals of this process */
    SCMP_SYS(futex),
    SCMP_SYS(futex_time64),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(membarrier),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigpending),
    SCMP_SYS(rt_sigsuspend),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigtimedwait_time64),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    /* random numbers */
    SCMP_SYS(getrandom),
};

static const int allowed_io_uring[] = {
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(io_uring_register),
};

/* No worker calls these by mistake: whoever does has taken it over. */
static const int deadly[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(kcmp),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(reboot),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(keyctl),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(acct),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(clock_settime64),
};

/* Duplicates and flags. Not F_SETOWN and F_SETSIG: they send signals to other workers. */
static const int fcntl_commands[] = {F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL};

/* The same by ioctl, and typing on a terminal that is our stderr. */
static const unsigned forbidden_ioctls[] = {FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX};

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#define CLONE_SPACES                                                                               \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	    CLONE_NEWPID | CLONE_NEWNET)

static int
add_each(scmp_filter_ctx filter, uint32_t action, const int *calls, size_t count)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++)
		rc = seccomp_rule_add(filter, action, calls[i], 0);
	return rc;
}

#define add_all(filter, action, calls)                                                             \
	add_each(filter, action, calls, sizeof(calls) / sizeof((calls)[0]))

static int
add_rules(scmp_filter_ctx f, const struct xpv_sandbox *sandbox)
{
	const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	const struct scmp_arg_cmp thread =
	    SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_SPACES, CLONE_THREAD);
	const struct scmp_arg_cmp ourselves = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid());
	const struct scmp_arg_cmp caller = SCMP_A0(SCMP_CMP_EQ, 0);
	const struct scmp_arg_cmp set_name = SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME);
	const struct scmp_arg_cmp of_fd = SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH);
	int rc;

	if ((rc = add_all(f, SCMP_ACT_ALLOW, allowed)) != 0 ||
	    (rc = add_all(f, SCMP_ACT_KILL_PROCESS, deadly)) != 0)
		return rc;
	if (sandbox->io_uring && (rc = add_all(f, SCMP_ACT_ALLOW, allowed_io_uring)) != 0)
		return rc;
	if (sandbox->accept &&
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(accept4), 0)) != 0)
		return rc;
	for (size_t i = 0; i < sizeof(fcntl_commands) / sizeof(fcntl_commands[0]); i++) {
		const struct scmp_arg_cmp command =
		    SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_commands[i]);

		if ((rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, command)) != 0 ||
		    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl64), 1, command)) != 0)
			return rc;
	}
	/* The C library takes clone(2) for threads when clone3(2) is not there; the filter can not
	 * look into the memory where clone3 has its flags. fstat(3) is newfstatat(2) in some. */
	if ((rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, no_exec)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap2), 1, no_exec)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, no_exec)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, thread)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, ourselves)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_setaffinity), 1, caller)) !=
		0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, set_name)) != 0 ||
	    (rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1, of_fd)) != 0)
		return rc;
	return 0;
}

/* For all threads, also those that run already. 0 or a negative errno. */
static int
load(scmp_filter_ctx filter)
{
	int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);

	if (rc == 0)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	return rc == 0 ? seccomp_load(filter) : rc;
}

/*
 * Its own filter: in one filter "all but these" can be said only of whole 64 bit arguments, and the
 * kernel looks at 32 bits. Of the filters that judge a call the strictest wins.
 */
static int
forbid_ioctls(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int rc = filter == NULL ? -ENOMEM : 0;

	for (size_t i = 0; i < sizeof(forbidden_ioctls) / sizeof(forbidden_ioctls[0]) && rc == 0;
	     i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
		    SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, forbidden_ioctls[i]));
	if (rc == 0)
		rc = load(filter);
	seccomp_release(filter);
	return rc;
}

static int
filter_system_calls(const struct xpv_sandbox *sandbox)
{
	scmp_filter_ctx filter;
	int rc;

	if (SANITIZER) {
		xpv_debug("sandbox: built with a sanitizer, system calls are not filtered");
		return 0;
	}
	rc = forbid_ioctls();
	filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (rc == 0)
		rc = filter == NULL ? -ENOMEM : add_rules(filter, sandbox);
	if (rc == 0)
		rc = load(filter);
	seccomp_release(filter);
	if (rc == 0)
		return 0;
	xpv_err("sandbox: can not filter system calls: %s", strerror(-rc));
	return -1;
}

#else

static int
filter_system_calls(const struct xpv_sandbox *sandbox)
{
	static bool said;

	if (!said)
		xpv_warning("sandbox: built without libseccomp, system calls are not filtered");
	said = true;
	return 0;
}

#endif

int
xpv_sandbox_enter(const struct xpv_sandbox *sandbox)
{
	const struct passwd *user = NULL;
	uid_t uid = 0;
	gid_t gid = 0;

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
	if (user != NULL) {
		uid = user->pw_uid;
		gid = user->pw_gid;
	}

	if (leave_filesystem(sandbox->empty_dir) != 0)
		return -1;
	drop_bounding_set();
	if (become(user != NULL ? sandbox->user : NULL, uid, gid) != 0 || drop_capabilities() != 0)
		return -1;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
		xpv_err("sandbox: no new privileges: %s", strerror(errno));
		return -1;
	}
	/* No core file with a guest's data, no debugger of the same user. A sanitizer needs one. */
	prctl(PR_SET_DUMPABLE, SANITIZER, 0, 0, 0);
	return filter_system_calls(sandbox);
}
