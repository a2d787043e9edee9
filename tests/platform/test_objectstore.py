import io
import json
import os
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask, jsonify
from moto.server import ThreadedMotoServer
from PIL import Image
from werkzeug.serving import WSGIRequestHandler, make_server

from horde.platform import images
from horde.platform.errors import HordeError
from horde.platform.objectstore import LocalStore, make_store
from horde.platform.objectstore.routes import object_routes
from horde.settings import Settings

SECRET = b"a secret of this test"


def webp(size: tuple[int, int] = (32, 32), colour: str = "teal") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "WEBP")
    return target.getvalue()


def new_key() -> str:
    return f"{uuid.uuid4()}.webp"


def local_store(tmp_path, **settings) -> LocalStore:
    store = make_store(Settings(var_dir=tmp_path, s3_bucket=None, **settings), SECRET)
    assert isinstance(store, LocalStore)
    return store


def none(key: str) -> bool:
    """Keeps no key from being swept."""
    return False


def stored_files(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "objects").rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return local_store(tmp_path)


@pytest.fixture
def app(store):
    app = Flask(__name__)
    app.register_blueprint(object_routes(store))

    @app.errorhandler(HordeError)
    def answer(error):
        return jsonify(message=error.message, rc=error.rc), error.status

    return app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def server(app):
    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *args):
            """Keep the test's output clean."""

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(10)
    server.server_close()


BAD_KEYS = [
    "",
    ".",
    "..",
    ".hidden",
    "a..b",
    "../up",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "a\0b",
    "ä.webp",
    "a b",
    "a\n",
    "x" * 201,
]


class TestLocalStore:
    def test_put_get_delete(self, store):
        key = new_key()
        assert store.get(key) is None
        store.put(key, b"one")
        store.put(key, b"two")
        assert store.get(key) == b"two"
        store.delete(key)
        store.delete(key)
        assert store.get(key) is None

    def test_short_keys(self, store):
        store.put("a", b"one")
        assert store.get("a") == b"one"

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_bad_keys_are_errors_everywhere(self, store, key, tmp_path):
        for use in (store.get, store.delete, store.upload_url, store.download_url):
            with pytest.raises(ValueError):
                use(key)
        with pytest.raises(ValueError):
            store.put(key, b"data")
        assert list(tmp_path.iterdir()) == []

    def test_concurrent_puts_leave_one_whole_object(self, store, tmp_path):
        key = new_key()
        contents = [bytes([number]) * 200_000 for number in range(16)]
        seen = []
        done = threading.Event()

        def read():
            while not done.is_set():
                seen.append(store.get(key))

        reader = threading.Thread(target=read)
        reader.start()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda data: store.put(key, data), contents * 4))
        done.set()
        reader.join(10)
        assert store.get(key) in contents
        assert all(data is None or data in contents for data in seen)
        assert stored_files(tmp_path) == [key]

    def test_failed_put_leaves_nothing(self, store, tmp_path):
        with pytest.raises(TypeError):
            store.put(new_key(), "text")
        assert stored_files(tmp_path) == []

    def test_sweep_takes_old_objects_and_left_over_files(self, store, tmp_path):
        old, young = new_key(), new_key()
        store.put(old, b"old")
        store.put(young, b"young")
        left_over = tmp_path / "objects" / old[:2] / ".left-over"
        left_over.write_bytes(b"half")
        writing = tmp_path / "objects" / young[:2] / ".writing"
        writing.write_bytes(b"half")
        long_ago = time.time() - 1000
        for path in (left_over, tmp_path / "objects" / old[:2] / old):
            os.utime(path, (long_ago, long_ago))
        assert store.sweep(2000, none) == 0
        assert store.sweep(900, none) == 2
        assert stored_files(tmp_path) == sorted([".writing", young])

    def test_sweep_leaves_what_is_to_be_kept(self, store, tmp_path):
        one, other = new_key(), new_key()
        store.put(one, b"one")
        store.put(other, b"other")
        for key in (one, other):
            os.utime(tmp_path / "objects" / key[:2] / key, (1, 1))
        assert store.sweep(900, lambda key: key == one) == 1
        assert stored_files(tmp_path) == [one]

    def test_a_disk_that_fails_is_a_store_out_of_reach(self, store, tmp_path):
        (tmp_path / "objects").mkdir()
        (tmp_path / "objects" / "ab").write_bytes(b"where a folder should be")
        for use in (
            lambda: store.put("ab.webp", b"data"),
            lambda: store.get("ab.webp"),
            lambda: store.delete("ab.webp"),
        ):
            with pytest.raises(HordeError) as check:
                use()
            assert check.value.status == 503

    def test_sweep_without_any_object(self, store):
        assert store.sweep(1, none) == 0

    def test_oversize_object_is_not_read(self, store):
        store.put("big.webp", b"\0" * (images.MAX_IMAGE_BYTES + 1))
        assert store.get("big.webp") is None

    def test_urls_start_where_clients_reach_the_server(self, tmp_path):
        fallback = local_store(tmp_path, host="127.0.0.1", port=7010, public_url=None)
        public = local_store(tmp_path, public_url="https://horde.example/")
        assert fallback.download_url("k").startswith("http://127.0.0.1:7010/objects/k?X-Expires=")
        assert public.download_url("k").startswith("https://horde.example/objects/k?X-Expires=")
        with Flask(__name__).test_request_context(base_url="https://other.example:8443/"):
            assert fallback.download_url("k").startswith("https://other.example:8443/objects/k?")
            assert public.download_url("k").startswith("https://horde.example/objects/k?")

    def test_url_shape(self, store):
        query = parse_qs(urlsplit(store.upload_url("k")).query)
        assert set(query) == {"X-Expires", "X-Signature"}
        assert re.fullmatch("[0-9a-f]{64}", query["X-Signature"][0])
        assert abs(int(query["X-Expires"][0]) - time.time() - 1800) < 5


