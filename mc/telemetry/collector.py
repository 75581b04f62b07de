"""Telemetry collector: its address, protocol and credentials, from flags and variables.

| variable | meaning |
|---|---|
| `MC_OTEL_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT` | as `http://host:4318` or `https://…`; `user:password@` becomes a header |
| `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf`, which is the default, or `grpc`; never guessed from the port |
| `MC_OTEL_INSECURE` | 1 = allow `http://`, which has no TLS, for an endpoint on another machine |
| `OTEL_EXPORTER_OTLP_HEADERS` | headers to send, `name=value,…` with values encoded as in URLs |
| `OTEL_EXPORTER_OTLP_COMPRESSION` | `none`, which is the default, or `gzip` |
| `OTEL_EXPORTER_OTLP_CERTIFICATE` | file of the authority that signed the collector's certificate |
| `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `…_CLIENT_KEY` | files of the client's own certificate |

Names and meanings are those of the OpenTelemetry protocol exporter specification.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from nanochat.common import UserError, is_loopback

Protocol = Literal["http", "grpc"]
ENDPOINTS = ("MC_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # the first one that is set is used
INSECURE = "MC_OTEL_INSECURE"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
COMPRESSION = "OTEL_EXPORTER_OTLP_COMPRESSION"
FILES = {
    "authority": "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "certificate": "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "key": "OTEL_EXPORTER_OTLP_CLIENT_KEY",
}
DEFAULTS: dict[Protocol, str] = {"http": "http://localhost:4318", "grpc": "http://localhost:4317"}  # of OTLP
PROTOCOLS: dict[str, Protocol] = {"http/protobuf": "http", "grpc": "grpc"}
TRACES_PATH = "/v1/traces"
YES, NO = ("1", "true"), ("", "0", "false")


@dataclass(frozen=True)
class Collector:
    """A collector; `address` (host:port) is for messages, `paths` are those of the files of `FILES`, in PEM."""

    protocol: Protocol
    url: str
    address: str
    tls: bool
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    paths: Mapping[str, str] = field(default_factory=dict, repr=False)
    gzip: bool = False

    def describe(self) -> str:
        """Address and protocol for messages, without path and credentials."""
        return f"{self.address} over {self.protocol}, {'with' if self.tls else 'without'} TLS"


def endpoint_is_set(environment: Mapping[str, str]) -> bool:
    """True if a variable names a collector."""
    return any(environment.get(name) for name in ENDPOINTS)


def find_collector(environment: Mapping[str, str], protocol: Literal["auto", "http", "grpc"] = "auto") -> Collector:
    """The collector that `environment` names, or that of OTLP's defaults on this machine if it names none.

    Raises `UserError` if a variable is invalid, or if telemetry would go to another machine without TLS and `INSECURE` is not set.
    """
    chosen = _protocol(environment) if protocol == "auto" else protocol
    name = next((name for name in ENDPOINTS if environment.get(name)), "the default endpoint")
    parts, port = _split(name, environment.get(name) or DEFAULTS[chosen])
    host = parts.hostname or ""
    tls = parts.scheme == "https"
    insecure = environment.get(INSECURE, "").lower()
    if insecure not in (*YES, *NO):
        raise UserError(f"invalid {INSECURE}: expected 0 or 1")
    if not (tls or insecure in YES or is_loopback(host)):
        raise UserError(f"{name} has no TLS, and {host} is another machine; give https://, or allow it with {INSECURE}=1")
    path = parts.path.rstrip("/")
    if chosen == "grpc" and (path or port is None):
        raise UserError(f"{name} must be http://host:port or https://host:port for grpc, with a port and without a path")
    bracketed = f"[{host}]" if ":" in host else host
    address = bracketed if port is None else f"{bracketed}:{port}"
    headers = _headers(environment.get(HEADERS, ""))
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["authorization"] = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
    compression = environment.get(COMPRESSION) or "none"
    if compression not in ("none", "gzip"):
        raise UserError(f"invalid {COMPRESSION}: expected none or gzip")
    url = f"{parts.scheme}://{address}{path}" + ("" if path.endswith(TRACES_PATH) else TRACES_PATH)
    return Collector(chosen, url, address, tls, headers, _files(environment), compression == "gzip")


def _protocol(environment: Mapping[str, str]) -> Protocol:
    given = environment.get(PROTOCOL) or "http/protobuf"
    if given not in PROTOCOLS:
        raise UserError(f"invalid {PROTOCOL}: expected one of {', '.join(PROTOCOLS)}, or leave it unset")
    return PROTOCOLS[given]


def _split(name: str, endpoint: str) -> tuple[SplitResult, int | None]:
    """The parts of an endpoint, and its port. Messages do not repeat the endpoint because it may hold a password."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        raise UserError(f"invalid {name}: not a URL; expected http://host:port or https://host:port") from None
    usable = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
    if not usable or not endpoint.isprintable() or " " in endpoint:
        raise UserError(f"{name} must be http://host:port or https://host:port, without a query; keys go into {HEADERS}")
    return parts, port


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for number, item in enumerate(filter(None, (item.strip() for item in text.split(","))), start=1):
        name, equals, value = item.partition("=")
        name, value = unquote(name).strip().lower(), unquote(value).strip()
        # Characters that both protocols allow in a header (RFC 9110); others could end a line, or the request.
        if not (equals and name.replace("-", "").replace("_", "").isalnum() and (name + value).isascii() and value.isprintable()):
            raise UserError(f"header {number} in {HEADERS} is not name=value; write values as in URLs, with %20 for a space")
        headers[name] = value
    return headers


def _files(environment: Mapping[str, str]) -> dict[str, str]:
    """Paths of valid files."""
    paths = {key: environment[variable] for key, variable in FILES.items() if environment.get(variable)}
    if ("key" in paths) != ("certificate" in paths):
        raise UserError(f"{FILES['certificate']} and {FILES['key']} go together; set both or neither")
    if not paths:
        return paths
    names = ", ".join(FILES[key] for key in paths)
    try:
        context = ssl.create_default_context(cafile=paths.get("authority"))
        if "key" in paths:
            context.load_cert_chain(paths["certificate"], paths["key"], password="")  # nobody is asked for one
    except ssl.SSLError as error:
        raise UserError(f"invalid files of {names}: expected certificates in PEM ({error.reason})") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise UserError(f"cannot read the file that {names} names: {reason}; correct the variable") from error
    return paths
