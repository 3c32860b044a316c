"""A store of objects on loopback, as S3 and plain web servers are: ranges, listings, refusals."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "bucket"


class ObjectStore:
    """Serves `objects`, by key; `status` other than 200 is what every request is answered with."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.status = 200
        self.gets: list[str] = []
        self.signed = 0
        self.sent_bytes = 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(0.02), daemon=True
        )

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def options(self) -> dict[str, str]:
        """What polars has to know to take this for S3."""
        return {"aws_endpoint_url": self.url, "aws_region": "x", "aws_allow_http": "true"}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def listing(self, prefix: str) -> bytes:
        """The keys that begin so, as S3 lists them."""
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>&quot;1&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        return (
            f"<?xml version='1.0'?><ListBucketResult><Name>{BUCKET}</Name>"
            f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        ).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, store: ObjectStore, *arguments: Any) -> None:
        self._store = store
        super().__init__(*arguments)

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        store, parts = self._store, urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        store.signed += "Authorization" in self.headers
        if store.status != 200:
            self._send(store.status, b"", with_body=with_body)
        elif "list-type" in (query := parse_qs(parts.query)):
            self._send(200, store.listing(query.get("prefix", [""])[0]), with_body=True)
        elif key not in store.objects:
            self._send(404, b"", with_body=with_body)
        else:
            store.gets.append(key)
            self._send_object(store.objects[key], with_body=with_body)

    def _send_object(self, content: bytes, *, with_body: bool) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, with_body=with_body)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last), len(content) - 1) if first and last else len(content) - 1
        place = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._send(206, content[start : end + 1], place, with_body=with_body)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        with_body: bool,
    ) -> None:
        self.send_response(status)
        fixed = {
            "Content-Length": str(len(content)),
            "ETag": '"1"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self._store.sent_bytes += len(content)
            self.wfile.write(content)


@contextmanager
def storing(objects: dict[str, bytes]) -> Iterator[ObjectStore]:
    """Serve objects for as long as the block lasts."""
    store = ObjectStore()
    store.objects = objects
    store.start()
    try:
        yield store
    finally:
        store.stop()
