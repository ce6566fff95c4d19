"""The same tiny models as the model room's tests."""

from tests.trainer.model.conftest import _one_thread, folder, ids, load

__all__ = ["_one_thread", "folder", "ids", "load"]
