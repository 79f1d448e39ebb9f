"""A server of a test: ``brigade serve`` on a free port and a job file of its own."""

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("BRIGADE_PROGRAM", str(ROOT / "target/debug/brigade"))


class Server:
    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="brigade-python-")
        self._start("127.0.0.1:0")

    def _start(self, listen: str) -> None:
        self.child = subprocess.Popen(
            [PROGRAM, "serve", "--listen", listen, "--auth", "none"],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        for line in self.child.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                self.url = found.group()
                return
        raise RuntimeError("the server did not start")

    def environment(self) -> dict:
        return {**os.environ, "BRIGADE_URL": f"sqlite:{self.directory.name}/jobs.db"}

    def _end(self, how: int) -> None:
        self.child.send_signal(how)
        self.child.wait()
        assert self.child.stdout is not None
        self.child.stdout.close()

    def restart(self) -> None:
        """Kills it and starts it again at the same address."""
        self._end(signal.SIGKILL)
        self._start(self.url[len("http://") :])

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        self.directory.cleanup()
