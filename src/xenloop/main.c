/* SPDX-License-Identifier: BSD-2-Clause */

/* xenloop(1): Xen's library interface without a hypervisor. */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "build_config.h"
#include "hv.h"
#include "session.h"
#include "toolstack.h"

struct options {
	const char *dir;
	const char *domain;
	const char *xenstored;
	const char *backend;
	const char *type;
	unsigned share_limit;
	bool force;
	bool console;
};

static void
usage(FILE *to)
{
	fprintf(to,
	    "xenloop: Xen's libraries without a hypervisor\n"
	    "\n"
	    "usage: xenloop [--dir DIR] COMMAND ...\n"
	    "\n"
	    "  start [--xenstored PATH]         begin a session\n"
	    "  stop                             end it, and every program in it\n"
	    "  session [--xenstored PATH] [--] [PROGRAM ...]\n"
	    "                                   a session of its own for one program, or a shell\n"
	    "  run [--domain NAME] [--console] [--] PROGRAM ...\n"
	    "                                   run a program in a domain [Domain-0]; --console:\n"
	    "                                   the domain's console is its terminal\n"
	    "  create NAME [--share-limit N]    make a domain; N: pages it may share [%u]\n"
	    "  destroy NAME                     end a domain and its programs\n"
	    "  suspend NAME                     stop its programs, take its ports and grants\n"
	    "  resume NAME                      with a new number, as after a restore\n"
	    "  shutdown NAME REASON             poweroff, reboot, suspend, crash or watchdog\n"
	    "  list                             the domains\n"
	    "  attach-disk NAME VDEV TARGET [--backend DOMAIN] [--type vbd] [KEY=VALUE ...]\n"
	    "  attach-net NAME NUMBER [--backend DOMAIN] [KEY=VALUE ...]\n"
	    "  detach-disk NAME VDEV [--force]\n"
	    "  detach-net NAME NUMBER [--force]\n"
	    "                                   as xl does it\n"
	    "  --version, --help\n",
	    HV_FRAMES / 2);
}

static int
wrong_usage(void)
{
	usage(stderr);
	return EX_USAGE;
}

/* Waits for a session's program. A signal that would end us is the program's, and if it does not
 * end of it, the session's end kills it. What a terminal sends it has had. */
static int
wait_for(pid_t program, const sigset_t *signals)
{
	static const struct timespec patience = {.tv_sec = 5};
	int status, number = 0;
	siginfo_t info;

	while (waitpid(program, &status, WNOHANG) != program) {
		int got = sigtimedwait(signals, &info, number != 0 ? &patience : NULL);

		if (got < 0 && errno == EAGAIN)
			return 128 + number;
		if (got > 0 && got != SIGCHLD && info.si_code <= 0) {
			number = got;
			kill(program, number);
		}
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A session that lasts as long as a program. */
static int
session(const struct options *o, char *argv[])
{
	char dir[] = "/tmp/xenloop.XXXXXX";
	char *const shell[] = {getenv("SHELL") != NULL ? getenv("SHELL") : "/bin/sh", NULL};
	sigset_t signals, before;
	int status;
	pid_t pid;

	if (o->dir == NULL && mkdtemp(dir) == NULL) {
		perror("xenloop: /tmp");
		return EX_CANTCREAT;
	}
	session_choose(o->dir != NULL ? o->dir : dir);
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, &before);
	status = session_start(o->xenstored);
	if (status == EX_OK) {
		pid = fork();
		if (pid == 0) {
			sigprocmask(SIG_SETMASK, &before, NULL);
			_exit(session_exec("Domain-0", false, argv[0] != NULL ? argv : shell));
		}
		status = pid > 0 ? wait_for(pid, &signals) : EX_OSERR;
		session_stop();
		if (o->dir == NULL)
			session_remove();
	}
	return status;
}

/* --- commands on one domain; a: the words that follow its name --- */

static int
destroy(const char *domain, const struct options *o, char *a[])
{
	return toolstack_destroy(domain);
}

static int
suspend(const char *domain, const struct options *o, char *a[])
{
	return toolstack_suspend(domain);
}

static int
resume(const char *domain, const struct options *o, char *a[])
{
	return toolstack_resume(domain);
}

static int
shut_down(const char *domain, const struct options *o, char *a[])
{
	return toolstack_shutdown(domain, a[0]);
}

static int
attach_disk(const char *domain, const struct options *o, char *a[])
{
	return devices_attach_disk(domain, a[0], a[1], o->backend, o->type, a + 2);
}

static int
attach_net(const char *domain, const struct options *o, char *a[])
{
	return devices_attach_net(domain, a[0], o->backend, a + 1);
}

static int
detach_disk(const char *domain, const struct options *o, char *a[])
{
	return devices_detach(domain, "vbd", a[0], o->force);
}

static int
detach_net(const char *domain, const struct options *o, char *a[])
{
	return devices_detach(domain, "vif", a[0], o->force);
}

static const struct command {
	const char *name;
	int words; /* after the domain's name */
	bool more; /* may follow */
	int (*run)(const char *domain, const struct options *o, char *a[]);
} commands[] = {
    {"destroy", 0, false, destroy},
    {"suspend", 0, false, suspend},
    {"resume", 0, false, resume},
    {"shutdown", 1, false, shut_down},
    {"attach-disk", 2, true, attach_disk},
    {"attach-net", 1, true, attach_net},
    {"detach-disk", 1, false, detach_disk},
    {"detach-net", 1, false, detach_net},
};

static int
of_domain(const char *command, struct options *o, int argc, char *argv[])
{
	const struct command *c = NULL;
	char name[HV_NAME_SIZE], backend[HV_NAME_SIZE];

	for (unsigned i = 0; c == NULL && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, command) == 0)
			c = &commands[i];
	if (c == NULL || argc < 1 + c->words || (argc > 1 + c->words && !c->more))
		return wrong_usage();
	session_enter("Domain-0");
	/* Numbers may be given, which domains lose when they are suspended. */
	if (!toolstack_name(argv[0], name) || !toolstack_name(o->backend, backend))
		return EX_UNAVAILABLE;
	o->backend = backend;
	return c->run(name, o, argv + 1);
}

