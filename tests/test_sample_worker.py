"""The sample worker against a small stand-in for a horde, and the pictures it draws."""

import base64
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from horde.cli.worker import worker
from horde.client import ApiClient
from horde.sample_picture import draw
from horde.sample_worker import BRIDGE_AGENT, WorkerOptions, run_threads

KEY = "k" * 22
COMMAND = [sys.executable, "-c", "from horde.cli.worker import worker; worker()", "sample"]
DUPLICATE = (400, {"message": "This job was already submitted.", "rc": "DuplicateGen"})
MAINTENANCE = (403, {"message": "This worker is in maintenance mode.", "rc": "WorkerMaintenance"})
EMPTY = (200, {"id": None, "ids": [], "payload": {}, "skipped": {}, "r2_upload": None, "r2_uploads": None})


class FakeHorde:
    """The worker's half of the public API: hands out prepared answers and keeps what arrives."""

    def __init__(self) -> None:
        self.pop_answers: list[tuple[int, dict[str, Any]]] = []
        self.submit_answers: list[tuple[int, dict[str, Any]]] = []
        self.upload_statuses: list[int] = []
        self.pops: list[dict[str, Any]] = []
        self.pop_keys: list[str | None] = []
        self.submits: list[dict[str, Any]] = []
        self.submit_times: list[float] = []
        self.uploads: list[tuple[str, dict[str, str], bytes]] = []
        self.changed = threading.Condition()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.changed:
                    if self.path == "/api/v2/generate/pop":
                        fake.pops.append(body)
                        fake.pop_keys.append(self.headers["apikey"])
                        status, answer = fake.pop_answers.pop(0) if fake.pop_answers else EMPTY
                    else:
                        fake.submits.append(body)
                        fake.submit_times.append(time.monotonic())
                        answers = fake.submit_answers
                        status, answer = answers.pop(0) if answers else (200, {"reward": 1.5})
                    fake.changed.notify_all()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                with fake.changed:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    fake.uploads.append((self.path, headers, data))
                    status = fake.upload_statuses.pop(0) if fake.upload_statuses else 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), "the worker did not do it in time"

    def offer(self, *ids: str, upload: bool = True, **payload: Any) -> None:
        """Have the next pop hand out these jobs."""
        urls = [f"{self.url}/put/{job}?signature=s" for job in ids] if upload else None
        fields = {"prompt": "a red fox", "seed": "41", "width": 64, "height": 128, "ddim_steps": 30}
        answer = {
            "id": ids[0],
            "ids": list(ids),
            "model": "Deliberate",
            "payload": {k: v for k, v in {**fields, **payload}.items() if v is not None},
            "r2_upload": urls and urls[0],
            "r2_uploads": urls,
            "skipped": {},
        }
        self.pop_answers.append((200, answer))

    def submitted(self) -> list[tuple[str, str]]:
        return [(body["id"], body["state"]) for body in self.submits]


@pytest.fixture
def horde() -> Iterator[FakeHorde]:
    fake = FakeHorde()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.02,))
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


@contextmanager
def working(horde: FakeHorde, pace: float = float("inf"), threads: int = 1) -> Iterator[threading.Event]:
    """A sample worker that serves the fake horde in the background; yields its stop event."""
    options = WorkerOptions(
        name="Sketcher",
        models=("Deliberate",),
        threads=threads,
        poll_seconds=0.01,
        error_seconds=0.01,
        megapixelsteps_per_second=pace,
    )
    stop = threading.Event()
    thread = threading.Thread(
        target=run_threads, args=(lambda: ApiClient(horde.url, KEY, BRIDGE_AGENT), options, stop)
    )
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("size", [(64, 64), (512, 768), (3072, 64), (64, 3072), (3072, 3072)])
def test_a_picture_is_webp_of_the_size_asked_for(size: tuple[int, int]) -> None:
    picture = opened(draw("a red fox", 1, *size))
    assert picture.format == "WEBP"
    assert picture.size == size


def test_the_same_job_gives_the_same_picture_and_any_other_job_another() -> None:
    assert draw("a red fox", 1, 128, 128) == draw("a red fox", 1, 128, 128)
    jobs = [("a red fox", 1, 128, 128), ("a red fox", 2, 128, 128), ("a blue fox", 1, 128, 128)]
    assert len({draw(*job) for job in jobs}) == 3