class TestRoutes:
    def test_round_trip(self, client, store):
        key, data = new_key(), webp()
        answer = client.put(store.upload_url(key), data=data)
        assert (answer.status_code, answer.data) == (200, b"")
        answer = client.get(store.download_url(key))
        assert (answer.status_code, answer.data) == (200, data)
        assert answer.headers["Content-Type"] == "image/webp"
        assert re.fullmatch(r"private, max-age=(1799|1800)", answer.headers["Cache-Control"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        head = client.head(store.download_url(key))
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(data))

    @pytest.mark.parametrize(
        "content_type", [None, "image/webp", "application/x-www-form-urlencoded", "text/x"]
    )
    def test_any_content_type_is_taken(self, client, store, content_type):
        key = new_key()
        assert client.put(store.upload_url(key), data=webp(), content_type=content_type).status_code == 200
        assert store.get(key) == webp()

    def test_upload_replaces(self, client, store):
        key = new_key()
        url = store.upload_url(key)
        client.put(url, data=webp(colour="red"))
        client.put(url, data=webp(colour="blue"))
        assert store.get(key) == webp(colour="blue")

    def test_what_is_no_picture_is_not_called_one(self, client, store):
        store.put("page", b"<script>")
        assert client.get(store.download_url("page")).headers["Content-Type"] == "application/octet-stream"

    def test_missing_object(self, client, store):
        answer = client.get(store.download_url(new_key()))
        assert answer.status_code == 404
        assert answer.json["rc"] == "NotFound"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"

    def test_preflight_needs_no_signature(self, client):
        answer = client.options("/objects/anything")
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"] == "*"

    def test_other_methods_are_refused(self, client, store):
        assert client.post(store.upload_url("k"), data=webp()).status_code == 405
        assert client.delete(store.upload_url("k")).status_code == 405

    def test_signature_holds_for_its_method_only(self, client, store):
        key = new_key()
        store.put(key, webp())
        self.assert_forbidden(client.put(store.download_url(key), data=webp(colour="red")))
        self.assert_forbidden(client.get(store.upload_url(key)))
        self.assert_forbidden(client.head(store.upload_url(key)))
        assert store.get(key) == webp()

    def test_signature_holds_for_its_key_only(self, client, store):
        mine, other = new_key(), new_key()
        store.put(other, webp())
        self.assert_forbidden(client.get(store.download_url(mine).replace(mine, other)))
        self.assert_forbidden(
            client.put(store.upload_url(mine).replace(mine, other), data=webp(colour="red"))
        )
        assert store.get(other) == webp()

    def test_signature_holds_for_its_expiry_only(self, client, store):
        store.put("k", webp())
        url = store.download_url("k")
        expires = parse_qs(urlsplit(url).query)["X-Expires"][0]
        self.assert_forbidden(client.get(url.replace(expires, str(int(expires) + 1))))
        self.assert_forbidden(client.get(url.replace(expires, "0" + expires)))

    def test_signature_of_another_secret(self, client, store, tmp_path):
        store.put("k", webp())
        stranger = make_store(Settings(var_dir=tmp_path, s3_bucket=None), b"another secret")
        self.assert_forbidden(client.get(stranger.download_url("k")))

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "X-Expires=9999999999",
            "X-Signature=" + "0" * 64,
            "X-Expires=x&X-Signature=%C3%A9%FF",
            "X-Expires=%0A",
        ],
    )
    def test_malformed_signatures(self, client, store, query):
        store.put("k", webp())
        self.assert_forbidden(client.get(f"/objects/k?{query}"))
        self.assert_forbidden(client.put(f"/objects/k?{query}", data=webp()))

    def test_expired_urls(self, client, store, tmp_path):
        expired = local_store(tmp_path, signed_url_seconds=-1)
        store.put("k", webp())
        for answer in (
            client.get(expired.download_url("k")),
            client.put(expired.upload_url("k"), data=webp(colour="red")),
        ):
            self.assert_forbidden(answer)
            assert "expired" in answer.json["message"]
        assert store.get("k") == webp()

    @pytest.mark.parametrize(
        "path", ["../secret", "..%2Fsecret", "%2e%2e/secret", "a/../../secret", ".left-over"]
    )
    def test_paths_cannot_be_walked(self, client, store, tmp_path, path):
        (tmp_path / "secret").write_bytes(webp())
        store.put("k", webp())
        query = urlsplit(store.download_url("k")).query
        assert client.get(f"/objects/{path}?{query}").status_code in {403, 404}

    @pytest.mark.parametrize(
        "data", [b"", b"<html></html>", b"\x89PNG\r\n\x1a\n", webp((300, 300))[:-20], webp()[:16]]
    )
    def test_uploads_that_are_no_pictures_leave_nothing(self, client, store, tmp_path, data):
        answer = client.put(store.upload_url(new_key()), data=data)
        assert answer.status_code == 400
        assert answer.json["rc"] == "ImageValidationFailed"
        assert stored_files(tmp_path) == []

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_too_many_pixels_leave_nothing(self, client, store, tmp_path):
        target = io.BytesIO()
        Image.new("1", (4 * 3072, 4 * 3072 + 1)).save(target, "PNG")
        answer = client.put(store.upload_url(new_key()), data=target.getvalue())
        assert answer.status_code == 400
        assert answer.json["rc"] == "SourceImageResolutionExceeded"
        assert stored_files(tmp_path) == []

    def test_announced_oversize_is_refused_unread(self, server, store, tmp_path):
        url = urlsplit(store.upload_url(new_key()))
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.putrequest("PUT", f"{url.path}?{url.query}")
        connection.putheader("Content-Length", str(images.MAX_IMAGE_BYTES + 1))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert set(json.load(answer)) == {"message", "rc"}
        connection.close()
        assert stored_files(tmp_path) == []

    def test_unannounced_oversize_is_refused(self, server, store, tmp_path):
        content = webp() + b"\0" * (images.MAX_IMAGE_BYTES + 1 - len(webp()))
        answer = self.put_chunked(server, store, new_key(), content)
        assert answer.status_code == 413
        assert stored_files(tmp_path) == []

    def test_upload_without_content_length(self, server, store):
        key = new_key()
        assert self.put_chunked(server, store, key, webp((400, 400))).status_code == 200
        assert store.get(key) == webp((400, 400))

    def test_limit_of_the_application_does_not_matter(self, client, store):
        client.application.config["MAX_CONTENT_LENGTH"] = 10
        assert client.put(store.upload_url(new_key()), data=webp()).status_code == 200

    @staticmethod
    def put_chunked(server, store, key, content):
        url = urlsplit(store.upload_url(key))
        pieces = (content[start : start + 65536] for start in range(0, len(content), 65536))
        return requests.put(f"http://127.0.0.1:{server.port}{url.path}?{url.query}", data=pieces, timeout=30)

    @staticmethod
    def assert_forbidden(answer):
        assert answer.status_code == 403
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        if answer.data:
            assert set(answer.json) == {"message", "rc"}
            assert answer.json["rc"] == "Forbidden"


