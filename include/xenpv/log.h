/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_LOG_H
#define XENPV_LOG_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Log lines of a daemon: one line each, to stderr or to syslog.
 *
 * On stderr a line is "program[/device]: message". When stderr is connected to the systemd journal
 * it is "<N>[device: ]message", with the priority prefix of sd-daemon(3); the journal and syslog
 * add the program's name. Lines are bounded (1 KiB) and written with one write(2), so that lines of
 * several processes do not mix. Bytes of a message (text from a peer) that are not printable ASCII
 * are printed as \xNN. errno is kept.
 *
 * Threading: every function may be called from any thread. xpv_log_open() and xpv_log_device()
 * are called before threads start.
 */

enum xpv_log_level { /* the numbers are syslog(3)'s */
	XPV_LOG_ERR = 3,
	XPV_LOG_WARNING = 4,
	XPV_LOG_NOTICE = 5,
	XPV_LOG_INFO = 6,
	XPV_LOG_DEBUG = 7,
};

/* Sends lines up to "max" to stderr, or to syslog(3) when "to_syslog". "program" must stay valid.
 */
void xpv_log_open(const char *program, enum xpv_log_level max, bool to_syslog);

/* Names the device this process serves in every further line; copied. NULL: none. */
void xpv_log_device(const char *device);

/* True if lines of this level are written: to avoid preparing what nobody reads. */
bool xpv_log_enabled(enum xpv_log_level level);

void xpv_log(enum xpv_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define xpv_err(...)	 xpv_log(XPV_LOG_ERR, __VA_ARGS__)
#define xpv_warning(...) xpv_log(XPV_LOG_WARNING, __VA_ARGS__)
#define xpv_notice(...)	 xpv_log(XPV_LOG_NOTICE, __VA_ARGS__)
#define xpv_info(...)	 xpv_log(XPV_LOG_INFO, __VA_ARGS__)
#define xpv_debug(...)                                                                             \
	do {                                                                                       \
		if (xpv_log_enabled(XPV_LOG_DEBUG))                                                \
			xpv_log(XPV_LOG_DEBUG, __VA_ARGS__);                                       \
	} while (0)

/* The text of the last line that this process wrote at XPV_LOG_ERR, for telling somebody else; ""
 * if there was none. What does not fit is cut. */
void xpv_log_last_error(char *text, size_t size);

/* Logs at XPV_LOG_ERR and exits with a code from sysexits(3). Not for a fault that a peer causes.
 */
void xpv_die(int exit_code, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
