/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENPV_XENBUS_H
#define XENPV_XENBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <xenpv/store.h>

/*
 * The device state machine of xen/include/public/io/xenbus.h, both halves, and the discovery of
 * devices: those offered to this domain, and those it is to serve.
 * Threading: that of the store handle.
 */

enum xpv_state {
	XPV_STATE_UNKNOWN = 0, /* also: the directory is gone */
	XPV_STATE_INITIALISING = 1,
	XPV_STATE_INIT_WAIT = 2,
	XPV_STATE_INITIALISED = 3,
	XPV_STATE_CONNECTED = 4,
	XPV_STATE_CLOSING = 5,
	XPV_STATE_CLOSED = 6,
	XPV_STATE_RECONFIGURING = 7,
	XPV_STATE_RECONFIGURED = 8,
};

const char *xpv_state_name(enum xpv_state state);

/*
 * One device seen from its frontend.
 *
 * The handlers run in the store's event base, only when a value really changed:
 * backend_changed  the backend's state node has another value (or vanished: UNKNOWN)
 * backend_touched  the backend's state node was written with the value it had: how backends
 *                  announce a new size (see blkif.h)
 * own_changed      our own state node is not what we wrote last: the toolstack made the device
 *                  anew (INITIALISING, after resume) or removed it (UNKNOWN); also, once, when it
 *                  names another backend than the one we opened
 * Any may be NULL, and any may close the frontend.
 */
struct xpv_frontend_ops {
	void (*backend_changed)(enum xpv_state state, void *arg);
	void (*backend_touched)(enum xpv_state state, void *arg);
	void (*own_changed)(enum xpv_state state, void *arg);
};

struct xpv_frontend;

/*
 * Reads the device's directory, "device/vbd/51712", and starts watching. NULL with errno: ENOENT
 * when the directory or its backend node is gone, EINVAL when the toolstack's nodes make no sense.
 * A backend whose own directory is not there (yet, or any more) is in state UNKNOWN.
 * "store" must outlive it.
 */
struct xpv_frontend *xpv_frontend_open(
    struct xpv_store *store, const char *dir, const struct xpv_frontend_ops *ops, void *arg);
void xpv_frontend_close(struct xpv_frontend *f); /* NULL is allowed */

/* Both are valid until the handle is closed. */
const char *xpv_frontend_dir(const struct xpv_frontend *f);
const char *xpv_frontend_backend_dir(const struct xpv_frontend *f);

uint32_t xpv_frontend_backend_id(const struct xpv_frontend *f);

/* The state last seen or written. */
enum xpv_state xpv_frontend_state(const struct xpv_frontend *f);
enum xpv_state xpv_frontend_backend_state(const struct xpv_frontend *f);

/* Writes our state; does nothing when it is already that. 0, or -1 with errno and without a write:
 * ENOENT when the device is gone, ESTALE when somebody else changed the state: own_changed follows.
 */
int xpv_frontend_set_state(struct xpv_frontend *f, enum xpv_state state);

/* Reports a device error where toolstacks look for it: error/<dir>/error = "<errnum> <text>",
 * and logs it. errnum 0 clears the node. */
