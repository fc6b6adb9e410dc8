/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef XENLOOP_BROKER_H
#define XENLOOP_BROKER_H

/*
 * The broker: the one process of a session that changes the hypervisor's tables, and what stands
 * in for the guests' kernels: their connection to xenstored. One thread, one event base.
 *
 * Functions that answer a request return 0 or an errno.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <event2/event.h>

#include "hv.h"

enum port_type { PORT_FREE, PORT_UNBOUND, PORT_INTERDOMAIN, PORT_VIRQ, PORT_DEAD };

struct port_info {
	enum port_type type;
	uint32_t remote;  /* domid; of PORT_VIRQ: the VIRQ */
	uint32_t serial;  /* no other port has it, not even the next of this number */
	uint32_t holds;	  /* notifications that go through it; they keep it open */
	uint32_t missing; /* 1 + the round whose number was not in the pipe; see on_recheck() */
};

struct notify {
	uint32_t flags; /* HV_FLAG_CLEAR_BYTE, HV_FLAG_SEND_EVENT */
	uint32_t offset;
	uint32_t port;
	uint32_t serial; /* of the port */
};

struct grant_info {
	uint32_t handle; /* that shared it; 0: none any more */
	uint32_t maps;
	bool used;
};

struct frame_info {
	uint32_t ref;
	bool used;
	struct notify notify;
};

struct guest_store;

struct domain {
	unsigned slot;
	uint32_t domid; /* HV_NO_DOMID while suspended */
	char name[HV_NAME_SIZE];
	bool exists;
	bool suspended;
	uint32_t shutdown; /* 1 + reason */
	uint32_t limit;	   /* pages it may share */
	uint32_t shared;
	uint32_t kernel;  /* handle of what stands in for its kernel */
	uint32_t console; /* handle that has its console port; 0: the kernel's */
	int ram, ram_ro;
	uint32_t port_room; /* port numbers its kernel knows of; it grows */
	struct port_info ports[HV_PORTS];
	struct grant_info grants[HV_GRANTS];
	struct frame_info frames[HV_FRAMES];
	struct guest_store *store;
};

struct mapping {
	struct mapping *next;
	uint32_t id;
	uint32_t count;
	bool writable;
	struct notify notify;
	struct hv_ref refs[];
};

struct handle {
	uint32_t id; /* 0: free */
	uint32_t generation;
	enum hv_kind kind;
	struct domain *domain;
	int pipe;  /* for both reading and writing */
	int watch; /* inotify's */
	ino_t inode;
	uint32_t restricted; /* domid, or HV_NO_DOMID */
	struct mapping *mappings;
};

struct broker {
	struct event_base *base;
	struct hv *hv;
	int tables; /* memfd of hv */
	const char *dir;
	int inotify;
	int peek[2]; /* a pipe */
	struct event *on_inotify;
	struct event *recheck;
	uint32_t next_domid;
	uint32_t next_mapping;
	uint32_t next_serial;
	struct domain domains[HV_DOMAINS];
	struct handle handles[HV_HANDLES];
};

/* handles.c */
int handles_init(struct broker *b);
/* Closes what programs have closed: whoever asks after a close(2) finds it done. */
void handles_take_closed(struct broker *b);
int handle_open(
    struct broker *b, struct domain *d, enum hv_kind kind, int *read_end, struct handle **handle);
void handle_close(struct broker *b, struct handle *h);
struct handle *handle_find(struct broker *b, uint32_t id); /* NULL: no such */
struct handle *handle_by_inode(struct broker *b, ino_t inode);
void handle_deliver(void *broker, uint32_t handle, uint32_t port);
/* Is the port's number among those that the program has not taken yet? */
bool handle_holds(struct broker *b, uint32_t handle, uint32_t port);

/* ports.c */
int port_alloc_unbound(struct broker *b, struct handle *h, uint32_t domid, uint32_t *port);
int port_bind_interdomain(
    struct broker *b, struct handle *h, uint32_t domid, uint32_t remote_port, uint32_t *port);
