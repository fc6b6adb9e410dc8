/* SPDX-License-Identifier: BSD-2-Clause */

/* xenstore as a guest has it, by way of its kernel; domain 0 does what the guest may not. */

#include "conformance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRANSACTIONS 11 /* xenstored's quotas, as it is started without options */
#define ENTRY	     2048

static const char *
at(const char *name)
{
	static char paths[4][256];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", sync_dir(), name);
	return path;
}

/* The same as a path within the guest's own folder. */
static const char *
near(const char *name)
{
	const char *path = at(name), *home = strstr(path, "/data/");

	return home + 1;
}

static bool
put(xs_transaction_t t, const char *path, const char *value)
{
	return xs_write(store, t, path, value, (unsigned)strlen(value));
}

static bool
has(xs_transaction_t t, const char *path, const char *wanted)
{
	char *value = xs_read(store, t, path, NULL);
	bool same = value != NULL && strcmp(value, wanted) == 0;

	free(value);
	return same;
}

static void
refused(bool result, int error, const char *name)
{
	fails(result ? 0 : -1, error, "%s", name);
}

static void
unreadable(const char *path, int error, const char *name)
{
	char *value = xs_read(store, XBT_NULL, path, NULL);

	fails_null(value, error, "%s", name);
	free(value);
}

/* --- the guest --- */

static void
paths(void)
{
	char number[16], **names, *path, big[5000];
	unsigned count = 0;

	snprintf(number, sizeof(number), "%u", self);
	ok(has(XBT_NULL, "domid", number), "read with a relative path");
	ok(put(XBT_NULL, near("relative"), "1"), "write with a relative path");
	ok(has(XBT_NULL, at("relative"), "1"), "it is where it belongs");
	ok(put(XBT_NULL, at("p/q/r"), "x"), "write below what does not exist");
	names = xs_directory(store, XBT_NULL, at("p"), &count);
	ok(names != NULL && count == 1 && strcmp(names[0], "q") == 0, "it exists now");
	free(names);
	ok(has(XBT_NULL, at("p/q"), ""), "without a value");
	ok(xs_mkdir(store, XBT_NULL, at("p/q")), "mkdir of what exists");
	ok(xs_mkdir(store, XBT_NULL, at("p/s")), "mkdir");
	ok(xs_rm(store, XBT_NULL, at("p")), "rm of all of it");
	unreadable(at("p/q/r"), ENOENT, "it has gone");
	ok(xs_rm(store, XBT_NULL, at("p")), "rm of what does not exist");
	refused(xs_rm(store, XBT_NULL, at("p/q")), ENOENT, "rm below what does not exist");
	unreadable(at("p"), ENOENT, "read what does not exist");
	fails_null(
	    xs_directory(store, XBT_NULL, at("p"), &count), ENOENT, "list what does not exist");
	unreadable(at("p//q"), EINVAL, "an empty name in a path");
	unreadable(at("p q"), EINVAL, "a blank in a path");
	unreadable(at("p/"), EINVAL, "a path that ends with a slash");
	unreadable("", EINVAL, "no path");
	path = xs_get_domain_path(store, 0);
	ok(path != NULL && strcmp(path, "/local/domain/0") == 0, "the path of a domain");
	free(path);

	memset(big, 'x', sizeof(big));
	ok(xs_write(store, XBT_NULL, at("big"), big, ENTRY / 2), "a value that is large");
	refused(xs_write(store, XBT_NULL, at("big"), big, ENTRY + 1), ENOSPC,
	    "a value that is too large");
	refused(xs_write(store, XBT_NULL, at("big"), big, sizeof(big)), E2BIG,
	    "a value that no message holds");
	xs_rm(store, XBT_NULL, at("big"));
	ok(xs_write(store, XBT_NULL, at("binary"), "a\0b", 3), "a value with a zero");
	path = xs_read(store, XBT_NULL, at("binary"), &count);
	ok(path != NULL && count == 3 && memcmp(path, "a\0b", 3) == 0, "is read as it was");
	free(path);
}

