"""A bucket on this machine: `gs://` without Google's libraries, for commands with `--import`.

`Bucket` is a server of those parts of the JSON API of Google Cloud Storage that TensorStore uses
(https://cloud.google.com/storage/docs/json_api/v1/objects). `BucketFiles` gives etils the same
objects, in place of gcsfs. As in a bucket, a folder exists if an object is in it. Orbax asks
`google.cloud.storage` for the kind of the bucket; here that is a bucket without real folders.
"""

import dataclasses
import http.client
import http.server
import io
import itertools
import json
import os
import re
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import fsspec

ADDRESS = "TENSORSTORE_GCS_HTTP_URL"
"""Environment variable with the address of the server; TensorStore reads it too."""
_PATH = re.compile(r"(?:/upload)?/storage/v1/b/(?P<bucket>[^/]+)/o(?:/(?P<name>.+))?")
FORBIDDEN, MISSING, CHANGED = 403, 404, 412


@dataclasses.dataclass(frozen=True)
class _Object:
    """A stored object: its bytes and the number of its version."""

    content: bytes
    generation: int


class Bucket(http.server.ThreadingHTTPServer):
    """A server with the objects of all buckets, as a context.

    Attributes:
        objects: the objects by `BUCKET/NAME`.
        read_only: whether writes fail, as without the right to write.
        address: address of the server.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects: dict[str, _Object] = {}
        self.read_only = False
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._lock = threading.Lock()
        self._generations = itertools.count(1)

    def __enter__(self) -> "Bucket":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def environment(self) -> dict[str, str]:
        """Returns the variables with which a process uses this server."""
        return {ADDRESS: self.address, "EPATH_USE_TF": "false"}

    def change(self, key: str, content: bytes | None, expected: str | None) -> _Object | int:
        """Writes an object, or deletes it if `content` is None, unless it was changed.

        Args:
            key: `BUCKET/NAME`.
            content: the new bytes.
            expected: generation that the object must have now; "0" is a missing object.

        Returns:
            The new object (the old one if it is deleted), or the status of an error.
        """
        with self._lock:
            old = self.objects.get(key)
            if self.read_only:
                return FORBIDDEN
            if expected is not None and int(expected) != (old.generation if old else 0):
                return CHANGED
            if content is None:
                return self.objects.pop(key, MISSING)
            new = self.objects[key] = _Object(content, next(self._generations))
            return new


class _Requests(http.server.BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Bucket

    def do_GET(self) -> None:
        key, query = self._target()
        if key.endswith("/"):
            listed = [self._resource(name) for name in self._names(key, query)]
            self._answer(200, json.dumps({"items": listed}).encode())
            return
        found = self.server.objects.get(key)
        if found is None:
            self._answer(MISSING)
            return
        if query.get("ifGenerationNotMatch") == str(found.generation):
            self._answer(304)
            return
        if query.get("alt") != "media":
            self._answer(200, json.dumps(self._resource(key)).encode())
            return
        content, headers = found.content, {"x-goog-generation": str(found.generation)}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            size, first = len(content), int(part[1])
            content = content[first : int(part[2]) + 1 if part[2] else size]
            headers["Content-Range"] = f"bytes {first}-{first + len(content) - 1}/{size}"
        self._answer(206 if part else 200, content, headers)

    def do_POST(self) -> None:
        key, query = self._target()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        done = self.server.change(key + query["name"], content, query.get("ifGenerationMatch"))
        if isinstance(done, int):
            self._answer(done)
        else:
            self._answer(200, json.dumps(self._resource(key + query["name"])).encode())

    def do_DELETE(self) -> None:
        key, query = self._target()
        done = self.server.change(key, None, query.get("ifGenerationMatch"))
        self._answer(done if isinstance(done, int) else 204)

    def log_message(self, *arguments: object) -> None:
        """Prints nothing."""

    def _target(self) -> tuple[str, dict[str, str]]:
        """Returns `BUCKET/NAME`, or `BUCKET/` for all objects, and the values of the query."""
        url = urlsplit(self.path)
        found = _PATH.fullmatch(url.path)
        assert found is not None, self.path
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        return f"{found['bucket']}/{unquote(found['name'] or '')}", query

    def _names(self, key: str, query: Mapping[str, str]) -> Iterator[str]:
        """Yields the objects of a bucket in a range of names."""
        first, last = query.get("startOffset", ""), query.get("endOffset")
        for name in sorted(self.server.objects):
            word = name.removeprefix(key)
            after = last is not None and word >= last
            if name.startswith(key + query.get("prefix", "")) and first <= word and not after:
                yield name

    def _resource(self, key: str) -> dict[str, Any]:
        """Returns the description of an object."""
        found, (bucket, _, name) = self.server.objects[key], key.partition("/")
        size, generation = str(len(found.content)), str(found.generation)
        return {"bucket": bucket, "name": name, "size": size, "generation": generation}

    def _answer(self, status: int, content: bytes = b"", headers: Mapping = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class BucketFiles(fsspec.AbstractFileSystem):
    """The objects of a `Bucket` as files, with the errors of gcsfs."""

    protocol = ("gcs", "gs")
    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: object) -> io.BytesIO:
        return _Draft(self, path) if mode == "wb" else io.BytesIO(self.cat_file(path))

    def cat_file(self, path: str, start=None, end=None, **options: object) -> bytes:
        return self._request("GET", path, {"alt": "media"})[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object):
        bucket, _, name = self._strip_protocol(path).partition("/")
        self._request("POST", f"{bucket}/", {"uploadType": "media", "name": name}, value)

    def ls(self, path: str, detail: bool = True, **options: object) -> list[Any]:
        path = self._strip_protocol(path)
        bucket, _, name = path.partition("/")
        prefix = f"{name}/" if name else ""
        listed = json.loads(self._request("GET", f"{bucket}/", {"prefix": prefix}))["items"]
        found: dict[str, dict[str, Any]] = {}
        for item in listed:
            word, below, _ = item["name"].removeprefix(prefix).partition("/")
            kind, size = ("directory", 0) if below else ("file", int(item["size"]))
            place = f"{path}/{word}"
            found[place] = {"name": place, "type": kind, "size": size}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def info(self, path: str, **options: object) -> dict[str, Any]:
        path = self._strip_protocol(path)
        try:
            size = int(json.loads(self._request("GET", path))["size"])
            return {"name": path, "type": "file", "size": size}
        except (FileNotFoundError, KeyError):
            self.ls(path)
            return {"name": path, "type": "directory", "size": 0}

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        names = self.find(path) if recursive else [path]
        if not names:
            raise FileNotFoundError(path)
        for name in names:
            self._request("DELETE", name)

    def cp_file(self, path1: str, path2: str, **options: object) -> None:
        if not self.isdir(path1):
            self.pipe_file(path2, self.cat_file(path1))

    def _request(self, method: str, path: str, query: Mapping = {}, body: bytes = b"") -> bytes:
        bucket, _, name = self._strip_protocol(path).partition("/")
        upload, rest = "/upload" if method == "POST" else "", f"/{quote(name, '')}" if name else ""
        url = f"{upload}/storage/v1/b/{bucket}/o{rest}?{urlencode(query)}"
        connection = http.client.HTTPConnection(urlsplit(os.environ[ADDRESS]).netloc, timeout=30)
        try:
            connection.request(method, url, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status == MISSING:
            raise FileNotFoundError(path)
        if answer.status == FORBIDDEN:
            raise OSError(f"Forbidden: {path}")
        return content


class _Draft(io.BytesIO):
    """A file that is stored when it is closed."""

    def __init__(self, files: BucketFiles, path: str):
        super().__init__()
        self._files, self._path = files, path

    def close(self) -> None:
        content = None if self.closed else self.getvalue()
        super().close()
        if content is not None:
            self._files.pipe_file(self._path, content)


_storage = types.ModuleType("google.cloud.storage")
_storage.__dict__["Client"] = lambda: types.SimpleNamespace(get_bucket=lambda name: None)
sys.modules[_storage.__name__] = _storage
for _protocol in BucketFiles.protocol:
    fsspec.register_implementation(_protocol, BucketFiles, clobber=True)
