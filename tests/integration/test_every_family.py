"""Every model of every family through all stages: what the table of families says of resume, exports and samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.models import MODELS
from tests.contract.support import Tiny, open_tiny
from tests.contract.whole_run import FORMATS, PICTURES, STEPS, STOPPED_AFTER, WholeRun, whole_run
from trainer_core.errors import ConfigError
from trainer_core.export.formats import written_formats

EDITS = sorted(name for name, model in MODELS.items() if model.controls)


def check(tiny: Tiny, found: WholeRun, controls: int) -> None:
    """Assert all that must hold of a whole run."""
    results, spec = found.results, tiny.family.spec
    assert results["validated_dataset"].published.metadata["used"] == PICTURES
    assert results["cached_latents"].items_reused == PICTURES * (1 + controls)
    assert results["cached_text_embeddings"].items_reused >= PICTURES
    trained = results["lora_checkpoint"]
    assert (trained.items_computed, trained.items_reused) == (STEPS - STOPPED_AFTER, STOPPED_AFTER)
    assert found.resumed_exactly
    assert tuple(proof["format"] for proof in found.proofs) == written_formats(spec.lora, FORMATS)
    assert all(proof["ok"] and 0 < proof["max_relative_error"] <= proof["bound"] for proof in found.proofs)
    assert found.proofs[0]["reader"] == "diffusers"
    assert results["samples"].published.metadata["lora_changes_picture"] is True
    assert results["metrics"].published.metadata["held_out_loss_lora"] > 0
    assert found.again == {}
    assert found.loaded_modules == found.proofs[0]["modules"] > 0
    assert found.changes_picture


pytestmark = pytest.mark.usefixtures("small_control_pictures")


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.setting("model.family")
def test_a_model_trains_resumes_exports_and_samples(name: str, tmp_path: Path, tiny_bases: dict[str, Path]) -> None:
    tiny = open_tiny(name, tiny_bases[name])
    check(tiny, whole_run(tiny, tmp_path / "project", tiny.model.controls), tiny.model.controls)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_model_trains_from_captions_alone_or_says_that_it_needs_pairs(
    name: str, tmp_path: Path, tiny_bases: dict[str, Path]
) -> None:
    tiny = open_tiny(name, tiny_bases[name])
    assert tiny.family.spec.control is not None
    if tiny.family.spec.control.required:
        with pytest.raises(ConfigError, match="datasets.0.control_path: is missing"):
            whole_run(tiny, tmp_path / "project", 0)
    else:
        check(tiny, whole_run(tiny, tmp_path / "project", 0), 0)