static void
permissions(void)
{
	struct xs_permissions mine[2] = {{.id = self, .perms = XS_PERM_NONE},
	    {.id = 0, .perms = XS_PERM_READ}},
			      many[12], *got;
	unsigned count = 0;

	unreadable(
	    "/local/domain/0/secret-of-conformance", EACCES, "read what is not there to see");
	refused(put(XBT_NULL, "/local/domain/0/conformance", "1"), EACCES,
	    "write to domain 0's folder");
	refused(put(XBT_NULL, "/conformance", "1"), EACCES, "write to the root");
	refused(put(XBT_NULL, "domid", "7"), EACCES, "write what may only be read");
	refused(put(XBT_NULL, "conformance", "7"), EACCES, "write to one's own folder");
	hear("private");
	unreadable(at("private"), EACCES, "read domain 0's node");
	unreadable(at("private/deep"), EACCES, "read below domain 0's node");
	refused(put(XBT_NULL, at("private"), "1"), EACCES, "write it");
	refused(xs_rm(store, XBT_NULL, at("private")), EACCES, "remove it");
	refused(xs_mkdir(store, XBT_NULL, at("private/x")), EACCES, "mkdir below it");
	fails_null(xs_directory(store, XBT_NULL, at("private"), &count), EACCES, "list it");
	fails_null(xs_get_permissions(store, XBT_NULL, at("private"), &count), EACCES,
	    "see its permissions");
	refused(xs_set_permissions(store, XBT_NULL, at("private"), mine, 2), EACCES,
	    "set its permissions");
	meet("to-read");
	ok(has(XBT_NULL, at("private"), "secret"), "read what one may");
	refused(put(XBT_NULL, at("private"), "1"), EACCES, "but not write it");
	got = xs_get_permissions(store, XBT_NULL, at("private"), &count);
	ok(got != NULL && count == 2 && got[0].id == 0 && got[0].perms == XS_PERM_NONE &&
		got[1].id == self && got[1].perms == XS_PERM_READ,
	    "see its permissions then");
	free(got);
	meet("to-write");
	ok(put(XBT_NULL, at("private"), "mine"), "write what one may");
	refused(xs_set_permissions(store, XBT_NULL, at("private"), mine, 2), EACCES,
	    "but not change who may");

	put(XBT_NULL, at("mine"), "1");
	got = xs_get_permissions(store, XBT_NULL, at("mine"), &count);
	ok(got != NULL && count == 1 && got[0].id == self && got[0].perms == XS_PERM_NONE,
	    "a new node is the guest's");
	free(got);
	ok(xs_set_permissions(store, XBT_NULL, at("mine"), mine, 2), "set permissions");
	mine[0].id = 0;
	refused(
	    xs_set_permissions(store, XBT_NULL, at("mine"), mine, 2), EPERM, "give a node away");
	for (unsigned i = 0; i < 12; i++)
		many[i] = (struct xs_permissions){.id = i == 0 ? self : i, .perms = XS_PERM_READ};
	refused(xs_set_permissions(store, XBT_NULL, at("mine"), many, 12), ENOSPC,
	    "too many permissions");
	meet("mine");

	refused(xs_introduce_domain(store, NOBODY, 0, 1), EACCES, "introduce a domain");
	refused(xs_release_domain(store, 0), EACCES, "release a domain");
	refused(xs_resume_domain(store, 0), EACCES, "resume a domain");
	fails_null(xs_control_command(store, "help", NULL, 0), EACCES, "control xenstored");
}

/* The path of the next event if its token is this; NULL: none. */
static char *
event(const char *token, int ms)
{
	static char path[256];
	char **v = NULL;

	path[0] = '\0';
	if (readable(xs_fileno(store), ms))
		v = xs_check_watch(store);
	if (v == NULL)
		return NULL;
	snprintf(path, sizeof(path), "%s%s", v[XS_WATCH_PATH],
	    strcmp(v[XS_WATCH_TOKEN], token) == 0 ? "" : " of another token");
	free(v);
	return path;
}

static void
event_is(const char *token, const char *path, const char *name)
{
	const char *got = event(token, SOON_MS);

	if (!ok(got != NULL && strcmp(got, path) == 0, "%s", name))
		printf("# got: %s, wanted: %s\n", got != NULL ? got : "nothing", path);
}

static void
no_event(const char *name)
{
	const char *got = event("", QUIET_MS);

	if (!ok(got == NULL, "%s", name))
		printf("# got: %s\n", got);
}

