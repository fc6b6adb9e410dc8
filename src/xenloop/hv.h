/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_HV_H
#define XENLOOP_HV_H

/*
 * What stands in for the hypervisor: tables in memory that every process of a session shares, and
 * the requests a process sends to the broker, which alone changes who owns what in them. Sending
 * and taking events needs the tables only, as does copying from grants; so the fast paths are
 * those of real processes on real memory.
 *
 * There is no protection between "domains" here: whoever may connect to the broker may write all
 * of this.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define HV_DOMAINS  32	  /* at a time, domain 0 included */
#define HV_PORTS    4096  /* per domain, as with Xen's 2-level ABI */
#define HV_GRANTS   32768 /* per domain: Xen's default of 64 grant frames */
#define HV_FRAMES   65536 /* pages of grantable memory per domain */
#define HV_HANDLES  4096
#define HV_CHANNELS 1024
#define HV_PAGE	    4096u

/* What the domain builder makes for each domain: pages, ports, grants (xen/grant_table.h). */
#define HV_STORE_FRAME	     0
#define HV_CONSOLE_FRAME     1
#define HV_STORE_PORT	     1
#define HV_CONSOLE_PORT	     2
#define HV_RESERVED_CONSOLE  0
#define HV_RESERVED_XENSTORE 1
#define HV_FIRST_FREE_GRANT  8

/* Bits of hv_port.state. A masked port that is pending is delivered when it is unmasked. */
#define HV_PORT_OPEN	1u /* belongs to a handle */
#define HV_PORT_GHOST	2u /* did until its domain was resumed: does nothing, and says so to none */
#define HV_PORT_MASKED	4u /* delivered, and not unmasked since */
#define HV_PORT_PENDING 8u
#define HV_PORT_QUEUED	16u /* its number is in the handle's pipe */
#define HV_PORT_ROUND	32u /* the rest counts how often that came to be */

#define HV_PEER_NONE 0u

struct hv_port {
	_Atomic uint32_t state;
	_Atomic uint32_t handle;
	_Atomic uint32_t peer; /* slot * HV_PORTS + port; HV_PEER_NONE: unbound, or a VIRQ */
};

/* Bits of hv_grant.word; the rest is the domain that may use it. */
#define HV_GRANT_VALID	  0x10000u
#define HV_GRANT_READONLY 0x20000u
#define HV_GRANT_DOMID	  0x0ffffu

struct hv_grant {
	_Atomic uint32_t word;
	_Atomic uint32_t frame;
};

struct hv_domain {
	_Atomic uint32_t domid; /* HV_NO_DOMID: not there */
	struct hv_port ports[HV_PORTS];
	struct hv_grant grants[HV_GRANTS];
};

#define HV_NO_DOMID 0xffffffffu

/* A connection to the broker, which forked processes share as they would share descriptors. */
struct hv_channel {
	pthread_mutex_t lock; /* robust, shared; held from a request to its reply */
	_Atomic uint32_t sequence;
};

struct hv {
	struct hv_channel channels[HV_CHANNELS];
	struct hv_domain domains[HV_DOMAINS];
};

/* --- requests to the broker: one SOCK_SEQPACKET message each, and one as the reply --- */

enum hv_operation {
	HV_HELLO =
	    1,	 /* name, or domid if it is empty -> value: slot, value2: channel; fds: tables */
	HV_OPEN, /* kind -> value: handle; fds: the handle's pipe */
	HV_FIND, /* inode of a handle's pipe -> value: handle */
	HV_PIPE, /* handle -> fds: the end to write port numbers to */
	HV_ALLOC_UNBOUND,    /* handle, domid -> value: port */
	HV_BIND_INTERDOMAIN, /* handle, domid, port -> value: port */
	HV_BIND_VIRQ,	     /* handle, port: number of the VIRQ -> value: port */
	HV_UNBIND,	     /* handle, port */
	HV_RAM,		     /* domid -> value: slot; fds: its memory, read-write and read-only */
	HV_SHARE,	     /* handle, domid, count, flags -> value: first frame; list: grefs */
	HV_SHARE_NOTIFY,     /* handle, frame, offset, port, flags */
	HV_UNSHARE,	     /* handle, frame, count */
	HV_MAP,		 /* handle, flags, refs -> value: mapping; list: slot and frame of each */
	HV_MAP_NOTIFY,	 /* handle, mapping, offset, port, flags */
	HV_UNMAP,	 /* handle, mapping */
	HV_MAX_GRANTS,	 /* handle, count */
	HV_TAKE_CONSOLE, /* handle: it gets its domain's console port */
	HV_RESTRICT,	 /* handle, domid */
	HV_INFO,	 /* domid, or count: a slot, the first of interest
			  * -> value: slot; list: struct hv_info */
	/* The toolstack's. */
	HV_CREATE,	/* name, count: pages it may share -> value: domid */
	HV_DESTROY,	/* domid */
	HV_QUIESCE,	/* name; the reply comes when the domain's xenstore connection is idle */
	HV_SUSPEND,	/* name; its ports and grants are gone */
	HV_RESUME,	/* domid -> as HV_CREATE */
	HV_SHUTDOWN,	/* domid, flags: the reason */
	HV_START_STORE, /* the ring of domid is xenstored's now: requests may go */
	HV_QUIT,
};

