"""Makes the demo's folder: `python -m topcoat_trainer.demo --out DIR [--json]`. Model, data, and manifests to change.

What already lies there stays as it is, for the user may have changed it. Nothing is downloaded and nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from topcoat_trainer import files
from topcoat_trainer.demo import claims, extraction, model
from topcoat_trainer.errors import TrainerError

MANIFESTS = ("claims-triage.yaml", "claims-extraction.yaml", "minimal.yaml")


@dataclass(frozen=True, slots=True)
class Demo:
    """What lies in the folder now. `rows`: rows per data file. `kept`: files that were there before."""

    folder: str
    model: str
    model_digest: str
    model_made: bool
    rows: dict[str, int]
    kept: list[str]
    seconds: float
    peak_memory_bytes: int


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing and says what is there; the exit code is one of topcoat.api.exits."""
    parser = argparse.ArgumentParser(prog="topcoat_trainer.demo", description="Make the demo's model and data.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make or to complete")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    options = parser.parse_args(arguments)
    # Read when transformers is imported: everything needed is on this machine.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        demo = make(options.out)
    except TrainerError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code.value
    sys.stdout.write(json.dumps(asdict(demo), indent=1) + "\n" if options.json else in_words(demo))
    return 0


def make(folder: Path) -> Demo:
    """Model, data and manifests in `folder`."""
    started = time.monotonic()
    data = folder / "data"
    with files.storing(folder):
        data.mkdir(parents=True, exist_ok=True)
    kept = _make_data(data) + _copy_manifests(folder)
    made = model.make(folder / "model" / model.NAME)
    return Demo(
        folder=str(folder),
        model=str(made.path),
        model_digest=made.digest,
        model_made=made.made,
        rows={path.name: _rows(path) for path in sorted(data.glob("*.jsonl"))},
        kept=kept,
        seconds=round(time.monotonic() - started, 1),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _make_data(folder: Path) -> list[str]:
    """Writes the data files that are missing; the names of the others."""
    names = (*claims.FILES, *extraction.FILES)
    kept = [name for name in names if (folder / name).exists()]
    if len(kept) == len(names):
        return kept
    with tempfile.TemporaryDirectory(dir=folder, prefix=files.TEMPORARY_PREFIX) as fresh:
        claims.write(Path(fresh))
        extraction.write(Path(fresh))
        for name in sorted(set(names) - set(kept)):
            Path(fresh, name).replace(folder / name)
    return kept


def _copy_manifests(folder: Path) -> list[str]:
    """Copies the manifests that are missing; the names of the others."""
    kept = [name for name in MANIFESTS if (folder / name).exists()]
    for name in sorted(set(MANIFESTS) - set(kept)):
        files.write_bytes(folder / name, Path(__file__).with_name(name).read_bytes())
    return kept


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_words(demo: Demo) -> str:
    """The same for people; the last line is the next command."""
    model_words = f"made in {demo.seconds:.0f} s" if demo.model_made else "was there already"
    lines = [
        f"Model  {demo.model} ({model_words}, peak memory {demo.peak_memory_bytes / 1e9:.1f} GB)",
        *(f"Data   {count:>5} rows  {demo.folder}/data/{name}" for name, count in demo.rows.items()),
    ]
    if demo.kept:
        lines.append(f"Kept as they were: {', '.join(demo.kept)}")
    return "\n".join([*lines, f"Next   topcoat run -f {demo.folder}/{MANIFESTS[0]} --local", ""])


if __name__ == "__main__":
    sys.exit(main())
