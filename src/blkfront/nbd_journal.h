/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_NBD_JOURNAL_H
#define BLKFRONT_NBD_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/nbd.h>

/*
 * What must survive a worker that serves an NBD connection: which requests it has read from the
 * socket and not answered, with the data of writes, and how far it is in the two byte streams.
 *
 * The positions are the kernel's: on an AF_UNIX stream socket each byte that is read lowers the
 * socket's peek offset (SO_PEEK_OFF in socket(7)), in the system call that takes the byte. The
 * offset is set to a large number and what is missing of it has been read, whatever the reader
 * managed to note before it was killed. For what we send, the kernel's end of the pair is asked in
 * the same way: what its nbd driver has read, and what lies unread (FIONREAD). A client that is a
 * program has its end for itself: what we send to it is counted by a pipe (nbd_out.h).
 *
 * One slot is received at a time and one answered at a time. A kill between any two stores leaves
 *   no slot RECEIVING            nothing of the next request is read
 *   RECEIVING                    rx_start says where its header begins in the stream
 *   ACCEPTED                     all of it is in the journal: it is submitted again
 *   ANSWERING                    tx_start says where its reply begins; "error" is what it says.
 *                                What has left is not sent again; a read's data is read again
 *   FREE                         its reply has left completely
 * State is stored last when a slot begins something, so the positions are good when it says so.
 */

enum nbd_slot_state { NBD_FREE, NBD_RECEIVING, NBD_ACCEPTED, NBD_ANSWERING };

struct nbd_slot {
	_Atomic uint32_t state;
	uint32_t error; /* of the reply: NBD's number */
	struct nbd_request header;
};

/* The bytes that passed a socket: "base" when the peek offset was last set. */
struct nbd_counter {
	uint64_t base;
	uint64_t next_base; /* being set: the offset tells whether it was */
	_Atomic bool setting;
};

/* The bytes that entered the pipe: "put", or while it is filled "base" and what is in it. */
struct nbd_piped {
	uint64_t base;
	uint64_t put;
	_Atomic bool filling;
};

struct nbd_journal {
	struct nbd_counter received; /* by us, on our end */
	struct nbd_counter taken;    /* by the kernel, on its end */
	struct nbd_piped piped;	     /* towards a client */
	_Atomic bool left;	     /* the client has said that it goes */
	uint64_t rx_start;
	uint64_t tx_start;
	uint32_t depth;
	uint32_t payload_max;
	size_t payload_offset; /* of slot 0's data, from the journal */
	struct nbd_slot slots[];
};

/* Bytes that a journal takes. Source of depth and payload_max: the device's. */
size_t nbd_journal_size(unsigned depth, unsigned payload_max);

/* A fresh journal for a fresh pair of sockets, or with "kernels_end" -1 for a client's connection
 * and a fresh pipe. 0 or -1 with errno. */
int nbd_journal_reset(
    struct nbd_journal *j, unsigned depth, unsigned payload_max, int our_end, int kernels_end);

/* Gives back the memory of the payload of a connection that is over. What the journal says of where
 * that is does not count: a worker can write there. */
void nbd_journal_forget(struct nbd_journal *j, unsigned depth, unsigned payload_max);

void *nbd_journal_payload(struct nbd_journal *j, unsigned slot);

/* Bytes taken from a socket so far, finishing what a killed worker had begun. */
int nbd_counter_read(struct nbd_counter *c, int fd, uint64_t *bytes);

/* Makes room in the counter, now and then. Only when nobody is reading from the socket. */
int nbd_counter_rearm(struct nbd_counter *c, int fd, uint64_t bytes);

/* Bytes that have left us for the kernel: taken or on their way. */
int nbd_journal_sent(struct nbd_journal *j, int kernels_end, uint64_t *bytes);

#endif
