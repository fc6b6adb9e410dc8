# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# Programs in both domains use everything without order, and are killed at random moments. What
# they had is taken back, and the session works as on the first day.

churn=$XENPV_BUILD/tests/loop/src/churn
clean=$(leftovers)
declare -A running
begin() { # number: odd ones are in the guest
	if [ $(($1 % 2)) -eq 1 ]; then
		"$xenloop" run --domain g1 -- "$churn" 0 2>>"$TEST_DIR/churn.log" &
	else
		"$xenloop" run -- "$churn" 1 2>>"$TEST_DIR/churn.log" &
	fi
	running[$1]=$!
}
for i in 0 1 2 3; do begin $i; done
died=0
for round in $(seq 120); do
	sleep "0.0$((RANDOM % 90 + 10))"
	i=$((round % 4))
	kill -9 "${running[$i]}" || died=$((died + 1))
	wait "${running[$i]}"
	begin $i
done 2>/dev/null
is "$died" 0 "120 were killed, none had ended by itself"
has_something() { [ "$(leftovers)" != "$clean" ]; }
ok "they have something" wait_for 30 has_something
for i in 0 1 2 3; do
	kill -9 "${running[$i]}"
	wait "${running[$i]}"
done 2>/dev/null
taken_back() { [ "$(leftovers)" = "$clean" ]; }
ok "all of it is taken back" wait_for 30 taken_back
ok "channels and grants in domain 0" timeout 300 "$xenloop" run -- "$churn" 0 check
ok "and in the guest" timeout 300 "$xenloop" run --domain g1 -- "$churn" 1 check
ok "xenstored is there" guest xenstore-read name
