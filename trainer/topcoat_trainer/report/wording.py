"""Numbers and untrusted text as words on a page: one place decides digits, units and what is shown of hostile text.

Pure; knows no file, and of a report no more than its units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from topcoat.api.report import Unit

TEXT_CHARACTERS_AT_MOST = 4000
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric reads. `unit` is `percent` or `plain`; `lower_is_better` as the gate has it."""

    words: str
    unit: str = "percent"
    lower_is_better: bool = False


MEASURES = {
    "Accuracy": Measure("accuracy"),
    "ExactMatch": Measure("exact match"),
    "F1": Measure("F1"),
    "RougeL": Measure("ROUGE-L"),
    "JSONValid": Measure("valid JSON"),
    "FieldAccuracy": Measure("right fields"),
    "Loss": Measure("loss per token", "plain", lower_is_better=True),
    "Perplexity": Measure("perplexity", "plain", lower_is_better=True),
}


def measure(metric: str) -> Measure:
    """How this metric reads; one that is not in the table is a plain number, higher is better."""
    return MEASURES.get(metric) or Measure(metric, "plain")


def score(metric: str, value: float) -> str:
    """`81.7 %` or `0.412`."""
    return f"{value * 100:.1f} %" if measure(metric).unit == "percent" else f"{value:.3f}"


def difference(metric: str, value: float) -> str:
    """An improvement with its sign: `+42.3 points` or `+0.412`; a true minus sign, and none at zero."""
    percent = measure(metric).unit == "percent"
    text = f"{value * 100:+.1f}" if percent else f"{value:+.3f}"
    if not float(text):
        text = text[1:]
    return text.replace("-", "\u2212") + (" points" if percent else "")


def interval(metric: str, lower: float, upper: float) -> str:
    """`77.3 to 86.1 %` or `0.570 to 0.650`."""
    if measure(metric).unit == "percent":
        return f"{lower * 100:.1f} to {upper * 100:.1f} %"
    return f"{lower:.3f} to {upper:.3f}"


def count(value: float) -> str:
    """`12,345`; a fraction is rounded."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """`2.3 %`; nothing, or a part of nothing, is `0 %`."""
    return f"{100 * part / whole:.1f} %" if whole and part else "0 %"


def plural(number: int, noun: str) -> str:
    """`1 time`, `2 times`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def seconds(value: float) -> str:
    """`< 0.001 s`, `0.061 s`, `3.1 s`, `4 min 05 s`, `2 h 10 min`."""
    if 0 < value < 0.001:
        return "< 0.001 s"
    if value < 1:
        return f"{value:.3f} s"
    if round(value, 1) < MINUTE:
        return f"{value:.1f} s"
    if round(value) < HOUR:
        minutes, rest = divmod(round(value), MINUTE)
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(value / MINUTE), MINUTE)
    return f"{hours} h {rest:02d} min"


def size(value: float) -> str:
    """Bytes in binary units: `269 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def amount(unit: Unit, value: float | None, missing: str) -> str:
    """A number of an estimate: `12.4 s`, `269 MiB`, `0.31 h`; the given word where there is none."""
    if value is None:
        return missing
    return {Unit.SECONDS: seconds, Unit.BYTES: size, Unit.HOURS: "{:.3g} h".format}[unit](value)


def moment(rfc3339: str) -> str:
    """`23 November 2026, 13:40 UTC`; anything unreadable as it is."""
    try:
        return f"{datetime.fromisoformat(rfc3339).astimezone(UTC):%-d %B %Y, %H:%M} UTC"
    except ValueError:
        return rfc3339


def elapsed(start: str, end: str) -> str:
    """Wall time between two RFC 3339 moments; empty where one is unreadable."""
    try:
        return seconds((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return ""


_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\ufffd" if 0xD800 <= code <= 0xDFFF or code >= 0xFFFE else f"[U+{code:04X}]"


def visible(value: object) -> object:
    """Untrusted text with control characters, direction overrides and lone surrogates made visible.

    Every value of a template passes through here; escaping comes after it. Markup of our own is left alone.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNSEEN.sub(_visible, value.replace("\r\n", "\n"))


def sentence(text: str) -> str:
    """The same text with a capital first letter; the rest stays (`F1`, `ROUGE-L`)."""
    return text[:1].upper() + text[1:]


def cut(text: str, characters: int = TEXT_CHARACTERS_AT_MOST) -> str:
    """A long text's beginning, and how much was left out."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}\n… {len(text) - characters:,} more characters are left out here"
