"""Live rows as the last server wrote them that knew no later revision than 0004."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, text

from horde.model_reference.documents import IMAGE
from tests.support import AGENT, MODEL, SDXL

OWNER_KEY = "the key of a worker's owner"
WORKER, JOB = UUID(int=1), UUID(int=2)
PLAIN, SCHOOLS, BEGUN = UUID(int=11), UUID(int=12), UUID(int=13)
"""A request for two images, one of a school that names no model, and one with an image under way."""
REQUEST = {
    "kind": "image",
    "workers": [],
    "worker_blacklist": False,
    "prompt": "a lighthouse at dawn",
    "tax": 1,
    "r2": True,
    "client_agent": "unknown:0:unknown",
    "ipaddr": "127.0.0.1",
}
PAYLOAD = {
    "width": 512,
    "height": 512,
    "karras": True,
    "prompt": "a lighthouse at dawn",
    "tiling": False,
    "cfg_scale": 5.0,
    "hires_fix": False,
    "ddim_steps": 30,
    "transparent": False,
    "sampler_name": "k_euler_a",
    "image_is_control": False,
    "return_control_map": False,
}
OPTIONS = {
    "seed": None,
    "webhook": None,
    "reserved": False,
    "slow_workers": True,
    "source_image": False,
    "seed_variation": None,
    "disable_batching": False,
    "worker_blacklist": False,
    "source_processing": "img2img",
    "extra_slow_workers": False,
}
FACTS = {
    "r2": True,
    "tis": False,
    "nsfw": False,
    "loras": False,
    "karras": True,
    "tiling": False,
    "sampler": "k_euler_a",
    "trusted": False,
    "workflow": None,
    "clip_skip": 1,
    "hires_fix": False,
    "unsafe_ip": False,
    "transparent": False,
    "control_type": None,
    "slow_workers": True,
    "source_image": False,
    "lora_versions": False,
    "accurate_steps": 30,
    "post_processing": [],
    "trusted_workers": True,
    "image_is_control": False,
    "source_processing": "img2img",
    "extra_slow_workers": False,
    "return_control_map": False,
    "extra_source_images": False,
}


def insert(db: Connection, table: str, **row: Any) -> None:
    values = {
        name: orjson.dumps(each).decode() if isinstance(each, dict) else each for name, each in row.items()
    }
    names = ", ".join(values)
    db.execute(
        text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values
    )


def insert_request(db: Connection, *, lane: int, needs: int, size_class: int, **row: Any) -> None:
    model = row["models"][0] if row["models"] else "*"
    target = UUID(int=0)
    bits = f"{needs:0128b}"
    insert(db, "lanes", id=lane, kind="image", model=model, target=target, needs=bits, size_class=size_class)
    expires = datetime.now(UTC) + timedelta(minutes=20)
    insert(db, "requests", **REQUEST | {"expires": expires, "lanes": [lane]} | row)
    if row["n"]:
        insert(db, "queue", lane_id=lane, rank=row["rank"], request_id=row["id"], size=row["size"])


def insert_job(db: Connection, job_id: UUID, request_id: UUID, model: str) -> None:
    deadline = datetime.now(UTC) + timedelta(minutes=3)
    insert(db, "jobs", id=job_id, request_id=request_id, worker_id=WORKER, model=model, deadline=deadline)


def insert_people(db: Connection, hash_of_key: str) -> None:
    """The owner of a worker, a school, and that worker."""
    for user_id, role, concurrency in ((1, "trusted", 30), (2, "education", 200)):
        insert(
            db,
            "users",
            id=user_id,
            username="Somebody",
            external_id=str(UUID(int=user_id)),
            concurrency=concurrency,
        )
        insert(db, "accounts", id=8 + 2 * user_id, user_id=user_id, purpose="balance", floor=14)
        insert(db, "accounts", id=9 + 2 * user_id, user_id=user_id, purpose="escrow")
        insert(db, "user_roles", user_id=user_id, role=role)
    db.execute(text("UPDATE users SET api_key_hash = :hash WHERE id = 1"), {"hash": hash_of_key})
    abilities = {
        f"allow_{name}": False
        for name in (
            "img2img",
            "painting",
            "unsafe_ipaddr",
            "post_processing",
            "controlnet",
            "sdxl_controlnet",
            "lora",
        )
    }
    insert(
        db,
        "workers",
        id=WORKER,
        kind="image",
        owner_id=1,
        name="worker",
        ipaddr="127.0.0.1",
        bridge_agent=AGENT,
        threads=1,
        models=[SDXL],
        blacklist=[],
        nsfw=True,
        max_pixels=4194304,
        limit_max_steps=False,
        extra_slow_worker=False,
        speed=1_000_000,
        **abilities,
    )


def insert_requests(db: Connection) -> None:
    """What the last server that knew no later revision than 0004 wrote."""
    insert_request(
        db,
        id=PLAIN,
        rank=2,
        user_id=0,
        account_id=3,
        jobs=2,
        n=2,
        models=[MODEL],
        lane=2369631513023420173,
        needs=0x200000A0102111,
        payload=PAYLOAD | {"clip_skip": 2, "post_processing": ["GFPGAN"]},
        options=OPTIONS | {"seed": 7},
        things=7864320,
        size=262144,
        size_class=24,
        ttl=150,
        price="9.42",
    )
    insert_request(
        db,
        id=SCHOOLS,
        rank=3,
        user_id=2,
        account_id=12,
        jobs=1,
        n=1,
        models=[],
        lane=8221088659144614189,
        needs=0x20000000002012,
        payload=PAYLOAD | {"use_nsfw_censor": True},
        options=OPTIONS | {"facts": FACTS},
        things=7864320,
        size=262144,
        size_class=24,
        ttl=150,
        price="7.79",
    )
    insert_request(
        db,
        id=BEGUN,
        rank=1,
        user_id=0,
        account_id=3,
        jobs=2,
        n=1,
        models=[SDXL],
        lane=-6082916899202169222,
        needs=0x2000000400201A,
        payload=PAYLOAD
        | {"width": 1024, "height": 1024, "ddim_steps": 20, "hires_fix": True, "use_nsfw_censor": True},
        options=OPTIONS | {"slow_workers": False, "reserved": True},
        things=20971520,
        size=1048576,
        size_class=32,
        ttl=190,
        price="19.37",
    )
    insert(db, "reservations", request_id=BEGUN, account_id=3, amount="96.38", remaining="96.38")
    insert_job(db, JOB, BEGUN, SDXL)


def insert_reference(db: Connection) -> None:
    """The copy of the image models that the old server went by."""
    document = IMAGE.starter.read_bytes()
    source = str(IMAGE.starter)
    insert(
        db,
        "model_references",
        kind="image",
        source=source,
        fetched=datetime.now(UTC),
        digest="",
        document=document,
    )
