"""Write the Grafana dashboards under `monitoring/dashboards/`: `make monitoring`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tools.boards import BOARDS
from tools.panels import Board, Panel

DIRECTORY = Path(__file__).resolve().parent.parent / "monitoring/dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
ROW_HEIGHT = 8
_KINDS: Mapping[str, Callable[[], Any]] = {
    "lines": timeseries.Panel,
    "number": stat.Panel,
    "states": statetimeline.Panel,
    "heatmap": heatmap.Panel,
}


def render(board: Board) -> str:
    """A dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["slackwater"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("group")
            .query("label_values(slackwater_primary_epoch, group)")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for name, expression in board.annotations:
        made = made.annotation(
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color("blue")
            .expr(expression)
        )
    for panel in board.panels:
        made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel) -> Any:
    made = _KINDS[panel.kind]()
    made = made.title(panel.title).description(panel.about).datasource(SOURCE)
    made = made.unit(panel.unit).span(panel.span).height(ROW_HEIGHT)
    for number, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend)
        query = query.ref_id(chr(ord("A") + number)).datasource(SOURCE)
        if panel.kind == "heatmap":
            query = query.format(PromQueryFormat.HEATMAP)
        made = made.with_target(query)
    return made


def main() -> int:
    """Write them all."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (DIRECTORY / f"{board.uid}.json").write_text(render(board))
    return 0


if __name__ == "__main__":
    sys.exit(main())
