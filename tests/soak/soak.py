"""One run: load all the time, a fault a minute, and the invariants after each."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import httpx2 as httpx

from benchmarks.machine import command_of
from tests.soak.faults import FAULTS, Fault
from tests.soak.ledger import LATE_S, TWICE, Ledger, Period
from tests.soak.load import Load, percentiles
from tests.soak.report import Moment, Report, alike
from tests.soak.samples import Sample, sampled
from tests.soak.stage import Stage
from tests.soak.tail import Tail

SAMPLE_S, READ_S, WARM_UP_S, CATCH_UP_S = 10.0, 0.5, 15.0, 5.0
BOUNDS_MIB = {"envoy": 1024.0, "redis": 1024.0}
BOUND_MIB = 256.0
_LOST = re.compile(rb"^api_access_log_lost_total ([0-9.e+]+)$", re.MULTILINE)
_FOREVER = float("inf")
_OWN = {"soak", "model server"}


@dataclass(frozen=True, slots=True)
class Plan:
    """For how long, how much, and a fault how often. `seed` gives the order of the faults."""

    minutes: float = 60.0
    rate: float = 150.0
    every_s: float = 60.0
    seed: int = 1
    only: str = ""

    def faults(self) -> Iterator[Fault]:
        """All in some order, and again in another."""
        chance, rows = random.Random(self.seed), [each for each in FAULTS if self.only in each.name]
        while True:
            yield from chance.sample(rows, len(rows))


@dataclass
class Soak:
    """`over` ends it early, and cleanly. `say` takes lines for people."""

    stage: Stage
    plan: Plan
    over: asyncio.Event
    say: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)
    samples: list[Sample] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._load = Load(self.stage.gateway.url, self.plan.rate, self.ledger.heard, self.plan.seed)
        self._tails: Sequence[Tail] = (Tail(self.stage.logs, "*.log*"), Tail(self.stage.folder, "*.log"))
        self._began = time.time()
        self.stage.read = self._read

    async def run(self) -> Report:
        load_over, began = asyncio.Event(), time.time()
        load = asyncio.create_task(self._load.run(load_over))
        beside = [asyncio.create_task(each) for each in (self._reading(), self._sampling())]
        for task in (load, *beside):
            task.add_done_callback(self._ended)
        try:
            await self._break_things()
            seconds = time.time() - began
            load_over.set()
            await load
            await self._settled()
        finally:
            for task in beside:
                task.cancel()
            load.cancel()
            found = await asyncio.gather(load, *beside, return_exceptions=True)
        for error in found:
            if isinstance(error, Exception):
                raise error
        ledger = self.ledger
        return Report(
            seconds, self._load.asked, self.done, ledger.violations, ledger.counts, self.moments, self.samples
        )

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception():
            self.over.set()

    async def _break_things(self) -> None:
        end = time.monotonic() + self.plan.minutes * 60
        await self._rest(WARM_UP_S)
        for fault in self.plan.faults():
            due = time.monotonic() + self.plan.every_s
            if self.over.is_set() or due > end:
                break
            before = len(self.ledger.violations)
            self._line(f"fault {len(self.done) + 1}: {fault.name}")
            await self._one(fault)
            await self._rest(due - time.monotonic())
            await self._checked()
            for line in alike(self.ledger.violations[before:]):
                self._line(f"  {line}")
            self._line(f"  invariants: {len(self.ledger.violations) - before} violated; {self.ledger.open} open")
        await self._rest(end - time.monotonic())

    async def _one(self, fault: Fault) -> None:
        if TWICE in fault.allowed:
            await self._caught_up()
        began = time.time()
        periods, at = self.ledger.periods, len(self.ledger.periods)
        periods.append(Period(fault.name, began, _FOREVER, fault.allowed))
        try:
            await fault.act(self.stage)
        finally:
            self._load.url = self.stage.gateway.url
            ended = time.time()
            periods[at] = replace(periods[at], ended=ended + fault.recover_s)
            if fault.only:
                periods.append(Period(fault.name, began + fault.takes_s, ended, only=fault.only))
        self.done.append(fault.name)

    async def _caught_up(self) -> None:
        """Who takes the logs away restores first what they lack: nobody could afterwards."""
        end = time.monotonic() + LATE_S
        while self.ledger.lacking(time.time(), CATCH_UP_S) and time.monotonic() < end and not self.over.is_set():
            await self._rest(5)
            await self._checked()

    async def _checked(self) -> None:
        await self._look_around()
        if self.ledger.lacking(time.time()):
            self.ledger.counts["reconciled"] += 1
            await asyncio.to_thread(self.stage.reconcile)
        self._read()
        self.ledger.settle(time.time())

    async def _settled(self) -> None:
        """Everything has had its time, and whatever reconciliation restores is restored."""
        self._line("the load is over; waiting for the last records")
        end = time.monotonic() + LATE_S + 5
        while self.ledger.open and time.monotonic() < end:
            await asyncio.sleep(5)
            await self._checked()
        await self._look_around()
        self.ledger.closed(time.time())

    async def _look_around(self) -> None:
        """Where else a secret may show: metrics, and what `ps` shows."""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=10) as client:
                metrics = (await client.get(self.stage.gateway.metrics_url)).content
            self.ledger.wrote("/metrics", metrics)
            if lost := _LOST.search(metrics):
                self.ledger.lost(float(lost[1]))
        for name, pid in self.stage.processes().items():
            self.ledger.wrote(f"the command line of {name}", " ".join(command_of(pid)).encode())

    async def _reading(self) -> None:
        while True:
            self._read()
            await asyncio.sleep(READ_S)

    def _read(self) -> None:
        for tail in self._tails:
            for name, line in tail.lines():
                self._took(name, line)

    def _took(self, name: str, line: bytes) -> None:
        if name == "arrivals.log":
            self.ledger.arrived(int(line.split()[0]))
            return
        self.ledger.wrote(name, line)
        if name.startswith("requests_"):
            self.ledger.line(line, time.time())

    async def _sampling(self) -> None:
        asked = 0
        while True:
            await asyncio.sleep(SAMPLE_S)
            now = time.time()
            for name, pid in self.stage.processes().items():
                self._sample(now, name, pid)
            p50, p99 = percentiles(self._load.latencies_ms)
            self._load.latencies_ms.clear()
            rate, asked = (self._load.asked - asked) / SAMPLE_S, self._load.asked
            quiet = not any(each.began - 1 < now and now - SAMPLE_S < each.ended for each in self.ledger.periods)
            self.moments.append(Moment(now, rate, p50, p99, quiet))
            self._line(f"  {rate:.0f}/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms, {self._load.in_flight} in flight")

    def _sample(self, now: float, name: str, pid: int) -> None:
        if sample := sampled(now, name, pid):
            self.samples.append(sample)
            if name not in _OWN:
                self.ledger.grew(name, sample.rss_mib, BOUNDS_MIB.get(name, BOUND_MIB), now)

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), max(0.0, seconds))

    def _line(self, text: str) -> None:
        passed = int(time.time() - self._began)
        self.say(f"{passed // 60:3}:{passed % 60:02}  {text}")
