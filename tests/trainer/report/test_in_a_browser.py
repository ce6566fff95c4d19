"""The page as people get it: opened in headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.report import chromium, reports
from topcoat_trainer.report import html

pytestmark = pytest.mark.skipif(
    chromium.path_or_none() is None, reason="no chromium on this machine (.ci/run installs it)"
)

REPORTS = {
    "promoted": reports.promoted(),
    "rejected": reports.rejected(),
    "inconclusive": reports.inconclusive(),
    "hostile": reports.hostile(),
}

CONTRAST = """
(() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = text => { const n = text.match(/[0-9.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  document.querySelectorAll('details').forEach(d => d.open = true);
  const found = [];
  let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color), paper = behind(element);
    const [a, b] = [light(over(ink, paper)), light(paper)].sort((x, y) => y - x);
    checked += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(node.data.trim().slice(0, 40) + ' ' + style.color + ' on ' + paper);
  }
  return [checked, found];
})()
"""

UNNAMED = """
[...document.querySelectorAll('section, nav, [role=region], [role=group], [tabindex]')].filter(
  e => !e.getAttribute('aria-label') && !document.getElementById(e.getAttribute('aria-labelledby') || '')
    && e.tagName !== 'PRE' && !e.classList.contains('text')).map(e => e.outerHTML.slice(0, 80))
"""

HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4')].map(e => Number(e.tagName[1]))"

TOO_WIDE = """
[...document.querySelectorAll('main *, header *')].filter(e => !e.closest('.scroll, pre, svg, .line')
  && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, report in REPORTS.items():
        html.write(report, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in REPORTS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", list(REPORTS))
def test_the_page_opens_without_a_complaint_a_request_or_overflow(
    browser: chromium.Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    visit = browser.open(pages[name], width=width, scheme=scheme)
    assert visit == chromium.Visit()
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate("document.title").endswith(REPORTS[name].verdict.value)
    assert "Verdict: " + REPORTS[name].verdict.value in browser.evaluate("document.querySelector('h2').innerText")
    assert browser.evaluate("document.querySelector('h2').getBoundingClientRect().bottom") < 900
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["promoted", "rejected", "inconclusive"])
def test_all_text_stands_out_from_what_is_behind_it(
    browser: chromium.Browser, pages: dict[str, Path], name: str, scheme: str
) -> None:
    browser.open(pages[name], width=1280, scheme=scheme)
    checked, faint = browser.evaluate(CONTRAST)
    assert checked > 60
    assert faint == []


def test_light_and_dark_differ(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        browser.open(pages["promoted"], width=1280, scheme=scheme)
        papers.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2


def test_headings_descend_one_step_at_a_time_and_every_region_has_a_name(
    browser: chromium.Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["promoted"], width=1280, scheme="light")
    levels = browser.evaluate(HEADINGS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.evaluate(UNNAMED) == []
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") > 30
    assert browser.evaluate("[...document.querySelectorAll('tbody tr')].every(r => r.querySelector('th[scope=row]'))")


def test_one_chart_is_shown_wide_and_the_other_narrow(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    shown = "[...document.querySelectorAll('.chart svg')].filter(e => e.getClientRects().length)"
    shown += ".map(e => e.viewBox.baseVal.width)"
    widths = []
    for width in (1280, 400):
        browser.open(pages["promoted"], width=width, scheme="light")
        widths.append(browser.evaluate(shown))
    assert [len(each) for each in widths] == [2, 2]
    assert min(widths[0]) > max(widths[1])


def test_hostile_text_runs_nothing_and_hides_nothing(browser: chromium.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"], width=1280, scheme="light")
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("document.querySelectorAll('style').length") == 1
    assert (
        browser.evaluate("document.querySelectorAll('#answers details').length") == 2 * (len(reports.HOSTILE) + 1) + 1
    )


def test_print_is_dark_on_white_also_for_a_reader_in_the_dark(
    browser: chromium.Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["rejected"], width=800, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_check_for_complaints_sees_a_blocked_script_and_a_request(
    browser: chromium.Browser, tmp_path: Path
) -> None:
    page = tmp_path / "broken.html"
    text = html.render(reports.promoted()).replace("</main>", '<script>boom()</script><img src="other.png"></main>')
    page.write_text(text)
    assert browser.open(page, width=1280, scheme="light").complaints
    page.write_text(
        text.replace("default-src 'none'", "default-src * 'unsafe-inline'").replace("img-src data:", "img-src *")
    )
    visit = browser.open(page, width=1280, scheme="light")
    assert visit.requests
    assert any("ReferenceError" in complaint for complaint in visit.complaints)
