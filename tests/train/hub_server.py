"""A stand-in for the hub: one data set over HTTP, with the answers that huggingface-hub asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(repo: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub that holds `repo` with `files`, and the paths that were fetched from it so far."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            api, resolve = f"/api/datasets/{repo}", f"/datasets/{repo}/resolve/{COMMIT}/"
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                facts = {"id": repo, "sha": COMMIT, "private": False, "siblings": [{"rfilename": name} for name in files]}
                return self._send(200, json.dumps(facts).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(f"{api}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith(resolve) and (name := path.removeprefix(resolve)) in files:
                if body:
                    fetched.append(name)
                tags = {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
                return self._send(200, files[name], tags, body)
            code = "EntryNotFound" if path.startswith(resolve) else "RepoNotFound"
            return self._send(404, b"", {"X-Error-Code": code}, body)

        def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
