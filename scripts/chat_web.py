"""Serves a trained model: a chat page for people, and an OpenAI-compatible API for programs."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from mc.config import SessionConfig
from mc.loading import load_memory
from mc.serve.web_sessions import open_sessions
from mc.telemetry.provider import TelemetryFlags, open_telemetry
from mc.telemetry.sessions import SessionTelemetry
from nanochat.checkpoint.load_model import Stage, is_tag, latest_stage, load_model, newest_tag
from nanochat.checkpoint.store import CheckpointStore
from nanochat.common import UserError, base_dir, is_loopback
from nanochat.data.tokenizer import load_tokenizer
from nanochat.flags import flag, flat_values, parse, part, run
from nanochat.infer.continuous_batching import Batcher
from nanochat.infer.grammar import JsonConstraint
from nanochat.infer.sampling import Sampling
from nanochat.infer.tools import ToolFlags
from nanochat.profiling.memory_snapshot import open_memory_debug
from nanochat.runtime.device import RuntimeFlags, start
from nanochat.serve.backend import Backend
from nanochat.serve.decode_thread import DecodeThread
from nanochat.serve.http.app import ChatServer, create_app
from nanochat.serve.http.compatibility import ClientFlags
from nanochat.serve.http.keys import parse_keys
from nanochat.serve.http.limits import WebLimits
from nanochat.serve.http.security import impatient
from nanochat.serve.workers import Workers

TOKEN_VARIABLE = "MC_CHAT_TOKEN"
GRACE_SECONDS = 10  # for replies that are being written when the server stops
HEADER_BYTES = 16384
KEEP_ALIVE_SECONDS = 10


@dataclass
class ChatWeb:
    """Serve a trained model on the web: a chat page, and an OpenAI-compatible API."""

    source: Stage | None = flag(None, "training stage of the model; none = the latest available", alias=("-i",))
    model_tag: str | None = flag(None, "name of the checkpoint folder; none = the newest model", alias=("-g",))
    step: int | None = flag(None, "step of the checkpoint; none = the newest", alias=("-s",))
    host: str = flag("127.0.0.1", "address to listen on; one that other machines can reach needs a token")
    port: int = flag(8000, "port to listen on; 0 = a free one")
    token: str | None = flag(None, f"bearer token of clients; better in {TOKEN_VARIABLE} or a file, as others can see a command line")
    token_file: str | None = flag(None, "file with the token, or with a line 'NAME TOKEN' for each client, who has its own sessions")
    workers: int = flag(1, "number of worker processes, one model each (process k on GPU k)")
    tools: ToolFlags = part(ToolFlags)
    mc: bool = flag(False, "keep sessions: histories of any length, read through the model's memory")
    session: SessionConfig = part(SessionConfig)
    telemetry: TelemetryFlags = part(TelemetryFlags)
    temperature: float = flag(Sampling.temperature, "default temperature for requests that set none", alias=("-t",))
    top_k: int = flag(Sampling.top_k, "default top-k for requests that set none; 0 = off", unit="tokens", alias=("-k",))
    top_p: float = flag(Sampling.top_p, "default top-p for requests that set none; 1 = off")
    max_tokens: int = flag(Sampling.max_tokens, "default maximum length of a reply for requests that set none", unit="tokens")
    limits: WebLimits = part(WebLimits)
    clients: ClientFlags = part(ClientFlags)
    device_type: str = flag("auto", "cuda, cpu or mps; auto = the best available")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it must be from 0 to 65535")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        if not self.mc and self.session != SessionConfig():
            flags = ", ".join(name for name, value in flat_values(self.session).items() if value != flat_values(SessionConfig())[name])
            raise ValueError(f"{flags}: no effect without --mc; add it or leave this out")
        if not self.mc:
            self.telemetry.check_unused()
        if self.mc and self.workers > 1 and self.session.mc_tree == "ram":
            raise ValueError("sessions in RAM cannot be shared between workers; add --mc-tree disk")
        if self.max_tokens > self.limits.max_reply_tokens:
            raise ValueError(f"max_tokens is {self.max_tokens}, more than max_reply_tokens, {self.limits.max_reply_tokens}")
        self.sampling  # noqa: B018 (refuses invalid ones)
        RuntimeFlags(device_type=self.device_type)

    @property
    def sampling(self) -> Sampling:
        """Default sampling of a reply."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.max_tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code."""
    config = parse(ChatWeb, argv)
    if config.mc:
        config.telemetry.collector()  # refuses an invalid one before anything is loaded
    keys = read_keys(config)
    with bind(config.host, config.port) as listening:
        if keys is None and not is_loopback(listening.getsockname()[0]):
            raise UserError(f"listening on {config.host} lets other machines in: put a token in {TOKEN_VARIABLE} or give --token-file")
        failed = threading.Event()
        backend, description = open_backend(config, failed.set)
        try:
            context_tokens = config.limits.context_tokens or description["context_tokens"]
            name, sessions = description["name"], description["sessions"]
            server = ChatServer(
                backend, load_tokenizer(), name, context_tokens, config.sampling, config.limits, keys, sessions, config.clients
            )
            web = _Server(_uvicorn_config(server), f"{name} on {address(listening)}", failed)
            # uvicorn shuts down cleanly at these signals and then raises them again, which must not end this program.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            web.run(sockets=[listening])
        finally:
            backend.close()
    if failed.is_set():
        raise UserError("the model has stopped; the reason is printed above")
    return 0


