/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BLKFRONT_UBLK_ABI_H
#define BLKFRONT_UBLK_ABI_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#include <liburing.h>

/*
 * The part of Linux's ublk interface that we use, as of Linux 6.12 and, where marked, later; the
 * header that comes with Debian 12 is too old to have it. Source: include/uapi/linux/ublk_cmd.h.
 */

struct ublk_ctrl_cmd { /* in the SQE of a control command */
	uint32_t dev_id;
	uint16_t queue_id; /* UINT16_MAX: none */
	uint16_t len;	   /* of the buffer at addr */
	uint64_t addr;
	uint64_t data;
	uint16_t dev_path_len;
	uint16_t pad;
	uint32_t reserved;
};
_Static_assert(sizeof(struct ublk_ctrl_cmd) == 32, "ABI");

struct ublk_dev_info {
	uint16_t nr_hw_queues;
	uint16_t queue_depth;
	uint16_t state;
	uint16_t pad0;
	uint32_t max_io_buf_bytes;
	uint32_t dev_id;
	int32_t server_pid;
	uint32_t pad1;
	uint64_t flags;
	uint64_t server_flags; /* kept for the server, not looked at */
	uint32_t owner_uid;
	uint32_t owner_gid;
	uint64_t reserved[2];
};
_Static_assert(sizeof(struct ublk_dev_info) == 64, "ABI");

enum { UBLK_DEAD, UBLK_LIVE, UBLK_QUIESCED };

#define UBLK_CMD(number, dir) dir('u', number, struct ublk_ctrl_cmd)
#define UBLK_GET_DEV_INFO     UBLK_CMD(0x02, _IOR)
#define UBLK_ADD_DEV	      UBLK_CMD(0x04, _IOWR)
#define UBLK_DEL_DEV	      UBLK_CMD(0x05, _IOWR)
#define UBLK_START_DEV	      UBLK_CMD(0x06, _IOWR)
#define UBLK_STOP_DEV	      UBLK_CMD(0x07, _IOWR)
#define UBLK_SET_PARAMS	      UBLK_CMD(0x08, _IOWR)
#define UBLK_GET_PARAMS	      UBLK_CMD(0x09, _IOR)
#define UBLK_START_RECOVERY   UBLK_CMD(0x10, _IOWR)
#define UBLK_END_RECOVERY     UBLK_CMD(0x11, _IOWR)
#define UBLK_GET_FEATURES     UBLK_CMD(0x13, _IOR)
#define UBLK_DEL_DEV_ASYNC    UBLK_CMD(0x14, _IOR)
#define UBLK_UPDATE_SIZE      UBLK_CMD(0x15, _IOWR) /* Linux 6.16 */

#define UBLK_F_USER_RECOVERY	     (UINT64_C(1) << 3)
#define UBLK_F_USER_RECOVERY_REISSUE (UINT64_C(1) << 4)
#define UBLK_F_CMD_IOCTL_ENCODE	     (UINT64_C(1) << 6)
#define UBLK_F_USER_COPY	     (UINT64_C(1) << 7)
#define UBLK_F_UPDATE_SIZE	     (UINT64_C(1) << 10)

struct ublk_params {
	uint32_t len;
	uint32_t types;
	struct {
		uint32_t attrs;
		uint8_t logical_bs_shift;
		uint8_t physical_bs_shift;
		uint8_t io_opt_shift;
		uint8_t io_min_shift;
		uint32_t max_sectors;
		uint32_t chunk_sectors;
		uint64_t dev_sectors;
		uint64_t virt_boundary_mask;
	} basic;
	struct {
		uint32_t alignment;
		uint32_t granularity;
		uint32_t max_sectors;
		uint32_t max_write_zeroes_sectors;
		uint16_t max_segments;
		uint16_t reserved;
	} discard;
};
_Static_assert(sizeof(struct ublk_params) == 64, "ABI");

#define UBLK_PARAM_BASIC	 (1u << 0)
#define UBLK_PARAM_DISCARD	 (1u << 1)
#define UBLK_ATTR_READ_ONLY	 (1u << 0)
#define UBLK_ATTR_VOLATILE_CACHE (1u << 2)

struct ublk_io_cmd { /* in the SQE of an I/O command */
	uint16_t q_id;
	uint16_t tag;
	int32_t result;
	uint64_t addr;
};
_Static_assert(sizeof(struct ublk_io_cmd) == 16, "ABI");

#define UBLK_IO_FETCH		 _IOWR('u', 0x20, struct ublk_io_cmd)
#define UBLK_IO_COMMIT_AND_FETCH _IOWR('u', 0x21, struct ublk_io_cmd)

#define UBLK_IO_RES_ABORT (-ENODEV) /* the device stops, or another server is to come */

static inline void
ublk_fill_io_command(struct io_uring_sqe *sqe, int fd, uint32_t operation, uint16_t queue,
    uint16_t tag, int32_t result)
{
	struct ublk_io_cmd cmd = {.q_id = queue, .tag = tag, .result = result};

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = operation;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

struct ublk_io_desc {	   /* in memory that the kernel maps for us */
	uint32_t op_flags; /* operation in bits 0-7 */
	uint32_t sectors;
	uint64_t sector;
	uint64_t addr;
};
_Static_assert(sizeof(struct ublk_io_desc) == 24, "ABI");

enum { UBLK_OP_READ, UBLK_OP_WRITE, UBLK_OP_FLUSH, UBLK_OP_DISCARD };

#define UBLK_MAX_DEPTH 4096u /* the descriptor areas of the queues are this far apart */

/* Where a request's data is in the character device. */
#define UBLK_DATA_OFFSET(queue, tag)                                                               \
	(UINT64_C(0x80000000) + ((uint64_t)(tag) << 25) + ((uint64_t)(queue) << 41))

#endif
