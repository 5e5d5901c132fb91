"""The dashboard: its variables, and its rows one below the other."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard as DashboardModel,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.dashboard.panels import SOURCE
from deploy.dashboard.rows import ROWS

FILE = Path(__file__).parents[1] / "compose" / "grafana" / "dashboards" / "tlserve.json"
"""Where Grafana finds it."""


def board() -> DashboardModel:
    """Build the dashboard."""
    built = (
        Dashboard("tlserve")
        .uid("tlserve")
        .description("A service of tlserve: traffic, latency by part, batches, answers, processes.")
        .tags(["tlserve"])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("model", "Model", "label_values(tlserve_model_info, name)"))
        .with_variable(
            _choice(
                "instance",
                "Instance",
                'label_values(tlserve_model_info{name=~"$model"}, instance)',
            )
        )
    )
    # Numbered, so that a link to one panel stays right.
    numbers = count(1)
    for title, panels in ROWS.items():
        built.with_row(Row(title).id(next(numbers)))
        for panel in panels:
            built.with_panel(panel.id(next(numbers)))
    return built.build()


def text() -> str:
    """Write it as the file's text."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board()) + "\n"


def _choice(name: str, label: str, query: str) -> QueryVariable:
    """Offer the values of a label; any number of them, all at first."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .definition(query)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