void xpv_frontend_error(struct xpv_frontend *f, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * One device seen from its backend.
 *
 * The handlers run in the store's event base, only when a value really changed:
 * frontend_changed  the frontend's state node has another value (or vanished: UNKNOWN)
 * own_changed       our own state node is not what we wrote last: the toolstack detaches the device
 *                   (CLOSING; xl writes it together with online = 0), removed it (UNKNOWN) or made
 *                   it anew (INITIALISING), or a driver of the kernel has taken it; also, once,
 *                   when it names another frontend than the one we opened
 *
 * Either may be NULL, and either may close the backend.
 */
struct xpv_backend_ops {
	void (*frontend_changed)(enum xpv_state state, void *arg);
	void (*own_changed)(enum xpv_state state, void *arg);
};

struct xpv_backend;

/*
 * Reads the device's directory, "backend/vbd/3/51712", and starts watching. NULL with errno: ENOENT
 * when the directory or its frontend node is gone, EINVAL when the toolstack's nodes make no sense.
 * A frontend whose own directory is not there is in state UNKNOWN. "store" must outlive it.
 */
struct xpv_backend *xpv_backend_open(
    struct xpv_store *store, const char *dir, const struct xpv_backend_ops *ops, void *arg);
void xpv_backend_close(struct xpv_backend *b); /* NULL is allowed */

/* Both are valid until the handle is closed. */
const char *xpv_backend_dir(const struct xpv_backend *b);
const char *xpv_backend_frontend_dir(const struct xpv_backend *b);

uint32_t xpv_backend_frontend_id(const struct xpv_backend *b);

/* The state last seen or written. */
enum xpv_state xpv_backend_state(const struct xpv_backend *b);
enum xpv_state xpv_backend_frontend_state(const struct xpv_backend *b);

/* False once the toolstack wants to be rid of the device: what is Closed then stays so. */
bool xpv_backend_online(const struct xpv_backend *b);

/* As xpv_frontend_set_state(). */
int xpv_backend_set_state(struct xpv_backend *b, enum xpv_state state);

/* Reports a device error where toolstacks look for it: error/<dir>/error = "<errnum> <text>",
 * and logs it. errnum 0 clears the node. */
void xpv_backend_error(struct xpv_backend *b, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Devices of one class under "device/<class>". "found" is called once per directory that has a
 * backend node, "lost" once when it vanishes, "changed" when anything else under it changed.
 * None may be NULL. "dir" is valid during the call.
 * Names that are not a decimal number up to 2^31 are ignored with a log line, one for them all.
 */
struct xpv_discovery_ops {
	void (*found)(const char *dir, uint32_t id, void *arg);
	void (*changed)(const char *dir, uint32_t id, void *arg);
	void (*lost)(const char *dir, uint32_t id, void *arg);
};

struct xpv_discovery;

/* "found" is called from the event loop, also for what is there already. "store" and "ops" must
 * outlive it; "dev_class" is copied. NULL with errno: ENOMEM, ENAMETOOLONG, or as
 * xpv_store_watch(). */
struct xpv_discovery *xpv_discovery_start(
    struct xpv_store *store, const char *dev_class, const struct xpv_discovery_ops *ops, void *arg);

/* The same for devices that this domain serves: "backend/<class>/<domid>/<id>", found when it has a
 * frontend node. "dir" is "backend/vbd/3/51712", "id" 51712. */
struct xpv_discovery *xpv_backend_discovery_start(
    struct xpv_store *store, const char *dev_class, const struct xpv_discovery_ops *ops, void *arg);

/* Not in a handler of its own. NULL is allowed. */
void xpv_discovery_stop(struct xpv_discovery *d);

/*
 * The kernel driver that has claimed a device ("vbd" for vbd-51712), written to "driver"; false
 * when none has. On Linux: /sys/bus/xen/devices/<bus_id>/driver. "release" gets what frees the
 * device: a command (Linux) or a setting for the next boot (FreeBSD).
 */
bool xpv_kernel_driver(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size);

/* The same for a device that this domain serves ("vbd-3-51712"), on the other bus:
 * /sys/bus/xen-backend/devices/<bus_id>/driver. */
bool xpv_kernel_backend(
    const char *bus_id, char *driver, size_t driver_size, char *release, size_t release_size);

/* Whether the kernel has a backend driver loaded for a class ("vbd") at all: one that claims
 * devices as they come. Always false on FreeBSD, whose drivers are in the kernel for good. */
bool xpv_kernel_backend_loaded(const char *dev_class);

/*
 * Takes a device from its backend driver, which leaves the state in xenstore alone if it allows to
 * be bound again (Linux's xen-blkback does). Returns when the driver has let go. 0 or -1 with
 * errno: ENODEV when no driver has it, ENOTSUP where that cannot be (FreeBSD).
 */
int xpv_kernel_backend_release(const char *bus_id);

/* "xvda" for the virtual device 51712. Source: docs/man/xen-vbd-interface.7. */
void xpv_vbd_name(uint32_t vdev, char *name, size_t size);

#endif
