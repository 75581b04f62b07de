"""What flags and variables make of a collector; a wrong variable is refused without repeating what it holds."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from mc.telemetry.collector import find_collector
from nanochat.common import UserError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("environment", "protocol", "url", "address", "tls"),
    [
        ({}, "auto", "http://localhost:4318/v1/traces", "localhost:4318", False),
        ({}, "grpc", None, "localhost:4317", False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "auto", None, "localhost:4317", False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http", "http://localhost:4318/v1/traces", "localhost:4318", False),
        ({"MC_OTEL_ENDPOINT": "https://tempo.example"}, "auto", "https://tempo.example/v1/traces", "tempo.example", True),
        ({"MC_OTEL_ENDPOINT": "https://a/otlp/"}, "auto", "https://a/otlp/v1/traces", "a", True),
        ({"MC_OTEL_ENDPOINT": "https://a/v1/traces"}, "auto", "https://a/v1/traces", "a", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://b:1"}, "auto", "https://b:1/v1/traces", "b:1", True),
        ({"MC_OTEL_ENDPOINT": "https://a:2", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://b:1"}, "grpc", None, "a:2", True),
        ({"MC_OTEL_ENDPOINT": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://b:1"}, "grpc", None, "b:1", True),
        ({"MC_OTEL_ENDPOINT": "http://[::1]:9"}, "auto", "http://[::1]:9/v1/traces", "[::1]:9", False),
        ({"MC_OTEL_ENDPOINT": "http://tempo:4318", "MC_OTEL_INSECURE": "1"}, "auto", "http://tempo:4318/v1/traces", "tempo:4318", False),
        ({"MC_OTEL_ENDPOINT": "https://tempo:4318", "MC_OTEL_INSECURE": "1"}, "grpc", None, "tempo:4318", True),
    ],
)
def test_where_events_go(environment: dict[str, str], protocol: str, url: str | None, address: str, tls: bool) -> None:
    collector = find_collector(environment, protocol)
    assert (collector.address, collector.tls, collector.protocol) == (address, tls, "http" if url else "grpc")
    assert url is None or collector.url == url


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MC_OTEL_ENDPOINT": "http://tempo:4318"}, "MC_OTEL_ENDPOINT has no TLS, and tempo is another machine; give https://, or allow"),
        ({"MC_OTEL_ENDPOINT": "http://tempo:4318", "MC_OTEL_INSECURE": "0"}, "has no TLS"),
        ({"MC_OTEL_ENDPOINT": "http://127.0.0.1.example:4318"}, "has no TLS"),
        ({"MC_OTEL_ENDPOINT": f"tempo:{SECRET}@4318"}, "MC_OTEL_ENDPOINT must be http://host:port or https://host:port"),
        ({"MC_OTEL_ENDPOINT": f"ftp://u:{SECRET}@tempo"}, "MC_OTEL_ENDPOINT must be http"),
        ({"MC_OTEL_ENDPOINT": f"https://tempo?key={SECRET}"}, "without a query; keys go into OTEL_EXPORTER_OTLP_HEADERS"),
        ({"MC_OTEL_ENDPOINT": f"https://u:{SECRET}@tempo:port"}, "invalid MC_OTEL_ENDPOINT: not a URL"),
        ({"MC_OTEL_ENDPOINT": f"https://u:{SECRET}@[tempo"}, "invalid MC_OTEL_ENDPOINT: not a URL"),
        ({"MC_OTEL_ENDPOINT": "https://"}, "MC_OTEL_ENDPOINT must be"),
        ({"MC_OTEL_ENDPOINT": "https://tem po"}, "MC_OTEL_ENDPOINT must be"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"x{SECRET}"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": f"http/json{SECRET}"}, "invalid OTEL_EXPORTER_OTLP_PROTOCOL: expected one of http/protobuf, grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "MC_OTEL_ENDPOINT": "https://tempo"}, "for grpc, with a port and without a path"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "MC_OTEL_ENDPOINT": "https://tempo:1/x"}, "for grpc, with a port and without a path"),
        ({"MC_OTEL_INSECURE": f"yes{SECRET}"}, "invalid MC_OTEL_INSECURE: expected 0 or 1"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": f"zip{SECRET}"}, "invalid OTEL_EXPORTER_OTLP_COMPRESSION: expected none or gzip"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": f"a=1,{SECRET}"}, "header 2 in OTEL_EXPORTER_OTLP_HEADERS is not name=value"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": f"a=1%0d%0a{SECRET}"}, "header 1 in OTEL_EXPORTER_OTLP_HEADERS is not"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": f"a b={SECRET}"}, "header 1 in"),
        (
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": f"/nowhere/{SECRET}"},
            "cannot read the file that OTEL_EXPORTER_OTLP_CERTIFICATE names: No such",
        ),
    ],
)
def test_what_is_wrong_is_said_and_not_repeated(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as error:
        find_collector(environment)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_credentials_become_headers_and_are_not_shown(tmp_path: Path) -> None:
    environment = {
        "MC_OTEL_ENDPOINT": f"https://us%40er:{SECRET}@tempo:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": " X-Scope = a%20b=c ,, api-key=k",
    }
    collector = find_collector(environment)
    basic = base64.b64encode(f"us@er:{SECRET}".encode()).decode()
    assert collector.headers == {"x-scope": "a b=c", "api-key": "k", "authorization": f"Basic {basic}"}
    assert collector.url == "https://tempo:4318/v1/traces"
    assert SECRET not in repr(collector) and basic not in repr(collector) and SECRET not in collector.describe()


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("x")
    with pytest.raises(UserError, match="CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together"):
        find_collector({"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "key.pem")})


def test_nobody_is_asked_for_the_password_of_a_key(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -passout pass:x -subj /CN=x -keyout key.pem -out crt.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    paths = {"CLIENT_CERTIFICATE": tmp_path / "crt.pem", "CLIENT_KEY": tmp_path / "key.pem"}
    with pytest.raises(UserError, match="invalid files of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY: expected"):
        find_collector({f"OTEL_EXPORTER_OTLP_{name}": str(path) for name, path in paths.items()})
