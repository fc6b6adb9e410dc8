# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# A process that shares its handles is killed between two steps of an event: none is lost.

for step in pending queued unmask taken; do
	ok "killed when: $step" "$xenloop" run --domain g1 -- "$XENPV_BUILD/tests/loop/src/lost" $step
done
