/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef STUB_SYSEXITS_H
#define STUB_SYSEXITS_H

#define EX_OK	   0
#define EX_NOINPUT 66
#define EX_OSERR   71

#endif
