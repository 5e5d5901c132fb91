"""What the panels look like: one function for each sort."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.heatmap import HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Lines
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TableAutoCellOptions,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""Whichever Prometheus the dashboard's variable names."""

WIDTH = 24
"""Columns of Grafana's grid."""

Panel = Heatmap | Lines | Stat | Table


@dataclass(frozen=True)
class Query:
    """What a panel asks.

    Attributes:
        expression: In PromQL.
        legend: The name of each series, with its labels in ``{{…}}``.
    """

    expression: str
    legend: str = ""


def lines(
    title: str, description: str, unit: str, *queries: Query, width: int = 8, stacked: bool = False
) -> Lines:
    """Draw series over time, from 0 up.

    Args:
        title: The panel's.
        description: What it says, and what to do about it.
        unit: One of Grafana's, for example ``s`` or ``percentunit``.
        queries: What is drawn.
        width: In columns of the grid.
        stacked: Whether the series stand on each other.
    """
    mode = StackingMode.NORMAL if stacked else StackingMode.NONE
    panel = (
        Lines()
        .unit(unit)
        .min(0)
        .fill_opacity(30 if stacked else 8)
        .stacking(StackingConfig().mode(mode).group("A"))
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    _describe(panel, title, description, width, height=8)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_series(query, letter))
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    limits: tuple[float, float] | None = None,
    name: bool = False,
) -> Stat:
    """Show one number, large.

    Args:
        title: The panel's.
        description: What it says, and what to do about it.
        unit: One of Grafana's.
        query: What is shown, its last value.
        limits: From where it is yellow, and red.
        name: Whether to show the series' name in the place of its value.
    """
    panel = (
        Stat()
        .unit(unit)
        .graph_mode(BigValueGraphMode.NONE if name else BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.NAME if name else BigValueTextMode.VALUE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .thresholds(_colours(limits))
    )
    _describe(panel, title, description, width=4, height=4)
    target = _series(query)
    # Over a range it would show every name that there was in it.
    return panel.with_target(target.instant() if name else target)


def heatmap(title: str, description: str, unit: str, query: Query) -> Heatmap:
    """Draw a histogram over time: the colour is how many fell into a bucket.

    Args:
        title: The panel's.
        description: What it says, and what to do about it.
        unit: Of the buckets' bounds; one of Grafana's.
        query: The increase of the buckets, by ``le``.
    """
    panel = (
        Heatmap()
        .calculate(False)
        .color(
            HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .exponent(0.5)
            .fill("dark-orange")
            .reverse(False)
            .steps(64)
        )
        .y_axis(YAxisConfig().unit(unit))
    )
    _describe(panel, title, description, width=8, height=8)
    return panel.with_target(_series(query).format(PromQueryFormat.HEATMAP))


def table(title: str, description: str, query: Query, *hidden: str) -> Table:
    """List the labels of series as they are now.

    Args:
        title: The panel's.
        description: What it says, and what to do about it.
        query: The series.
        hidden: Labels that are not shown.
    """
    panel = (
        Table()
        .cell_options(TableAutoCellOptions())
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": dict.fromkeys(("Time", "Value", "__name__", *hidden), True)
                },
            )
        )
    )
    _describe(panel, title, description, width=WIDTH // 2, height=5)
    return panel.with_target(_asked(query, "A").instant().format(PromQueryFormat.TABLE))


def _describe(panel: Panel, title: str, description: str, width: int, height: int) -> None:
    panel.title(title).description(description).datasource(SOURCE).span(width).height(height)


def _series(query: Query, letter: str = "A") -> Dataquery:
    target = _asked(query, letter).range().format(PromQueryFormat.TIME_SERIES)
    return target.legend_format(query.legend or "__auto")


def _asked(query: Query, letter: str) -> Dataquery:
    return Dataquery().ref_id(letter).expr(query.expression).datasource(SOURCE)


def _colours(limits: tuple[float, float] | None) -> ThresholdsConfig:
    steps = [Threshold(value=None, color="green" if limits else "text")]
    for value, colour in zip(limits or (), ("yellow", "red"), strict=False):
        steps.append(Threshold(value=value, color=colour))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
