"""`horde generate`: ask a horde for pictures and save them."""

import base64
import binascii
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from horde.client import ANONYMOUS_KEY, ApiClient, ApiError

CLIENT_AGENT = "AI Horde CLI:1:https://example.org/horde-cli"
POLL_SECONDS = 1.0
IMPOSSIBLE_SECONDS = 90.0
"""How long to wait for a worker to turn up. The server renews its verdict once a minute."""
TRIES = 5

T = TypeVar("T")


@click.command()
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("picture.webp"),
    show_default=True,
    help="File to write, NAME.webp; several pictures become NAME-1.webp, NAME-2.webp and so on.",
)
@click.option("--url", default="http://127.0.0.1:7001", show_default=True, help="Address of the horde.")
@click.option("--api-key", default=ANONYMOUS_KEY, show_default="anonymous", help="Who asks, and pays.")
@click.option("--model", "models", multiple=True, help="Acceptable model; may be repeated.")
@click.option("--width", type=int, help="Pixels, a multiple of 64.")
@click.option("--height", type=int, help="Pixels, a multiple of 64.")
@click.option("--steps", type=int, help="Sampling steps.")
@click.option("--seed", help="Makes the result repeatable.")
@click.option("--n", type=int, help="Number of pictures.")
@click.option("--negative", help="What should not be in the picture.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds to wait before the request is cancelled.",
)
def generate(
    prompt: str,
    output: Path,
    url: str,
    api_key: str,
    models: tuple[str, ...],
    width: int | None,
    height: int | None,
    steps: int | None,
    seed: str | None,
    n: int | None,
    negative: str | None,
    timeout: float,
) -> None:
    """Ask a horde to draw PROMPT, wait, and save the pictures.

    What is not given is left to the horde's defaults. Ctrl-C cancels the request.
    """
    if output.suffix.lower() != ".webp":
        raise click.UsageError("Pictures come as WebP: choose an output file that ends in .webp.")
    if not output.absolute().parent.is_dir():
        raise click.UsageError(f"There is no folder {output.absolute().parent} to write to.")
    params = {"width": width, "height": height, "steps": steps, "seed": seed, "n": n}
    body: dict[str, Any] = {
        "prompt": f"{prompt}###{negative}" if negative else prompt,
        "params": {name: value for name, value in params.items() if value is not None},
    }
    if models:
        body["models"] = list(models)
    client = ApiClient(url, api_key, CLIENT_AGENT)
    try:
        problem = _request(client, body, output, timeout)
    except ApiError as error:
        raise click.ClickException(str(error)) from error
    if problem:
        raise click.ClickException(problem)


def _request(client: ApiClient, body: dict[str, Any], output: Path, timeout: float) -> str | None:
    """Submit, wait, save whatever was finished; what went wrong, None when nothing did."""
    accepted = client.post("/generate/async", body)
    path = f"/generate/status/{accepted['id']}"
    try:
        _show_warnings(accepted)
        problem = _wait(client, accepted["id"], timeout)
    except KeyboardInterrupt:
        problem = "Cancelled."
    # Cancelling answers with what the request had, so nothing that was drawn is lost.
    try:
        status = _insist(lambda: client.delete(path) if problem else client.get(path))
    except ApiError as error:
        return f"{problem} Cancelling it failed: {error}" if problem else str(error)
    wanted = body["params"].get("n", 1)
    saved = _save(client, status["generations"], output, wanted)
    click.echo(f"Cost: {status['kudos']:g} kudos")
    if not problem and saved < wanted:
        problem = f"Only {saved} of {wanted} pictures were delivered."
    return problem


def _show_warnings(accepted: dict[str, Any]) -> None:
    texts = [warning["message"] for warning in accepted.get("warnings", [])]
    if accepted.get("message"):
        texts.append(accepted["message"])
    for text in dict.fromkeys(texts):
        click.echo(f"Warning: {text}", err=True)


def _wait(client: ApiClient, request_id: str, timeout: float) -> str | None:
    """Poll until the request is done; why waiting was given up, None when it ended well."""
    deadline = time.monotonic() + timeout
    possible_at = time.monotonic()
    progress = Progress()
    try:
        while True:
            check = _check(client, request_id)
            now = time.monotonic()
            if check:
                progress.show(check)
                if check["faulted"]:
                    return "The horde gave this request up: workers failed at it too often."
                if check["done"]:
                    return None
                if check["is_possible"]:
                    possible_at = now
            if now - possible_at > IMPOSSIBLE_SECONDS:
                return "No worker of this horde can serve this request; try another model or a smaller size."
            if now > deadline:
                return f"Not finished after {timeout:g} seconds; the request was cancelled."
            time.sleep(POLL_SECONDS)
    finally:
        progress.close()


def _check(client: ApiClient, request_id: str) -> dict[str, Any] | None:
    """How the request stands; None where the server cannot say just now."""
    try:
        return client.get(f"/generate/check/{request_id}")
    except ApiError as error:
        if error.passing:
            return None
        raise


def _insist(call: Callable[[], T]) -> T:
    """Make a call that is safe to repeat, with some patience for passing failures."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except ApiError as error:
            if not error.passing:
                raise
            time.sleep(POLL_SECONDS)
    return call()


def _save(client: ApiClient, generations: list[dict[str, Any]], output: Path, wanted: int) -> int:
    """Write the pictures and name their makers; how many could be written."""
    saved = 0
    for number, generation in enumerate(generations, 1):
        path = output.with_stem(f"{output.stem}-{number}") if wanted > 1 else output
        try:
            path.write_bytes(_picture(client, generation["img"]))
        except (ApiError, binascii.Error, OSError) as error:
            click.echo(f"Warning: {path} could not be saved: {error}", err=True)
            continue
        saved += 1
        censored = ", censored" if generation["censored"] else ""
        click.echo(
            f"{path}: by worker {generation['worker_name']}, model {generation['model']}, "
            f"seed {generation['seed']}{censored}"
        )
    return saved


def _picture(client: ApiClient, img: str) -> bytes:
    """The bytes behind an `img` value, which is a URL or base64."""
    if img.startswith("http"):
        return _insist(lambda: client.download(img))
    return base64.b64decode(img, validate=True)


class Progress:
    """One line on standard error: rewritten in place on a terminal, a new line per change elsewhere."""

    def __init__(self) -> None:
        self._inline = sys.stderr.isatty()
        self._last = ""

    def show(self, check: dict[str, Any]) -> None:
        """Tell how a request stands."""
        text = f"{check['waiting']} waiting, {check['processing']} processing, {check['finished']} finished"
        if check["queue_position"]:
            text = f"Position {check['queue_position']} in the queue: {text}"
        if check["wait_time"]:
            text += f", about {check['wait_time']} s left"
        if not check["is_possible"] and not check["done"]:
            text += ", no worker can serve it now"
        if text == self._last:
            return
        click.echo(f"\r\x1b[K{text}" if self._inline else text, err=True, nl=not self._inline)
        self._last = text

    def close(self) -> None:
        """End the line."""
        if self._inline and self._last:
            click.echo(err=True)
