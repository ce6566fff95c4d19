"""Charts of the report as inline SVG, drawn by Altair at write time. No script, no style attribute, no request.

Colours are role names, not choices: each is a marker that the page's CSS maps to a light, dark or print colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair
import vl_convert

INK, MUTED, GRID, ACCENT, OTHER = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Markers in the SVG: `[fill="#010101"]` and so on in templates/report.css."""

WIDE_PIXELS, NARROW_PIXELS = 860, 340
CURVE_POINTS_AT_MOST = 400
FONT = "sans-serif"


@dataclass(frozen=True, slots=True)
class Interval:
    """One subject's score. `role` is `candidate`, `serving` or `other`; `percent` scores run from 0 to 1."""

    name: str
    value: float
    lower: float
    upper: float
    role: str
    label: str


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A loss at a step. `series` is `Training` or `Held-out`."""

    step: int
    loss: float
    series: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The same chart drawn for a wide and for a narrow page; CSS shows one of them."""

    wide: str
    narrow: str


def intervals(rows: Sequence[Interval], *, percent: bool) -> Picture:
    """A dot and its interval per row, in the given order, on one axis."""
    return Picture(*(_svg(_interval_chart(rows, percent, width)) for width in (WIDE_PIXELS, NARROW_PIXELS)))


def loss_curve(points: Sequence[CurvePoint]) -> Picture:
    """Training and held-out loss over steps; a long training curve is thinned, held-out points are kept."""
    kept = _thinned(points)
    return Picture(*(_svg(_curve_chart(kept, width)) for width in (WIDE_PIXELS, NARROW_PIXELS)))


def _interval_chart(rows: Sequence[Interval], percent: bool, width: int) -> Any:
    narrow = width == NARROW_PIXELS
    data = altair.Data(values=[_interval_value(row, index) for index, row in enumerate(rows)])
    row_pixels = 46 if narrow else 34
    left, right = (14, 66) if narrow else (206, 76)
    y = altair.Y("row:O", axis=None, scale=altair.Scale(paddingInner=0, paddingOuter=0))
    domain = [0, 1] if percent else _padded_domain(rows)
    label = "format(datum.value * 100, '.0f') + ' %'" if percent else "format(datum.value, '.2~f')"
    axis = altair.Axis(title=None, labelExpr=label, grid=True, tickCount=5 if narrow else 10, labelFlush=False)
    x = altair.X("value:Q", scale=altair.Scale(domain=domain, nice=False), axis=axis)
    by_role = altair.Color(
        "role:N", scale=altair.Scale(domain=list(ROLES), range=[r[0] for r in ROLES.values()]), legend=None
    )
    shape = altair.Shape(
        "role:N", scale=altair.Scale(domain=list(ROLES), range=[r[1] for r in ROLES.values()]), legend=None
    )
    shift = 8 if narrow else 0
    base = altair.Chart(data)
    rule = base.mark_rule(strokeWidth=2.5, strokeCap="round", yOffset=shift).encode(
        y=y, x=altair.X("lower:Q"), x2="upper:Q", color=by_role
    )
    dot = base.mark_point(filled=True, size=110, opacity=1, yOffset=shift).encode(y=y, x=x, color=by_role, shape=shape)
    texts = [_row_text(base, y, role, narrow, plot_width=width - left - right) for role in ROLES]
    layers = [rule, dot] + [text for pair in texts for text in pair]
    plot = altair.layer(*layers).properties(
        width=width - left - right, height=row_pixels * max(len(rows), 1), padding=_padding(left, right)
    )
    return _themed(plot)


ROLES = {"candidate": (ACCENT, "diamond"), "serving": (INK, "square"), "other": (OTHER, "circle")}
"""Colour and shape of each role: never colour alone."""


def _row_text(base: Any, y: Any, role: str, narrow: bool, plot_width: int) -> tuple[Any, Any]:
    """The row's name (left of the plot, or above the interval on a narrow page) and its value at the right edge."""
    weight = "normal" if role == "other" else "bold"
    mine = base.transform_filter(f"datum.role === '{role}'")
    name_at = {"x": altair.value(0 if narrow else -14)}
    name = mine.mark_text(
        align="left" if narrow else "right",
        baseline="middle",
        dy=-11 if narrow else 0,
        fontSize=13,
        fontWeight=weight,
        color=INK,
        limit=plot_width if narrow else 192,
    ).encode(y=y, text="name:N", **name_at)
    value = mine.mark_text(
        align="left", baseline="middle", dy=8 if narrow else 0, fontSize=13, fontWeight=weight, color=INK
    ).encode(y=y, text="label:N", x=altair.value(plot_width + 12))
    return name, value


def _interval_value(row: Interval, index: int) -> dict[str, Any]:
    return {
        "row": index,
        "name": row.name,
        "value": row.value,
        "lower": row.lower,
        "upper": row.upper,
        "role": row.role,
        "label": row.label,
    }


def _padded_domain(rows: Sequence[Interval]) -> list[float]:
    low = min((row.lower for row in rows), default=0.0)
    high = max((row.upper for row in rows), default=1.0)
    room = (high - low) * 0.05 or 0.5
    return [low - room, high + room]


def _curve_chart(points: Sequence[CurvePoint], width: int) -> Any:
    narrow = width == NARROW_PIXELS
    data = altair.Data(values=[{"step": p.step, "loss": p.loss, "series": p.series} for p in points])
    base = altair.Chart(data)
    x = altair.X(
        "step:Q",
        title="Optimizer step",
        scale=altair.Scale(nice=False),
        axis=altair.Axis(grid=False, tickCount=5 if narrow else 10, format="d", tickMinStep=1),
    )
    y = altair.Y(
        "loss:Q", title=None, scale=altair.Scale(zero=False, nice=True), axis=altair.Axis(tickCount=5, format=".3~g")
    )
    training = (
        base.transform_filter("datum.series === 'Training'")
        .mark_line(color=OTHER, strokeWidth=1.5, interpolate="linear")
        .encode(x=x, y=y)
    )
    held_out = base.transform_filter("datum.series === 'Held-out'")
    line = held_out.mark_line(color=ACCENT, strokeWidth=2.5).encode(x=x, y=y)
    dots = held_out.mark_point(color=ACCENT, filled=True, size=60, opacity=1, shape="diamond").encode(x=x, y=y)
    plot = altair.layer(training, line, dots).properties(
        width=width - 60, height=200 if narrow else 260, padding=_padding(44, 16)
    )
    return _themed(plot)


def _thinned(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    training = [point for point in points if point.series == "Training"]
    stride = -(-len(training) // CURVE_POINTS_AT_MOST) or 1
    kept = training[::stride]
    if training and kept[-1] != training[-1]:
        kept.append(training[-1])
    return kept + [point for point in points if point.series != "Training"]


def _padding(left: int, right: int) -> dict[str, int]:
    return {"left": left, "right": right, "top": 8, "bottom": 44}


def _themed(plot: Any) -> Any:
    axis = {
        "domain": False,
        "ticks": False,
        "gridColor": GRID,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 8,
        "titlePadding": 10,
        "labelFont": FONT,
        "titleFont": FONT,
    }
    return plot.properties(autosize=altair.AutoSizeParams(type="none")).configure(
        background="transparent", font=FONT, axis=axis, view=altair.ViewConfig(stroke=None)
    )


def _svg(plot: Any) -> str:
    """The drawing only: no link, no fixed size on the page (CSS sizes it by its viewBox)."""
    drawing = str(vl_convert.vegalite_to_svg(plot.to_dict(), allowed_base_urls=[]))
    return drawing.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