def read_keys(config: ChatWeb) -> dict[str, str] | None:
    """The names of clients by the tokens that they must present, or None. Raises `UserError` if they cannot be read or are invalid."""
    text, source = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if config.token_file is not None:
        source = config.token_file
        try:
            text = Path(config.token_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the token in {config.token_file}: {error}") from error
    elif config.token is not None:
        text, source = config.token, "--token"
        print(f"warning: all users of this machine can see a token on the command line; use {TOKEN_VARIABLE}", file=sys.stderr)
    try:
        return None if text is None else parse_keys(text, source)
    except ValueError as error:
        raise UserError(str(error)) from error


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening. Raises `UserError` if the address is not available."""
    try:
        family, kind, protocol, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(name)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port") from error
    return bound


def address(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def open_backend(config: ChatWeb, failed: Callable[[], None]) -> tuple[Backend, dict[str, Any]]:
    """The backend, in this process or in several, and its description: name, context_tokens, sessions."""
    limits = config.limits
    if config.workers == 1:
        return build(config, 0, limits.max_queue, failed)
    config = pinned(config)
    places = config.workers * limits.max_rows + limits.max_queue  # the front alone refuses requests
    workers = Workers(config.workers, lambda index, ended: build(config, index, places, ended), limits.max_rows, limits.max_queue, failed)
    return workers, workers.description


def pinned(config: ChatWeb) -> ChatWeb:
    """`config` with the stage, tag and step that it has now, so that a worker that is started later has the same model."""
    stage = config.source or latest_stage(config.model_tag)
    tag = config.model_tag or newest_tag(stage)
    if config.step is not None or tag is None or not is_tag(tag):
        return dataclasses.replace(config, source=stage)
    store = CheckpointStore(base_dir() / f"{stage}_checkpoints" / tag)
    step = next((step for step in reversed(store.steps()) if store.verify(step) is None), None)
    return dataclasses.replace(config, source=stage, model_tag=tag, step=step)


def build(config: ChatWeb, index: int, max_queue: int, failed: Callable[[], None]) -> tuple[DecodeThread, dict[str, Any]]:
    """Loads the model in this process, worker `index`, and serves it; see `open_backend`."""
    os.environ["LOCAL_RANK"] = str(index)
    runtime = start(RuntimeFlags(device_type=config.device_type, compile=False))
    stage = config.source or latest_stage(config.model_tag)
    source, limits, sessions = (stage, config.model_tag, config.step, runtime.device, runtime.precision.dtype), config.limits, None
    if config.mc:
        loaded = load_memory(*source)
        model, tokenizer, meta = loaded.memory.model, loaded.tokenizer, loaded.meta
        telemetry = SessionTelemetry(open_telemetry(config.telemetry, "megacontext-web"))
        sessions = open_sessions(loaded, config.session, limits, telemetry)
    else:
        model, tokenizer, meta = load_model(*source)
    constrain = functools.partial(JsonConstraint, tokenizer)
    batcher = Batcher(model, limits.max_rows, config.tools.open(tokenizer), constrain=constrain)
    name = f"{stage}-{meta['tag']}"
    debug = open_memory_debug(f"chat_web-{name}", runtime.device, index, config.workers)
    if debug is not None:
        debug.record("start")
    served = None if debug is None else lambda: debug.record("first_request")
    thread = DecodeThread(batcher, limits.max_rows, max_queue, failed, sessions, served)
    described = {"levels": config.session.mc_session_lod, "tree": config.session.mc_tree} if config.mc else None
    return thread, {"name": name, "context_tokens": model.config.max_seq_len, "sessions": described}


def _uvicorn_config(server: ChatServer) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(server),
        # Parts of uvicorn that are always available: behaviour must not depend on what else is installed.
        loop="asyncio",
        http=impatient(server.limits.max_send_seconds, server.limits.client_connections),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=server.limits.max_connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )


class _Server(uvicorn.Server):
    """Server that prints when it is ready, and ends when the model has failed."""

    def __init__(self, config: uvicorn.Config, what: str, failed: threading.Event) -> None:
        super().__init__(config)
        self._what, self._model_failed = what, failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"serving {self._what} (Ctrl-C stops it)", flush=True)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._model_failed.is_set()


if __name__ == "__main__":
    run(main)
