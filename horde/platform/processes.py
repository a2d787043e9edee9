"""Programs that belong to a directory: started, watched and stopped by one supervisor at a time."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

import psutil

POLL_SECONDS = 0.05
# A recorded start time may differ by this much when it is read again: it is derived from the boot time.
START_TIME_SLACK = 2.0


class ServiceError(RuntimeError):
    """A program did not start or ended by itself; the text is for the operator."""


class StopRequested(KeyboardInterrupt):
    """The operator asked to stop while something was being waited for."""


@dataclass(frozen=True, slots=True)
class Account:
    """A system account that a program runs as."""

    uid: int
    gid: int


class RunAs(TypedDict, total=False):
    """Arguments of `subprocess` calls that choose the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class _Record:
    """What it takes to stop a program later, even from another supervisor."""

    name: str
    pid: int
    started: float
    stop_signal: int
    stop_seconds: float


class Child:
    """A running program of the supervisor that started it."""

    def __init__(self, process: psutil.Popen, record: _Record, log: Path | None) -> None:
        self.process = process
        self.record = record
        self.log = log

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def pid(self) -> int:
        return self.record.pid

    def exit_status(self) -> int | None:
        """None while it runs; then its exit status, negative when a signal ended it."""
        status: int | None = self.process.poll()
        return status

    def failure(self) -> str:
        """How it ended, with the last lines of its log."""
        text = f"{self.name} ended unexpectedly (exit status {self.exit_status()})."
        if self.log is None:
            return text
        tail = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([text, f"Last lines of {self.log}:", *tail])


class Supervisor:
    """Runs programs on behalf of `var_dir`, and leaves none behind.

    Only one supervisor can hold a directory: entering raises `ServiceError` while another process
    does. Programs that a killed supervisor left running are stopped on entering, its latest first.
    Leaving stops everything started here, latest first, and returns once it has ended.

    Every program runs in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor
    only, and the order of stopping is its own.
    """

    def __init__(self, var_dir: Path) -> None:
        self.var_dir = var_dir.resolve()
        self.stop_requested = False
        """Set it (from a signal handler) to make `wait_until` give up."""
        self._children: list[Child] = []
        self._records = self.var_dir / "processes.json"
        self._short_folders: list[Path] = []
        self._lock = -1

    def __enter__(self) -> Self:
        self.var_dir.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(self.var_dir)
        if lock is None:
            raise ServiceError(
                f"{self.var_dir} is in use by a running server. Stop that one, or set VAR_DIR elsewhere."
            )
        self._lock = lock
        self._stop_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._children:
            self.stop(self._children[-1])
        for folder in self._short_folders:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self._lock)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        account: Account | None = None,
        log: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_seconds: float = 10.0,
    ) -> Child:
        """Start `command`; its output goes to the end of `log`, or where this process's output goes.

        When told to stop it gets `stop_signal`, and SIGKILL `stop_seconds` later.
        """
        output = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            process = psutil.Popen(
                [str(part) for part in command],
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **run_as(account),
            )
        finally:
            if output is not None:
                os.close(output)
        record = _Record(name, process.pid, process.create_time(), int(stop_signal), stop_seconds)
        child = Child(process, record, log)
        self._children.append(child)
        self._save()
        return child

    def stop(self, child: Child) -> None:
        """End `child` and forget it."""
        _end(child.process, child.record)
        child.process.wait()
        self._children.remove(child)
        self._save()

    def short_folder(self) -> Path:
        """A new private folder with a short path, which goes away on leaving."""
        folder = Path(tempfile.mkdtemp(prefix="horde-"))
        self._short_folders.append(folder)
        return folder

    def ended(self) -> Child | None:
        """A program started here that ended by itself, if there is one."""
        return next((child for child in self._children if child.exit_status() is not None), None)

    def wait_until(self, ready: Callable[[], bool], child: Child, seconds: float) -> None:
        """Return once `ready()` is true.

        Raises `ServiceError` when `child` ends before, or after `seconds`; `StopRequested` as soon as
        `stop_requested` is set.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if self.stop_requested:
                raise StopRequested
            if child.exit_status() is not None:
                raise ServiceError(child.failure())
            if time.monotonic() > deadline:
                raise ServiceError(f"{child.name} was not ready within {seconds:.0f} seconds.")
            time.sleep(POLL_SECONDS)

    def _stop_leftovers(self) -> None:
        if not self._records.exists():
            return
        for record in reversed([_Record(**entry) for entry in json.loads(self._records.read_text())]):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(record.pid)
                if abs(process.create_time() - record.started) < START_TIME_SLACK:
                    _end(process, record)
        self._records.unlink()

    def _save(self) -> None:
        fresh = self._records.with_suffix(".new")
        fresh.write_text(json.dumps([asdict(child.record) for child in self._children]))
        fresh.replace(self._records)


def supervised(var_dir: Path) -> bool:
    """Whether a supervisor, in this process or another, holds `var_dir` now."""
    if not var_dir.exists():
        return False
    lock = _take_lock(var_dir)
    if lock is None:
        return True
    os.close(lock)
    return False


def _take_lock(var_dir: Path) -> int | None:
    """An open file that holds the directory until it is closed, by the end of the process at the latest."""
    lock = os.open(var_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def run_as(account: Account | None) -> RunAs:
    """Arguments that make `subprocess` run a program as `account`, or as whoever runs this one."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _end(process: psutil.Process, record: _Record) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(record.stop_signal)
    deadline = time.monotonic() + record.stop_seconds
    while _runs(process):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _runs(process: psutil.Process) -> bool:
    """A program that has ended but was not yet collected by its parent does not run."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
