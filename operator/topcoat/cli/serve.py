"""`topcoat serve`: one server for the promoted versions of a store, which follows promotions until Ctrl-C.

Says who answers; the server itself proves that before an alias moves, as in a cluster.
"""

from __future__ import annotations

import ipaddress
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from topcoat.api import prepared, server
from topcoat.cli import alias_file, by_hand, model_server, option, place, steward, store, terminal

HINT_RUN = "`topcoat run -f job.yaml --local` trains, judges and promotes"
JobOption = Annotated[
    str | None,
    typer.Option("--job", metavar="NAME", help="Serve the base model of this job's version.", show_default=False),
]
HostOption = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")]
BEARER_HELP = "File with a bearer token that clients must show."
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help=BEARER_HELP, show_default=False)
]


def serve(  # noqa: PLR0913 - each is an option that a person gives
    *,
    job: JobOption = None,
    host: HostOption = model_server.LOOPBACK,
    port: PortOption = server.CLIENT_PORT,
    token_file: TokenFileOption = None,
    store_folder: option.Store = option.DEFAULT_STORE,
    cluster: Annotated[bool, typer.Option("--cluster", hidden=True)] = False,
) -> int:
    """Answer clients in OpenAI's protocol with the versions that the store's aliases name, until Ctrl-C.

    The base model is loaded once for all of them. A promotion, a rollback or a new winner of `topcoat run` moves its
    alias within about a second of being loaded and proved; no request fails for it.
    """
    _not_in_cluster(asked=cluster)
    here = store.Store(store_folder)
    token = _token_or_none(token_file)
    base = _base(here, job)
    _must_be_there(base)
    keeper = alias_file.Keeper(here, base.digest, token)
    files = keeper.changed()
    for file in files:
        by_hand.check_whole(*_target(file), f"`topcoat rollback {file.job}` serves the version before")
    with model_server.listening(host, port) as clients:
        address = model_server.address(host, clients.getsockname()[1])
        _warn_of(host, token, address)
        terminal.note(f"Loading base model {base.id} from {base.path}")
        with model_server.started(base, files, clients) as process:
            attendant = steward.Steward(process, keeper)
            with terminal.hearing(attendant.stop):
                if attendant.until_ready():
                    _say_ready(address, token, [*attendant.models(), f"  {base.id}: the base model"])
                    attendant.until_stopped()
                return attendant.ended()


def _not_in_cluster(*, asked: bool) -> None:
    what, hint = "a cluster serves by itself", "`topcoat status NAME --cluster` says where a job's model answers"
    if asked:
        terminal.fail(what, hint=hint)
    place.not_in_cluster(what, hint)


def _token_or_none(path: Path | None) -> Path | None:
    if path is None:
        return None
    hint = "write a long random text into it"
    try:
        if not path.read_bytes().strip():
            terminal.fail("the token file is empty", str(path), hint)
    except OSError as error:
        terminal.fail(f"the token cannot be read ({error.strerror})", str(path), hint)
    return path.resolve()


def _base(here: store.Store, job: str | None) -> prepared.BaseModelCard:
    """The one base model to load. Fails where there is none, or where it is not clear which."""
    found = alias_file.pointers(here)
    if job is not None:
        name = here.job(job).metadata.name
        found = [one for one in found if one.job == name]
        if not found:
            hint = f"{HINT_RUN}; `topcoat status {name}` says how far it is"
            terminal.fail(f"no version of {name!r} is promoted yet", hint=hint)
    if not found:
        hint = f"{HINT_RUN}; `topcoat get` lists the jobs, `topcoat promote NAME` serves a version that a person chose"
        terminal.fail(f"nothing is promoted yet in the store {here.root}", hint=hint)
    bases = [(one.job, _card(one)) for one in found]
    if len({card.digest for _, card in bases}) > 1:
        known = ", ".join(f"{name} on {card.id}" for name, card in bases)
        terminal.fail(
            f"the aliases of the store {here.root} stand on several base models ({known}), and a server holds one",
            hint=f"`topcoat serve --job {bases[0][0]}` serves {bases[0][1].id} and all that stands on it",
        )
    return bases[0][1]


def _card(pointer: alias_file.Pointer) -> prepared.BaseModelCard:
    card = pointer.base_or_none()
    if card is None:
        hint = f"restore the file from a back-up, or `topcoat promote {pointer.job} vN` serves another version"
        terminal.fail("the manifest of the version that serves cannot be read", str(pointer.folder), hint)
    return card


def _must_be_there(base: prepared.BaseModelCard) -> None:
    """Before the server takes seconds to start; it reads the whole model and its digest later."""
    folder = Path(base.path)
    what = "it holds no config.json" if folder.is_dir() else "there is no such folder"
    if not (folder / "config.json").is_file():
        terminal.fail(f"the base model {base.id} is gone: {what}", str(folder), "put the same model back in its place")


def _target(file: server.AliasFile) -> tuple[Path, str]:
    """Folder and digest of the version that answers: the first."""
    return Path(file.versions[0].path), file.versions[0].digest


def _warn_of(host: str, token: Path | None, address: str) -> None:
    if token is None and not _is_loopback(host):
        warning = terminal.paint("Warning", "yellow", sys.stderr)
        sys.stderr.write(f"{warning}: anybody who reaches {address} may ask; --token-file FILE asks for a token\n")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say_ready(address: str, token: Path | None, models: list[str]) -> None:
    """Where it answers and to which names; the last line is a command to try."""
    url = f"http://{address}/v1"
    terminal.say(f"Serving at {url}")
    for line in models:
        terminal.say(line)
    header = f'-H "Authorization: Bearer $(cat {shlex.quote(str(token))})" ' if token else ""
    terminal.next_step(f"curl {header}{url}/models", "lists the models; Ctrl-C here ends the server")
    sys.stdout.flush()
