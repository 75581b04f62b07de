"""A hub on this machine: the part of its interface that `datasets` uses to download data sets."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

COMMIT = "a" * 40
Files = Mapping[str, bytes]


def card(configs: Mapping[str, Mapping[str, str]]) -> bytes:
    """The README of a repository: configuration → split → pattern of its files."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for split, pattern in splits.items() for line in (f"  - split: {split}", f"    path: {pattern}")]
    return "\n".join([*lines, "---", ""]).encode()


@contextmanager
def hub(repositories: Mapping[str, Files]) -> Iterator[str]:
    """Serves the files of these data sets; yields the hub's address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            status, body, headers = answer(repositories, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the names that http.server calls)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(repositories: Mapping[str, Files], path: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers."""
    path = path.partition("?")[0]
    if path == "/":
        return 200, b"", {}
    match = re.fullmatch(
        r"(?P<api>/api)?/datasets/(?P<name>[^/]+/[^/]+)(?:/(?P<what>resolve|revision|tree)/[^/]+)?(?:/(?P<path>.*))?", path
    )
    files = repositories.get(match["name"]) if match else None
    if files is None:
        return 404, b"", {"X-Error-Code": "RepoNotFound"}
    inside = match["path"] or ""
    if match["what"] == "resolve":
        if inside not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
        etag = hashlib.sha1(files[inside]).hexdigest()
        return 200, files[inside], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
    value: Any = {"id": match["name"], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": [], "private": False}
    if match["what"] == "tree":
        value = list(listing(files, f"{inside}/" if inside else ""))
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def listing(files: Files, folder: str) -> Iterator[dict[str, Any]]:
    """What is right in a folder."""
    for name in sorted({folder + path[len(folder) :].partition("/")[0] for path in files if path.startswith(folder)}):
        data = files.get(name)
        kind = {"type": "directory", "size": 0} if data is None else {"type": "file", "size": len(data)}
        yield {"path": name, "oid": hashlib.sha1(data or b"").hexdigest(), **kind}
