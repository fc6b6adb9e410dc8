# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: BSD-2-Clause
#
# What the parts of bench/blk share. $workloads, a name and fio's options a line, may be changed.

workloads='qd1.4k.randread --rw=randread --bs=4k --iodepth=1
qd32.4k.randread --rw=randread --bs=4k --iodepth=32
seq.128k.read --rw=read --bs=128k --iodepth=8
seq.128k.write --rw=write --bs=128k --iodepth=8'

# The bench keeps dom0 to one core. Two virtual CPUs there wait for each other, or do not, as the
# events of a disk happen to fall: figures that differ by half from one attachment to the next.
dom0_cpus=$(nproc)
xl vcpu-set Domain-0 1
end_measuring() { xl vcpu-set Domain-0 "$dom0_cpus"; }

# CPU seconds a domain has used.
domain_seconds() { xl list "$1" | awk 'NR == 2 { print $NF }'; }

# fio in the guest: prints "IOPS KiB/s requests".
run_fio() {	# node, options
	guest_run $guest "fio --name=b --filename=$1 --ioengine=libaio --direct=1 --size=64M \
--time_based --runtime=$SECONDS_EACH --ramp_time=1 --minimal $2" $((SECONDS_EACH + 60)) | awk -F';' '
		/^3;/ { n = $8 + $49; k = $7 + $48; r = ($6 + $47) / (k / n); printf "%.1f %.1f %.0f\n", n, k, r }'
}

sample() { echo "sample $run $config $1 $2 $3 $4"; }

measure() {	# node: all workloads once
	local workload options iops rate count guest0 dom0 guest1 dom1
	while read -r workload options; do
		guest0=$(domain_seconds $guest) dom0=$(domain_seconds 0)
		read -r iops rate count < <(run_fio "$1" "$options")
		guest1=$(domain_seconds $guest) dom1=$(domain_seconds 0)
		[ -n "$iops" ] || { diag "$config $workload: fio failed"; continue; }
		case $workload in
		seq*) sample "$workload" rate "$(awk "BEGIN { print $rate / 1024 }")" MB/s ;;
		*) sample "$workload" rate "$iops" IOPS ;;
		esac
		# The ramp counts too, for both sides alike.
		count=$(awk "BEGIN { print $iops * ($SECONDS_EACH + 1) }")
		sample "$workload" guest_cpu "$(awk "BEGIN { print 1e6 * ($guest1 - $guest0) / $count }")" us
		sample "$workload" dom0_cpu "$(awk "BEGIN { print 1e6 * ($dom1 - $dom0) / $count }")" us
	done <<<"$workloads"
}
