"""Draws docs/benchmarks/held-snapshot.svg of the lines that the benchmark `postgres -- held-snapshot` prints.

held_snapshot.py LINES > held-snapshot.svg
"""

import json
import statistics
import sys

LEFT, TOP, WIDTH, HEIGHT = 70, 44, 620, 220
TEXT = 'font-family="system-ui, sans-serif" font-size="13" fill="#222222"'


def round_up(value):
    """The next of 1, 2, 5 times a power of ten."""
    step = 10 ** (len(str(int(value))) - 1)
    return next(step * factor for factor in (1, 2, 5, 10) if step * factor >= value)


def main():
    with open(sys.argv[1]) as lines:
        rows = [json.loads(line) for line in lines if '"held-snapshot"' in line]
    end, most = rows[-1]["second"], round_up(max(row["value"] for row in rows))
    x = lambda second: LEFT + WIDTH * second / end
    y = lambda rate: TOP + HEIGHT * (1 - rate / most)
    part = rows[0]["second"]
    held = [row["second"] for row in rows if row["held"]]
    began, ended = held[0] - part, held[-1]
    before = statistics.median(row["value"] for row in rows if row["second"] <= began)
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 300" width="720" height="300" role="img">',
        "<title>Jobs per second while a foreign transaction holds an old snapshot</title>",
        '<rect width="720" height="300" fill="#ffffff"/>',
        f'<text x="12" y="24" {TEXT} font-weight="bold">PostgreSQL: jobs/s while another transaction holds an old snapshot</text>',
        f'<rect x="{x(began):.1f}" y="{TOP}" width="{x(ended) - x(began):.1f}" height="{HEIGHT}" fill="#fde7d6"/>',
        f'<text x="{(x(began) + x(ended)) / 2:.1f}" y="{TOP + 16}" {TEXT} text-anchor="middle">snapshot held</text>',
    ]
    for rate in (0, most / 2, most):
        out.append(f'<line x1="{LEFT}" y1="{y(rate):.1f}" x2="{LEFT + WIDTH}" y2="{y(rate):.1f}" stroke="#d0d7de"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" {TEXT} text-anchor="end">{rate:,.0f}</text>')
    for share in range(0, 6):
        second = end * share / 5
        out.append(f'<text x="{x(second):.1f}" y="{TOP + HEIGHT + 20}" {TEXT} text-anchor="middle">{second:.0f} s</text>')
    half = y(before / 2)
    out.append(f'<line x1="{LEFT}" y1="{half:.1f}" x2="{LEFT + WIDTH}" y2="{half:.1f}" stroke="#9aa5b1" stroke-dasharray="6 4"/>')
    out.append(f'<text x="{LEFT + WIDTH}" y="{half - 6:.1f}" {TEXT} text-anchor="end">half of the median before</text>')
    points = " ".join(f"{x(row['second'] - part / 2):.1f},{y(row['value']):.1f}" for row in rows)
    out.append(f'<polyline points="{points}" fill="none" stroke="#c2410c" stroke-width="2"/>')
    print("\n".join(out + ["</svg>"]))


if __name__ == "__main__":
    main()
