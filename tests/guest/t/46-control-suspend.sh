# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# xl save and xl restore: the hooks after a resume run once each time, and requests are done as
# before.
#
# matrix: pvh/6.12
# more: pv/6.12
# timeout: 900

. "$XENPV_TESTS/guest/control.sh"
need "a guest" control_guest
# The hook that is shipped, with programs that only say that they were called.
guest_run $guest "mkdir -p /run/tools
for tool in chronyc arping systemctl; do
	printf '#!/bin/sh\necho %s \$*>>/run/called\n' \$tool >/run/tools/\$tool
done
echo 'echo \"2: eth0    inet 192.0.2.7/24 scope global eth0\"' >/run/tools/ip
chmod 755 /run/tools/*"
hook 50-resume "PATH=/run/tools:\$PATH
$(tail -n +2 "$(dirname "$block_xenpv")/../xenpv/control.d/50-resume")"
need "the daemon starts" control_start --report
is "$(xenstore-read "$(home)/control/feature-suspend")" 1 "it can be suspended"

for ((i = 1; i <= 2; i++)); do
	forget
	need "$i: saved" guest_save $guest /tmp/ctl.save
	need "$i: restored" guest_restore $guest /tmp/ctl.save
	rm -f /tmp/ctl.save
	need "$i: hooks run" has_lines hooks 2
	is "$(lines hooks)" "first after suspend resumed
second after suspend resumed" "$i: once each, in order"
	need "$i: also the one that is shipped" has_lines called $((i * 3))
	is "$(lines actions)$(lines helpers)" "" "$i: and there was no action"
	is "$(xenstore-read "$(home)/control/feature-suspend")" 1 "$i: it says that it can be suspended"
	is "$(xenstore-read "$(home)/attr/PVAddons/Installed")" 1 "$i: and what else it said before"
done

# The same domain goes on.
forget
ok "a checkpoint" xl save -c $guest /tmp/ctl.save
rm -f /tmp/ctl.save
need "hooks run" has_lines hooks 2
is "$(lines hooks)" "first after suspend continued
second after suspend continued" "once each, in order"
need "also the one that is shipped" has_lines called 8
is "$(lines called | cut -d ' ' -f 1 | sort | uniq -c | xargs)" "2 arping 3 chronyc 3 systemctl" \
	"which tells the network only of a move"

forget
number=6
for ((i = 1; i <= number; i++)); do
	ask poweroff
	has_lines actions $i && wait_for 30 control_is_idle || break
done
is "$(lines actions | wc -l)$(lines helpers)" $number "$number requests afterwards, one action each"
diag "$(lines actions | sort | uniq -c)"
is "$(control_status resumed)" 3 "three resumes were seen"
control_log | grep -E 'goes on|hooks in' | head -n 6 | indent_diag
ok "the daemon ends" control_stop
is "$(xenstore-read "$(home)/attr/PVAddons/Installed" 2>/dev/null)" "" "and takes back what it has reported"
