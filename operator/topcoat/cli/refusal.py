"""What the API server's refusals mean, in plain words: what is missing, and how to mend it. Talks to nobody."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from topcoat.cli import terminal

Json = dict[str, Any]
FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]+)")?'
)
LONGEST_LETTERS = 600


class Refused(terminal.Failure):
    """The API server said no."""

    def __init__(self, message: str, hint: str, answer: Answer) -> None:
        super().__init__(message, hint=hint)
        self.answer = answer
        self.status = answer.status


class Unreachable(terminal.Failure):
    """No answer came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal as the API server spells it."""

    status: int
    reason: str
    message: str
    details: Json

    @classmethod
    def read(cls, status: int, body: bytes | str) -> Answer:
        try:
            found = json.loads(body)
        except ValueError:
            found = {}
        said = found if isinstance(found, dict) else {}
        text = body.decode(errors="replace") if isinstance(body, bytes) else body
        words = str(said.get("message") or text or "")
        return cls(status, str(said.get("reason") or ""), words[:LONGEST_LETTERS], said.get("details") or {})

    @property
    def causes(self) -> list[Json]:
        return list(self.details.get("causes") or [])

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later by itself."""
        return self.status in (408, 429) or self.status >= 500


def explained(answer: Answer, where: str) -> Refused:
    """The refusal for people. `where`: the cluster, as they know it."""
    message, hint = _words(answer, where)
    return Refused(message, hint, answer)


def _words(answer: Answer, where: str) -> tuple[str, str]:
    if answer.status == 401:
        return (
            f"the API server of {where} does not accept who you are: the token or certificate is expired or wrong",
            "log in again as you do for kubectl; `kubectl auth whoami` must answer",
        )
    if answer.status == 403:
        return _forbidden(answer)
    if answer.status == 404:
        return _missing(answer, where)
    if answer.status == 409:
        return f"the object changed meanwhile: {answer.message}", "try again"
    if answer.passing:
        said = f"the API server of {where} cannot answer now ({answer.status} {answer.reason or answer.message})"
        return said, "try again in a minute"
    return answer.message or f"the API server answered {answer.status}", "mend what it names and try again"


def _forbidden(answer: Answer) -> tuple[str, str]:
    found = FORBIDDEN.search(answer.message)
    if found is None:  # a quota or an admission policy
        return answer.message, "ask the platform team; the message names the rule"
    what = found["resource"]
    place = f"in namespace {found['namespace']}" if found["namespace"] else "in the whole cluster"
    flag = f" -n {found['namespace']}" if found["namespace"] else ""
    group = f".{found['group']}" if found["group"] else ""
    name = what.partition("/")[0] + group
    part = f" --subresource={what.partition('/')[2]}" if "/" in what else ""
    check = f"kubectl auth can-i {found['verb']} {name}{part}{flag}"
    hint = f"ask for that right (docs/how-to/work-with-a-cluster.md lists the roles); `{check}` checks"
    return f"{found['user']} may not {found['verb']} {what} {place}", hint


def _missing(answer: Answer, where: str) -> tuple[str, str]:
    kind, name = answer.details.get("kind"), answer.details.get("name")
    if name:
        return f"there is no {kind or 'object'} {name!r} in {where}", "`topcoat get` lists the jobs that are there"
    return (
        f"{where} does not know Topcoat's kinds: its CRDs are not installed, or you mean another cluster",
        "`topcoat doctor cluster` says what is missing; --context names another cluster",
    )


def unreachable(error: Exception, server: str, where: str) -> Unreachable:
    """What kept the call from being answered."""
    text = " ".join(str(part) for part in (error, error.__cause__ or "", getattr(error, "reason", "")))
    known = (
        ("refused", "refuses the connection", "is the cluster up? --context names another one"),
        ("timed out", "does not answer in time", "check the network and the VPN, then try again"),
        ("Name or service not known", "is not found by name", "check the VPN and the server in your kubeconfig"),
        ("failed to resolve", "is not found by name", "check the VPN and the server in your kubeconfig"),
        ("CERTIFICATE", "shows a certificate that your kubeconfig does not trust", "fetch a fresh kubeconfig"),
        ("unreachable", "cannot be reached from here", "check the network and the VPN"),
    )
    for word, said, hint in known:
        if word.lower() in text.lower():
            return Unreachable(f"the API server of {where} ({server}) {said}", hint=hint)
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Unreachable(f"the API server of {where} ({server}) did not answer: {said}", hint="try again")
