"""The files for operation fit the program: options, paths, metrics, times. Run by scripts/test, or:
python3 -m unittest discover -s deploy"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "clients/python"))
from tests.server import PROGRAM, Server  # noqa: E402

PAGE = (ROOT / "docs/guide/kubernetes.md").read_text()
MANIFESTS = [
    manifest
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)
    for manifest in yaml.safe_load_all(block)
]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))


def options_of(*command: str) -> set:
    """The options that a command has."""
    text = subprocess.run([PROGRAM, *command, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][a-z-]*", text.stdout))


def seconds(text: str) -> int:
    return int(text.rstrip("s"))


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


def manifest(kind: str, name: str) -> dict:
    found = [m for m in MANIFESTS if m["kind"] == kind and m["metadata"]["name"] == name]
    return found[0]


class Kubernetes(unittest.TestCase):
    def test_the_server_has_options_probes_and_time_to_drain(self) -> None:
        pod = manifest("Deployment", "brigade")["spec"]["template"]["spec"]
        container = pod["containers"][0]
        command, *arguments = container["args"]
        self.assertEqual(command, "serve")
        options = dict(argument.partition("=")[::2] for argument in arguments)
        self.assertLessEqual(set(options), options_of("serve"))
        pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = pre_stop + seconds(options["--drain"])
        self.assertGreater(pod["terminationGracePeriodSeconds"], needed)
        port = container["ports"][0]["containerPort"]
        self.assertTrue(options["--listen"].endswith(f":{port}"))
        service = manifest("Service", "brigade")
        self.assertEqual(service["spec"]["ports"][0]["port"], port)
        self.assertEqual(options["--host"], service["metadata"]["name"])

    def test_the_consumer_has_the_options_of_work(self) -> None:
        pod = manifest("Deployment", "emails")["spec"]["template"]["spec"]
        program, command, _, *rest = pod["containers"][0]["command"]
        self.assertEqual((program, command), ("brigade", "work"))
        given = {argument.partition("=")[0] for argument in rest[: rest.index("--")]}
        self.assertLessEqual(given, options_of("work"))

    def test_the_paths_are_those_of_the_server(self) -> None:
        server = Server()
        try:
            paths = set(json.loads(get(f"{server.url}/openapi.json"))["paths"])
            container = manifest("Deployment", "brigade")["spec"]["template"]["spec"]["containers"][0]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                self.assertIn(path, paths)
                get(server.url + path)
            trigger = manifest("ScaledObject", "emails")["spec"]["triggers"][0]["metadata"]
            subprocess.run([PROGRAM, "push", "emails", "1"], env=server.environment(), check=True, capture_output=True)
            scale = json.loads(get(server.url + re.sub(r"^http://brigade:\d+", "", trigger["url"])))
            self.assertEqual(scale[trigger["valueLocation"]], 1)
            self.assertIn(manifest("ServiceMonitor", "brigade")["spec"]["endpoints"][0]["path"], paths)
        finally:
            server.stop()


class Grafana(unittest.TestCase):
    def test_every_metric_of_the_dashboard_is_there(self) -> None:
        text = (ROOT / "deploy/grafana/brigade.json").read_text()
        dashboard = json.loads(text)
        expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        used = set(re.findall(r"\bbrigade_[a-z_]+", " ".join(expressions)))
        self.assertGreater(len(used), 10)
        server = Server()
        try:
            environment = server.environment()
            for arguments in (["push", "emails", "1"], ["take", "emails"], ["push", "emails", "2"]):
                subprocess.run([PROGRAM, *arguments], env=environment, check=True, capture_output=True)
            get(f"{server.url}/livez")
            shown = get(f"{server.url}/metrics")
        finally:
            server.stop()
        names = set(re.findall(r"^(brigade_[a-z_]+)(?=[{ ])", shown, re.M))
        self.assertEqual(used - names, set())
        labels = {name: set() for name in used}
        for name, given in re.findall(r"^(brigade_[a-z_]+)\{(.*?)\} ", shown, re.M):
            labels.setdefault(name, set()).update(re.findall(r'(\w+)="', given))
        for expression in expressions:
            for name, given in re.findall(r"\b(brigade_[a-z_]+)\{(.*?)\}", expression):
                self.assertLessEqual(set(re.findall(r"(\w+)[=!]", given)), labels[name], expression)


class Systemd(unittest.TestCase):
    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd is not installed")
    def test_systemd_takes_the_units(self) -> None:
        self.assertTrue(UNITS)
        with tempfile.TemporaryDirectory() as directory:
            for unit in UNITS:
                # Programs that are there, so that only the units are judged.
                text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.M)
                copy = Path(directory) / unit.name
                copy.write_text(text)
                checked = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
                self.assertEqual((checked.returncode, checked.stderr), (0, ""), unit.name)

    def test_the_options_are_those_of_the_command(self) -> None:
        for unit in UNITS:
            found = re.search(r"^ExecStart=/usr/bin/brigade (\w+) (.*)$", unit.read_text(), re.M)
            if found is None:
                continue
            command, arguments = found.groups()
            given = set(re.findall(r"(?:^| )(--[a-z-]+)", arguments.partition(" -- ")[0]))
            self.assertLessEqual(given, options_of(command), unit.name)

    def test_a_stop_has_time_to_drain(self) -> None:
        unit = (ROOT / "deploy/systemd/brigade-serve.service").read_text()
        limit = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M).group(1))
        help_text = subprocess.run([PROGRAM, "serve", "--help"], capture_output=True, text=True, check=True).stdout
        drain = re.search(r"--drain <TIME>.*?\[default: (\d+)s\]", help_text, re.S).group(1)
        self.assertGreater(limit, int(drain))


class Container(unittest.TestCase):
    def test_the_command_of_the_image_runs_and_ends_as_the_first_process(self) -> None:
        text = (ROOT / "Dockerfile").read_text()
        command = json.loads(re.search(r"^CMD (\[.*\])$", text, re.M).group(1))
        command[command.index("--listen") + 1] = "127.0.0.1:0"
        unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
        with tempfile.TemporaryDirectory() as directory:
            environment = {"PATH": os.environ["PATH"], "XDG_DATA_HOME": directory}
            child = subprocess.Popen(
                [*unshare, PROGRAM, *command], env=environment, stdout=subprocess.PIPE, text=True
            )
            try:
                for line in child.stdout:
                    found = re.search(r"http://127\.0\.0\.1:\d+", line)
                    if found:
                        break
                self.assertEqual(get(f"{found.group()}/livez"), "ok\n")
                self.assertEqual(sorted(os.listdir(f"{directory}/brigade"))[0], "jobs.db")
                first = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[0]
                os.kill(int(first), signal.SIGTERM)
                self.assertEqual(child.wait(timeout=60), 0)
            finally:
                child.kill()
                child.wait()
                child.stdout.close()

    def test_the_image_is_built_with_the_oldest_compiler_that_works(self) -> None:
        text = (ROOT / "Dockerfile").read_text()
        oldest = re.search(r'^rust-version = "([\d.]+)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        self.assertIn(f"FROM rust:{oldest}-slim", text)
        self.assertIn(f"ENV RUSTUP_TOOLCHAIN={oldest}.0", text)
        self.assertRegex(text, r"(?m)^USER 65532:65532$")


if __name__ == "__main__":
    unittest.main()
