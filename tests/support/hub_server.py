"""A server that speaks as much of the Hugging Face Hub's protocol as uploads and downloads of files need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories with their files. `broken`: bytes after which the next download of a file breaks off."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    broken: int | None = None
    gated: set[str] = field(default_factory=set)


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(\?.*)?", self.path):
            self._info(match[1], match[2])
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
            files = self.state.repositories.get(match[1], {})
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in files.items()
            ]
            self._json(entries)
        elif self.path.startswith("/api/whoami"):
            self._json({"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        else:
            self._file(with_body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.state.repositories.setdefault(name, {})
            self._json({"url": f"{self.state.address}/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif re.match(r"/api/models/[^/]+/[^/]+/preupload/", self.path):
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            self._commit(match[1], body)
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.state.repositories[repository][value["path"]] = base64.b64decode(value["content"])
        url = f"{self.state.address}/{repository}"
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{url}/commit/{COMMIT}"})

    def _info(self, repository: str, revision: str | None) -> None:
        if repository not in self.state.repositories:
            self._error(404, "RepoNotFound")
        elif revision not in (None, "main", COMMIT):
            self._error(404, "RevisionNotFound")
        else:
            files = [{"rfilename": name} for name in self.state.repositories[repository]]
            self._json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": files})

    def _file(self, with_body: bool) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", self.path)
        if match is None or match[1] not in self.state.repositories:
            return self._error(404, "RepoNotFound")
        if match[1] in self.state.gated:
            return self._error(403, "GatedRepo")
        if match[2] not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound")
        content = self.state.repositories[match[1]].get(match[3])
        if content is None:
            return self._error(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self._send(content)
        return None

    def _send(self, content: bytes) -> None:
        broken, self.state.broken = self.state.broken, None
        if broken is None:
            self.wfile.write(content)
            return
        self.wfile.write(content[:broken])
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
