"""Unknown keys lead to the setting whose documentation names them."""

from __future__ import annotations

import pytest

from trainer_core.config.fields import field_rows
from trainer_core.config.suggest import ALIASES, foreign_names, suggest_key


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("conv_dim", "adapter.conv_rank"),
        ("conv", "adapter.conv_rank"),
        ("linear", "adapter.rank"),
        ("sample_prompts", "sample.prompt_file"),
        ("save_state", "train.checkpoint_every"),
        ("save_every_n_steps", "save.every"),
        ("train_data_dir", "datasets.0.path"),
        ("name_or_path", "model.path"),
        ("lora_rank", "adapter.rank"),
    ],
)
def test_another_trainers_name_leads_to_the_setting_that_documents_it(key: str, setting: str) -> None:
    assert suggest_key(("train", key)) == setting


def test_no_alias_repeats_or_contradicts_the_documentation() -> None:
    documented = {name for row in field_rows().values() for name in (*row.kohya, *row.ai_toolkit)}
    assert not set(ALIASES) & (documented | {name.rpartition(".")[2] for name in documented})


def test_every_documented_name_of_kohya_is_known() -> None:
    for row in field_rows().values():
        assert set(row.kohya) <= set(foreign_names())


def test_every_alias_names_a_setting() -> None:
    assert {path.replace("datasets.0.", "datasets.") for path in foreign_names().values()} <= set(field_rows())
