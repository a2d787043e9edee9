"""HTTP access to the objects of a LocalStore, for who holds a signed URL."""

from flask import Blueprint, Response, request

from horde.platform.errors import HordeError, NotFound
from horde.platform.http.ratelimit import unlimited
from horde.platform.images import MAX_IMAGE_BYTES, check_image, media_type
from horde.platform.objectstore.local import LocalStore

MAX_UPLOAD_PIXELS = (4 * 3072) ** 2
"""The largest picture that a request can ask for, enlarged four times."""


def object_routes(store: LocalStore) -> Blueprint:
    """Routes `/objects/<key>` for the URLs that `store` signs; pages of every origin may use them.

    They have no rate limit: every URL was handed out under one, and many workers may share an address.
    """
    routes = Blueprint("objects", __name__)

    @routes.get("/objects/<key>", provide_automatic_options=False)
    @unlimited
    def download(key: str) -> Response:
        seconds = _verify(store, "GET", key)
        data = store.get(key)
        if data is None:
            raise NotFound("There is no such object, or no longer.", rc="NotFound")
        response = Response(data, mimetype=media_type(data))
        response.headers["Cache-Control"] = f"private, max-age={seconds}"
        return response

    @routes.put("/objects/<key>", provide_automatic_options=False)
    @unlimited
    def upload(key: str) -> Response:
        _verify(store, "PUT", key)
        data = _read_body()
        check_image(data, max_pixels=MAX_UPLOAD_PIXELS)
        store.put(key, data)
        return Response()

    @routes.route("/objects/<key>", methods=["OPTIONS"])
    def preflight(key: str) -> Response:  # noqa: ARG001 - the same for every key
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, PUT"
        response.headers["Access-Control-Allow-Headers"] = "*"
        response.headers["Access-Control-Max-Age"] = "86400"
        return response

    @routes.after_request
    def allow_browsers(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return routes


def _verify(store: LocalStore, method: str, key: str) -> int:
    return store.verify(method, key, request.args.get("X-Expires", ""), request.args.get("X-Signature", ""))


def _read_body() -> bytes:
    if (request.content_length or 0) > MAX_IMAGE_BYTES:
        raise _too_large()
    # One byte more than allowed, as a body without Content-Length is cut off at this limit, silently.
    request.max_content_length = MAX_IMAGE_BYTES + 1
    data = request.get_data(cache=False)
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large()
    return data


def _too_large() -> HordeError:
    return HordeError(
        f"The upload is larger than {MAX_IMAGE_BYTES // 2**20} MiB; send a smaller picture.",
        rc="SourceImageSizeExceeded",
        status=413,
    )
