"""Where data and models come from: `file://`, `pvc://claim/path`, `hf://org/name`. Turns a URI into a checked path.

Nothing that a tenant wrote reaches the file system unchecked: no `..`, no link, no absolute path outside local mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from topcoat.api.base_model import BaseModel
from topcoat.api.dataset import DataSource
from topcoat.api.run import RunFile
from topcoat_trainer import files, hub
from topcoat_trainer.errors import DataError, TrainerError, UserInputError

CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
KEY = re.compile(r"[A-Za-z0-9_][-._A-Za-z0-9]{0,252}")
CONFIG_MAPS = "configmaps"


@dataclass(frozen=True, slots=True)
class Places:
    """The only folders in which sources may lie. All are made by us."""

    cache: Path
    sources: Path | None = None
    volumes: Path | None = None
    local_files: bool = False
    most_bytes: int | None = None
    """A larger data file is not fetched."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file: its name in messages, its path, and how it is opened without following a link."""

    name: str
    path: Path
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A base model's folder. `id` is the name that servers use; `revision` is empty for a plain folder."""

    id: str
    uri: str
    path: Path
    revision: str = ""


def places(run: RunFile) -> Places:
    """The folders of a run."""
    return Places(
        cache=Path(run.paths.cache),
        sources=Path(run.paths.sources) if run.paths.sources else None,
        volumes=Path(run.paths.volumes) if run.paths.volumes else None,
        local_files=run.allow_local_files,
        most_bytes=run.max_dataset_bytes,
    )


def local_file(path: Path) -> DataFile:
    """A file that the user named on the command line."""
    real = path.resolve()
    return DataFile(path.name, real, partial(_open, real.parent, real.name, path.name))


def data(source: DataSource, where: Places) -> DataFile:
    """The data file of a manifest's source."""
    if source.config_map is not None:
        name, key = source.config_map.name, source.config_map.key
        if not CLAIM.fullmatch(name) or not KEY.fullmatch(key):
            raise UserInputError(
                "not a ConfigMap's name and key", hint="name an existing ConfigMap and one of its keys"
            )
        root = _volumes(where, f"ConfigMap {name}")
        return _beneath(root, f"{CONFIG_MAPS}/{name}/{key}", f"{name}/{key}")
    uri = source.uri or ""
    scheme, rest = _parts(uri)
    if scheme == "hf":
        path = hub.data_file(hub.address(uri), where.cache, where.most_bytes)
        return DataFile(uri, path, partial(_open, path.parent, path.name, uri))
    if scheme == "pvc":
        return _beneath(_volumes(where, uri), _claim_path(uri, rest), uri)
    local = _local(uri, rest, where)
    if isinstance(local, Path):
        return DataFile(uri, local, partial(_open, local.parent, local.name, uri))
    return _beneath(local[0], local[1], uri)


def model(base: BaseModel, where: Places) -> ModelFolder:
    """The folder of a base model, fetched if it lies in the hub."""
    if base.uri is None:
        raise UserInputError(
            "baseModel.name is not resolved to a uri",
            where="baseModel.name",
            hint="add the model to the profile's models",
        )
    scheme, rest = _parts(base.uri)
    if scheme == "hf":
        asked = hub.address(base.uri, base.revision)
        path, revision = hub.model_folder(asked, where.cache)
        return ModelFolder(asked.repository, base.uri, path, revision)
    if scheme == "pvc":
        path = files.beneath(_volumes(where, base.uri), _claim_path(base.uri, rest))
    else:
        local = _local(base.uri, rest, where)
        path = local if isinstance(local, Path) else files.beneath(*local)
    return ModelFolder(path.name, base.uri, path)


def _parts(uri: str) -> tuple[str, str]:
    scheme, found, rest = uri.partition("://")
    if scheme == "s3":
        raise UserInputError(
            "s3:// is not read yet", where=uri, hint="copy the files to a volume and name it: pvc://claim/path"
        )
    if not found or scheme not in ("file", "pvc", "hf") or not rest:
        raise UserInputError(
            "not an address of data or a model",
            where=uri[:200],
            hint="use pvc://claim/path, hf://org/name or file://path",
        )
    return scheme, rest


def _local(uri: str, rest: str, where: Places) -> Path | tuple[Path, str]:
    """An absolute path as it really is, or a folder and a path beneath it."""
    if not where.local_files:
        raise UserInputError(
            "file:// is for local mode only", where=uri, hint="put the files on a volume and name it: pvc://claim/path"
        )
    if ".." in rest.split("/"):
        raise UserInputError("the path may not hold `..`", where=uri, hint="write the absolute path: file:///...")
    if rest.startswith("/"):
        return Path(rest).resolve()
    if where.sources is None:
        raise UserInputError(
            "a relative path, but the manifest has no folder", where=uri, hint="write the absolute path: file:///..."
        )
    return where.sources.resolve(), rest.removeprefix("./")


def _claim_path(uri: str, rest: str) -> str:
    claim, _, path = rest.partition("/")
    if not CLAIM.fullmatch(claim) or not path.strip("/"):
        raise UserInputError("not a claim and a path in it", where=uri, hint="write pvc://claim/path")
    return f"{claim}/{path.rstrip('/')}"


def _volumes(where: Places, what: str) -> Path:
    if where.volumes is None:
        raise UserInputError(
            "no volumes are mounted here",
            where=what,
            hint="in local mode use file://path; in a cluster this is a mistake of ours",
        )
    return where.volumes


def _beneath(root: Path, relative: str, name: str) -> DataFile:
    return DataFile(name, files.beneath(root, relative), partial(_open, root, relative, name))


def _open(root: Path, relative: str, name: str) -> BinaryIO:
    """Opens a data file, and says in the data's own words why it cannot be."""
    try:
        return files.open_beneath(root, relative)
    except IsADirectoryError:
        raise _directory(root / relative, name) from None
    except UserInputError as error:
        if (root / relative).is_dir() and not (root / relative).is_symlink():
            raise _directory(root / relative, name) from None
        raise UserInputError(error.message, where=name, hint=error.hint) from None
    except FileNotFoundError:
        raise DataError("there is no such file", where=name, hint="check the path; names are case-sensitive") from None
    except NotADirectoryError:
        raise DataError("a part of the path is a file", where=name, hint="check the path") from None
    except PermissionError:
        raise DataError(
            "the file may not be read", where=name, hint="give the trainer's user the right to read it"
        ) from None


def _directory(path: Path, name: str) -> TrainerError:
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".jsonl", ".json", ".csv", ".parquet"))
    inside = f"; it holds {', '.join(found[:5])}" if found else ""
    return DataError(
        f"a folder stands where a data file should{inside}", where=name, hint="name one file in the folder"
    )
