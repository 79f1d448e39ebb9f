"""multiprocessing.Pool, workers made by fork.

A worker which is killed while it waits for work may hold the lock of the task queue,
and then nobody gets a task any more, so there is no recovery to measure."""

import sys

sys.dont_write_bytecode = True

import multiprocessing

import workloads


class Pool:
    def __init__(self):
        self.pool = multiprocessing.get_context("fork").Pool(2)

    def submit(self, done, token, function, arguments):
        self.pool.apply_async(
            function,
            arguments,
            callback=lambda answer: done.put((token, answer, None)),
            error_callback=lambda error: done.put((token, None, error)),
        )

    def call(self, function, arguments):
        return self.pool.apply(function, arguments)

    def close(self):
        self.pool.terminate()
        self.pool.join()


if __name__ == "__main__":
    workloads.main("python-pool", Pool)
