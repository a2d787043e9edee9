"""`horde worker`: workers that can be attached to a horde."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from horde.client import ApiClient
from horde.sample_picture import MAX_SIDE
from horde.sample_worker import BRIDGE_AGENT, DEFAULT_MODELS, WorkerOptions, run_threads


@click.group()
def worker() -> None:
    """Attach workers to a horde."""


@worker.command()
@click.option("--url", default="http://127.0.0.1:7001", show_default=True, help="Address of the horde.")
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the API key of the worker's owner.",
)
@click.option("--api-key", help="The API key itself; other users of this machine can see it.")
@click.option("--name", required=True, help="The worker's name, unique in the horde.")
@click.option(
    "--models",
    default=",".join(DEFAULT_MODELS),
    show_default=True,
    help="Names of the models to answer for, separated by commas.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=64 * 64),
    default=MAX_SIDE * MAX_SIDE,
    show_default=True,
    help="Largest picture to take, width times height.",
)
@click.option(
    "--threads", type=click.IntRange(1, 50), default=1, show_default=True, help="Jobs served side by side."
)
@click.option("--once", is_flag=True, help="End after the first job.")
def sample(
    url: str,
    api_key_file: Path | None,
    api_key: str | None,
    name: str,
    models: str,
    max_pixels: int,
    threads: int,
    once: bool,
) -> None:
    """Serve image jobs with drawn sample pictures, without a model or a GPU.

    SIGTERM and Ctrl-C end the worker after the job in hand; a second one ends it at once.
    """
    if (api_key_file is None) == (api_key is None):
        raise click.UsageError("Give the owner's API key, with either --api-key-file or --api-key.")
    key = api_key_file.read_text().strip() if api_key_file else str(api_key)
    offered = tuple(model.strip() for model in models.split(",") if model.strip())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = WorkerOptions(name=name, models=offered, max_pixels=max_pixels, threads=threads)
    run_threads(lambda: ApiClient(url, key, BRIDGE_AGENT), options, _stop_on_signals(), once)


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets; the next signal has its usual effect."""
    stop = threading.Event()

    def handle(signum: int, _frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handle)
    return stop
