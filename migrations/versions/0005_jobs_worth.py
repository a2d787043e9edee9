"""Each job knows what it is worth, and each request whom it is for and all that it asks of workers.

What is live goes on: requests that wait are served with the settings that their requesters were promised, and
jobs under way are paid as they would have been.
"""

from typing import Any

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FACTORS = {
    "stable_diffusion_xl": (2, 2, 4),
    "stable_cascade": (4, 7, 4),
    "flux_1": (8, 8, 8),
    "qwen_image": (12, 12, 12),
    "z_image_turbo": (8, 8, 8),
}
"""Times the price of an image, with `hires_fix`, with the workflow `qr_code`; by how baselines begin."""
NO_FACTORS = (1, 1, 1)
NAME_TAGS = {
    "[SDXL]": "stable_diffusion_xl",
    "[Flux]": "flux_1",
    "[Qwen]": "qwen_image",
    "[ZModel]": "z_image_turbo",
    "[ZImage]": "z_image_turbo",
}
"""How the name of a model that the reference lacks tells its baseline."""

# Only the lanes told some of this, by the lowest bits of what they need. Nobody's address was looked at, and
# nobody could send source images.
_COMPLETE = sa.text("""
    UPDATE requests request SET options = jsonb_build_object(
        'nsfw', (SELECT get_bit(needs, 127) = 1 FROM lanes WHERE id = request.lanes[1]),
        'trusted_workers', (SELECT get_bit(needs, 126) = 1 FROM lanes WHERE id = request.lanes[1]),
        'trusted', EXISTS (SELECT FROM user_roles WHERE user_id = request.user_id AND role = 'trusted'),
        'supervised', EXISTS (SELECT FROM user_roles WHERE user_id = request.user_id AND role = 'education'),
        'unsafe_ip', false,
        'source_mask', false,
        'extra_sources', jsonb_build_array(),
        'model_requirements', 'warn'
    ) || options
    WHERE kind = 'image'
""")
_REFERENCE = sa.text("SELECT document FROM model_references WHERE kind = 'image'")
_MODELS = sa.text("SELECT DISTINCT model FROM jobs")
_VALUE = sa.text("""
    UPDATE jobs SET things = request.things, value = request.price * CASE
            WHEN request.payload ->> 'workflow' = 'qr_code' THEN factor.qr_code
            WHEN CAST(request.payload ->> 'hires_fix' AS boolean) THEN factor.hires_fix
            ELSE factor.usual
        END
    FROM requests request, unnest(
        CAST(:models AS text[]), CAST(:usual AS int[]), CAST(:hires_fix AS int[]), CAST(:qr_code AS int[])
    ) AS factor (model, usual, hires_fix, qr_code)
    WHERE request.id = jobs.request_id AND factor.model = jobs.model
""")


def upgrade() -> None:
    op.add_column("requests", sa.Column("proxied_account", sa.String(length=255), nullable=True))
    op.add_column("jobs", sa.Column("things", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("value", sa.Numeric(precision=18, scale=2), nullable=True))
    op.execute(_COMPLETE)
    _value_jobs(op.get_bind())
    op.alter_column("jobs", "things", nullable=False)
    op.alter_column("jobs", "value", nullable=False)


def _value_jobs(connection: sa.Connection) -> None:
    """Set what each job is worth, by the copy of the model reference that the server went by.

    Without a copy (a server's first minute) only the names of models tell; a job with one that should have
    counted for more is paid too little this once.
    """
    models = connection.execute(_MODELS).scalars().all()
    if not models:
        return
    document = connection.execute(_REFERENCE).scalar()
    reference = orjson.loads(bytes(document)) if document else {}
    usual, hires_fix, qr_code = zip(*(_factors(_baseline(name, reference)) for name in models), strict=True)
    values = {"usual": list(usual), "hires_fix": list(hires_fix), "qr_code": list(qr_code)}
    connection.execute(_VALUE, {"models": models, **values})


def _baseline(name: str, reference: dict[str, Any]) -> str:
    entry = reference.get(name)
    if isinstance(entry, dict):
        return str(entry.get("baseline"))
    return next((baseline for tag, baseline in NAME_TAGS.items() if tag in name), "")


def _factors(baseline: str) -> tuple[int, int, int]:
    return next((factors for prefix, factors in FACTORS.items() if baseline.startswith(prefix)), NO_FACTORS)


def downgrade() -> None:
    op.drop_column("jobs", "value")
    op.drop_column("jobs", "things")
    op.drop_column("requests", "proxied_account")
