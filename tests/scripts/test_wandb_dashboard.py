import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nanochat.common import ROOT
from scripts.wandb_dashboard import TEMPLATE, main, read_template

KEY = "0123456789abcdef0123456789abcdef01234567"
TITLE = "MC vs Baseline (Tokens)"


class FakeWandb(ThreadingHTTPServer):
    """Plays W&B's GraphQL endpoint: knows one user of team `team`, takes views, or refuses them."""

    daemon_threads = True

    def __init__(self, refuses: bool) -> None:
        self.refuses, self.views, self.users = refuses, [], set()
        super().__init__(("127.0.0.1", 0), Handler)

    def answer(self, query: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "upsertView" not in query["query"]:
            return 200, {"data": {"viewer": {"id": "U", "entity": "team", "username": "me", "teams": {"edges": []}, "flags": "{}"}}}
        if self.refuses:
            return 403, {"errors": [{"message": "permission denied"}]}
        self.views.append(query["variables"])
        return 200, {"data": {"upsertView": {"view": {"id": "V", "name": "nw-abc-v"}, "inserted": True}}}


class Handler(BaseHTTPRequestHandler):
    server: FakeWandb

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/graphql":
            return self.send_error(404)
        scheme, _, secret = self.headers.get("authorization", "").partition(" ")
        self.server.users.add((scheme, base64.b64decode(secret).decode()))
        code, answer = self.server.answer(json.loads(body))
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[FakeWandb]:
    with FakeWandb(refuses=getattr(request, "param", False)) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def create(server: FakeWandb, home: Path, *flags: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_MODE": "online", "HOME": str(home)}
    environment |= {"WANDB_API_KEY": key, "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-m", "scripts.wandb_dashboard", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={k: v for k, v in environment.items() if v}, timeout=120)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("wandb:")]


def test_the_view_is_sent_to_wandb(server: FakeWandb, tmp_path: Path) -> None:
    done = create(server, tmp_path, "--project", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"created: http://127.0.0.1:{server.server_port}/team/demo?nw=abc\n"
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"], view["type"]) == ("team", "demo", TITLE, "project-view")
    section = json.loads(view["spec"])["section"]
    assert section["settings"]["xAxis"] == "total_tokens"
    (shown,) = section["panelBankConfig"]["sections"]
    assert shown["name"] == TITLE and shown["isOpen"]
    charts = [(panel["config"]["chartTitle"], panel["config"]["metrics"]) for panel in shown["panels"]]
    assert charts == [(panel.title, panel.metrics) for panel in read_template(TEMPLATE).panels]
    assert {panel["config"]["xAxis"] for panel in shown["panels"]} == {"total_tokens"}
    assert server.users == {("Basic", f"api:{KEY}")}


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_refusal_is_one_line(server: FakeWandb, tmp_path: Path) -> None:
    done = create(server, tmp_path, "--entity", "others")
    (error,) = errors(done)
    assert done.returncode == 1 and error.startswith("error: W&B rejected the dashboard: ") and "permission denied" in error
    assert KEY not in done.stdout + done.stderr


def test_no_key_is_one_line(server: FakeWandb, tmp_path: Path) -> None:
    done = create(server, tmp_path, key="")
    (error,) = errors(done)
    assert done.returncode == 1 and "No API key" in error and server.views == []


# --- without W&B ---


def test_a_dry_run_sends_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert main(["--dry-run", "--project=demo", "--entity=team"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"entity": "team", "project": "demo"} | json.loads(TEMPLATE.read_text("utf-8"))


def test_the_template_has_the_panels_that_are_promised() -> None:
    template = read_template(TEMPLATE)
    assert template.title == TITLE and template.x == "total_tokens"
    shown = {metric for panel in template.panels for metric in panel.metrics}
    promised = (
        "train/loss val/bpb train/grad_accum_steps mc/grad_accum_steps train/tok_per_sec mc/other_ms mc/variant_pack_ms mc/lod_delta/1"
    )
    assert set(promised.split()) <= shown


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['wandb_workspaces'] = None\n"
    code += "from nanochat.flags import run; from scripts.wandb_dashboard import main; run(lambda: main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (
        1,
        "error: W&B dashboards need the package wandb_workspaces; install it: pip install wandb-workspaces\n",
    )


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"title": "t", "description": "d", "x": "x", "x_title": "x", "panels": []}',
        '{"title": "t", "description": "d", "x": "x", "x_title": "x", "panels": [{"title": "t", "metrics": []}]}',
        '{"title": "t", "description": "d", "x": "x", "x_title": "x", "panels": [{"title": "t", "metrics": "train/loss"}]}',
        '{"title": "t", "description": "d", "x": 1, "x_title": "x", "panels": [{"title": "t", "metrics": ["a"]}]}',
        "{",
    ],
)
def test_a_broken_template_is_one_line(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    from nanochat.flags import run

    path = tmp_path / "dashboard.json"
    for written, message in (content, str(path)), (None, "is missing"):
        path.write_text(written) if written is not None else path.unlink()
        with pytest.raises(SystemExit) as ended:
            run(lambda: main(["--dry-run", "--template", str(path)]))
        error = capsys.readouterr().err
        assert ended.value.code == 1 and error.startswith("error: ") and message in error and error.count("\n") == 1


def test_an_empty_project_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--project="])
    assert ended.value.code == 2 and "project is empty" in capsys.readouterr().err
