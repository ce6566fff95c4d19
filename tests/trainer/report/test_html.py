"""The page as text: what it says, what it never says, and what untrusted text cannot do to it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.trainer.report import reports
from topcoat.api.report import EvaluationReport
from topcoat_trainer.report import html, page

CANARY = "canary-7f3a"


class Outline(HTMLParser):
    """Tags, their attributes, and the text outside <style>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.answers = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in ("style", "section"):
            self._inside.append(dict(attributes).get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "section"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["answers"]:
            self.answers += data
        elif self._inside[-1:] != ["style"]:
            self.text += data


@pytest.mark.parametrize(
    ("report", "verdict", "consequence"),
    [
        (reports.promoted(), "Verdict: Promote", "the gate lets it serve"),
        (reports.rejected(), "Verdict: Reject", "v2 is not served. It is kept, sealed, and explained here. v1 goes on"),
        (reports.inconclusive(), "Verdict: Inconclusive", "the held-out rows cannot tell. It is kept, but not served."),
    ],
)
def test_the_page_opens_with_the_verdict_its_meaning_and_its_reasons(
    report: EvaluationReport, verdict: str, consequence: str
) -> None:
    text = Outline(html.render(report)).text
    assert text.index(verdict) < text.index(consequence) < text.index(report.reasons[0]) < text.index(report.rule)


def test_a_serving_version_that_could_not_be_scored_goes_on_serving_all_the_same() -> None:
    assert "v1 goes on serving" in page.meaning(reports.rejected(serving=None))
    assert "Nothing else serves" in page.meaning(reports.inconclusive())


def test_the_score_table_ends_with_the_tuned_model_and_says_whether_it_was_worth_it() -> None:
    report = reports.promoted()
    rows = page.score_rows(report)
    assert [row.name for row in rows] == [
        "Base model, free answer",
        "Base model, given the labels",
        "Base model, examples in the prompt",
        "Base model, nearest examples in the prompt",
        "Text classifier, no language model",
        "Serving now: v1",
        "Tuned: v2, free answer",
        "Tuned: v2",
    ]
    said = page.worth_it(report, rows)
    assert "16.7 points better than the best cheaper way" in said
    assert "do not overlap" in said
    assert said in Outline(html.render(report)).text


def test_a_tuned_model_that_loses_to_a_cheaper_way_says_so() -> None:
    report = reports.rejected()
    assert "24.0 points worse than the best cheaper way" in page.worth_it(report, page.score_rows(report))


def test_where_lower_is_better_the_best_cheaper_way_is_the_lowest() -> None:
    scores = [
        reports.score(subject, value, "Loss") for subject, value in [("base", 2.0), ("prompt", 1.5), ("candidate", 1.0)]
    ]
    report = reports.promoted(metric="Loss", scores=scores, base=2.0, candidate=1.0, serving=None, delta=1.0)
    assert "0.500 better than the best cheaper way (Base model, examples in the prompt: 1.500)" in page.worth_it(
        report, page.score_rows(report)
    )
    assert "lower is better" in Outline(html.render(report)).text


def test_trials_stand_in_tables_with_what_they_chose() -> None:
    report = reports.promoted(layer_trials=reports.layer_trials(), sweep_trials=reports.sweep_trials())
    text = " ".join(Outline(html.render(report)).text.split())
    assert "8chosen 15 1.234 97 % 2 ×" in text
    assert "15memory ran out with 1 rows in a forward pass 15 – – 3.8 ×" in text
    assert "0.001chosen 16 68 0.875" in text
    assert "a gradient of step 3 is not finite" in text
    assert "no trial saw a held-out row of the gate" in text
    assert 'href="#trials"' in html.render(report)


def test_a_run_without_trials_says_nothing_of_them() -> None:
    assert "trials" not in html.render(reports.promoted()).lower()


def test_lineage_and_data_card_name_every_digest() -> None:
    report = reports.promoted()
    text = Outline(html.render(report)).text
    for fact in (
        report.dataset.digest,
        report.dataset.holdout_digest,
        report.base_model.digest,
        report.dataset.split_rule,
    ):
        assert fact in text


def test_the_page_holds_no_script_and_no_address_outside_itself() -> None:
    for report in (reports.promoted(), reports.hostile()):
        outline = Outline(html.render(report))
        assert len(outline.tags) > 300
        assert not [
            tag for tag, _ in outline.tags if tag in ("script", "iframe", "object", "embed", "form", "base", "img")
        ]
        addresses = [
            (name, value)
            for _, attributes in outline.tags
            for name, value in attributes.items()
            if name in ("src", "href", "xlink:href", "action", "srcset")
        ]
        assert {value for _, value in addresses if not (value or "").startswith("#")} == {"data:,"}
        assert not [a for _, attributes in outline.tags for a in attributes if a.startswith("on") or a == "style"]


def test_the_policy_allows_this_style_sheet_and_nothing_else() -> None:
    text = html.render(reports.promoted())
    found = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert found
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    policy = next(a["content"] or "" for t, a in Outline(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy


def test_untrusted_text_is_escaped_wherever_it_stands() -> None:
    text = html.render(reports.hostile())
    assert "<script>document" not in text
    assert "&lt;script&gt;document" in text
    assert "{{ report.base_model.path }}" in text.replace("&#39;", "'")
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
    assert text.encode("utf-8")


def test_text_of_rows_appears_among_wins_and_losses_only() -> None:
    pair = reports.pair(
        1, prompt=f"{CANARY}-asked", expected=f"{CANARY}-right", before=f"{CANARY}-base", after=f"{CANARY}-tuned"
    )
    card = reports.data_card(system_prompt=f"{CANARY}-system")
    report = reports.promoted(wins=[pair], losses=[pair], dataset=card)
    outline = Outline(html.render(report))
    assert outline.answers.count(CANARY) >= 9
    assert CANARY not in outline.text
    assert not [a for _, attributes in outline.tags for a in attributes.values() if a and CANARY in a]


def test_a_very_long_answer_is_cut_and_the_page_stays_small() -> None:
    pairs = [reports.pair(row, prompt="p" * 100_000, before="b" * 100_000, after="a" * 100_000) for row in range(20)]
    text = html.render(reports.promoted(wins=pairs, losses=pairs))
    assert "96,000 more characters are left out here" in text
    assert len(text) < 800_000


def test_a_bare_report_has_a_page_too() -> None:
    bare = reports.inconclusive(scores=[], comparisons=[], reasons=[])
    text = Outline(html.render(bare)).text
    assert "Verdict: Inconclusive" in text
    assert "No stage was timed." in text


def test_many_labels_are_cut_to_the_most_frequent_ones() -> None:
    names = [f"label {number}" for number in range(100)]
    report = reports.promoted(
        confusion=reports.confusion(names), dataset=reports.data_card(labels=dict.fromkeys(names, 3))
    )
    matrix = page.matrix(reports.confusion(names))
    assert len(matrix.labels) == page.LABELS_AT_MOST
    assert matrix.left_out == 100 - page.LABELS_AT_MOST
    assert "76 rarer labels are left out" in Outline(html.render(report)).text


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    html.write(reports.promoted(), tmp_path / "one.html")
    html.write(reports.promoted(), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.html", "two.html"}


def test_what_was_estimated_stands_beside_what_was_measured_and_the_unknown_is_called_so() -> None:
    said = html.render(reports.promoted())
    cells = re.findall(r'<tr><th scope="row">([^<]*)</th>((?:<td class="number">[^<]*</td>){3})</tr>', said)
    table = {part: re.findall(r">([^<]+)</td>", row) for part, row in cells}
    assert table["Training"] == ["1 min 00 s", "1 min 15 s", "1.25"]
    assert table["Peak memory"] == ["2 GiB", "3 GiB", "1.50"]
    assert table["GPU hours"] == ["unknown", "0.25 h", "–"]
    assert "Estimated before the run" not in html.render(reports.inconclusive())
