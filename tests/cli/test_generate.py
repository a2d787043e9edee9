"""`horde generate` against a small stand-in for a horde."""

import base64
import importlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde.cli.generate import generate

module = importlib.import_module("horde.cli.generate")
ID = "11111111-2222-4333-8444-555555555555"
PICTURE = b"RIFF....WEBPVP8 a picture"


def check(finished: int = 0, waiting: int = 1, **fields: Any) -> dict[str, Any]:
    """How a request stands; it is done unless something is waiting."""
    return {
        "finished": finished,
        "processing": 0,
        "restarted": 0,
        "waiting": waiting,
        "done": not waiting,
        "faulted": False,
        "wait_time": 12,
        "queue_position": 3 if waiting else 0,
        "kudos": 11.0,
        "is_possible": True,
        **fields,
    }


class FakeHorde:
    """The requester's half of the public API, with answers that a test prepares."""

    def __init__(self) -> None:
        self.accept: tuple[int, dict[str, Any]] = (202, {"id": ID, "kudos": 10.0})
        self.checks: list[tuple[int, dict[str, Any]]] = [(200, check(finished=1, waiting=0))]
        self.generations: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.body: dict[str, Any] = {}
        self.keys: list[str | None] = []
        self.checked = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                fake.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(*fake.accept)

            def do_GET(self) -> None:
                if self.path.startswith("/pictures/"):
                    self._send(200 if "lost" not in self.path else 404, PICTURE)
                elif self.path == f"/api/v2/generate/check/{ID}":
                    fake.checked.set()
                    self._answer(*(fake.checks.pop(0) if len(fake.checks) > 1 else fake.checks[0]))
                else:
                    self._status()

            def do_DELETE(self) -> None:
                self._status()

            def _status(self) -> None:
                assert self.path == f"/api/v2/generate/status/{ID}"
                self._answer(200, {**check(waiting=0), "generations": fake.generations})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                self._send(status, json.dumps(body).encode())

            def _send(self, status: int, data: bytes) -> None:
                fake.requests.append((self.command, self.path))
                fake.keys.append(self.headers["apikey"])
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{fake.url}/elsewhere")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def delivers(self, *images: str) -> None:
        self.generations = [
            {
                "id": ID,
                "img": image,
                "seed": str(number),
                "model": "Deliberate",
                "worker_name": "Sketcher",
                "censored": False,
            }
            for number, image in enumerate(images, 41)
        ]

    def cancelled(self) -> bool:
        return ("DELETE", f"/api/v2/generate/status/{ID}") in self.requests


@pytest.fixture
def horde(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHorde]:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    fake = FakeHorde()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.02,))
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def run(horde: FakeHorde, *arguments: str) -> Result:
    return CliRunner().invoke(generate, ["a red fox", "--url", horde.url, *arguments])


def test_a_picture_is_fetched_and_its_maker_and_price_named(horde: FakeHorde, tmp_path: Path) -> None:
    horde.checks = [(200, check()), (200, check(waiting=0, finished=1))]
    horde.delivers(f"{horde.url}/pictures/one.webp?signature=s")
    output = tmp_path / "fox.webp"
    result = run(horde, "-o", str(output))
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == PICTURE
    assert "by worker Sketcher, model Deliberate, seed 41" in result.stdout
    assert "Cost: 11 kudos" in result.stdout
    assert "Position 3 in the queue: 1 waiting, 0 processing, 0 finished, about 12 s left" in result.stderr
    assert horde.keys[0] == "0000000000"
    assert horde.keys[-1] is None, "the store must not see the API key"


def test_only_what_is_given_is_asked_for(horde: FakeHorde, tmp_path: Path) -> None:
    horde.delivers(f"{horde.url}/pictures/one.webp")
    run(horde, "-o", str(tmp_path / "fox.webp"))
    assert horde.body == {"prompt": "a red fox", "params": {}}
    given = ["--model", "A", "--model", "B", "--width", "640", "--height", "64", "--steps", "9"]
    given += ["--seed", "5", "--n", "2", "--negative", "blurry", "--api-key", "k" * 22]
    run(horde, "-o", str(tmp_path / "fox.webp"), *given)
    assert horde.body == {
        "prompt": "a red fox###blurry",
        "params": {"width": 640, "height": 64, "steps": 9, "seed": "5", "n": 2},
        "models": ["A", "B"],
    }
    assert "k" * 22 in horde.keys


def test_several_pictures_get_numbers_and_base64_is_decoded(horde: FakeHorde, tmp_path: Path) -> None:
    horde.delivers(base64.b64encode(b"first").decode(), f"{horde.url}/pictures/two.webp")
    result = run(horde, "-o", str(tmp_path / "fox.webp"), "--n", "2")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "fox-1.webp").read_bytes() == b"first"
    assert (tmp_path / "fox-2.webp").read_bytes() == PICTURE


