import gzip
import lzma
from dataclasses import replace
from pathlib import Path

import pytest

from kudos_model.features import BASIS
from kudos_model.timings import COLUMNS, BadTimings, Timing, digest, read, write

RICH = replace(
    BASIS,
    hires_fix=True,
    karras=False,
    source_image=True,
    source_mask=True,
    source_processing="inpainting",
    denoising_strength=0.4,
    control_type="hed",
    control_strength=0.7,
    post_processing=("GFPGAN", "CodeFormers"),
)
PLAIN = replace(BASIS, denoising_strength=1.0, control_strength=1.0, source_processing="txt2img")


@pytest.mark.parametrize("name", ["times.csv", "times.csv.gz", "times.csv.xz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    timings = [Timing(PLAIN, 6.447), Timing(RICH, 20.1234)]
    write(tmp_path / name, timings)
    assert read(tmp_path / name) == timings


def test_files_are_compressed_by_their_names(tmp_path: Path) -> None:
    for name in ("a.csv", "a.csv.gz", "a.csv.xz"):
        write(tmp_path / name, [Timing(PLAIN, 1)])
    plain = (tmp_path / "a.csv").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == plain
    assert lzma.decompress((tmp_path / "a.csv.xz").read_bytes()) == plain
    assert plain.decode().splitlines()[0] == ",".join(COLUMNS)


def test_timings_of_a_device_keep_what_they_are_of(tmp_path: Path) -> None:
    job = replace(PLAIN, baseline="flux_1", workflow="qr_code")
    timings = [Timing(job, 3.5, batch=4, device="A GPU"), Timing(PLAIN, 1.0, device="A GPU")]
    write(tmp_path / "times.csv", timings)
    assert read(tmp_path / "times.csv") == timings


def test_a_file_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("width,height\n512,512\n")
    with pytest.raises(BadTimings, match=r"lacks the columns .*cfg_scale.*seconds"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(("old", "new"), [("6.447", "0"), ("6.447", "-1"), ("512", "many"), (",50,", ",,")])
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "a.csv"
    write(path, [Timing(RICH, 3.0), Timing(PLAIN, 6.447)])
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first, second.replace(old, new, 1)]))
    with pytest.raises(BadTimings, match=r"a\.csv, line 3: "):
        read(path)


def test_a_short_line_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(COLUMNS) + "\n512,512\n")
    with pytest.raises(BadTimings, match="line 2"):
        read(tmp_path / "a.csv")


def test_the_digest_tells_files_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [Timing(PLAIN, 1)])
    write(tmp_path / "b.csv", [Timing(PLAIN, 2)])
    assert digest(tmp_path / "a.csv") != digest(tmp_path / "b.csv")
