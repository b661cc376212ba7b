"""What our dashboards are made of: rows of panels, each with queries that say whether they always have data."""

from dataclasses import dataclass
from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6  # of 24 columns
TALL, LOW = 8, 4


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, with Grafana's $variables in it."""

    expr: str
    legend: str = ""
    may_be_empty: bool = False  # without a GPU, without a failure, without a second of load


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    help: str  # what one reads from it
    queries: tuple[Query, ...]
    unit: str = "short"
    span: int = THIRD
    stacked: bool = False
    number: bool = False  # one big number each instead of curves
    most: float | None = None  # of the axis

    def build(self) -> timeseries.Panel | stat.Panel:
        return self._number() if self.number else self._curves()

    def _curves(self) -> timeseries.Panel:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        panel = timeseries.Panel().title(self.title).description(self.help).datasource(SOURCE).unit(self.unit)
        panel = panel.span(self.span).height(TALL).min(0).line_width(1).fill_opacity(30 if self.stacked else 0)
        panel = panel.legend(legend.show_legend(True))
        panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        if self.stacked:
            panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        if self.most is not None:
            panel = panel.max(self.most)
        for number, query in enumerate(self.queries):
            panel = panel.with_target(_target(query, number))
        return panel

    def _number(self) -> stat.Panel:
        panel = stat.Panel().title(self.title).description(self.help).datasource(SOURCE).unit(self.unit)
        panel = panel.span(self.span).height(LOW).color_mode(BigValueColorMode.NONE)
        for number, query in enumerate(self.queries):
            panel = panel.with_target(_target(query, number).instant())
        return panel


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable with the values that a label has."""

    name: str
    query: str  # label_values(...)
    all: bool = False  # one may look at all of them together


@dataclass(frozen=True, slots=True)
class Board:
    file: str  # without .json; also its uid, after "headrace-"
    title: str
    help: str
    rows: tuple[Row, ...]
    choices: tuple[Choice, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()  # (variable, value at first) for people to write
    events: Query | None = None  # values are milliseconds since 1970; the legend is told

    @property
    def queries(self) -> tuple[Query, ...]:
        events = (self.events,) if self.events else ()
        return (*events, *(query for row in self.rows for panel in row.panels for query in panel.queries))

    def build(self) -> dashboard.Dashboard:
        board = dashboard.Dashboard(self.title).uid(f"headrace-{self.file}").description(self.help)
        board = board.tags(["headrace"]).refresh("30s").time("now-1h", "now").timezone("browser").readonly()
        board = board.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Prometheus"))
        for choice in self.choices:
            board = board.with_variable(_variable(choice))
        for name, value in self.texts:
            board = board.with_variable(dashboard.TextBoxVariable(name).label(name).default_value(value))
        if self.events:
            board = board.annotation(_annotation(self.events))
        numbers = count(1)
        for row in self.rows:
            board = board.with_row(dashboard.Row(row.title).id(next(numbers)))
            for panel in row.panels:
                board = board.with_panel(panel.build().id(next(numbers)))
        return board


def _target(query: Query, number: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend or "__auto")
        .ref_id(chr(ord("A") + number))
        .datasource(SOURCE)
    )


def _variable(choice: Choice) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(choice.name).label(choice.name).query(choice.query).datasource(SOURCE)
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.include_all(True).multi(True).all_value(".*") if choice.all else variable


def _annotation(query: Query) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("scaling")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(query.expr)
        .title_format(query.legend)
        .use_value_for_time(True)
    )
