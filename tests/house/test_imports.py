"""Who may import whom: the linter's contracts hold, each of them can fail, and the packages start without the other's
heavy dependencies."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree

CONTRACTS = 7
PURE_ROOMS = ("api", "plan", "manifests")
TORCH = ("torch", "transformers", "peft")
KUBERNETES = ("kopf", "kubernetes")
# What the prepare step runs before any model is loaded; it must start in less than a second.
TORCH_FREE = ("files", "example", "errors", "source", "data", "split", "task", "seal", "model_file", "boundary")
# Calls that ask the clock although no forbidden module is imported.
CLOCK_CALLS = {"now", "utcnow", "today"}

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package, only, blocked = sys.argv[1], set(filter(None, sys.argv[2].split(","))), set(sys.argv[3].split(","))
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Refuse())
root = importlib.import_module(package)
names, broken = [package], []
for found in pkgutil.walk_packages(root.__path__, package + ".", onerror=lambda name: broken.append(f"{name}: broken")):
    room = found.name.split(".")[1]
    if found.name.endswith("__main__") or only and room not in only:
        continue
    names.append(found.name)
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        broken.append(f"{found.name}: {error}")
print(json.dumps([sorted(set(broken)), names]))
"""

SHOW_HELP = """
import json, sys
from topcoat.cli import app
sys.argv = ["topcoat", "--help"]
try:
    app.main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def _python(root: Path, code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter that finds this tree's packages first."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(root / folder) for folder in tree.SOURCE_ROOTS),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def failed_imports(
    root: Path, package: str, blocked: tuple[str, ...], only: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Modules of the package that cannot be imported without the blocked ones, and all that were tried."""
    broken, names = json.loads(_python(root, IMPORT_ALL, package, ",".join(only), ",".join(blocked)))
    return broken, names


def imported_by_help(root: Path) -> list[str]:
    """Top-level packages in memory after `topcoat --help`."""
    names: list[str] = json.loads(_python(root, SHOW_HELP).splitlines()[-1])
    return names


def contract_results(root: Path) -> tuple[int, int, str]:
    """How many of the linter's contracts are kept and broken in this tree, and what it said."""
    linter = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(root / folder) for folder in tree.SOURCE_ROOTS)}
    command = [str(linter), "--no-cache", "--no-logo", "--config", str(root / ".importlinter")]
    said = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False
    ).stdout
    counts = re.search(r"Contracts: (\d+) kept, (\d+) broken", said)
    assert counts, said
    return int(counts[1]), int(counts[2]), said


def unlisted_pure_rooms(root: Path) -> tuple[list[str], int]:
    """Pure rooms that exist but are not in the contract that keeps them pure."""
    config = configparser.ConfigParser()
    config.read(root / ".importlinter")
    listed = config["importlinter:contract:pure-rooms"]["source_modules"].split()
    rooms = [room for room in PURE_ROOMS if list((root / "operator" / "topcoat" / room).glob("*.py"))]
    return [f"topcoat.{room} is not listed" for room in rooms if f"topcoat.{room}" not in listed], len(rooms)


def meetings(root: Path) -> tuple[list[str], int]:
    """Imports of `topcoat` in the trainer that are not of `topcoat.api`, and how many there are in all."""
    wrong, seen = [], 0
    for path in tree.source_files(root):
        if path.relative_to(root).parts[0] == "trainer":
            names = [name for name in _imported(path) if name.split(".")[0] == "topcoat"]
            seen += len(names)
            wrong += [
                f"{path.relative_to(root)}: imports {name}"
                for name in names
                if not f"{name}.".startswith("topcoat.api.")
            ]
    return wrong, seen


def _imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def clock_readings(root: Path) -> tuple[list[str], int]:
    """Calls such as datetime.now() in the pure rooms, where the time is an argument."""
    wrong, seen = [], 0
    for path in tree.source_files(root):
        if path.relative_to(root).parts[2] in PURE_ROOMS:
            seen += 1
            wrong += [
                f"{path.relative_to(root)}:{node.lineno}: reads the clock"
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS
            ]
    return wrong, seen


def test_every_import_contract_is_kept() -> None:
    kept, broken, said = contract_results(tree.ROOT)
    assert not broken, said
    assert kept == CONTRACTS


def test_every_pure_room_is_in_the_contract_of_pure_rooms() -> None:
    problems, checked = unlisted_pure_rooms(tree.ROOT)
    assert not problems
    assert checked >= 1


def test_the_two_roots_meet_only_in_the_api() -> None:
    problems, checked = meetings(tree.ROOT)
    assert not problems
    assert checked >= 5


def test_no_pure_room_reads_the_clock() -> None:
    problems, checked = clock_readings(tree.ROOT)
    assert not problems
    assert checked >= 15


def test_topcoat_starts_without_torch() -> None:
    broken, names = failed_imports(tree.ROOT, "topcoat", (*TORCH, "topcoat_trainer"))
    assert not broken
    assert len(names) >= 20


def test_the_trainer_starts_without_kubernetes() -> None:
    broken, names = failed_imports(tree.ROOT, "topcoat_trainer", KUBERNETES)
    assert not broken
    assert len(names) >= 20


def test_what_prepares_data_starts_without_torch() -> None:
    broken, names = failed_imports(tree.ROOT, "topcoat_trainer", TORCH, TORCH_FREE)
    assert not broken
    assert len(names) >= len(TORCH_FREE)


