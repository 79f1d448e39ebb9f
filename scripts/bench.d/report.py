"""Makes docs/benchmarks.md and its charts of the JSON lines that the programs print.

report.py --rounds N --seconds S LINES DOCS
"""

import argparse
import html
import json
import os
import pathlib
import platform
import re
import statistics

PEERS = [
    ("brigade", "Brigade"),
    ("procspawn", "procspawn"),
    ("workerpool", "workerpool, processes"),
    ("tinypool-process", "tinypool, processes"),
    ("tinypool-threads", "tinypool, threads"),
    ("piscina", "piscina, threads"),
    ("python-executor", "ProcessPoolExecutor"),
    ("python-pool", "multiprocessing.Pool"),
    ("apalis", "apalis, SQLite"),
    ("bullmq", "BullMQ"),
    ("bullmq-rust", "BullMQ, Rust"),
    ("bee-queue", "bee-queue"),
    ("apalis-redis", "apalis, Redis"),
    ("lapin", "lapin"),
    ("lapin-light", "lapin, nothing confirmed"),
    ("amqplib", "amqplib"),
    ("raw", "plain SQL"),
    ("graphile_worker", "graphile_worker"),
]

# Workload, title, whether more is better.
COMPARED = [
    ("noop-1000", "No-op, 1,000 in flight", True),
    ("noop-1", "No-op, one in flight, median", False),
    ("md5-3k-1", "3 KiB echo with MD5, 20 callers, one task per worker", True),
    ("md5-3k-10", "3 KiB echo with MD5, 20 callers, ten tasks per worker", True),
    ("echo-16m", "16 MiB echo, median", False),
    ("cold", "From making the pool to the first answer, median", False),
    ("recover", "From SIGKILL of one of two workers to the next answer, median", False),
    ("recover-both", "From SIGKILL of both workers to the next answer, median", False),
]

# The same for jobs in an SQLite file, every commit synced.
QUEUED = [
    ("push-64", "Pushes one by one, 64 tasks", True),
    ("push-bulk", "Pushes in bulk, 1,000 at once", True),
    ("cycle-in-process", "Pushed, run and acknowledged, a no-op in process", True),
]

# On a Redis server that keeps nothing on disk.
ON_REDIS = [
    ("redis-push-64", "Redis: pushes one by one, 64 tasks", True),
    ("redis-push-bulk", "Redis: pushes in bulk, 1,000 at once", True),
    ("redis-cycle-in-process", "Redis: pushed, run and acknowledged, a no-op in process", True),
]

# On a RabbitMQ server with durable queues; calls are not persistent.
ON_RABBITMQ = [
    ("rpc-256", "RabbitMQ: calls, 256 in flight", True),
    ("rpc-1-median", "RabbitMQ: a call, one in flight, median", False),
    ("push-256", "RabbitMQ: confirmed pushes one by one, 256 tasks", True),
    ("consume-250", "RabbitMQ: run and acknowledged, a no-op in process, 250 held", True),
]

# On a PostgreSQL server that syncs every commit.
ON_POSTGRES = [
    ("postgres-push-64", "PostgreSQL: pushes one by one, 64 tasks", True),
    ("postgres-push-bulk", "PostgreSQL: pushes in bulk, 1,000 at once by two tasks", True),
    ("postgres-cycle", "PostgreSQL: pushed, run and acknowledged, 100 held; Brigade in process", True),
]

KEPT = {"build", "crates", "binary"}  # Measured only when asked for; otherwise the last figures stay.


class Figures:
    def __init__(self, lines):
        values = {}
        self.units = {}
        for line in lines:
            row = json.loads(line)
            key = (row["peer"], row["workload"])
            values.setdefault(key, []).append(row["value"])
            self.units[row["workload"]] = row["unit"]
        # A round's ratio is taken within the round, so that a busy minute of the machine counts for both sides; what is measured
        # several times in a round has as many ratios.
        self.rounds = values
        self.medians = {key: statistics.median(several) for key, several in values.items()}

    def of(self, peer, workload):
        return self.medians.get((peer, workload))

    def ratio(self, above, below):
        above, below = self.rounds.get(above, []), self.rounds.get(below, [])
        # One of them once in a round, the other several times.
        if above and below and len(above) != len(below):
            return statistics.median(above) / statistics.median(below)
        pairs = list(zip(above, below))
        return statistics.median(a / b for a, b in pairs) if pairs else None