@pytest.mark.parametrize("size", [(0, 64), (64, 63), (3073, 64), (64, -64)])
def test_sizes_that_the_api_does_not_allow_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        draw("a red fox", 1, *size)


@pytest.mark.parametrize(
    "prompt",
    ["", "###", "🦊" * 50, "日本の狐", "\x00\n\t\x1b[31m", "\ud800", "x" * 100_000, "a fox " * 20_000],
)
def test_strange_prompts_are_drawn(prompt: str) -> None:
    assert opened(draw(prompt, 7, 256, 64)).size == (256, 64)


@given(prompt=st.text(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_prompt_and_seed_are_drawn(prompt: str, seed: int) -> None:
    assert opened(draw(prompt, seed, 64, 64)).size == (64, 64)


def test_the_picture_goes_to_the_upload_url_without_content_type_or_key(horde: FakeHorde) -> None:
    horde.offer("job-1")
    with working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    path, headers, data = horde.uploads[0]
    assert path == "/put/job-1?signature=s"
    assert "content-type" not in headers
    assert "apikey" not in headers
    assert data == draw("a red fox", 41, 64, 128)
    assert horde.submits == [
        {"id": "job-1", "generation": "R2", "seed": 41, "state": "ok", "gen_metadata": []}
    ]


def test_the_pop_names_the_worker_and_what_it_can_do(horde: FakeHorde) -> None:
    with working(horde):
        horde.wait_for(lambda: len(horde.pops) > 1)
    pop = horde.pops[0]
    assert horde.pop_keys[0] == KEY
    assert pop["name"] == "Sketcher"
    assert pop["models"] == ["Deliberate"]
    assert pop["bridge_agent"] == "AI Horde Sample Worker:1:https://example.org/sample-worker"
    assert pop["max_pixels"] == 3072 * 3072
    assert pop["threads"] == 1


def test_without_an_upload_url_the_picture_is_inside_the_submit(horde: FakeHorde) -> None:
    horde.offer("job-1", upload=False)
    with working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    assert base64.b64decode(horde.submits[0]["generation"]) == draw("a red fox", 41, 64, 128)
    assert horde.uploads == []


def test_every_job_of_a_batch_gets_its_own_picture_and_index(horde: FakeHorde) -> None:
    horde.offer("job-1", "job-2", "job-3", seed=str(2**32 - 2))
    with working(horde):
        horde.wait_for(lambda: len(horde.submits) == 3)
    assert [(body["id"], body["seed"]) for body in horde.submits] == [
        ("job-1", 2**32 - 2),
        ("job-2", 2**32 - 1),
        ("job-3", 0),
    ]
    assert [body["gen_metadata"] for body in horde.submits] == [
        [{"type": "batch_index", "value": "see_ref", "ref": str(index)}] for index in range(3)
    ]
    assert [path for path, _, _ in horde.uploads] == [f"/put/job-{i}?signature=s" for i in (1, 2, 3)]
    assert horde.uploads[2][2] == draw("a red fox", 0, 64, 128)


@pytest.mark.parametrize(
    "flaw", [{"width": None}, {"width": 10**6}, {"height": "tall"}, {"seed": "luck"}, {"prompt": None}]
)
def test_a_job_that_cannot_be_drawn_is_reported_and_the_next_one_served(
    horde: FakeHorde, flaw: dict[str, Any]
) -> None:
    horde.offer("bad-1", "bad-2", **flaw)
    horde.offer("good")
    with working(horde):
        horde.wait_for(lambda: len(horde.submits) == 3)
    assert horde.submitted() == [("bad-1", "faulted"), ("bad-2", "faulted"), ("good", "ok")]


def test_an_answer_without_sense_does_not_end_the_worker(horde: FakeHorde) -> None:
    horde.pop_answers.append((200, {"ids": 5}))
    horde.offer("good")
    with working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("good", "ok")]


@pytest.mark.parametrize("refusal", [DUPLICATE, (404, {"message": "No such job.", "rc": "InvalidJobID"})])
def test_a_job_that_is_no_longer_ours_is_dropped(
    horde: FakeHorde, refusal: tuple[int, dict[str, Any]]
) -> None:
    horde.submit_answers.append(refusal)
    horde.offer("job-1")
    horde.offer("job-2")
    with working(horde):
        horde.wait_for(lambda: len(horde.submits) == 2)
    assert horde.submitted() == [("job-1", "ok"), ("job-2", "ok")]


def test_a_submit_is_repeated_until_it_is_taken(horde: FakeHorde) -> None:
    horde.submit_answers += [(500, {"message": "Internal Server Error"}), (401, {"message": "m", "rc": "r"})]
    horde.offer("job-1")
    with working(horde):
        horde.wait_for(lambda: len(horde.submits) == 3)
    assert horde.submitted() == [("job-1", "ok")] * 3


def test_a_submit_is_given_up_after_ten_tries(horde: FakeHorde) -> None:
    horde.submit_answers += [(500, {"message": "Internal Server Error"})] * 20
    horde.offer("job-1")
    horde.offer("job-2")
    with working(horde):
        horde.wait_for(lambda: ("job-2", "ok") in horde.submitted())
    assert horde.submitted().count(("job-1", "ok")) == 10


def test_an_upload_is_repeated_after_a_failure_of_the_store(horde: FakeHorde) -> None:
    horde.upload_statuses += [500, 503]
    horde.offer("job-1")
    with working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("job-1", "ok")]
    assert len(horde.uploads) == 3


