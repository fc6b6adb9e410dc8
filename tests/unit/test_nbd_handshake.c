/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/event.h>

#include "nbd_handshake.h"

/* The handshake as clients see it, honest ones and others. The test is the client, over a socket
 * pair; the server runs whenever the client waits. */

#define TIMEOUT_MS   200
#define OPTION_MAGIC 0x49484156454f5054ull
#define REPLY_MAGIC  0x3e889045565a9ull

enum { EXPORT_NAME = 1, ABORT, LIST, PEEK_EXPORT, STARTTLS, INFO, GO, STRUCTURED_REPLY };
enum { ACK = 1, SERVER = 2, REPLY_INFO = 3 };
#define ERR(n)	(1u << 31 | (n))
#define UNSUP	ERR(1)
#define INVALID ERR(3)
#define UNKNOWN ERR(6)
#define TOO_BIG ERR(9)

static struct event_base *base;
static struct nbd_exports exports;
static int client;
static bool ended;
static int won; /* the descriptor of a handshake that succeeded */
static struct nbd_export chosen;

static void
on_ended(const struct nbd_export *export, int fd, void *arg)
{
	assert_false(ended);
	ended = true;
	won = fd;
	if (export != NULL)
		chosen = *export;
	assert_int_equal(export != NULL, fd >= 0);
}

static void
run(void)
{
	event_base_loop(base, EVLOOP_NONBLOCK);
}

static void
connect_client(void)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	client = pair[0];
	ended = false;
	won = -1;
	assert_non_null(nbd_handshake_start(base, pair[1], &exports, TIMEOUT_MS, on_ended, NULL));
}

static void
add_export(uint32_t id, const char *name, uint64_t bytes)
{
	struct nbd_export e = {
	    .id = id,
	    .flags = 0x125,
	    .bytes = bytes,
	    .block_min = 512,
	    .block_preferred = 4096,
	    .block_max = 262144,
	};

	strncpy(e.name, name, sizeof(e.name) - 1);
	assert_int_equal(nbd_exports_set(&exports, &e), 0);
}

static int
setup(void **state)
{
	base = event_base_new();
	add_export(1, "xvda", 1 << 20);
	add_export(2, "xvdb", 3 << 20);
	connect_client();
	return 0;
}

static int
teardown(void **state)
{
	close(client);
	while (!ended)
		event_base_loop(base, EVLOOP_ONCE);
	if (won >= 0)
		close(won);
	event_base_free(base);
	nbd_exports_free(&exports);
	return 0;
}

/* ---- the client's words ---- */

static void
say(const void *data, size_t length)
{
	const uint8_t *p = data;

	while (length > 0) {
		ssize_t n = send(client, p, length, MSG_NOSIGNAL);

		if (n > 0) {
			p += n;
			length -= (size_t)n;
		} else if (errno != EAGAIN) {
			return; /* the server has had enough */
		}
		run();
	}
}

static void
say32(uint32_t value)
{
	value = htobe32(value);
	say(&value, 4);
}

static void
say_option(uint32_t option, uint32_t length)
{
	uint64_t magic = htobe64(OPTION_MAGIC);

	say(&magic, 8);
	say32(option);
	say32(length);
}

/* GO or INFO with "count" information requests. */
static void
say_info(uint32_t option, const char *name, unsigned count, uint16_t request)
{
	uint16_t n = htobe16((uint16_t)count);

	say_option(option, (uint32_t)(4 + strlen(name) + 2 + 2 * count));
	say32((uint32_t)strlen(name));
	say(name, strlen(name));
	say(&n, 2);
	request = htobe16(request);
	for (unsigned i = 0; i < count; i++)
		say(&request, 2);
}

/* ---- what it hears ---- */

static bool
hear(void *data, size_t length)
{
	uint8_t *p = data;

	for (unsigned idle = 0; length > 0 && idle < 3;) {
		ssize_t n = recv(client, p, length, 0);

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return false;
		if (n < 0) {
			idle++;
			run();
			continue;
		}
		p += n;
		length -= (size_t)n;
	}
	return length == 0;
}

static uint64_t
hear_number(size_t bytes)
{
	uint64_t value = 0;

	assert_true(hear((uint8_t *)&value + 8 - bytes, bytes));
	return be64toh(value);
}

static void
hear_greeting(void)
{
	assert_true(hear_number(8) == 0x4e42444d41474943ull);
	assert_true(hear_number(8) == OPTION_MAGIC);
	assert_int_equal(hear_number(2), 3);
}

/* The type of the reply; its data in "data". */
static uint32_t
hear_reply(uint32_t option, uint8_t *data, size_t size, uint32_t *length)
{
	uint32_t type;

	assert_true(hear_number(8) == REPLY_MAGIC);
	assert_int_equal(hear_number(4), option);
	type = (uint32_t)hear_number(4);
	*length = (uint32_t)hear_number(4);
	assert_true(*length <= size);
	if (*length > 0)
		assert_true(hear(data, *length));
	return type;
}

static uint32_t
hear_type(uint32_t option)
{
	uint8_t data[512];
	uint32_t length;

	return hear_reply(option, data, sizeof(data), &length);
}