@pytest.fixture(scope="module")
def s3_endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_settings(endpoint: str, bucket: str) -> Settings:
    return Settings(
        s3_bucket=bucket,
        s3_endpoint_url=endpoint,
        s3_region="us-east-1",
        s3_access_key_id="test",
        s3_secret_access_key="test",
    )


@pytest.fixture
def bucket(s3_endpoint) -> str:
    name = f"bucket-{uuid.uuid4()}"
    assert requests.put(f"{s3_endpoint}/{name}", timeout=10).status_code == 200
    return name


@pytest.fixture
def s3_store(s3_endpoint, bucket):
    return make_store(s3_settings(s3_endpoint, bucket), SECRET)


class TestS3Store:
    def test_put_get_delete(self, s3_store):
        key = new_key()
        assert s3_store.get(key) is None
        s3_store.put(key, webp(colour="red"))
        s3_store.put(key, webp())
        assert s3_store.get(key) == webp()
        answer = requests.get(s3_store.download_url(key), timeout=10)
        assert (answer.content, answer.headers["Content-Type"]) == (webp(), "image/webp")
        s3_store.delete(key)
        s3_store.delete(key)
        assert s3_store.get(key) is None
        assert requests.get(s3_store.download_url(key), timeout=10).status_code == 404

    def test_upload_by_url_without_content_type(self, s3_store):
        key = new_key()
        request = requests.Request("PUT", s3_store.upload_url(key), data=webp()).prepare()
        assert "Content-Type" not in request.headers
        with requests.Session() as session:
            assert session.send(request, timeout=10).status_code == 200
        assert s3_store.get(key) == webp()
        assert requests.get(s3_store.download_url(key), timeout=10).content == webp()

    @pytest.mark.parametrize("kind", ["upload_url", "download_url"])
    def test_urls_sign_nothing_but_the_host(self, s3_store, s3_endpoint, bucket, kind):
        url = getattr(s3_store, kind)("k.webp")
        query = parse_qs(urlsplit(url).query)
        assert url.startswith(f"{s3_endpoint}/{bucket}/k.webp?")
        assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
        assert query["X-Amz-SignedHeaders"] == ["host"]
        assert query["X-Amz-Expires"] == ["1800"]
        assert not [name for name in query if "checksum" in name.lower()]

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_bad_keys_are_errors(self, s3_store, key):
        for use in (s3_store.get, s3_store.delete, s3_store.upload_url, s3_store.download_url):
            with pytest.raises(ValueError):
                use(key)

    def test_oversize_upload_is_not_read(self, s3_store):
        url = s3_store.upload_url("big.webp")
        body = b"\0" * (images.MAX_IMAGE_BYTES + 1)
        assert requests.put(url, data=body, timeout=30).status_code == 200
        assert s3_store.get("big.webp") is None

    def test_sweep_takes_old_objects_of_every_page(self, s3_store, s3_endpoint, bucket, monkeypatch):
        with requests.Session() as session:
            for number in range(1003):
                session.put(f"{s3_endpoint}/{bucket}/old-{number}.webp", data=b"x", timeout=10)
        assert s3_store.sweep(60, none) == 0
        real_time = time.time
        monkeypatch.setattr(time, "time", lambda: real_time() + 90)
        assert s3_store.sweep(200, none) == 0
        assert s3_store.sweep(60, lambda key: key == "old-7.webp") == 1002
        assert s3_store.get("old-7.webp") == b"x"
        assert s3_store.sweep(60, none) == 1
        assert s3_store.get("old-1.webp") is None
        assert s3_store.sweep(60, none) == 0

    def test_one_store_serves_many_threads(self, s3_store):
        keys = [new_key() for _ in range(24)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: s3_store.put(key, key.encode()), keys))
            assert list(pool.map(s3_store.get, keys)) == [key.encode() for key in keys]

    def test_missing_bucket_is_a_failure_not_a_missing_object(self, s3_endpoint):
        store = make_store(s3_settings(s3_endpoint, "no-such-bucket"), SECRET)
        with pytest.raises(HordeError) as check:
            store.get("k")
        assert check.value.status == 503

    def test_store_that_cannot_be_reached(self):
        store = make_store(s3_settings("http://127.0.0.1:9", "bucket"), SECRET)
        with pytest.raises(HordeError) as check:
            store.put("k", webp())
        assert check.value.status == 503
