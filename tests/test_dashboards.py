"""Grafana's dashboards: what they ask for is what telemetry sends, and Grafana can take them in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mc.telemetry.schema import PREFIX, schema
from nanochat.common import ROOT

FILES = sorted((ROOT / "obsidian/ops/dashboards").glob("grafana-*.json"))
# A selector, then one stage; what is not of this form was not meant.
QUERY = re.compile(r'\{ name = "(\w+)" && resource\.service\.name =~ "\$service" \} \| (\w+)\((.*?)\)(?: by \((.*)\))?')
STAGES = {"avg_over_time", "max_over_time", "sum_over_time", "count_over_time", "quantile_over_time", "select"}


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["query"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_attribute_is_one_that_telemetry_sends(path: Path) -> None:
    sent = schema()
    for query in queries(json.loads(path.read_text("utf-8"))):
        matched = QUERY.fullmatch(query)
        assert matched, query
        event, stage, arguments, by = matched.groups()
        assert stage in STAGES and event in sent, query
        asked = re.findall(r"span\.(\S+?)(?=[,)]|$)", f"{arguments},{by or ''}")
        assert set(asked) <= sent[event].keys() and all(name.startswith(PREFIX) for name in asked), query
        assert bool(asked) == (stage != "count_over_time") and query.count("span.") == len(asked)


def test_all_that_is_timed_and_every_event_of_a_memory_is_shown() -> None:
    shown = [query for path in FILES for query in queries(json.loads(path.read_text("utf-8")))]
    events = {QUERY.fullmatch(query)[1] for query in shown}
    assert events == schema().keys() - {"mc_preflight"}
    times = {name for name in schema()["mc_timing"] if name.endswith("_ms")} - {"mc.lens_ms"}
    assert times <= set(re.findall(r"mc\.\w+", " ".join(shown))), "an alias is enough once"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafana_can_take_it_in(path: Path) -> None:
    dashboard = json.loads(path.read_text("utf-8"))
    assert dashboard["schemaVersion"] >= 39 and dashboard["title"] and re.fullmatch(r"[a-z-]{1,40}", dashboard["uid"])
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["tempo"]["type"] == "datasource" and variables["tempo"]["query"] == "tempo"
    assert re.fullmatch(variables["service"]["query"], "megacontext-train")
    panels = dashboard["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) and panel["title"] and panel["description"]
        assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= set(letters)
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "tempo", "uid": "${tempo}"}