static void
greet(uint32_t flags)
{
	hear_greeting();
	say32(flags);
}

static void
is_closed(void)
{
	char byte;

	run();
	run();
	assert_true(ended);
	assert_int_equal(won, -1);
	assert_false(hear(&byte, 1));
}

/* ---- honest clients ---- */

static void
go(void **state)
{
	uint8_t data[64];
	uint32_t length;
	bool sizes = false, export = false;
	uint32_t type;

	greet(3);
	say_info(GO, "xvdb", 1, 3);
	while ((type = hear_reply(GO, data, sizeof(data), &length)) == REPLY_INFO) {
		if (length == 12 && data[1] == 0)
			export = memcmp(data + 2, "\0\0\0\0\0\x30\0\0\x01\x25", 10) == 0;
		if (length == 14 && data[1] == 3)
			sizes = memcmp(data + 2, "\0\0\2\0\0\0\x10\0\0\4\0\0", 12) == 0;
	}
	assert_int_equal(type, ACK);
	assert_true(export);
	assert_true(sizes);
	run();
	assert_true(ended && won >= 0);
	assert_int_equal(chosen.id, 2);
}

/* What a hasty client sends after GO belongs to the transmission. */
static void
go_reads_nothing_beyond(void **state)
{
	char rest[8] = "";

	greet(3);
	say_info(GO, "xvda", 0, 0);
	say("request", 7);
	run();
	run();
	assert_true(ended && won >= 0);
	assert_int_equal(recv(won, rest, sizeof(rest), 0), 7);
	assert_string_equal(rest, "request");
}

static void
export_name(void **state)
{
	uint8_t zeroes[124];

	greet(1);
	say_option(EXPORT_NAME, 4);
	say("xvda", 4);
	assert_int_equal(hear_number(8), 1 << 20);
	assert_int_equal(hear_number(2), 0x125);
	assert_true(hear(zeroes, sizeof(zeroes)));
	run();
	assert_true(ended && won >= 0);
}

static void
export_name_without_zeroes(void **state)
{
	uint8_t byte;

	greet(3);
	say_option(EXPORT_NAME, 4);
	say("xvda", 4);
	hear_number(8);
	hear_number(2);
	assert_false(hear(&byte, 1));
	assert_true(ended && won >= 0);
}

static void
not_fixed(void **state)
{
	greet(0);
	say_option(LIST, 0);
	is_closed();
}

static void
list(void **state)
{
	uint8_t data[64];
	uint32_t length;

	greet(3);
	say_option(LIST, 0);
	assert_int_equal(hear_reply(LIST, data, sizeof(data), &length), SERVER);
	assert_int_equal(length, 8);
	assert_memory_equal(data, "\0\0\0\4xvda", 8);
	assert_int_equal(hear_type(LIST), SERVER);
	assert_int_equal(hear_type(LIST), ACK);
	/* Still in the handshake. */
	say_info(INFO, "xvda", 0, 0);
	assert_int_equal(hear_type(INFO), REPLY_INFO);
	assert_int_equal(hear_type(INFO), REPLY_INFO);
	assert_int_equal(hear_type(INFO), ACK);
	assert_false(ended);
}

static void
abort_is_acknowledged(void **state)
{
	greet(3);
	say_option(ABORT, 0);
	assert_int_equal(hear_type(ABORT), ACK);
	is_closed();
}

static void
refused_options(void **state)
{
	static const uint32_t options[] = {
	    PEEK_EXPORT, STARTTLS, STRUCTURED_REPLY, 9, 10, 11, 0, 0xffffffff};

	greet(3);
	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		say_option(options[i], 3);
		say("abc", 3);
		assert_int_equal(hear_type(options[i]), UNSUP);
	}
	assert_false(ended);
}

static void
default_export(void **state)
{
	greet(3);
	say_info(INFO, "", 0, 0);
	assert_int_equal(hear_type(INFO), UNKNOWN);
	nbd_exports_remove(&exports, 1);
	say_info(GO, "", 0, 0);
	assert_int_equal(hear_type(GO), REPLY_INFO);
	run();
	assert_true(ended && won >= 0);
	assert_int_equal(chosen.id, 2);
}

static void
unknown_exports(void **state)
{
	greet(3);
	say_info(GO, "xvdz", 0, 0);
	assert_int_equal(hear_type(GO), UNKNOWN);
	say_info(GO, "xvd", 0, 0);
	assert_int_equal(hear_type(GO), UNKNOWN);
	say_option(EXPORT_NAME, 4);
	say("xvdz", 4);
	is_closed();
}

/* ---- others ---- */

static void
unknown_flags(void **state)
{
	greet(7);
	is_closed();
}

static void
wrong_magic(void **state)
{
	greet(3);
	say("GET / HTTP/1.1\r\n", 16);
	is_closed();
}

