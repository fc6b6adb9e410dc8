#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""Turns the samples of a benchmark into a table, a chart and figure lines.

usage: report.py NAME BASELINE SAMPLES OUTDIR [FILE]

SAMPLES has one line per measurement, "sample RUN CONFIG WORKLOAD METRIC VALUE UNIT". Runs are
interleaved by whoever measures, so a ratio is taken within a run and its spread over the runs.
BASELINE may name several, with commas: of each
workload the one that is there is taken. Higher is better for rates, lower for costs: the unit tells (us, ms, KiB, per_s cost less).

Writes OUTDIR/FILE.txt (the table and the figure lines, which are printed too) and OUTDIR/FILE.svg;
FILE is NAME if not given.
"""

import collections
import os
import statistics
import sys

COST_UNITS = {"us", "ms", "KiB", "wakeups/s"}
COLOURS = ["#4d4d4d", "#1b6ca8", "#d1892b", "#3a8f5c", "#8a4f9e"]


def read_samples(path):
    """{(workload, metric, unit): {config: {run: value}}}, in the order first seen."""
    table = collections.OrderedDict()
    with open(path) as lines:
        for line in lines:
            if not line.startswith("sample "):
                continue
            _, run, config, workload, metric, value, unit = line.split()
            row = table.setdefault((workload, metric, unit), collections.OrderedDict())
            row.setdefault(config, {})[int(run)] = float(value)
    return table


def show(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def spread(values):
    return f"{show(statistics.median(values))} [{show(min(values))}-{show(max(values))}]"


def ratios(ours, base):
    return [ours[r] / base[r] for r in ours if r in base and base[r] > 0]


def baseline_of(row, baselines):
    return next((b for b in baselines if b in row), baselines[0])


def text_table(name, baselines, table):
    configs = list(dict.fromkeys(c for row in table.values() for c in row))
    others = [c for c in configs if c not in baselines]
    over = baselines[0] if len(baselines) == 1 else "bare"
    head = ["workload", "unit"] + configs + [f"{c}/{over}" for c in others]
    rows, figures = [head], []
    for (workload, metric, unit), row in table.items():
        baseline = baseline_of(row, baselines)
        cells = [f"{workload} {metric}", unit]
        cells += [spread(row[c].values()) if c in row else "-" for c in configs]
        for config in others:
            both = config in row and baseline in row
            within = ratios(row[config], row[baseline]) if both else []
            cells.append(spread(within) if within else "-")
            suffix = "" if unit not in COST_UNITS else f".{metric}"
            if within:
                figures.append(f"figure {name}.{workload}{suffix}.{config}_over_{baseline} "
                               f"{statistics.median(within):.2f} ratio")
            elif config in row:
                figures.append(f"figure {name}.{workload}{suffix}.{config} "
                               f"{statistics.median(row[config].values()):.2f} {unit}")
        rows.append(cells)
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
    return lines, figures


def svg_chart(title, baselines, table):
    """Bars of each configuration relative to the baseline, with the spread as a whisker."""
    bars = []
    for (workload, metric, unit), row in table.items():
        baseline = baseline_of(row, baselines)
        if baseline not in row:
            continue
        for config in row:
            within = ratios(row[config], row[baseline])
            if within and (config != baseline or len(baselines) == 1):
                bars.append((f"{workload} {metric}", config, within))
    labels = list(dict.fromkeys(b[0] for b in bars))
    configs = list(dict.fromkeys(b[1] for b in bars))
    top = max([1.2] + [max(b[2]) for b in bars])
    step, left, width = 16, 260, 480
    height = 60 + sum(step * sum(b[0] == l for b in bars) + 12 for l in labels)
    x = lambda ratio: left + width * ratio / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{height}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="20" font-size="14">{title}</text>']
    for i, config in enumerate(configs):
        out.append(f'<rect x="{left + i * 90}" y="28" width="10" height="10" '
                   f'fill="{COLOURS[i % len(COLOURS)]}"/>'
                   f'<text x="{left + i * 90 + 14}" y="37">{config}</text>')
    y = 50
    for label in labels:
        mine = [b for b in bars if b[0] == label]
        out.append(f'<text x="{left - 8}" y="{y + step * len(mine) / 2 + 4}" '
                   f'text-anchor="end">{label}</text>')
        for _, config, values in mine:
            middle = statistics.median(values)
            colour = COLOURS[configs.index(config) % len(COLOURS)]
            out.append(f'<rect x="{left}" y="{y + 2}" width="{x(middle) - left:.1f}" '
                       f'height="{step - 4}" fill="{colour}"/>')
            out.append(f'<line x1="{x(min(values)):.1f}" x2="{x(max(values)):.1f}" '
                       f'y1="{y + step / 2}" y2="{y + step / 2}" stroke="black"/>')
            out.append(f'<text x="{x(max(values)) + 5:.1f}" y="{y + step / 2 + 4}">'
                       f'{middle:.2f}</text>')
            y += step
        y += 12
    out.append(f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="45" y2="{y}" stroke="#c00" '
               'stroke-dasharray="4 3"/>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    name, baseline, samples, outdir = sys.argv[1:5]
    stem = sys.argv[5] if len(sys.argv) == 6 else name
    baselines = baseline.split(",")
    table = read_samples(samples)
    if not table:
        sys.exit(f"{samples}: no samples")
    lines, figures = text_table(name, baselines, table)
    text = "\n".join(lines + [""] + figures) + "\n"
    os.makedirs(outdir, exist_ok=True)
    with open(os.path.join(outdir, f"{stem}.txt"), "w") as out:
        out.write(text)
    with open(os.path.join(outdir, f"{stem}.svg"), "w") as out:
        out.write(svg_chart(f"{name}: relative to {baseline} (median and spread over the runs)",
                            baselines, table))
    print(text, end="")


main()
