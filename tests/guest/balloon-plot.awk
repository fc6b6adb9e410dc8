# SPDX-License-Identifier: BSD-2-Clause
#
# A trace as balloon_trace in tests/guest/t/41-balloon-auto.sh writes it, as a chart (SVG): memory in
# MiB over seconds, and below it the time that tasks waited for memory.

BEGIN {
	FS = ","
	width = 900; height = 360; left = 60; strip = 90
}
NR == 1 { next }
{
	n++
	phase[n] = $1; t[n] = $2; target[n] = $3 / 1024; current[n] = $4 / 1024; available[n] = $5 / 1024
	# Clocks go on between phases; waits are counted from the start of the guest.
	wait[n] = n > 1 && $6 > last ? ($6 - last) / 1000 : 0
	last = $6
	if (target[n] > most) most = target[n]
	if (current[n] > most) most = current[n]
	if (wait[n] > longest) longest = wait[n]
}
function x(i) { return left + (t[i] - t[1]) / (t[n] - t[1]) * (width - left - 10) }
function y(v) { return height - v / (most * 1.05) * (height - 30) }
function line(values, colour,    i) {
	printf "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour
	for (i = 1; i <= n; i++)
		printf "%.1f,%.1f ", x(i), y(values[i])
	print "\"/>"
}
END {
	if (n < 2 || t[n] == t[1])
		exit 1
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"11\">\n",
		width, height + strip + 30
	print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
	for (v = 0; v <= most; v += 64) {
		printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>", left, width, y(v), y(v)
		printf "<text x=\"5\" y=\"%.1f\">%d MiB</text>\n", y(v) + 4, v
	}
	for (i = 1; i <= n; i++) {
		if (i == 1 || phase[i] != phase[i - 1]) {
			printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"10\" y2=\"%d\" stroke=\"#888\" stroke-dasharray=\"4\"/>",
				x(i), x(i), height + strip
			printf "<text x=\"%.1f\" y=\"22\">%s</text>\n", x(i) + 4, phase[i]
		}
	}
	line(current, "#999")
	line(target, "#0060c0")
	line(available, "#109030")
	for (i = 1; i <= n; i++)
		if (wait[i] > 0)
			printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.1f\" stroke=\"#c02020\"/>\n", x(i), x(i),
				height + strip, height + strip - wait[i] / longest * (strip - 20)
	printf "<text x=\"%d\" y=\"%d\"><tspan fill=\"#0060c0\">target</tspan>, <tspan fill=\"#666\">current</tspan>, <tspan fill=\"#109030\">available</tspan>; <tspan fill=\"#c02020\">tasks waited for memory (at most %d ms between two looks)</tspan>; %d s</text>\n",
		left, height + strip + 20, longest, t[n] - t[1]
	print "</svg>"
}
