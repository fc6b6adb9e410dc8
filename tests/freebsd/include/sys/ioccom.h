/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYS_IOCCOM_H
#define STUB_SYS_IOCCOM_H

#define IOC_VOID 0x20000000ul
#define IOC_OUT	 0x40000000ul
#define IOC_IN	 0x80000000ul

#define _IOC(inout, group, number, length)                                                         \
	((inout) | (((length)&0x1ffful) << 16) | ((unsigned long)(group) << 8) | (number))
#define _IO(group, number)	   _IOC(IOC_VOID, group, number, 0)
#define _IOR(group, number, type)  _IOC(IOC_OUT, group, number, sizeof(type))
#define _IOW(group, number, type)  _IOC(IOC_IN, group, number, sizeof(type))
#define _IOWR(group, number, type) _IOC(IOC_IN | IOC_OUT, group, number, sizeof(type))

#endif