int port_bind_virq(struct broker *b, struct handle *h, uint32_t virq, uint32_t *port);
int port_unbind(struct broker *b, struct handle *h, uint32_t port);
/* A handle gets its domain's console port: until it is closed, over suspend and resume. */
int port_take_console(struct broker *b, struct handle *h);
/* A port at this number: for what a domain is born with. */
int port_alloc_at(struct broker *b, struct handle *h, uint32_t domid, uint32_t port);
void ports_of_handle_close(struct broker *b, const struct handle *h);
/* Every port, as when a domain ends; ghosts: its handles are not told. */
void ports_of_domain_close(struct broker *b, struct domain *d, bool ghosts);
void port_notify(struct broker *b, const struct domain *d, uint32_t port);
/* Keeps a port open, also without its handle, until it is released; that may send the event. */
int port_hold(struct broker *b, struct domain *d, uint32_t port, uint32_t *serial);
void port_release(struct broker *b, struct domain *d, uint32_t port, uint32_t serial, bool send);
void port_raise_virq(struct broker *b, uint32_t virq);
/* Those of its programs. */
uint32_t ports_open(const struct broker *b, const struct domain *d);
int ports_init(struct broker *b);

/* grants.c */
int grants_share(struct broker *b, struct handle *h, uint32_t domid, uint32_t count, bool writable,
    uint32_t *frame, uint32_t *refs);
int grants_share_notify(
    struct broker *b, struct handle *h, uint32_t frame, const struct notify *notify);
int grants_unshare(struct broker *b, struct handle *h, uint32_t frame, uint32_t count);
int grants_map(struct broker *b, struct handle *h, const struct hv_ref *refs, uint32_t count,
    bool writable, uint32_t *mapping, uint32_t *slots_and_frames);
int grants_map_notify(
    struct broker *b, struct handle *h, uint32_t mapping, const struct notify *notify);
int grants_unmap(struct broker *b, struct handle *h, uint32_t mapping);
void grants_reserved(struct broker *b, struct domain *d, uint32_t ref, uint32_t frame);
void grants_of_handle_close(struct broker *b, struct handle *h);
void grants_of_domain_revoke(struct broker *b, struct domain *d);
uint32_t grants_frames_used(const struct domain *d);
/* By other domains, not counting what a domain is born with. */
uint32_t grants_mapped(const struct domain *d);
/* Pages that its programs have mapped. */
uint32_t grants_maps(const struct broker *b, const struct domain *d);

/* domains.c */
struct domain *domain_find(struct broker *b, uint32_t domid);
struct domain *domain_by_name(struct broker *b, const char *name); /* or number */
int domain_create(struct broker *b, const char *name, uint32_t limit, struct domain **domain);
void domain_destroy(struct broker *b, struct domain *d);
void domain_shutdown(struct broker *b, struct domain *d, uint32_t reason);
void domain_suspend(struct broker *b, struct domain *d);
int domain_resume(struct broker *b, struct domain *d);
void domain_info(const struct broker *b, const struct domain *d, struct hv_info *info);

/* guest_store.c */
/* events: the end to read from of the pipe of the domain's kernel; closed with the store. NULL:
 * errno. */
struct guest_store *guest_store_open(struct broker *b, struct domain *d, int events);
void guest_store_close(struct guest_store *s);
void guest_store_begin(struct guest_store *s); /* xenstored has the ring */
/* Calls done() when no request is under way; new ones wait. Then comes one of the two below; done()
 * with an error if the store is closed before. EBUSY: somebody has asked for that already. */
int guest_store_quiesce(struct guest_store *s, void (*done)(void *arg, int error), void *arg);
void guest_store_suspend(struct guest_store *s); /* until guest_store_begin() */
void guest_store_cancel(struct guest_store *s);	 /* all goes on */

/* broker.c */
void broker_give_up(const char *what) __attribute__((noreturn));

#endif
