#!/usr/bin/env python3
"""Draws how many jobs flow while another transaction holds an old snapshot.

    cargo bench -p brigade-bench --bench postgres -- --seconds 600 held-snapshot |
        scripts/bench.d/curve.py docs/benchmarks/held-snapshot.svg

Reads the lines of the benchmark and prints the rates before, during and after the snapshot.
"""

import json
import statistics
import sys

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 40
FONT = 'font-family="system-ui, sans-serif" font-size="13" fill="#222222"'
TITLE = "Jobs per second while another transaction holds an old snapshot"


def read(lines):
    points = []
    for line in lines:
        if line.startswith("{"):
            result = json.loads(line)
            if result["workload"] == "held-snapshot":
                points.append((result["second"], result["value"], result["held"]))
    if not points:
        sys.exit("no line of the workload held-snapshot on standard input")
    return points


def summary(points):
    """Medians; of the held part also its last fifth, where the most old rows are kept."""
    held = [rate for _, rate, is_held in points if is_held]
    first = next(place for place, point in enumerate(points) if point[2])
    # The first part has the start of the processes in it.
    before = statistics.median(rate for _, rate, _ in points[1:first])
    after = statistics.median(rate for _, rate, _ in points[first + len(held) :])
    last = statistics.median(held[-max(1, len(held) // 5) :])
    return before, statistics.median(held), last, after


def draw(points, before):
    seconds = points[-1][0]
    top = max(rate for _, rate, _ in points) * 1.1
    step = seconds / len(points)

    def x(second):
        return LEFT + (WIDTH - LEFT - RIGHT) * second / seconds

    def y(rate):
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - rate / top)

    held = [second for second, _, is_held in points if is_held]
    begin, end = x(held[0] - step), x(held[-1])
    line = " ".join(f"{x(second - step / 2):.1f},{y(rate):.1f}" for second, rate, _ in points)
    half = y(before / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"<title>{TITLE}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="12" y="24" {FONT} font-weight="bold">{TITLE}</text>',
        f'<rect x="{begin:.1f}" y="{TOP}" width="{end - begin:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="#f1e4dc"/>',
        f'<text x="{begin + 6:.1f}" y="{TOP + 16}" {FONT}>the snapshot is held</text>',
        f'<line x1="{LEFT}" y1="{half:.1f}" x2="{WIDTH - RIGHT}" y2="{half:.1f}" stroke="#9aa5b1" stroke-dasharray="4 4"/>',
        f'<text x="{WIDTH - RIGHT - 4}" y="{half - 6:.1f}" {FONT} text-anchor="end">half of the rate before</text>',
        f'<polyline points="{line}" fill="none" stroke="#c2410c" stroke-width="2"/>',
    ]
    for place in range(5):
        rate = top / 1.1 * place / 4
        parts.append(f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" {FONT} text-anchor="end">{rate:,.0f}</text>')
        second = seconds * place / 4
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 14}" {FONT} text-anchor="middle">{second:.0f} s</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    points = read(sys.stdin)
    before, held, last, after = summary(points)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(draw(points, before))
    print(f"before {before:,.0f}/s, held {held:,.0f}/s ({held / before:.2f}), last fifth of it "
          f"{last:,.0f}/s ({last / before:.2f}), after {after:,.0f}/s ({after / before:.2f})")


main()