def test_a_refused_upload_faults_the_job(horde: FakeHorde) -> None:
    horde.upload_statuses += [403]
    horde.offer("job-1")
    with working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("job-1", "faulted")]
    assert len(horde.uploads) == 1


def test_maintenance_is_waited_out(horde: FakeHorde, caplog: pytest.LogCaptureFixture) -> None:
    horde.pop_answers += [MAINTENANCE] * 3
    horde.offer("job-1")
    with caplog.at_level("INFO"), working(horde):
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("job-1", "ok")]
    assert caplog.text.count("maintenance") == caplog.text.count("In maintenance, waiting") * 2 == 2


def test_results_are_held_back_to_a_plausible_speed(horde: FakeHorde) -> None:
    started = time.monotonic()
    # 64 x 128 x 50 steps, twice for this sampler and twice for the batch, are 1.6384 megapixelsteps.
    horde.offer("job-1", "job-2", ddim_steps=50, sampler_name="k_heun")
    with working(horde, pace=4.0):
        horde.wait_for(lambda: len(horde.submits) == 2)
    assert horde.submit_times[0] - started >= 1.6384 / 4.0


def test_threads_serve_jobs_side_by_side(horde: FakeHorde) -> None:
    horde.offer("job-1")
    horde.offer("job-2")
    with working(horde, pace=0.5, threads=2):
        horde.wait_for(lambda: not horde.pop_answers)
        assert horde.submits == []
        horde.wait_for(lambda: len(horde.submits) == 2)
    assert sorted(horde.submitted()) == [("job-1", "ok"), ("job-2", "ok")]
    assert horde.pops[0]["threads"] == 2


def test_a_long_job_in_hand_is_faulted_when_told_to_stop(horde: FakeHorde) -> None:
    horde.offer("job-1")
    with working(horde, pace=0.0001) as stop:
        horde.wait_for(lambda: bool(horde.pops))
        stop.set()
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("job-1", "faulted")]


def test_a_short_job_in_hand_is_finished_when_told_to_stop(horde: FakeHorde) -> None:
    horde.offer("job-1")
    with working(horde, pace=0.5) as stop:
        horde.wait_for(lambda: bool(horde.pops))
        stop.set()
        horde.wait_for(lambda: bool(horde.submits))
    assert horde.submitted() == [("job-1", "ok")]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_cleanly_on_a_signal(horde: FakeHorde, tmp_path: Any, signum: int) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    arguments = ["--url", horde.url, "--api-key-file", str(key_file), "--name", "Sketcher"]
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        horde.wait_for(lambda: bool(horde.pops))
        process.send_signal(signum)
        _, log = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in log
    assert horde.pop_keys[0] == KEY


def test_the_command_ends_after_one_job_when_asked(horde: FakeHorde) -> None:
    horde.offer("job-1")
    horde.offer("job-2")
    arguments = ["--url", horde.url, "--api-key", KEY, "--name", "Sketcher", "--models", "a b, c", "--once"]
    subprocess.run([*COMMAND, *arguments], check=True, timeout=20, capture_output=True)
    assert horde.submitted() == [("job-1", "ok")]
    assert horde.pops[0]["models"] == ["a b", "c"]


def test_the_command_wants_exactly_one_source_of_the_key() -> None:
    result = CliRunner().invoke(worker, ["sample", "--name", "Sketcher"])
    assert result.exit_code == 2
    assert "--api-key-file" in result.output
