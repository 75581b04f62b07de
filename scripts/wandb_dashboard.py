"""Creates the W&B dashboard 'MC vs Baseline (Tokens)': a saved view of a project's workspace that includes new runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat import flags
from nanochat.common import ROOT, UserError, read_json
from nanochat.flags import flag
from nanochat.redaction import redact

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TEMPLATE = ROOT / "obsidian/ops/dashboards/wandb-mc-vs-baseline.json"


@dataclass
class WandbDashboard:
    """Create the W&B dashboard that compares a run with a memory with its baseline, against tokens."""

    project: str = flag("nanochat", "W&B project of the runs")
    entity: str = flag("", "W&B user or team; empty = the key's owner")
    template: str = flag("", "JSON file with title and panels; empty = the one in obsidian/ops/dashboards")
    dry_run: bool = flag(False, "print the dashboard as JSON and exit")

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("project is empty; give the name of a W&B project")


@dataclass(frozen=True)
class Panel:
    """Chart of metrics over the template's x."""

    title: str
    metrics: list[str]


@dataclass(frozen=True)
class Template:
    """Contents of a dashboard. `x` is the metric of its x axis, `x_title` the title."""

    title: str
    description: str
    x: str
    x_title: str
    panels: list[Panel]


def read_template(path: Path) -> Template:
    """Reads a dashboard. Raises `UserError` if it is missing or invalid."""
    read = read_json(path)
    try:
        panels = [Panel(panel["title"], panel["metrics"]) for panel in read["panels"]]
        template = Template(read["title"], read["description"], read["x"], read["x_title"], panels)
    except (KeyError, TypeError) as error:
        raise UserError(f"invalid dashboard {path}; expected title, description, x, x_title and panels with title and metrics") from error
    lists = [panels, *(panel.metrics for panel in panels)]
    texts = [template.title, template.description, template.x, template.x_title, *(panel.title for panel in panels)]
    texts += [metric for panel in panels if isinstance(panel.metrics, list) for metric in panel.metrics]
    if not all(isinstance(item, list) and item for item in lists) or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"invalid dashboard {path}; expected texts for titles and metrics, and metrics in every panel")
    return template


def main(argv: list[str] | None = None) -> int:
    """Creates the dashboard and returns the exit code."""
    config = flags.parse(WandbDashboard, argv)
    template = read_template(Path(config.template) if config.template else TEMPLATE)
    if config.dry_run:
        print(json.dumps({"entity": config.entity, "project": config.project} | dataclasses.asdict(template), indent=1, ensure_ascii=False))
        return 0
    try:
        import wandb
        import wandb_workspaces  # noqa: F401 (raises if it is missing)
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    except ModuleNotFoundError as error:
        raise UserError(f"W&B dashboards need the package {error.name}; install it: pip install wandb-workspaces") from error
    try:
        view = make_view(template, config.entity or wandb.Api().default_entity, config.project)
        view.save()
    except (wandb.Error, WandbApiFailedError) as error:  # the second is not a wandb.Error
        reason = redact(str(error)).partition("\n")[0]
        raise UserError(f"W&B rejected the dashboard: {reason}; check WANDB_API_KEY, --entity and --project") from error
    print(f"created: {view.url}")
    return 0


def make_view(template: Template, entity: str, project: str) -> Workspace:
    """A view of the project's workspace with one section, not yet saved."""
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.workspaces import Section, Workspace, WorkspaceSettings

    panels = [LinePlot(title=panel.title, x=template.x, y=panel.metrics, title_x=template.x_title) for panel in template.panels]
    section = Section(name=template.title, panels=panels, is_open=True, pinned=True)
    settings = WorkspaceSettings(x_axis=template.x)
    return Workspace(entity=entity, project=project, name=template.title, sections=[section], settings=settings)


if __name__ == "__main__":
    flags.run(main)