static void
watches(void)
{
	struct xs_handle *other = xs_open(0);
	xs_transaction_t t;
	unsigned count = 0;
	char *value;

	ok(xs_watch(store, at("w"), "tok"), "watch what does not exist");
	event_is("tok", at("w"), "it fires");
	no_event("once");
	put(XBT_NULL, at("w"), "1");
	event_is("tok", at("w"), "a write fires it");
	put(XBT_NULL, at("w"), "1");
	event_is("tok", at("w"), "a write of the same fires it");
	put(XBT_NULL, at("w/x"), "1");
	event_is("tok", at("w/x"), "a write below it");
	put(XBT_NULL, at("wx"), "1");
	no_event("not one beside it");
	meet("dom0-writes");
	event_is("tok", at("w/y"), "domain 0's write");
	xs_rm(store, XBT_NULL, at("w/x"));
	event_is("tok", at("w/x"), "a removal below it");
	xs_rm(store, XBT_NULL, at("w"));
	event_is("tok", at("w"), "its own removal");
	no_event("once for all of it");

	ok(xs_watch(store, near("w"), "rel"), "watch a relative path too");
	event_is("rel", near("w"), "it fires by the relative path");
	ok(xs_unwatch(store, at("w"), "tok"), "unwatch the other");
	put(XBT_NULL, at("w"), "1");
	event_is("rel", near("w"), "a write gives the relative path");
	no_event("and nothing for what was unwatched");

	t = xs_transaction_start(store);
	put(t, at("w/a"), "1");
	put(t, at("w/b"), "1");
	no_event("nothing before a transaction ends");
	ok(xs_transaction_end(store, t, false), "it ends");
	event_is("rel", near("w/a"), "then its first write");
	event_is("rel", near("w/b"), "and its second");
	t = xs_transaction_start(store);
	put(t, at("w/a"), "1");
	ok(xs_transaction_end(store, t, true), "another is given up");
	no_event("nothing of that");
	ok(xs_unwatch(store, near("w"), "rel"), "unwatch");
	xs_rm(store, XBT_NULL, at("w"));
	no_event("nothing then");

	ok(xs_watch(store, at("twice"), "one"), "watch");
	ok(xs_watch(store, at("twice"), "two"), "watch with another token");
	event("", SOON_MS);
	event("", SOON_MS);
	put(XBT_NULL, at("twice"), "1");
	ok(event("", SOON_MS) != NULL, "an event for one");
	ok(event("", SOON_MS) != NULL, "and for the other");
	no_event("and no more");
	ok(xs_watch(store, at("twice"), "one"), "watch with the first token again");
	event("", SOON_MS);
	put(XBT_NULL, at("twice"), "1");
	while (count < 3 && event("", SOON_MS) != NULL)
		count++;
	is(count, 3, "events of one write then");
	no_event("and no fourth");
	ok(xs_unwatch(store, at("twice"), "one"), "unwatch it");
	ok(xs_unwatch(store, at("twice"), "one"), "and the other one like it");
	ok(xs_unwatch(store, at("twice"), "two"), "and the one with the other token");
	ok(xs_watch(store, "@releaseDomain", "special"), "a special watch");
	event_is("special", "@releaseDomain", "it fires");

	/* A kernel tells of this as the error of a write(2), after which libxenstore gives up. */
	refused(xs_watch(other, "/a//b", "bad"), EINVAL, "watch a bad path");
	value = xs_read(other, XBT_NULL, "domid", NULL);
	is(value != NULL, differs("a watch that is refused leaves the handle usable", 0, 1),
	    "the handle after that");
	free(value);
	xs_close(other);
	ok(xs_unwatch(store, at("twice"), "none"), "unwatch what is not watched");
}

