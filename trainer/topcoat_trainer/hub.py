"""Models and data from a hub that speaks Hugging Face's protocol: pinned, whole, and never code.

Fetches safetensors, JSON and tokenizer files only. Without a network it says so once, in seconds. What was fetched
once at a pinned revision is used again without asking.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from topcoat_trainer import files
from topcoat_trainer.errors import DataError, Unreachable, UserInputError

# Only what a loader of safetensors needs: no pickle, no Python, no images.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*/*.jinja", "merges.txt", "vocab.txt", "LICENSE*", "README.md")
UNWANTED = ("*/*.safetensors", "*/*.json", "*consolidated*")
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
ANSWER_SECONDS = 10.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
COMMIT = re.compile(r"[0-9a-f]{40}")
WHOLE = ".topcoat-whole"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """What a hub address names: a repository, a revision (empty: the newest), a file in it (empty: none)."""

    uri: str
    repository: str
    revision: str = ""
    path: str = ""


def address(uri: str, revision: str | None = None) -> Address:
    """`hf://org/name[@revision][/path]`, every part checked."""
    parts = uri.removeprefix("hf://").rstrip("/").split("/")
    name, _, pinned = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
    asked = revision or pinned
    good = len(parts) > 1 and NAME.fullmatch(parts[0]) and NAME.fullmatch(name) and ".." not in f"{parts[0]}{name}"
    if not good or (asked and (not REVISION.fullmatch(asked) or ".." in asked)):
        raise UserInputError("not a hub address", where=uri, hint="write hf://org/name or hf://org/name@revision")
    if revision and pinned and revision != pinned:
        raise UserInputError("two revisions are named", where=uri, hint="pin it in the uri or in revision, not in both")
    if any(part in ("", ".", "..") for part in parts[2:]):
        raise UserInputError(
            "the path in the repository may not hold `..`", where=uri, hint="name a file in the repository"
        )
    return Address(uri, f"{parts[0]}/{name}", asked, "/".join(parts[2:]))


def model_folder(asked: Address, cache: Path) -> tuple[Path, str]:
    """The folder of a model, fetched if need be, and the commit it is at."""
    root = _root(cache, "models", asked)
    commit = _known_commit(root, asked)
    if commit and (root / commit / WHOLE).is_file():
        return root / commit, commit
    import huggingface_hub

    api = huggingface_hub.HfApi(token=_token())
    commit = _asked(
        asked, lambda: str(api.model_info(asked.repository, revision=_or_none(asked), timeout=ANSWER_SECONDS).sha)
    )
    folder = root / commit
    _asked(
        asked,
        lambda: api.snapshot_download(
            asked.repository,
            revision=commit,
            local_dir=folder,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            etag_timeout=ANSWER_SECONDS,
        ),
    )
    files.write_bytes(folder / WHOLE, b"")
    files.write_bytes(root / f"{asked.revision or 'newest'}.commit", commit.encode())
    return folder, commit


def data_file(asked: Address, cache: Path, most_bytes: int | None = None) -> Path:
    """A data file, fetched if need be and not too large. Without a path the repository must hold exactly one."""
    root = _root(cache, "datasets", asked)
    commit = _known_commit(root, asked)
    if commit and asked.path and (root / commit / asked.path).is_file():
        return files.beneath(root / commit, asked.path)
    import huggingface_hub

    api = huggingface_hub.HfApi(token=_token())
    facts: Any = _asked(
        asked,
        lambda: api.dataset_info(
            asked.repository, revision=_or_none(asked), timeout=ANSWER_SECONDS, files_metadata=most_bytes is not None
        ),
    )
    found = {str(file.rfilename): file.size for file in facts.siblings or []}
    path = asked.path or _only_file(list(found), asked)
    if most_bytes is not None and (found.get(path) or 0) > most_bytes:
        raise too_large(asked.uri, f"the file has {found[path]:,} bytes", most_bytes)
    folder = root / str(facts.sha)
    _asked(
        asked,
        lambda: api.hf_hub_download(
            asked.repository,
            path,
            repo_type="dataset",
            revision=str(facts.sha),
            local_dir=folder,
            etag_timeout=ANSWER_SECONDS,
        ),
    )
    files.write_bytes(root / f"{asked.revision or 'newest'}.commit", str(facts.sha).encode())
    return files.beneath(folder, path)


def too_large(where: str, what: str, most_bytes: int) -> DataError:
    """The refusal of data above the profile's limit."""
    return DataError(
        f"{what}; the profile allows {most_bytes:,}",
        where=where,
        hint="use fewer rows, or ask the platform team to raise limits.maxDatasetBytes in the FineTuneProfile",
    )


def _root(cache: Path, kind: str, asked: Address) -> Path:
    root = cache / "hub" / kind / asked.repository.replace("/", "--")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _known_commit(root: Path, asked: Address) -> str | None:
    """The commit that a revision was found at first: it stays pinned for as long as the cache lives."""
    if COMMIT.fullmatch(asked.revision):
        return asked.revision
    note = root / f"{asked.revision or 'newest'}.commit"
    found = note.read_text() if note.is_file() else ""
    return found if COMMIT.fullmatch(found) else None


def _or_none(asked: Address) -> str | None:
    return asked.revision or None


def _only_file(names: list[str], asked: Address) -> str:
    fits = sorted(name for name in names if name.lower().endswith(ENDINGS) and not name.startswith("."))
    if len(fits) != 1:
        some = f": {', '.join(fits[:5])}" if fits else ""
        raise DataError(
            f"the repository has {len(fits)} data files{some}",
            where=asked.uri,
            hint=f"name one of them: hf://{asked.repository}/PATH",
        )
    return fits[0]


def _token() -> str | None:
    """The secret's token: from a mounted file, or from the environment. Never logged, never in a message."""
    path = os.environ.get("HF_TOKEN_FILE", "")
    if path and Path(path).is_file():
        return Path(path).read_text().strip() or None
    return os.environ.get("HF_TOKEN") or None


def _asked(asked: Address, question: Callable[[], T]) -> T:
    """One question to the hub; every way in which it can fail is said in one sentence."""
    import huggingface_hub.errors

    errors: Any = huggingface_hub.errors  # Any: which HTTP library HTTPError comes from depends on the version
    try:
        return question()
    except errors.GatedRepoError:
        raise UserInputError(
            "the repository is gated",
            where=asked.uri,
            hint="ask its owner for access and name a Secret with the token in secretRef",
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        what = {"RevisionNotFoundError": "revision", "RepositoryNotFoundError": "repository"}.get(
            type(error).__name__, "file"
        )
        raise UserInputError(
            f"the hub knows no such {what}",
            where=asked.uri,
            hint="check the name; a private repository needs secretRef",
        ) from None
    except (OSError, errors.HTTPError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled, ValueError) as error:
        raise Unreachable(f"the hub did not answer ({type(error).__name__})", where=asked.uri) from None
