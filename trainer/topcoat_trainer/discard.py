"""Removes one sealed version: `python -m topcoat_trainer.discard --run-file F --version v3 --digest sha256:…`.

Only the very version that is meant, and whole: it goes out of sight by one rename, then its files go. Doing it twice is
fine; links are never followed. Never imports torch.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from topcoat.api.report import Outcome, Termination
from topcoat.api.run import RunFile
from topcoat_trainer import entry, files, seal
from topcoat_trainer.errors import Corrupt, UserInputError

VERSION = re.compile(r"v[1-9][0-9]{0,8}")
DIGEST = re.compile(r"[0-9a-f]{64}")


def main(arguments: list[str] | None = None) -> int:
    """Removes one version; the exit code is one of topcoat.api.exits."""
    parser = entry.parser("discard", "Remove one sealed version.")
    parser.add_argument("--version", required=True, help="the version's name")
    parser.add_argument("--digest", required=True, help="SHA-256 of its manifest.json")
    options = parser.parse_args(arguments)
    return entry.carry_out(options, lambda run, _: discarded(run, options.version, options.digest))


def discarded(run: RunFile, version: str, digest: str) -> Termination:
    """The version is gone, now or since an earlier time."""
    digest = digest.removeprefix("sha256:")
    if not VERSION.fullmatch(version) or not DIGEST.fullmatch(digest):
        raise UserInputError(
            "not a version and the digest of its manifest", hint="give --version v3 --digest sha256:…, from status"
        )
    folder = Path(run.paths.versions) / version
    # One name for one version: what a killed process left half removed is found again.
    doomed = folder.with_name(f"{files.TEMPORARY_PREFIX}discarded-{version}-{digest[:16]}")
    if doomed.exists():
        shutil.rmtree(doomed)
    if folder.is_symlink():
        raise Corrupt("a link stands where the version should", where=str(folder), hint="remove the link by hand")
    if folder.exists():
        _check(folder, digest)
        folder.rename(doomed)
        files.sync_directory(folder.parent)
        shutil.rmtree(doomed)
    return Termination(outcome=Outcome.DISCARDED, version=version, digest=digest)


def _check(folder: Path, digest: str) -> None:
    found = seal.digest(folder)
    if found != digest:
        raise Corrupt(
            f"the version's digest is {found}, to be removed is {digest}",
            where=str(folder),
            hint="nothing was removed; look at the version before you remove it by hand",
        )


if __name__ == "__main__":
    sys.exit(main())