static int
list_domains(void)
{
	session_enter("Domain-0");
	return toolstack_list();
}

static int
create(const struct options *o, const char *name)
{
	session_enter("Domain-0");
	return toolstack_create(name, o->share_limit);
}

int
main(int argc, char *argv[])
{
	static const struct option names[] = {{"dir", required_argument, NULL, 'D'},
	    {"domain", required_argument, NULL, 'd'}, {"xenstored", required_argument, NULL, 'x'},
	    {"backend", required_argument, NULL, 'b'}, {"type", required_argument, NULL, 't'},
	    {"share-limit", required_argument, NULL, 'l'}, {"force", no_argument, NULL, 'f'},
	    {"console", no_argument, NULL, 'c'}, {"version", no_argument, NULL, 'V'},
	    {"help", no_argument, NULL, 'h'}, {0}};
	struct options o = {.domain = "Domain-0",
	    .backend = "Domain-0",
	    .type = "vbd",
	    .share_limit = HV_FRAMES / 2};
	const char *command = NULL;
	bool runs;
	int c;

	for (;;) {
		/* Options may follow the command's words, but not the program's name. */
		runs = command != NULL &&
		       (strcmp(command, "run") == 0 || strcmp(command, "session") == 0);
		c = getopt_long(argc, argv, runs || command == NULL ? "+" : "", names, NULL);
		if (c == -1 && command == NULL && optind < argc) {
			command = argv[optind];
			argc -= optind;
			argv += optind;
			optind = 0; /* begin anew */
			continue;
		}
		if (c == -1)
			break;
		switch (c) {
		case 'D':
			o.dir = optarg;
			break;
		case 'd':
			o.domain = optarg;
			break;
		case 'x':
			o.xenstored = optarg;
			break;
		case 'b':
			o.backend = optarg;
			break;
		case 't':
			o.type = optarg;
			break;
		case 'l':
			o.share_limit = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'f':
			o.force = true;
			break;
		case 'c':
			o.console = true;
			break;
		case 'V':
			puts("xenloop " XENPV_VERSION);
			return EX_OK;
		case 'h':
			usage(stdout);
			return EX_OK;
		default:
			return wrong_usage();
		}
	}
	if (command == NULL)
		return wrong_usage();
	argc -= optind;
	argv += optind;
	if (strcmp(command, "session") == 0)
		return session(&o, argv);
	session_choose(o.dir);
	if (strcmp(command, "start") == 0 && argc == 0)
		return session_start(o.xenstored);
	if (strcmp(command, "stop") == 0 && argc == 0)
		return session_stop();
	if (strcmp(command, "run") == 0 && argc > 0)
		return session_exec(o.domain, o.console, argv);
	if (strcmp(command, "list") == 0 && argc == 0)
		return list_domains();
	if (strcmp(command, "create") == 0 && argc == 1)
		return create(&o, argv[0]);
	return of_domain(command, &o, argc, argv);
}
