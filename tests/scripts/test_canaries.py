"""Thirty planted canaries, in variables, settings and texts: where each may turn up, and that it turns up nowhere else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest

from bench.tiny_chat import running, save_chat_model
from bench.tiny_run import TAG, Home, write_corpus
from bench.warm_start import WarmStart
from nanochat.data.tokenizer import Tokenizer
from tests.helpers.otlp_receiver import receiver


def canary(number: int) -> str:
    """As long as a key, and of hexadecimal digits, as W&B wants its keys."""
    return f"{number:02d}" + f"{0xC0FFEE + 7919 * number:038x}"


# Secrets: by the variable that holds them, whatever comes to hold them as well, and by their place in a URL.
VARIABLES = {
    name: canary(number)
    for number, name in enumerate(
        "WANDB_API_KEY HF_TOKEN HUGGING_FACE_HUB_TOKEN MC_CHAT_TOKEN OPENAI_API_KEY AWS_SECRET_ACCESS_KEY GITHUB_TOKEN DB_PASSWORD "
        "SIGNING_KEY MY_SECRET GOOGLE_CREDENTIALS AZURE_CLIENT_SECRET".split()
    )
}
HEADER, BEARER, COLLECTOR_USER, COLLECTOR_PASSWORD = (canary(number) for number in (12, 13, 14, 15))
URL_USER, URL_PASSWORD, URL_TOKEN = (canary(number) for number in (16, 17, 18))
SECRETS = [*VARIABLES.values(), HEADER, BEARER, COLLECTOR_USER, COLLECTOR_PASSWORD, URL_USER, URL_PASSWORD, URL_TOKEN]
# Variables that nobody reads, and texts: in no event, and in no record of a run.
PLAIN_VARIABLE, TRAINING_TEXT, PROMPT, SYSTEM_PROMPT, DOCUMENT, TYPED = (canary(number) for number in (19, 20, 21, 22, 23, 24))
# Names that the user gives belong into the records of a run, and into no event.
RUN, DATASET, SESSION, DOCUMENT_NAME, NOTE = (canary(number) for number in (25, 26, 27, 28, 29))
TEXTS = [PLAIN_VARIABLE, TRAINING_TEXT, PROMPT, SYSTEM_PROMPT, DOCUMENT, TYPED]
ALL = [*SECRETS, *TEXTS, RUN, DATASET, SESSION, DOCUMENT_NAME, NOTE]


def environment(endpoint: str) -> dict[str, str]:
    """The variables of a user who has all these secrets."""
    return {
        **VARIABLES,
        "MC_OTEL_ENDPOINT": endpoint.replace("http://", f"http://{COLLECTOR_USER}:{COLLECTOR_PASSWORD}@"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={HEADER},x-auth=Bearer%20{BEARER}",
        "NOTE_TO_SELF": PLAIN_VARIABLE,
        "OTEL_RESOURCE_ATTRIBUTES": f"note={NOTE}",
        "OTEL_SERVICE_NAME": NOTE,
        "WANDB_MODE": "offline",
    }


def found(canaries: Iterable[str], *where: bytes | str) -> set[str]:
    """Those that are somewhere in `where`, as they are or as in a URL."""
    texts = [text.encode() if isinstance(text, str) else text for text in where]
    return {c for c in canaries if any(c.encode() in text or quote(c).encode() in text for text in texts)}


def files(folder: Path) -> list[bytes]:
    """The contents of all files under it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert paths, folder
    return [path.read_bytes() for path in paths]


@pytest.fixture
def trained(tmp_path: Path, warm: WarmStart) -> Home:
    corpus = tmp_path / DATASET
    texts = write_corpus(corpus)
    for number, path in enumerate(sorted(corpus.glob("*.txt"))):
        path.write_text(f"{TRAINING_TEXT} {texts[number]}")
    Tokenizer.train([TRAINING_TEXT, *texts], 300).save(tmp_path / "base" / "tokenizer")
    return Home(tmp_path / "base", corpus, warm, f"{TAG}-mc")


def test_there_are_thirty() -> None:
    assert len(set(ALL)) == len(ALL) == 30


def test_training(trained: Home, tmp_path: Path) -> None:
    name = f"{RUN} https://{URL_USER}:{URL_PASSWORD}@host/x?token={URL_TOKEN} {VARIABLES['HF_TOKEN']}"
    flags = (
        "--max-seq-len=128",
        "--total-batch-size=512",
        "--num-iterations=2",
        "--eval-every=1",
        "--eval-tokens=512",
        "--mc",
        "--block-size=8",
    )
    with receiver() as there:
        done = trained.train(*flags, "--mc-log-lod-ascii", f"--run={name}", environment=environment(there.endpoint))
        assert done.code == 0, done.stderr
        wrong = trained.train(*flags, f"--init-from={name}", environment=environment(there.endpoint))
        assert wrong.code != 0 and "***" in wrong.stderr
        assert len(there.named("mc_timing")) == 2 and there.services == {"megacontext-train"}
        assert found(ALL, *there.requests) == set(), "an event holds none"
        assert there.headers[0]["x-key"] == HEADER, "the collector is told what is meant for it, and nothing but that"
        assert found(ALL, json.dumps(there.headers)) == {HEADER, BEARER}
    written = [*files(trained.base / "base_runs"), *files(trained.checkpoints), *files(trained.base / "report")]
    assert list((trained.base / "base_runs").rglob("*.wandb")) and (trained.checkpoints / "step_0000002").exists()
    said = (done.stdout, done.stderr, wrong.stdout, wrong.stderr)
    assert found([*SECRETS, *TEXTS, NOTE], *written, *said) == set()
    assert found([RUN, DATASET], *written) == {RUN, DATASET}, "what the user named the run and its data after is kept"


def test_chats(tmp_path: Path, warm: WarmStart) -> None:
    save_chat_model(tmp_path, "alphabet", certainty=30.0, context_tokens=128, memory=True)
    home = Home(tmp_path, tmp_path, warm)
    document = tmp_path / f"{DOCUMENT_NAME}.txt"
    document.write_text(f"{DOCUMENT} " * 20)
    talk = ("--mc", "-t", "0", "--max-tokens", "27", "--device-type", "cpu", "--mc-session-lod", "3", f"--session={SESSION}")
    with receiver("grpc") as there:
        surroundings = {**environment(there.endpoint), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        done = home.run("scripts.chat_cli", *talk, f"--ingest={document}", "-p", PROMPT, environment=surroundings)
        assert done.code == 0, done.stderr
        assert there.services == {"megacontext-chat"} and len(there.named("inference_update")) == 2
        del surroundings["MC_CHAT_TOKEN"]
        with running(
            warm, tmp_path, "--mc", "--mc-tree=disk", "--mc-session-lod=3", "-g=alphabet", "-t=0", environment=surroundings
        ) as server:
            asked = {
                "session": SESSION,
                "messages": [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": TYPED}],
                "max_tokens": 27,
            }
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            connection.close()
        web = server.process
        assert there.services == {"megacontext-chat", "megacontext-web"} and len(there.named("inference_update")) == 3
        assert found(ALL, *there.requests) == set()
    said = (done.stdout, done.stderr, web.stdout, web.stderr)
    assert found([*SECRETS, PLAIN_VARIABLE, PROMPT, SYSTEM_PROMPT, DOCUMENT, TYPED, NOTE], *said) == set()