enum hv_kind { HV_EVTCHN = 1, HV_GNTTAB, HV_GNTSHR };

#define HV_FLAG_WRITABLE   1u
#define HV_FLAG_CLEAR_BYTE 2u
#define HV_FLAG_SEND_EVENT 4u
#define HV_FLAG_BY_SLOT	   8u

#define HV_MAX_REFS  4096
#define HV_NAME_SIZE 32

struct hv_ref {
	uint32_t domid, ref;
};

struct hv_request {
	uint32_t operation;
	uint32_t sequence;
	uint32_t handle;
	uint32_t domid;
	uint32_t port;
	uint32_t count;
	uint32_t flags;
	uint32_t frame; /* or mapping */
	uint32_t offset;
	uint64_t inode;
	char name[HV_NAME_SIZE];
	struct hv_ref refs[]; /* count */
};

struct hv_reply {
	uint32_t sequence;
	int32_t error; /* an errno, 0 if all went well */
	uint32_t value;
	uint32_t value2;
	uint32_t count;
	uint32_t list[];
};

struct hv_info {
	uint32_t domid;
	uint32_t shutdown; /* 0: runs; else 1 + the reason */
	uint32_t suspended;
	uint32_t frames; /* in use */
	uint32_t mapped; /* of them, by others; not counting those that the domain is born with */
	uint32_t ports;	 /* that its programs have */
	uint32_t maps;	 /* pages that they have mapped */
	char name[HV_NAME_SIZE];
};

#define HV_MAX_REQUEST (sizeof(struct hv_request) + HV_MAX_REFS * sizeof(struct hv_ref))
#define HV_MAX_REPLY   (sizeof(struct hv_reply) + 2 * HV_MAX_REFS * sizeof(uint32_t))

/* --- events --- */

/* Writes a port's number to a handle's pipe. */
typedef void (*hv_deliver)(void *arg, uint32_t handle, uint32_t port);

/* If the port is pending and not masked: masks it and delivers it. */
static inline void
hv_kick(struct hv_port *port, uint32_t number, hv_deliver deliver, void *arg)
{
	uint32_t state = atomic_load(&port->state);

	while ((state & (HV_PORT_OPEN | HV_PORT_PENDING | HV_PORT_MASKED)) ==
	       (HV_PORT_OPEN | HV_PORT_PENDING)) {
		uint32_t next =
		    ((state & ~HV_PORT_PENDING) | HV_PORT_MASKED | HV_PORT_QUEUED) + HV_PORT_ROUND;

		if (atomic_compare_exchange_weak(&port->state, &state, next)) {
			deliver(arg, atomic_load(&port->handle), number);
			return;
		}
	}
}

static inline void
hv_raise(struct hv_port *port, uint32_t number, hv_deliver deliver, void *arg)
{
	/* What comes while it is pending or masked is the same event. */
	atomic_fetch_or(&port->state, HV_PORT_PENDING);
	hv_kick(port, number, deliver, arg);
}

/* Raises the port at the other end. */
static inline void
hv_send(struct hv *hv, const struct hv_port *port, hv_deliver deliver, void *arg)
{
	uint32_t peer = atomic_load(&port->peer);

	if (peer != HV_PEER_NONE)
		hv_raise(&hv->domains[peer / HV_PORTS % HV_DOMAINS].ports[peer % HV_PORTS],
		    peer % HV_PORTS, deliver, arg);
}

static inline struct hv_domain *
hv_domain(struct hv *hv, uint32_t domid)
{
	for (unsigned i = 0; i < HV_DOMAINS; i++)
		if (atomic_load(&hv->domains[i].domid) == domid)
			return &hv->domains[i];
	return NULL;
}

/* A grant that this domain may use; NULL: there is none. */
static inline struct hv_grant *
hv_grant(struct hv_domain *granter, uint32_t ref, uint32_t user, uint32_t *word)
{
	if (ref >= HV_GRANTS)
		return NULL;
	*word = atomic_load(&granter->grants[ref].word);
	if ((*word & HV_GRANT_VALID) == 0 || (*word & HV_GRANT_DOMID) != user)
		return NULL;
	return &granter->grants[ref];
}

#endif
