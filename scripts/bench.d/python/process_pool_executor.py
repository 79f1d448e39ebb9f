"""concurrent.futures.ProcessPoolExecutor, workers made by fork.

Killing a worker breaks the whole pool, so there is no recovery to measure."""

import sys

sys.dont_write_bytecode = True

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import workloads


class Pool:
    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.executor = ProcessPoolExecutor(2, mp_context=context)

    def submit(self, done, token, function, arguments):
        def finished(future):
            error = future.exception()
            done.put((token, None if error else future.result(), error))

        self.executor.submit(function, *arguments).add_done_callback(finished)

    def call(self, function, arguments):
        return self.executor.submit(function, *arguments).result()

    def close(self):
        self.executor.shutdown()


if __name__ == "__main__":
    workloads.main("python-executor", Pool)