def number(value, unit=""):
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")


def targets(figures):
    """Rows of (what, figure, target, whether it is reached)."""
    ours = lambda workload: ("brigade", workload)
    machine = lambda workload: ("machine", workload)

    def at_least(what, ratio, wanted):
        return (what, ratio and f"{ratio:.2f}x", f">= {wanted}x", ratio and ratio >= wanted)

    def at_most(what, ratio, wanted):
        return (what, ratio and f"{ratio:.2f}x", f"<= {wanted}x", ratio and ratio <= wanted)

    def below(what, workload, wanted, unit):
        value = figures.of("brigade", workload)
        return (what, value is not None and number(value, unit), f"<= {number(wanted, unit)}", value is not None and value <= wanted)

    yield at_least("no-op, 1,000 in flight / `spawn_blocking`", figures.ratio(ours("noop-1000"), machine("spawn_blocking-1000")), 1)
    yield at_least(
        "the same / `spawn_blocking` limited to two threads", figures.ratio(ours("noop-1000"), machine("spawn_blocking-1000-2")), 1
    )
    for peer in ("workerpool", "piscina", "python-executor"):
        yield at_least(f"the same / {dict(PEERS)[peer]}", figures.ratio(ours("noop-1000"), (peer, "noop-1000")), 30)
    yield at_most("no-op, one in flight / raw ping-pong", figures.ratio(ours("noop-1"), machine("pingpong")), 1.15)
    yield below("CPU of an idle pool with two workers, per second", "idle-cpu", 2000, "us")
    yield at_least("3 KiB with MD5, one slot / MD5 of one core", figures.ratio(ours("md5-3k-1"), machine("md5-1core")), 0.3)
    yield at_least("3 KiB with MD5, ten slots / MD5 of one core", figures.ratio(ours("md5-3k-10"), machine("md5-1core")), 0.8)
    yield at_most("cold start of two workers / spawn of a small program", figures.ratio(ours("cold"), machine("spawn")), 3)
    yield at_most("SIGKILL of one of two workers to next answer / spawn", figures.ratio(ours("recover"), machine("spawn")), 3)
    yield at_most("SIGKILL of both workers to next answer / spawn", figures.ratio(ours("recover-both"), machine("spawn")), 3)
    yield below("SIGKILL of the only worker to next answer, with a spare", "recover-spare", 1, "ms")
    yield below("private memory of an idle worker", "idle-memory", 4096, "KiB")
    yield below("memory of one of 100,000 waiting calls", "waiting-memory", 1024, "B")
    yield at_most("cost of a call, 10,000 queued / 10", figures.ratio(ours("queued-10000"), ours("queued-10")), 1.5)
    yield at_most("cost of a call, 64 workers / 1", figures.ratio(ours("workers-64"), ours("workers-1")), 1.5)
    yield at_least("jobs pushed from 64 tasks / plain SQLite, 64 rows in a commit", figures.ratio(ours("push-64"), machine("sqlite-push-64")), 0.6)
    yield at_least("jobs pushed in bulk / plain SQLite, 1,000 rows in a commit", figures.ratio(ours("push-bulk"), machine("sqlite-push-bulk")), 0.6)
    for workload, place in (("cycle-pool", "in a pool"), ("cycle-in-process", "in process")):
        yield at_least(f"push, run a no-op {place}, ack / plain SQLite, 100 rows in a commit", figures.ratio(ours(workload), machine("sqlite-cycle")), 0.6)
    for workload, what in (("push-64", "jobs pushed from 64 tasks"), ("cycle-in-process", "push, run a no-op in process, ack"), ("cycle-pool", "the same in a pool")):
        peer = "push-64" if workload == "push-64" else "cycle-in-process"
        yield at_least(f"{what} / apalis", figures.ratio(ours(workload), ("apalis", peer)), 50)
    yield at_most("push to start in another process that waits / wake of a process and a commit", figures.ratio(ours("idle-start"), machine("wake-and-commit")), 2)
    yield below("the same, median", "idle-start", 2000, "us")
    yield at_most("cost of a job, 1,000,000 in its queue / 10", figures.ratio(ours("jobs-1000000"), ours("jobs-10")), 1.5)
    on_redis = {
        "redis-push-64": ("scripts-push-64", "jobs pushed to Redis from 64 tasks"),
        "redis-push-bulk": ("scripts-push-bulk", "jobs pushed to Redis in bulk"),
        "redis-cycle-pool": ("scripts-cycle", "push to Redis, run a no-op in a pool, ack"),
        "redis-cycle-in-process": ("scripts-cycle", "push to Redis, run a no-op in process, ack"),
    }
    for workload, (raw, what) in on_redis.items():
        yield at_least(f"{what} / plain scripts", figures.ratio(ours(workload), machine(raw)), 0.6)
        peer = workload.replace("pool", "in-process")
        for name, wanted in (("bullmq", 5), ("bullmq-rust", 5), ("bee-queue", 3)):
            yield at_least(f"{what} / {dict(PEERS)[name]}", figures.ratio(ours(workload), (name, peer)), wanted)
    on_rabbitmq = {
        "rpc-256": "calls over RabbitMQ, 256 in flight",
        "push-256": "confirmed pushes to RabbitMQ, 256 tasks",
        "consume-250": "run and acknowledged from RabbitMQ, 250 held",
    }
    for workload, what in on_rabbitmq.items():
        yield at_least(f"{what} / plain lapin", figures.ratio(ours(workload), ("lapin", workload)), 0.85)
    on_postgres = {
        "postgres-push-64": ("postgres-push-64", "jobs pushed to PostgreSQL from 64 tasks", None),
        "postgres-push-bulk": ("postgres-push-bulk", "jobs pushed to PostgreSQL in bulk", None),
        "postgres-cycle-pool": ("postgres-cycle", "push to PostgreSQL, run a no-op in a pool, ack", None),
        "postgres-cycle-in-process": ("postgres-cycle", "push to PostgreSQL, run a no-op in process, ack", 3),
    }
    for workload, (beside, what, wanted) in on_postgres.items():
        yield at_least(f"{what} / plain SQL", figures.ratio(ours(workload), ("raw", beside)), 0.6)
        if wanted:
            yield at_least(f"{what} / graphile_worker", figures.ratio(ours(workload), ("graphile_worker", beside)), wanted)
    growth = figures.ratio(ours("postgres-jobs-1000000"), ours("postgres-jobs-10"))
    yield at_most("cost of a job in PostgreSQL, 1,000,000 in its queue / 10", growth, 1.5)
    durable = figures.ratio(("brigade-durable", "rpc-256"), ("lapin-durable", "rpc-256"))
    yield at_least("durable calls over RabbitMQ, 256 in flight / plain lapin, persistent too", durable, 0.85)
    yield at_least("calls over RabbitMQ, 256 in flight / amqplib, which confirms nothing", figures.ratio(ours("rpc-256"), ("amqplib", "rpc-256")), 1.5)
    yield at_most("cost of a job on Redis, 1,000,000 in its queue / 10", figures.ratio(ours("redis-jobs-1000000"), ours("redis-jobs-10")), 1.5)
    yield below("clean release build of a small program", "build", 90, "s")
    yield below("crates of that build", "crates", 119, "")