static void
transactions(void)
{
	struct xs_handle *other = xs_open(0);
	xs_transaction_t t, open[2 * TRANSACTIONS];
	unsigned count = 0;
	char *value;

	put(XBT_NULL, at("t"), "old");
	t = xs_transaction_start(store);
	ok(t != XBT_NULL, "start");
	ok(put(t, at("t"), "new"), "write");
	ok(has(t, at("t"), "new"), "read it inside");
	ok(has(XBT_NULL, at("t"), "old"), "it is not seen outside");
	value = xs_read(other, t, at("t"), NULL);
	fails_null(value, ENOENT, "another handle does not have this transaction");
	free(value);
	ok(xs_transaction_end(store, t, false), "end");
	ok(has(XBT_NULL, at("t"), "new"), "it is seen outside");
	refused(put(t, at("t"), "x"), ENOENT, "it is no transaction any more");
	refused(xs_transaction_end(store, t, false), ENOENT, "nor can it be ended again");
	unreadable(at("nothing"), ENOENT, "the handle is well after that");
	t = xs_transaction_start(store);
	put(t, at("t"), "aborted");
	ok(xs_transaction_end(store, t, true), "give up");
	ok(has(XBT_NULL, at("t"), "new"), "nothing has changed");

	t = xs_transaction_start(store);
	ok(has(t, at("t"), "new"), "read in a transaction");
	put(t, at("t2"), "1");
	meet("conflict");
	ok(has(t, at("t"), "new"), "it reads what it has read");
	refused(xs_transaction_end(store, t, false), EAGAIN, "what it has read is another now");
	unreadable(at("t2"), ENOENT, "it has written nothing");
	t = xs_transaction_start(store);
	put(t, at("t2"), "1");
	meet("elsewhere");
	ok(xs_transaction_end(store, t, false), "what it has not read may change");
	ok(has(XBT_NULL, at("t2"), "1"), "it has written");

	while (count < 2 * TRANSACTIONS && (open[count] = xs_transaction_start(store)) != XBT_NULL)
		count++;
	refused(count == 2 * TRANSACTIONS, ENOSPC, "too many transactions");
	is(count, TRANSACTIONS, "that is how many");
	while (count > 0)
		xs_transaction_end(store, open[--count], true);
	t = xs_transaction_start(store);
	ok(t != XBT_NULL, "one more when these have ended");
	xs_transaction_end(store, t, true);

	/* What a closed handle leaves. */
	for (unsigned i = 0; i < 2 * TRANSACTIONS && other != NULL; i++) {
		t = xs_transaction_start(other);
		if (t == XBT_NULL)
			break;
		xs_close(other);
		usleep(20000);
		other = xs_open(0);
	}
	ok(t != XBT_NULL, "transactions end with their handle");
	xs_close(other);
}

static void
guest(void)
{
	paths();
	permissions();
	watches();
	transactions();
	tell("done", 1);
}

/* --- domain 0 --- */

static void
domain0(void)
{
	struct xs_permissions p[2] = {{.id = 0, .perms = XS_PERM_NONE},
	    {.id = peer, .perms = XS_PERM_READ}},
			      *got;
	unsigned count = 0;

	put(XBT_NULL, at("private"), "secret");
	got = xs_get_permissions(store, XBT_NULL, at("private"), &count);
	ok(got != NULL && count >= 1 && got[0].id == peer,
	    "what domain 0 makes in the guest's folder is the guest's");
	free(got);
	ok(xs_set_permissions(store, XBT_NULL, at("private"), p, 1), "take a node from the guest");
	tell("private", 1);
	hear("to-read");
	xs_set_permissions(store, XBT_NULL, at("private"), p, 2);
	tell("to-read", 1);
	p[1].perms = XS_PERM_READ | XS_PERM_WRITE;
	hear("to-write");
	xs_set_permissions(store, XBT_NULL, at("private"), p, 2);
	tell("to-write", 1);
	hear("mine");
	ok(has(XBT_NULL, at("private"), "mine"), "what the guest has written");
	got = xs_get_permissions(store, XBT_NULL, at("mine"), &count);
	ok(got != NULL && count == 2 && got[0].id == peer && got[1].id == 0 &&
		got[1].perms == XS_PERM_READ,
	    "the guest's permissions");
	free(got);
	ok(put(XBT_NULL, at("mine"), "2"), "domain 0 may write in spite of them");
	tell("mine", 1);
	hear("dom0-writes");
	put(XBT_NULL, at("w/y"), "1");
	tell("dom0-writes", 1);
	hear("conflict");
	put(XBT_NULL, at("t"), "newer");
	tell("conflict", 1);
	hear("elsewhere");
	put(XBT_NULL, at("t"), "newest");
	tell("elsewhere", 1);
	hear("done");
	ok(xs_rm(store, XBT_NULL, at("private")), "remove");
}

static void
role(char role)
{
	if (self == 0)
		domain0();
	else
		guest();
}

int
main(int argc, char *argv[])
{
	return conform(argc, argv, role);
}
