"""The model card of a demo project, as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.unit.export.test_card import FACTS
from trainer_core.export.card.document import model_card

FILES = Path(__file__).resolve().parent / "files"


def test_the_card_is_the_reviewed_one(same: Callable[[str, Path], None]) -> None:
    same(model_card(FACTS), FILES / "model_card.md")