def compared_table(figures, workloads):
    present = [(peer, name) for peer, name in PEERS if any(figures.of(peer, workload) is not None for workload, *_ in workloads)]
    yield "| | " + " | ".join(name for _, name in present) + " |"
    yield "|---|" + "---:|" * len(present)
    for workload, title, more in workloads:
        own = figures.of("brigade", workload)
        if own is None:
            continue
        cells = []
        for peer, _ in present:
            value = figures.of(peer, workload)
            if value is None:
                cells.append("-")
            elif peer == "brigade":
                cells.append(f"**{number(value)}**")
            else:
                factor = own / value if more else value / own
                cells.append(f"{number(value)} ({number(factor)}x)")
        yield f"| {title}, {figures.units[workload]} | " + " | ".join(cells) + " |"


def all_figures(figures):
    yield "| workload | of | median | smallest | largest |"
    yield "|---|---|---:|---:|---:|"
    for (peer, workload), values in figures.rounds.items():
        if peer in ("machine", "brigade", "brigade-durable", "lapin-durable") or peer == "lapin" and workload.endswith("cpu"):
            unit = figures.units[workload]
            cells = " | ".join(number(value, unit) for value in (statistics.median(values), min(values), max(values)))
            yield f"| `{workload}` | {peer} | {cells} |"


