"""The workloads, for any pool which offers submit(done, token, function, arguments)
(puts (token, answer, error) into `done`), call(function, arguments) and close()."""

import argparse
import hashlib
import json
import os
import queue
import random
import signal
import statistics
import time

WARM_UP = 0.5  # seconds before counting starts
MIN_ROUNDS = 3
MAX_ROUNDS = 15
PATIENCE = 30  # seconds which a workload may take on top of its own time


# What the workers run.


def noop():
    pass


def md5(data):
    return data, hashlib.md5(data).hexdigest()


def echo(data):
    return data


# What is measured.


class WrongAnswer(Exception):
    pass


def check(answer, expected):
    if answer != expected:
        raise WrongAnswer


def samples():
    """Pairs of bytes and the right answer to them."""
    generator = random.Random(1)
    return [md5(generator.randbytes(3072)) for _ in range(64)]


def throughput(pool, callers, seconds, function, cases):
    """Calls per second with `callers` calls in flight all the time."""
    done = queue.SimpleQueue()

    def send(i):
        arguments, _ = cases[i % len(cases)]
        pool.submit(done, i, function, arguments)

    begin = time.perf_counter() + WARM_UP
    end = begin + seconds
    for i in range(callers):
        send(i)
    sent = in_flight = callers
    counted = 0
    while in_flight > 0:
        i, answer, error = done.get()
        if error is not None:
            raise error
        check(answer, cases[i % len(cases)][1])
        now = time.perf_counter()
        if now >= end:
            in_flight -= 1
            continue
        if now >= begin:
            counted += 1
        send(sent)
        sent += 1
    return counted / seconds


def latency(pool, seconds, function, cases):
    """Median seconds of one call at a time."""

    def one(i):
        arguments, expected = cases[i % len(cases)]
        start = time.perf_counter()
        answer = pool.call(function, arguments)
        took = time.perf_counter() - start
        check(answer, expected)
        return took

    begin = time.perf_counter() + WARM_UP
    end = begin + seconds
    times = []
    i = 0
    while not times or time.perf_counter() < end:
        took = one(i)
        i += 1
        if time.perf_counter() >= begin:
            times.append(took)
    return statistics.median(times)


def cold(open_pool, seconds):
    """Median seconds from making a pool to its first answer."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < MIN_ROUNDS or (
        len(times) < MAX_ROUNDS and time.perf_counter() < end
    ):
        start = time.perf_counter()
        pool = open_pool()
        answer = pool.call(noop, ())
        times.append(time.perf_counter() - start)
        check(answer, None)
        pool.close()
    return statistics.median(times)


def with_pool(open_pool, measure, *arguments):
    pool = open_pool()
    result = measure(pool, *arguments)
    pool.close()
    return result


def workloads(open_pool):
    nothing = [((), None)]
    hashes = [((answer[0],), answer) for answer in samples()]

    def echoes():
        buffers = [random.Random(seed).randbytes(16 << 20) for seed in range(2)]
        return [((data,), data) for data in buffers]

    return {
        "noop-1000": (
            "calls/s",
            lambda s: with_pool(open_pool, throughput, 1000, s, noop, nothing),
        ),
        "noop-1": (
            "us",
            lambda s: 1e6 * with_pool(open_pool, latency, s, noop, nothing),
        ),
        # A worker runs one task at a time; there is no setting for more.
        "md5-3k-1": (
            "calls/s",
            lambda s: with_pool(open_pool, throughput, 20, s, md5, hashes),
        ),
        "echo-16m": (
            "ms",
            lambda s: 1e3 * with_pool(open_pool, latency, s, echo, echoes()),
        ),
        "cold": ("ms", lambda s: 1e3 * cold(open_pool, s)),
    }


def main(peer, open_pool):
    """Runs the workloads named on the command line (all, if none is), a JSON line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("workload", nargs="*")
    options = parser.parse_args()

    def expired(*_):
        os.write(2, f"{peer}: a workload does not come to an end\n".encode())
        os._exit(1)

    signal.signal(signal.SIGALRM, expired)
    for workload, (unit, run) in workloads(open_pool).items():
        if options.workload and workload not in options.workload:
            continue
        signal.alarm(int(options.seconds) + PATIENCE)
        value = float(f"{run(options.seconds):.6g}")
        signal.alarm(0)
        line = {"peer": peer, "workload": workload, "value": value, "unit": unit}
        print(json.dumps(line, separators=(",", ":")), flush=True)
