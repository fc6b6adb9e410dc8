# shellcheck shell=bash disable=SC2154,SC2034
# SPDX-License-Identifier: BSD-2-Clause
#
# What Xen and Linux do at the library interface: tests/conformance. The same programs run on
# xenloop (tests/conformance/run-loop).
#
# matrix: pv/6.12
# more: pvh/6.12
# timeout: 400

. "$XENPV_TESTS/conformance/pairs.sh"

need "a $TYPE guest starts" guest_need g1 "$TYPE" "$KERNEL"
guest_domid=$(guest_id g1)
conform_tmp=$(mktemp -d /run/bench/conformance.XXXXXX)

in_dom0() { "$XENPV_BUILD/tests/conformance/$1" "${@:2}"; }
in_guest() { guest_run g1 "$*" 40; }

CONFORM_DESTROY="xl destroy g1"
conform_all "${CONFORM-}"