def test_warnings_are_shown_once(horde: FakeHorde, tmp_path: Path) -> None:
    warning = {"code": "NoAvailableWorker", "message": "Nobody can do this now."}
    horde.accept = (202, {"id": ID, "kudos": 1.0, "warnings": [warning], "message": warning["message"]})
    horde.delivers(f"{horde.url}/pictures/one.webp")
    result = run(horde, "-o", str(tmp_path / "fox.webp"))
    assert result.exit_code == 0
    assert result.stderr.count("Warning: Nobody can do this now.") == 1


def test_a_refusal_is_told(horde: FakeHorde) -> None:
    horde.accept = (403, {"message": "You need more kudos.", "rc": "KudosUpfront"})
    result = run(horde)
    assert result.exit_code == 1
    assert "You need more kudos. (KudosUpfront)" in result.stderr


def test_a_redirect_is_told_and_never_given_the_key(horde: FakeHorde) -> None:
    horde.accept = (307, {})
    result = run(horde)
    assert result.exit_code == 1
    assert f"redirects to {horde.url}/elsewhere" in result.stderr
    assert horde.requests == [("POST", "/api/v2/generate/async")]


def test_a_validation_error_names_the_field(horde: FakeHorde) -> None:
    horde.accept = (
        400,
        {"message": "Input payload validation failed", "errors": {"params.width": "too odd"}},
    )
    result = run(horde, "--width", "65")
    assert result.exit_code == 1
    assert "params.width: too odd" in result.stderr


def test_a_faulted_request_ends_with_what_was_finished(horde: FakeHorde, tmp_path: Path) -> None:
    horde.checks = [(200, check(waiting=0, faulted=True))]
    horde.delivers(f"{horde.url}/pictures/one.webp")
    result = run(horde, "-o", str(tmp_path / "fox.webp"), "--n", "2")
    assert result.exit_code == 1
    assert "gave this request up" in result.stderr
    assert (tmp_path / "fox-1.webp").read_bytes() == PICTURE


def test_after_the_timeout_the_request_is_cancelled(horde: FakeHorde) -> None:
    horde.checks = [(200, check())]
    result = run(horde, "--timeout", "0.05")
    assert result.exit_code == 1
    assert "Not finished after 0.05 seconds" in result.stderr
    assert horde.cancelled()


def test_a_request_that_stays_impossible_is_cancelled(
    horde: FakeHorde, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMPOSSIBLE_SECONDS", 0.05)
    horde.checks = [(200, check(is_possible=False))]
    result = run(horde)
    assert result.exit_code == 1
    assert "No worker of this horde can serve this request" in result.stderr
    assert horde.cancelled()


def test_a_request_that_is_possible_may_wait_longer(
    horde: FakeHorde, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "IMPOSSIBLE_SECONDS", 0.3)
    horde.checks = [(200, check())] * 40 + [(200, check(waiting=0, finished=1))]
    horde.delivers(f"{horde.url}/pictures/one.webp")
    assert run(horde, "-o", str(tmp_path / "fox.webp")).exit_code == 0


def test_a_server_in_trouble_is_waited_for(horde: FakeHorde, tmp_path: Path) -> None:
    trouble = [(500, {"message": "Internal Server Error"}), (429, {"message": "10 per 1 second"})]
    horde.checks = [*trouble, (200, check(waiting=0, finished=1))]
    horde.delivers(f"{horde.url}/pictures/one.webp")
    assert run(horde, "-o", str(tmp_path / "fox.webp")).exit_code == 0


def test_an_expired_request_is_told(horde: FakeHorde) -> None:
    horde.checks = [(404, {"message": "No such request.", "rc": "RequestNotFound"})]
    result = run(horde)
    assert result.exit_code == 1
    assert "No such request. (RequestNotFound)" in result.stderr


@pytest.mark.parametrize("image", ["N/A", "{url}/pictures/lost.webp"])
def test_a_picture_that_cannot_be_fetched_is_a_failure(horde: FakeHorde, tmp_path: Path, image: str) -> None:
    horde.delivers(image.format(url=horde.url))
    result = run(horde, "-o", str(tmp_path / "fox.webp"))
    assert result.exit_code == 1
    assert "could not be saved" in result.stderr
    assert "Only 0 of 1 pictures" in result.stderr


def test_a_server_that_is_not_there_is_told() -> None:
    result = CliRunner().invoke(generate, ["a red fox", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "Cannot reach http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("output", ["fox.png", "no-such-folder/fox.webp"])
def test_an_unusable_output_is_refused_before_anything_is_paid(horde: FakeHorde, output: str) -> None:
    assert run(horde, "-o", output).exit_code == 2
    assert horde.requests == []


def test_ctrl_c_cancels_the_request(horde: FakeHorde) -> None:
    horde.checks = [(200, check())]
    # Shells start background programs with SIGINT ignored, which this process would inherit.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from horde.cli.generate import generate; generate()"
    )
    command = [sys.executable, "-c", program, "a red fox", "--url", horde.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert horde.checked.wait(20)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Cancelled." in errors
    assert horde.cancelled()
