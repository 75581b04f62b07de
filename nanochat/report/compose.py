"""Composes the whole report: Markdown with figures, and one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from nanochat import markdown
from nanochat.common import UserError, atomic_write
from nanochat.report.handover import add_alerts, add_check, add_checkpoints, add_commands, add_environment, collect_alerts
from nanochat.report.html import to_html
from nanochat.report.page import Page, readable
from nanochat.report.results import add_evaluation, add_memory, add_other_values, add_samples, add_training
from nanochat.report.sections import CHECK, Collected, collect
from nanochat.report.summary import add_stages, add_summary
from nanochat.tracking.sinks import show_seconds


def generate(out: Path) -> list[str]:
    """Writes the report to `out`, its figures and report.html next to it; returns the stages of the recipe that are missing.

    Raises `UserError` if a section is broken or `out` cannot be written.
    """
    collected = collect()
    write(compose(collected), out)
    return collected.missing


def compose(collected: Collected) -> Page:
    """Page about all that was collected, with gaps for what is missing. Raises `UserError` if metrics or alerts cannot be read."""
    page, alerts = Page(), collect_alerts(collected)
    add_summary(page, collected, alerts)
    add_stages(page, collected)
    add_training(page, collected)
    add_memory(page, collected)
    add_evaluation(page, collected)
    add_samples(page, collected)
    add_alerts(page, alerts)
    add_check(page, collected)
    add_environment(page)
    add_commands(page, collected)
    add_checkpoints(page, collected)
    _add_details(page, collected)
    return page


def write(page: Page, out: Path) -> Path:
    """Writes the page to `out`, its figures next to it, and all of it as one HTML file, whose path it returns.

    Raises `UserError` if they cannot be written.
    """
    html = out.with_suffix(".html")
    if html == out:
        raise UserError(f"invalid --out {out}: the HTML file goes there; expected a name that ends in .md")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {out.parent}: {error.strerror}; choose another --out") from error
    for name, png in page.figures.items():
        atomic_write(out.parent / name, png)
    atomic_write(out, page.text)
    atomic_write(html, to_html(page.text, page.figures))
    return html


def _add_details(page: Page, collected: Collected) -> None:
    """Adds the remaining values of every stage, including stages that no recipe knows."""
    page.add("## Details")
    order = [entry.section_name for entry in collected.entries]
    for name in [*(name for name in order if name in collected.sections), *sorted(set(collected.sections) - set(order) - {CHECK})]:
        record = collected.sections[name]
        seconds = record["process_seconds"]
        after = "" if seconds is None else f", {show_seconds(seconds)} after its process began"
        page.add(f"### {markdown.escape(_title(name))}", f"*Reported {readable(record['timestamp'])} UTC{after}.*")
        add_other_values(page, name, record["values"], name in order)
    page.add_if_empty("No stage has reported.")


def _title(name: str) -> str:
    text = markdown.label(name.removesuffix("_mc")) + " with a MegaContext" * name.endswith("_mc")
    return text[:1].upper() + text[1:]
