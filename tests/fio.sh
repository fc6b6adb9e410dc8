# shellcheck shell=bash
# SPDX-License-Identifier: BSD-2-Clause
#
# fio as all tests use it: random mixed I/O of all sizes at depth 32, every block verified.
#
# Without verify_fatal fio tells of wrong bytes and ends with 0 where blocks differ in size.

# shellcheck disable=SC2034	# others use it
fio_verify_options='--name=v --rw=randrw --rwmixread=40 --bsrange=4k-128k --iodepth=32 --verify=crc32c
--verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --randrepeat=0 --minimal'
fio_verify_options=${fio_verify_options//$'\n'/ }
