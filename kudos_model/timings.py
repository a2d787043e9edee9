"""Measured times, as CSV files with a header; compressed when their names end in `.gz` or `.xz`."""

import csv
import gzip
import hashlib
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from kudos_model.features import BASIS, JobFeatures

DATA = Path(__file__).with_name("data") / "timings.csv.xz"
"""What the committed network was trained on (see `kudos_model.compact`)."""
COLUMNS = (
    "width",
    "height",
    "steps",
    "cfg_scale",
    "denoising_strength",
    "control_strength",
    "karras",
    "hires_fix",
    "source_image",
    "source_mask",
    "source_processing",
    "sampler_name",
    "control_type",
    "post_processing",
    "seconds",
)
"""Every file has these; flags are 0 or 1, post-processors are joined by `+`."""
DEVICE_COLUMNS = ("baseline", "workflow", "batch", "device")
"""Files of `kudos_model.measure` have these as well: `seconds` are those of one image of the batch."""


class BadTimings(ValueError):
    """A file of timings that cannot be read; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one image took."""

    job: JobFeatures
    seconds: float
    batch: int = 1
    """Images that were made at once; `seconds` is a batch's time divided by this."""
    device: str = ""


def read(path: Path) -> list[Timing]:
    """The timings in a file, in its order. Raises `BadTimings`."""
    with _open(path, "rt") as file:
        rows = csv.DictReader(file)
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise BadTimings(f"{path} lacks the columns {', '.join(sorted(missing))}.")
        return list(_timings(path, rows))


def write(path: Path, timings: Iterable[Timing]) -> None:
    """Write a file that `read` gives back; the columns of a device only if it is known of any."""
    timings = list(timings)
    measured = any(timing.device for timing in timings)
    with _open(path, "wt") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow((*COLUMNS, *DEVICE_COLUMNS) if measured else COLUMNS)
        rows.writerows(_row(timing, measured=measured) for timing in timings)


def digest(path: Path) -> str:
    """SHA-256 of the file, which tells what a network was trained on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _open(path: Path, mode: Literal["rt", "wt"]) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="")
    if path.suffix == ".xz":
        return lzma.open(path, mode, encoding="utf-8", newline="")
    return path.open(mode, encoding="utf-8", newline="")


def _timings(path: Path, rows: Iterable[dict[str, str]]) -> Iterator[Timing]:
    for number, row in enumerate(rows, 2):
        try:
            timing = _timing(row)
            if timing.seconds <= 0:
                raise ValueError("a time must be more than 0 seconds")
        except (TypeError, ValueError) as error:
            raise BadTimings(f"{path}, line {number}: {error}.") from error
        yield timing


def _timing(row: dict[str, str]) -> Timing:
    control = row["control_type"]
    return Timing(
        JobFeatures(
            width=int(row["width"]),
            height=int(row["height"]),
            steps=int(row["steps"]),
            sampler=row["sampler_name"],
            cfg_scale=float(row["cfg_scale"]),
            karras=row["karras"] == "1",
            hires_fix=row["hires_fix"] == "1",
            source_image=row["source_image"] == "1",
            source_mask=row["source_mask"] == "1",
            source_processing=row["source_processing"],
            denoising_strength=float(row["denoising_strength"]),
            control_type=None if control in ("", "None") else control,
            control_strength=float(row["control_strength"]),
            post_processing=tuple(row["post_processing"].split("+")) if row["post_processing"] else (),
            baseline=row.get("baseline") or BASIS.baseline,
            workflow=row.get("workflow") or None,
        ),
        seconds=float(row["seconds"]),
        batch=int(row.get("batch") or 1),
        device=row.get("device") or "",
    )


def _row(timing: Timing, *, measured: bool) -> list[object]:
    job = timing.job
    row: list[object] = [
        job.width,
        job.height,
        job.steps,
        job.cfg_scale,
        1.0 if job.denoising_strength is None else job.denoising_strength,
        1.0 if job.control_strength is None else job.control_strength,
        int(job.karras),
        int(job.hires_fix),
        int(job.source_image),
        int(job.source_mask),
        job.source_processing if job.source_image else "txt2img",
        job.sampler,
        job.control_type or "None",
        "+".join(job.post_processing),
        f"{timing.seconds:.6g}",
    ]
    device = [job.baseline, job.workflow or "", timing.batch, timing.device]
    return row + device if measured else row
