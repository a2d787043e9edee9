"""What the served network learns from besides timings: a network that is free to be as odd as they are."""

import torch
from torch import Generator, Tensor, nn

from kudos_model.features import COLUMNS, CONTROL_TYPES, LEARNED, POST_PROCESSORS, PROCESSINGS, SAMPLERS
from kudos_model.network import LEAST_SECONDS, SECONDS

LAYERS = (79, 101, 104)
"""Units of the network whose prices the public horde asked for; its times can be told with as many."""
TOGETHER = (
    ("width", "height", "area"),
    ("steps",),
    SAMPLERS,
    ("karras",),
    ("cfg_scale",),
    ("hires_fix",),
    POST_PROCESSORS,
    (
        "source_image",
        "source_mask",
        "denoising_strength",
        *PROCESSINGS,
        "control",
        "control_strength",
        *CONTROL_TYPES,
    ),
)
"""Columns that make sense only as they were seen together."""
_TOGETHER = [[COLUMNS.index(name) for name in names] for names in TOGETHER]
_CONTROL, _STEPS = COLUMNS.index("control"), COLUMNS.index("steps")
FEW_STEPS, OFTEN = 0.15, 3.0
"""Up to 15 steps are few."""
ROWS_AT_ONCE = 8192


class Teacher(nn.Module):
    """Rows of `features.COLUMNS` to seconds, without any promise about their order."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [len(LEARNED), *LAYERS]
        layers = [
            layer
            for size, units in zip(sizes, LAYERS, strict=False)
            for layer in (nn.Linear(size, units), nn.ReLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(LAYERS[-1], 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Seconds, of shape (n,), for rows of shape (n, len(COLUMNS))."""
        seconds: Tensor = SECONDS * self.layers(rows[:, : len(LEARNED)]).squeeze(1)
        return seconds

    def estimate(self, rows: Tensor) -> Tensor:
        """The same as figures to learn from: never below `LEAST_SECONDS`."""
        with torch.inference_mode():
            parts = [self(part) for part in torch.split(rows, ROWS_AT_ONCE)]
        return torch.cat(parts).clamp(min=LEAST_SECONDS).clone()


def made_up_jobs(rows: Tensor, chance: Generator) -> Tensor:
    """As many jobs as `rows` has, put together from parts of different ones.

    Control maps and few steps are made up more often than they were timed: they are rare, and hard to learn.
    """
    made = rows.clone()
    weights = torch.ones(len(rows))
    weights[rows[:, _CONTROL] > 0] *= OFTEN
    weights[rows[:, _STEPS] <= FEW_STEPS] *= OFTEN
    for columns in _TOGETHER:
        if _CONTROL in columns or _STEPS in columns:
            donors = torch.multinomial(weights, len(rows), replacement=True, generator=chance)
        else:
            donors = torch.randint(len(rows), (len(rows),), generator=chance)
        made[:, columns] = rows[donors][:, columns]
    return made