static void
lengths_that_lie(void **state)
{
	static const uint8_t lies[][10] = {
	    {0, 0, 0, 5, 'x', 'v', 'd', 'a', 0, 0}, /* a name of 5 */
	    {0xff, 0xff, 0xff, 0xff, 'x', 'v', 'd', 'a', 0, 0},
	    {0xff, 0xff, 0xff, 0xfc, 'x', 'v', 'd', 'a', 0, 0},
	    {0, 0, 0, 4, 'x', 'v', 'd', 'a', 0, 1}, /* a request that is not there */
	    {0, 0, 0, 4, 'x', 'v', 'd', 'a', 0xff, 0xff},
	    {0, 0, 0, 3, 'x', 'v', 'd', 'a', 0, 0},
	};

	greet(3);
	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		say_option(GO, 10);
		say(lies[i], 10);
		assert_int_equal(hear_type(GO), INVALID);
	}
	for (uint32_t length = 0; length < 6; length++) {
		say_option(GO, length);
		say(lies[0], length);
		assert_int_equal(hear_type(GO), INVALID);
	}
	say_option(LIST, 1);
	say("x", 1);
	assert_int_equal(hear_type(LIST), INVALID);
	assert_false(ended);
}

static void
long_options(void **state)
{
	static char noise[65536];
	static const uint32_t lengths[] = {4229, 4230, 4231, 4096, 8461, 65535, 65536};

	greet(3);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		say_option(77, lengths[i]);
		say(noise, lengths[i]);
		assert_int_equal(hear_type(77), lengths[i] > 4230 ? TOO_BIG : UNSUP);
	}
	/* A name of the longest kind that the protocol knows. */
	memset(noise, 'x', 4096);
	noise[4096] = '\0';
	say_info(GO, noise, 3, 3);
	assert_int_equal(hear_type(GO), UNKNOWN);
	say_option(77, 65537);
	is_closed();
}

static void
long_export_name(void **state)
{
	greet(3);
	say_option(EXPORT_NAME, 5000);
	is_closed();
}

static void
byte_by_byte(void **state)
{
	static const uint8_t option[] = {0x49, 0x48, 0x41, 0x56, 0x45, 0x4f, 0x50, 0x54, 0, 0, 0, 7,
	    0, 0, 0, 10, 0, 0, 0, 4, 'x', 'v', 'd', 'a', 0, 0};

	greet(3);
	for (unsigned i = 0; i < sizeof(option); i++) {
		assert_false(ended);
		say(&option[i], 1);
	}
	assert_int_equal(hear_type(GO), REPLY_INFO);
	run();
	assert_true(ended && won >= 0);
}

/* Whoever asks and does not listen is not asked on, and is out of time some day. */
static void
never_reads(void **state)
{
	uint8_t option[16] = {0x49, 0x48, 0x41, 0x56, 0x45, 0x4f, 0x50, 0x54, 0, 0, 0, 3};
	size_t sent = 0;

	greet(3);
	for (unsigned i = 0; i < 100000; i++) {
		ssize_t n = send(client, option, sizeof(option), MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t)n;
		if (i % 64 == 0)
			run();
	}
	assert_true(sent < 2000000); /* what sockets hold */
	while (!ended)
		event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(won, -1);
}

/* One who asks for ever is out of time as well. */
static void
never_ends(void **state)
{
	greet(3);
	while (!ended) {
		say_option(LIST, 0);
		while (recv(client, (char[4096]){0}, 4096, 0) > 0)
			;
		run();
	}
	assert_int_equal(won, -1);
}

static void
silence(void **state)
{
	hear_greeting();
	while (!ended)
		event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(won, -1);
}

static void
gone_at_once(void **state)
{
	shutdown(client, SHUT_RDWR);
	run();
	run();
	assert_true(ended);
	assert_int_equal(won, -1);
}

/* Random bytes behind a good beginning: nothing but an end or an answer comes of them. */
static void
noise(void **state)
{
	srand(3);
	for (unsigned i = 0; i < 2000; i++) {
		uint8_t bytes[64];

		close(client);
		while (!ended)
			event_base_loop(base, EVLOOP_ONCE);
		if (won >= 0)
			close(won);
		connect_client();
		greet((uint32_t)rand() % 4);
		for (unsigned k = 0; k < 4 && !ended; k++) {
			say_option((uint32_t)rand() % 12, (uint32_t)rand() % 20);
			for (unsigned b = 0; b < sizeof(bytes); b++)
				bytes[b] = rand() % 3 == 0 ? (uint8_t)rand() : 0;
			say(bytes, (size_t)rand() % sizeof(bytes));
		}
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(go),
	    TEST(go_reads_nothing_beyond),
	    TEST(export_name),
	    TEST(export_name_without_zeroes),
	    TEST(not_fixed),
	    TEST(list),
	    TEST(abort_is_acknowledged),
	    TEST(refused_options),
	    TEST(default_export),
	    TEST(unknown_exports),
	    TEST(unknown_flags),
	    TEST(wrong_magic),
	    TEST(lengths_that_lie),
	    TEST(long_options),
	    TEST(long_export_name),
	    TEST(byte_by_byte),
	    TEST(never_reads),
	    TEST(never_ends),
	    TEST(silence),
	    TEST(gone_at_once),
	    TEST(noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
