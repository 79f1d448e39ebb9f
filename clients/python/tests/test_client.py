"""The client against a real server. Run by scripts/test, or: python3 -m unittest"""

import asyncio
import os
import signal
import subprocess
import sys
import unittest
import unittest.mock
from pathlib import Path

from brigade_client import Brigade, BrigadeError, ConnectionFailed, RequestTimeout, SyncBrigade
from brigade_client.events import Parser

from .server import Server

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
server: Server


def setUpModule() -> None:
    global server
    server = Server()


def tearDownModule() -> None:
    server.stop()


class WithKinds(unittest.IsolatedAsyncioTestCase):
    async def is_kind(self, kind: str, awaitable) -> BrigadeError:
        with self.assertRaises(BrigadeError) as raised:
            await awaitable
        self.assertEqual(raised.exception.kind, kind)
        return raised.exception


class Jobs(WithKinds):
    async def asyncSetUp(self) -> None:
        self.brigade = Brigade(server.url)

    async def test_a_pushed_job_is_taken_once(self) -> None:
        pushed = await self.brigade.push("taken", {"to": "ann@example.org", "ü": "☃"})
        self.assertFalse(pushed["duplicate"])
        job = await self.brigade.take("taken")
        self.assertEqual((job["id"], job["payload"]), (pushed["id"], {"to": "ann@example.org", "ü": "☃"}))
        self.assertIsNone(await self.brigade.take("taken"))

    async def test_a_push_with_one_idempotency_key_is_stored_once(self) -> None:
        first = await self.brigade.push("once", 1, idempotency_key="order-7")
        again = await self.brigade.push("once", 1, idempotency_key="order-7")
        self.assertEqual(again, {"id": first["id"], "duplicate": True})
        many = await self.brigade.push_many("many", [{"payload": 1}, {"payload": 2, "priority": 5}])
        self.assertEqual(len(many), 2)
        self.assertEqual((await self.brigade.take("many"))["payload"], 2)

    async def test_a_flow_is_pushed_whole_and_looked_at_from_any_of_its_jobs(self) -> None:
        def job(payload: int, **options) -> dict:
            return {"queue": "flow", "payload": [payload], **options}

        flow = {"group": [[job(1)], [job(2)]], "then": job(3, keep="1h")}
        pushed = await self.brigade.push_flow(flow)
        self.assertEqual((len(pushed["jobs"]), pushed["jobs"][2]), (3, pushed["last"]))
        await (await self.brigade.lease("flow")).ack()
        seen = await self.brigade.flow(pushed["jobs"][1])
        fields = ("last", "state", "total", "done", "gone")
        self.assertEqual([seen[field] for field in fields], [pushed["last"], "blocked", 3, 1, 1])
        await (await self.brigade.lease("flow")).ack()
        waiting = asyncio.ensure_future(self.brigade.flow(pushed["last"], wait=60))
        await (await self.brigade.lease("flow", wait=30)).ack()
        ended = await waiting
        self.assertEqual((ended["state"], ended["done"], len(ended["jobs"])), ("done", 3, 1))

    async def test_a_program_is_listed_with_what_it_runs_and_how_far_that_is(self) -> None:
        mailer = Brigade(server.url, consumer="mailer; pid=7", version="1.2")
        pushed = await self.brigade.push("listed", 1)
        lease = await mailer.lease("listed")
        await lease.progress(0.25, "one of four")
        found: dict = {"running": []}
        while not any(run["progress"] == 0.25 for run in found["running"]):
            consumers = await self.brigade.consumers()
            found = next((one for one in consumers if one["host"] == "mailer"), found)
        running = found["running"][0]
        self.assertEqual(
            (found["pid"], found["version"], found["via"], found["queues"], running["job"], running["text"]),
            (7, "1.2", "HTTP", ["listed"], pushed["id"], "one of four"),
        )
        await lease.ack()
        # Without a name, it is the process.
        self.assertIsNone(await self.brigade.take("listed"))
        while not any(one["pid"] == os.getpid() for one in await self.brigade.consumers()):
            pass

    async def test_a_lease_is_settled_in_each_way(self) -> None:
        async def push(queue: str, **options) -> str:
            return (await self.brigade.push(queue, None, keep="1h", **options))["id"]

        async def state(id: str) -> str:
            return (await self.brigade.job(id))["state"]

        done = await push("ack")
        await (await self.brigade.lease("ack")).ack({"sent": True})
        job = await self.brigade.job(done)
        self.assertEqual((job["state"], job["result"]), ("done", {"sent": True}))

        failed = await push("nack", retries=1)
        first = await self.brigade.lease("nack")
        self.assertEqual(first.attempt, 1)
        await first.nack("no route", after=0)
        second = await self.brigade.lease("nack", wait=10)
        self.assertEqual(second.attempt, 2)
        await second.nack("no route")
        self.assertEqual(await state(failed), "dead")
        self.assertEqual(await self.brigade.retry(failed), failed)
        self.assertEqual(await state(failed), "ready")

        passed = await push("pass")
        await (await self.brigade.lease("pass")).pass_on("reloading")
        self.assertNotEqual(await state(passed), "dead")
        back = await push("back")
        await (await self.brigade.lease("back")).give_back("stopping")
        self.assertEqual(await state(back), "ready")
        dead = await push("dead")
        await (await self.brigade.lease_many(["empty", "dead"]))[0].dead_letter("no such address")
        self.assertEqual((await self.brigade.job(dead))["reason"], "no such address")

    async def test_a_holder_learns_by_extending_that_its_job_is_cancelled(self) -> None:
        id = (await self.brigade.push("cancelled", 1, keep="1h"))["id"]
        lease = await self.brigade.lease("cancelled")
        self.assertIsNone(await lease.extend(60))
        self.assertIsNone(await lease.progress(0.25, "a quarter"))
        self.assertEqual((await self.brigade.cancel(id, reason="ordered twice"))["outcome"], "asked")
        self.assertEqual(await lease.extend(60), "ordered twice")
        self.assertEqual(await lease.progress(0.5, "half of it"), "ordered twice")
        await lease.cancelled("ordered twice")
        self.assertEqual((await self.brigade.job(id))["state"], "cancelled")

    async def test_a_lease_that_has_ended_is_stale(self) -> None:
        await self.brigade.push("stale", 1)
        lease = await self.brigade.lease("stale")
        await lease.ack()
        await self.is_kind("stale", lease.ack())

    async def test_a_long_poll_waits_for_a_job_and_can_be_cancelled(self) -> None:
        waiting = asyncio.ensure_future(self.brigade.take("later", wait=20))
        await self.brigade.push("later", "here")
        self.assertEqual((await waiting)["payload"], "here")
        given = asyncio.ensure_future(self.brigade.take("never", wait=20))
        await asyncio.sleep(0)
        given.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await given

    async def test_errors_have_the_kinds_of_the_server(self) -> None:
        await self.is_kind("unknown_job", self.brigade.job("no-such-job"))
        error = await self.is_kind("bad_request", self.brigade.push("q", 1, prioritty=3))
        self.assertEqual((error.status, error.retryable), (400, False))
        for url in ("ftp://x", "http://user:secret@x"):
            with self.assertRaises(ValueError) as raised:
                Brigade(url)
            self.assertNotIn("secret", str(raised.exception))
        with self.assertRaises(ValueError):
            Brigade(server.url, token="a\r\nHost: b")

    async def test_a_server_that_is_away_or_silent_is_an_error_of_its_own(self) -> None:
        with self.assertRaises(ConnectionFailed):
            await Brigade("http://127.0.0.1:1").take("q")
        kept = []
        silent = await asyncio.start_server(lambda reader, writer: kept.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        with unittest.mock.patch("brigade_client.http.MARGIN", 0.05):
            with self.assertRaises(RequestTimeout):
                await Brigade(f"http://127.0.0.1:{port}", timeout=0.05).take("q")
        silent.close()
        for writer in kept:
            writer.close()


class Work(WithKinds):
    async def asyncSetUp(self) -> None:
        self.brigade = Brigade(server.url)
        self.stop = asyncio.Event()

    async def test_work_runs_jobs_fails_those_that_raise_and_finishes_at_a_stop(self) -> None:
        async def double(payload, lease):
            if payload == "x":
                raise ValueError("not a number")
            return payload * 2

        good = await self.brigade.push("work", 20, keep="1h")
        bad = await self.brigade.push("work", "x")
        working = asyncio.ensure_future(
            self.brigade.work("work", double, concurrency=2, stop=self.stop)
        )
        self.assertEqual((await self.brigade.job(good["id"], wait=20))["result"], 40)
        self.assertEqual((await self.brigade.job(bad["id"], wait=20))["reason"], "not a number")
        self.stop.set()
        await working

    async def test_a_worker_that_is_cancelled_gives_its_job_back(self) -> None:
        began = asyncio.Event()

        async def forever(payload, lease):
            began.set()
            await asyncio.Event().wait()

        id = (await self.brigade.push("forever", 1))["id"]
        working = asyncio.ensure_future(self.brigade.work("forever", forever))
        await began.wait()
        working.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await working
        job = await self.brigade.job(id)
        self.assertEqual((job["state"], job["failed"], job["interrupted"]), ("ready", 0, 1))


    async def test_a_call_gives_the_result_of_a_task_or_how_it_ended(self) -> None:
        async def add(args, lease):
            return args[0] + args[1]

        working = asyncio.ensure_future(self.brigade.work("add", add, stop=self.stop))
        self.assertEqual(await self.brigade.call("add", [3, 4], wait=20), 7)
        await self.is_kind("failed", self.brigade.call("add", [None, 4], wait=20))
        self.stop.set()
        await working

    async def test_a_result_that_cannot_be_sent_is_the_failure_of_its_job(self) -> None:
        async def give_a_set(payload, lease):
            return {1}

        id = (await self.brigade.push("unsendable", 1))["id"]
        working = asyncio.ensure_future(self.brigade.work("unsendable", give_a_set, stop=self.stop))
        reason = (await self.brigade.job(id, wait=20))["reason"]
        self.assertIn("its result cannot be sent: Object of type set", reason)
        self.stop.set()
        await working

    async def test_a_failure_of_one_worker_ends_the_others(self) -> None:
        async def nothing(payload, lease):
            return None

        with self.assertRaises(BrigadeError):
            await self.brigade.work("", nothing, concurrency=3)


class Events(WithKinds):
    async def test_events_come_in_order_and_go_on_after_a_lost_connection(self) -> None:
        brigade = Brigade(server.url)
        events = brigade.events(queue="seen")
        first = asyncio.ensure_future(events.__anext__())
        while not first.done():
            await brigade.push("seen", 0)
            await asyncio.wait([first], timeout=0.05)
        self.assertEqual(first.result()["kind"], "pushed")
        server.restart()
        id = (await brigade.push("seen", "after the restart"))["id"]
        while True:
            event = await events.__anext__()
            if event["job"] == id:
                break
        self.assertEqual(event["kind"], "pushed")
        await events.aclose()

    def test_a_stream_of_events_is_taken_apart_wherever_it_is_cut(self) -> None:
        text = ': hello\n\nid: 5\r\nevent: done\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\n\ndata: {}\n\n'
        for at in range(len(text) + 1):
            parser = Parser()
            found = [*parser.feed(text[:at]), *parser.feed(text[at:])]
            self.assertEqual(found, [{"kind": "done", "a": 1, "cursor": "5"}, {"kind": "message"}], at)


class Sync(unittest.TestCase):
    def test_the_same_without_asyncio(self) -> None:
        brigade = SyncBrigade(server.url)
        id = brigade.push("sync", 1, keep="1h")["id"]
        lease = brigade.lease("sync")
        self.assertEqual((lease.id, lease.payload), (id, 1))
        lease.ack("done")
        self.assertEqual(brigade.job(id)["result"], "done")

    def test_the_samples_run(self) -> None:
        root = str(SAMPLES.parent)
        environment = {**os.environ, "BRIGADE_HTTP": server.url, "PYTHONPATH": root}

        def sample(name: str) -> subprocess.Popen:
            command = [sys.executable, str(SAMPLES / name)]
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

        worker, producer = sample("worker.py"), sample("produce.py")
        self.assertTrue(producer.stdout.readline().startswith("pushed job "))
        self.assertRegex(worker.stdout.readline(), r"^sending to \w+@example\.org")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual((worker.wait(), producer.wait()), (0, 0))
        worker.stdout.close()
        producer.stdout.close()


if __name__ == "__main__":
    unittest.main()
