"""Serving what a person chose: one change of status, and every byte read before."""

from __future__ import annotations

from pathlib import Path

from tests.support import stores
from topcoat.cli import store as stores_of_cli


def state(root: Path) -> dict[str, str]:
    job = stores_of_cli.Store(root).job("claims")
    assert job.status is not None
    return {version.version: version.state for version in job.status.versions}


def served(root: Path) -> str:
    return stores_of_cli.Store(root).aliases()["claims"]["version"]


def test_a_rejected_version_can_be_promoted_by_hand_and_rolled_back(store: Path) -> None:
    said = stores.topcoat("promote", "claims", "v2", store=store)
    assert said.code == 0, said.err
    assert said.out.startswith("claims answers with v2 now.")
    assert "the gate's verdict on v2 was Reject" in said.err
    assert said.last == f"Next: topcoat rollback claims --store {store}   takes it back"
    assert (served(store), state(store)) == ("v2", {"v1": "Previous", "v2": "Promoted"})
    back = stores.topcoat("rollback", "claims", store=store)
    assert back.out.startswith("claims answers with v1 now.")
    assert (served(store), state(store)) == ("v1", {"v1": "Promoted", "v2": "Previous"})
    assert stores.topcoat("rollback", "claims", store=store).code == 0
    assert served(store) == "v2"


def test_without_a_version_the_newest_that_is_not_promoted_is_chosen(store: Path) -> None:
    assert stores.topcoat("promote", "claims", store=store).code == 0
    assert served(store) == "v2"


def test_what_is_promoted_already_stays(store: Path) -> None:
    said = stores.topcoat("promote", "claims", "v1", store=store)
    assert (said.code, said.out.splitlines()[0]) == (0, "v1 is promoted already.")


def test_a_version_that_is_not_there_is_refused_with_those_that_are(store: Path) -> None:
    said = stores.topcoat("promote", "claims", "v9", store=store)
    assert said.code == 1
    assert said.err == "Error: 'claims' has no version 'v9'\nTo fix it: its versions: v1, v2\n"


def test_without_a_previous_version_there_is_no_way_back(store: Path) -> None:
    said = stores.topcoat("rollback", "claims", store=store)
    assert said.code == 1
    assert "`topcoat promote claims VERSION` serves one of v1, v2" in said.err


def test_a_flipped_bit_is_named_and_nothing_changes(store: Path) -> None:
    folder = next((store / "jobs").iterdir()) / "versions" / "v2"
    stores.flip(folder / "adapter_model.safetensors")
    said = stores.topcoat("promote", "claims", "v2", store=store)
    assert said.code == 1
    assert "adapter_model.safetensors has sha256" in said.err
    assert (served(store), state(store)) == ("v1", {"v1": "Promoted", "v2": "Rejected"})


def test_a_changed_manifest_is_not_the_one_that_was_recorded(store: Path) -> None:
    path = next((store / "jobs").iterdir()) / "versions" / "v2" / "manifest.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"code_version"', '"code_version" ').replace("  ", " "))
    said = stores.topcoat("promote", "claims", "v2", store=store)
    assert said.code == 1
    assert served(store) == "v1"


def test_a_pinned_version_goes_on_serving(store: Path) -> None:
    here = stores_of_cli.Store(store)
    job = here.job("claims")
    pinned = job.spec.serving.model_copy(update={"pinned_version": "v1"})
    spec = job.spec.model_copy(update={"serving": type(pinned).model_validate(pinned.as_json())})
    here.write(job.model_copy(update={"spec": spec}))
    said = stores.topcoat("promote", "claims", "v2", store=store)
    assert said.out.startswith("v2 is promoted. serving.pinnedVersion keeps v1 serving.")
    assert served(store) == "v1"
