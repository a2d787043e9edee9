"""Objects in a bucket of any S3-compatible store."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from horde.platform.images import MAX_IMAGE_BYTES, media_type
from horde.platform.objectstore.store import check_key, unavailable
from horde.settings import Settings

log = structlog.get_logger(__name__)


class S3Store:
    """An ObjectStore in a bucket that is the horde's alone: `sweep` looks at everything in it.

    Pages of other origins fetch pictures from it, so its CORS rules have to let every origin GET.
    Without access keys in the settings, boto3 looks for credentials where it always does.
    """

    def __init__(self, settings: Settings, bucket: str) -> None:
        self._bucket = bucket
        self._url_seconds = settings.signed_url_seconds
        self._client = _make_client(settings)

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with _unavailable():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=media_type(data))

    def get(self, key: str) -> bytes | None:
        check_key(key)
        with _unavailable():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    return None
                raise
            with answer["Body"] as body:
                # The holder of an upload URL can store what they like here, however large.
                if answer["ContentLength"] > MAX_IMAGE_BYTES:
                    log.warning("object too large", key=key, bytes=answer["ContentLength"])
                    return None
                return cast(bytes, body.read())

    def delete(self, key: str) -> None:
        check_key(key)
        with _unavailable():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def upload_url(self, key: str) -> str:
        return self._presigned("put_object", key)

    def download_url(self, key: str) -> str:
        return self._presigned("get_object", key)

    def sweep(self, older_than_seconds: float, keep: Callable[[str], bool]) -> int:
        oldest = time.time() - older_than_seconds
        deleted = 0
        with _unavailable():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
            for page in pages:
                old = [
                    {"Key": item["Key"]}
                    for item in page.get("Contents", ())
                    if item["LastModified"].timestamp() < oldest and not keep(item["Key"])
                ]
                if old:
                    answer = self._client.delete_objects(
                        Bucket=self._bucket, Delete={"Objects": old, "Quiet": True}
                    )
                    deleted += len(old) - len(answer.get("Errors", ()))
        return deleted

    def _presigned(self, operation: str, key: str) -> str:
        with _unavailable():
            url = self._client.generate_presigned_url(
                operation, Params={"Bucket": self._bucket, "Key": check_key(key)}, ExpiresIn=self._url_seconds
            )
        return cast(str, url)


def _make_client(settings: Settings) -> Any:
    secret = settings.s3_secret_access_key
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
        connect_timeout=3,
        read_timeout=10,
        retries={"total_max_attempts": 3, "mode": "standard"},
        max_pool_connections=settings.database_pool_size,
        # Some stores other than Amazon's refuse the checksum headers that boto3 adds by itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: boto3's shared one must not be used from several threads.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn every failure of the store into an answer that tells clients to try again."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        log.error("object store failed", error=str(error))
        raise unavailable() from error
