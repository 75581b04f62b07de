"""/metrics: what Prometheus reads is what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.helpers.http_client import recite, serving

CHAT = "/v1/chat/completions"


@pytest.fixture
def client() -> Iterator[TestClient]:
    with serving(recite()) as started:
        yield started


def scraped(client: TestClient, headers: dict[str, str] | None = None) -> dict[str, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {"|".join([sample.name, *(sample.labels[name] for name in sorted(sample.labels))]): sample.value for sample in samples}


def test_requests_replies_and_tokens_are_counted(client: TestClient) -> None:
    for stream in (False, True):
        client.post(CHAT, json={"messages": [{"role": "user", "content": "go"}], "max_tokens": 5, "n": 2, "stream": stream})
    client.post(CHAT, json={"messages": []})
    client.get("/v1/models/unknown-secret-name")
    client.get("/nowhere-secret-path")
    found = scraped(client)
    assert found["megacontext_requests_total"] == 2 and found["megacontext_finished_total"] == 2
    assert found["megacontext_tokens_total"] == 20 and found["megacontext_prompt_tokens_total"] == 12
    assert found["megacontext_replies_active"] == found["megacontext_replies_queued"] == 0
    assert found[f"megacontext_http_requests_total|{CHAT}|200"] == 2 and found[f"megacontext_http_requests_total|{CHAT}|400"] == 1
    assert found["megacontext_http_requests_total|/v1/models/{name}|404"] == 1 and found["megacontext_http_requests_total|other|404"] == 1
    for name in ("time_to_first_token", "time_per_output_token", "reply"):
        assert found[f"megacontext_{name}_seconds_count"] == 4 and 0 < found[f"megacontext_{name}_seconds_sum"] < 100
    assert not any("secret" in name for name in found)


def test_sessions_that_cannot_be_counted_are_not_a_number() -> None:
    with serving(recite(), sessions={}) as client:  # the thread keeps none and refuses to list them
        assert math.isnan(scraped(client)["megacontext_sessions"])


def test_the_token_protects_them() -> None:
    with serving(recite(), keys={"correct-horse": ""}) as client:
        for path in ("/metrics", "/api/tags", "/tokenizer_info"):
            assert client.get(path).status_code == 401
        assert scraped(client, {"authorization": "Bearer correct-horse"})["megacontext_requests_total"] == 0
        for path in ("/tokenize", "/detokenize", "/v1/completions", "/api/chat", "/api/generate", "/api/show"):
            assert client.post(path, json={}).status_code == 401