def chart(figures, workload, title, more):
    rows = [(name, figures.of(peer, workload), peer == "brigade") for peer, name in PEERS]
    rows = [row for row in rows if row[1] is not None]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: row[1], reverse=more)
    unit, most = figures.units[workload], max(value for _, value, _ in rows)
    left, width, step, top = 190, 400, 26, 44
    height = top + step * len(rows) + 12
    better = "more is better" if more else "less is better"
    text = 'font-family="system-ui, sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" width="720" height="{height}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="720" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" {text} font-weight="bold" fill="#222222">{html.escape(title)} ({unit}, {better})</text>',
    ]
    for index, (name, value, own) in enumerate(rows):
        y = top + step * index
        bar = max(2, width * value / most)
        colour = "#c2410c" if own else "#9aa5b1"
        weight = ' font-weight="bold"' if own else ""
        parts.append(f'<text x="{left - 8}" y="{y + 14}" {text}{weight} fill="#222222" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="18" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{left + bar + 6:.1f}" y="{y + 14}" {text}{weight} fill="#222222">{number(value)}</text>')
    return "\n".join(parts + ["</svg>", ""])


def kept_lines(document):
    """The build's figures of the last report."""
    if not document.exists():
        return []
    pattern = re.compile(r"<!-- kept: (\{.*\}) -->")
    return pattern.findall(document.read_text())


def machine_facts():
    memory = next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    cpus = len(os.sched_getaffinity(0))
    return f"{cpus} CPUs ({model}), {int(memory) // (1 << 20)} GiB, Linux {kernel}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", required=True)
    parser.add_argument("--seconds", required=True)
    parser.add_argument("lines", type=pathlib.Path)
    parser.add_argument("docs", type=pathlib.Path)
    options = parser.parse_args()
    document = options.docs / "benchmarks.md"
    lines = [line for line in options.lines.read_text().splitlines() if line.startswith("{")]
    if not any(json.loads(line)["workload"] in KEPT for line in lines):
        lines += kept_lines(document)
    kept = [line for line in lines if json.loads(line)["workload"] in KEPT]
    figures = Figures(lines)
    images = options.docs / "benchmarks"
    images.mkdir(parents=True, exist_ok=True)

    out = [
        "# Benchmarks",
        "",
        f"Measured by `scripts/bench --rounds {options.rounds} --seconds {options.seconds}` on {machine_facts()}.",
        "",
        "- Each round runs the machine's own figures, Brigade and the other pools in turn. A figure is the",
        "  median of the rounds, a ratio the median of the rounds' own ratios. Every answer is checked.",
        "- All pools have two workers. [`scripts/bench.d/README.md`](../scripts/bench.d/README.md) describes",
        "  the workloads and the settings of each peer. Brigade has 512 slots for the 1,000 no-ops and its",
        "  defaults otherwise.",
        "- Absolute figures are those of this machine. Ratios can be compared between machines, but with two",
        "  busy CPUs they differ by a fifth from run to run.",
        "- [performance.md](performance.md) explains the targets that are missed.",
        "",
        "## Brigade and other pools",
        "",
        "Brigade's figures are bold. In parentheses: how many times better Brigade is.",
        "",
        *compared_table(figures, COMPARED),
        "",
    ]
    out += ["Jobs in an SQLite file:", "", *compared_table(figures, QUEUED), ""]
    out += ["Jobs on Redis, all on servers that keep nothing on disk:", "", *compared_table(figures, ON_REDIS), ""]
    out += ["Jobs and calls over RabbitMQ, each side a process of its own:", "", *compared_table(figures, ON_RABBITMQ), ""]
    out += ["Jobs in PostgreSQL:", "", *compared_table(figures, ON_POSTGRES), ""]
    for workload, title, more in COMPARED + QUEUED + ON_REDIS + ON_RABBITMQ + ON_POSTGRES:
        svg = chart(figures, workload, title, more)
        if svg:
            (images / f"{workload}.svg").write_text(svg)
            out += [f"![{title}](benchmarks/{workload}.svg)", ""]
    out += ["## Targets", "", "| what | figure | target | reached |", "|---|---:|---:|---|"]
    for what, figure, wanted, reached in targets(figures):
        out.append(f"| {what} | {figure or 'not measured'} | {wanted} | {'' if not figure else 'yes' if reached else '**no**'} |")
    out += ["", "## Every figure of Brigade and the machine", "", *all_figures(figures), ""]
    out += [f"<!-- kept: {line} -->" for line in kept]
    document.write_text("\n".join(out).rstrip() + "\n")


if __name__ == "__main__":
    main()
