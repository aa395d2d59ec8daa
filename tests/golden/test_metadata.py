"""What a LoRA file tells in the words of kohya's scripts and of modelspec, as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.unit.export.test_metadata import SD15, TRAINING
from trainer_core.export.metadata.lora_metadata import training_metadata

FILES = Path(__file__).resolve().parent / "files"


def test_the_metadata_are_the_reviewed_ones(same: Callable[[str, Path], None]) -> None:
    told = training_metadata(SD15, TRAINING, "kohya")
    same(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n", FILES / "lora_metadata.json")
