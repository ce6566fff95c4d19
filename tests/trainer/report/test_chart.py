"""The charts' SVG: no script, no reference, no inline style, a shape beside every colour."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tests.trainer.report import reports
from topcoat.api.report import CurvePoint
from topcoat_trainer.report import chart, html, page

HOSTILE_NAME = "<script>alert(1)</script>\"'&"


def _drawings() -> list[str]:
    report = reports.promoted()
    pictures = [
        page.score_chart(report, page.score_rows(report)),
        chart.loss_curve(page.curve_points(report)),
        chart.intervals([chart.Interval(HOSTILE_NAME, 2.0, 1.0, 3.0, "other", HOSTILE_NAME)], percent=False),
    ]
    return [drawing for picture in pictures for drawing in (picture.wide, picture.narrow)]


def test_a_drawing_is_well_formed_and_holds_nothing_that_the_page_forbids() -> None:
    drawings = _drawings()
    assert len(drawings) == 6
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "path", "line", "rect", "text", "tspan", "defs", "clipPath", "title"}
        attributes = {name for element in root.iter() for name in element.attrib}
        assert not [name for name in attributes if name == "style" or "href" in name or name.startswith("on")]


def test_a_name_from_outside_is_text_in_a_drawing() -> None:
    for drawing in _drawings()[-2:]:
        texts = [element.text or "" for element in ElementTree.fromstring(drawing).iter()]
        assert any(text.startswith("<script>") for text in texts)


def test_every_colour_of_a_drawing_is_one_that_the_page_maps() -> None:
    style = (html.TEMPLATES / "report.css").read_text()
    colours = {colour for drawing in _drawings() for colour in re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', drawing)}
    assert colours == {chart.INK, chart.MUTED, chart.GRID, chart.ACCENT, chart.OTHER}
    for colour in colours:
        assert f'[fill="{colour}"]' in style or f'[stroke="{colour}"]' in style


def test_candidate_serving_and_the_rest_differ_in_shape() -> None:
    assert len({shape for _, shape in chart.ROLES.values()}) == len(chart.ROLES) == 3


def test_a_long_training_curve_is_thinned_and_keeps_its_last_point_and_all_held_out_ones() -> None:
    training = [chart.CurvePoint(step, 1 / step, "Training") for step in range(1, 100_001)]
    held_out = [chart.CurvePoint(step, 1 / step, "Held-out") for step in range(1000, 100_001, 1000)]
    assert len(chart.loss_curve(training + held_out).wide) < 40_000


def test_losses_that_are_missing_or_not_finite_leave_a_gap_and_no_error() -> None:
    curve = [CurvePoint(step=1, epoch=0), CurvePoint(step=2, epoch=0, loss=float("nan"))]
    assert page.curve_points(reports.promoted(curve=curve)) == []
    assert 'id="learning"' not in html.render(reports.promoted(curve=curve))