def test_help_imports_neither_torch_nor_kubernetes() -> None:
    names = imported_by_help(tree.ROOT)
    assert {"topcoat", "typer"} <= set(names)
    assert not {*TORCH, *KUBERNETES, "topcoat_trainer", "numpy", "pandas", "sklearn", "pyarrow"} & set(names)


# What a server may not use; a contract names only modules that exist.
ENTRIES = ("ask", "candidate", "demo", "export", "gate", "loop", "prepare", "report", "stage")
SOUND_TREE = {
    "operator/topcoat/__init__.py": "",
    "operator/topcoat/api/__init__.py": "",
    "operator/topcoat/plan/__init__.py": "",
    "operator/topcoat/manifests/__init__.py": "",
    "operator/topcoat/cli/__init__.py": "",
    "operator/topcoat/cli/app.py": "def main() -> None: print('help')\n",
    "operator/topcoat/handlers/__init__.py": "",
    "trainer/topcoat_trainer/__init__.py": "",
    "trainer/topcoat_trainer/example.py": "",
    "trainer/topcoat_trainer/errors.py": "",
    "trainer/topcoat_trainer/run.py": "import topcoat.api.exits\n",
    "trainer/topcoat_trainer/serve/__init__.py": "",
    **{f"trainer/topcoat_trainer/{room}.py": "" for room in ENTRIES},
}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A small tree under the real contracts."""
    shutil.copy(tree.ROOT / ".importlinter", tmp_path)
    return tree.plant(tmp_path, SOUND_TREE)


def test_a_sound_small_tree_passes(sound: Path) -> None:
    assert contract_results(sound)[:2] == (CONTRACTS, 0)
    assert meetings(sound) == ([], 1)
    assert clock_readings(sound) == ([], 3)
    assert failed_imports(sound, "topcoat", TORCH)[0] == []


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("operator/topcoat/plan/x.py", "import topcoat.cli", "topcoat: outer rooms"),
        ("operator/topcoat/cli/x.py", "import topcoat.handlers", "topcoat: outer rooms"),
        ("operator/topcoat/attic/__init__.py", "", "topcoat: outer rooms"),
        ("trainer/topcoat_trainer/errors.py", "import topcoat_trainer.run", "topcoat_trainer: entry points"),
        ("trainer/topcoat_trainer/attic.py", "", "topcoat_trainer: entry points"),
        ("operator/topcoat/api/x.py", "import os", "api, plan and manifests are pure"),
        ("operator/topcoat/api/x.py", "from pathlib import Path", "api, plan and manifests are pure"),
        ("operator/topcoat/api/x.py", "import topcoat_trainer", "api never looks outwards"),
        ("operator/topcoat/cli/x.py", "import torch.nn", "topcoat never imports torch"),
        ("trainer/topcoat_trainer/run.py", "import kubernetes", "topcoat_trainer never imports kopf"),
        ("trainer/topcoat_trainer/serve/x.py", "import topcoat_trainer.run", "serve and run never see each other"),
    ],
)
def test_each_contract_fails_when_its_rule_is_broken(sound: Path, file: str, line: str, contract: str) -> None:
    _, broken, said = contract_results(tree.plant(sound, {file: f"{line}\n"}))
    assert broken >= 1
    assert f"{contract}" in said.split("Broken contracts", 1)[1].replace("\n", " ")


def test_a_pure_room_that_is_not_listed_is_caught(sound: Path) -> None:
    before, after = (sound / ".importlinter").read_text().split("[importlinter:contract:pure-rooms]")
    after = after.replace("    topcoat.api\n", "", 1)
    (sound / ".importlinter").write_text(f"{before}[importlinter:contract:pure-rooms]{after}")
    assert "topcoat.api is not listed" in unlisted_pure_rooms(sound)[0]


def test_a_meeting_outside_the_api_is_caught(sound: Path) -> None:
    tree.plant(sound, {"trainer/topcoat_trainer/run.py": "from topcoat.plan import plan\nfrom topcoat import api\n"})
    assert meetings(sound) == (["trainer/topcoat_trainer/run.py: imports topcoat.plan.plan"], 2)


def test_a_look_at_the_clock_is_caught(sound: Path) -> None:
    text = "from datetime import UTC, datetime\nNOW = datetime.now(UTC)\n"
    assert clock_readings(tree.plant(sound, {"operator/topcoat/plan/x.py": text}))[0]


def test_an_import_of_what_is_blocked_is_caught(sound: Path) -> None:
    tree.plant(
        sound, {"operator/topcoat/cli/x.py": "import torch\n", "trainer/topcoat_trainer/split.py": "import torch\n"}
    )
    assert failed_imports(sound, "topcoat", TORCH)[0] == ["topcoat.cli.x: torch is blocked here"]
    assert failed_imports(sound, "topcoat_trainer", TORCH, ("example",))[0] == []
    assert failed_imports(sound, "topcoat_trainer", TORCH, ("split",))[0]


def test_an_import_at_start_is_seen_by_the_guard_of_help(sound: Path) -> None:
    assert "sqlite3" not in imported_by_help(sound)
    tree.plant(sound, {"operator/topcoat/cli/app.py": "import sqlite3\ndef main() -> None: pass\n"})
    assert "sqlite3" in imported_by_help(sound)
