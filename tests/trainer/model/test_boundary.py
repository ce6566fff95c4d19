"""Which layers train for each spelling of `method.layers`."""

from __future__ import annotations

import pytest

from topcoat_trainer import boundary
from topcoat_trainer.errors import UserInputError


@pytest.mark.parametrize(
    ("total", "wanted", "kind", "trained"),
    [
        (30, 8, "Classification", 8),
        (30, "8", "Classification", 8),
        (30, "All", "Classification", 30),
        (30, "Auto", "Classification", 4),
        (30, "Auto", "classification", 4),
        (30, "Auto", "Chat", 15),
        (31, "Auto", "Text", 16),
        (5, "Auto", "Classification", 2),
        (1, "Auto", "Classification", 1),
        (30, 30, "Chat", 30),
        (30, 1, "Chat", 1),
    ],
)
def test_the_last_layers_train_as_asked(total: int, wanted: int | str, kind: str, trained: int) -> None:
    edge = boundary.choose(total, wanted, kind)
    assert edge.trained_layers == trained
    assert edge.indices == list(range(total - trained, total))


@pytest.mark.parametrize("wanted", [31, 0, -1, "31", "some", "", True])
def test_a_number_of_layers_that_the_model_does_not_have_is_refused(wanted: int | str) -> None:
    with pytest.raises(UserInputError, match=r"30 layers.*from 1 to 30"):
        boundary.choose(30, wanted, "Chat")


def test_a_boundary_reads_as_a_sentence() -> None:
    assert str(boundary.choose(30, 8, "Chat")) == "the last 8 of 30 layers"
