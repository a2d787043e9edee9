"""Where pictures are kept: an S3-compatible bucket, or a folder served by this server itself."""

from horde.platform.objectstore.local import LocalStore
from horde.platform.objectstore.store import ObjectStore
from horde.settings import Settings

__all__ = ["LocalStore", "ObjectStore", "make_store"]


def make_store(settings: Settings, secret: bytes) -> ObjectStore:
    """The bucket that `settings` name, or else the folder `objects` under `var_dir`.

    `secret` signs the folder's URLs. A `LocalStore` needs its routes in the application, too:
    `horde.platform.objectstore.routes.object_routes`.
    """
    if settings.s3_bucket is None:
        return LocalStore(settings, secret)
    # boto3 takes long to load and much memory; who keeps pictures in a folder never pays for it.
    from horde.platform.objectstore.s3 import S3Store

    return S3Store(settings, settings.s3_bucket)
