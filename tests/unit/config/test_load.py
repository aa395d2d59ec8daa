from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trainer_core.config.fields import field_rows, group_models
from trainer_core.config.load import dump_project, load_project, project_home
from trainer_core.config.project import Project
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

MINIMAL = "model: {family: sd15, path: base}\ndatasets: [{path: cats}]\n"


def write(folder: Path, text: str, name: str = "cat.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Project:
    return load_project(write(folder, text), overrides)


def findings(folder: Path, text: str, *overrides: str) -> dict[str, Finding]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return {finding.field: finding for finding in caught.value.findings}


def test_a_minimal_file_is_named_after_its_stem_and_has_the_defaults(tmp_path: Path) -> None:
    project = load(tmp_path, MINIMAL)
    assert project.name == "cat"
    assert (project.train.steps, project.train.epochs) == (None, None)
    assert project.datasets[0].label == "cats"


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    project = load(tmp_path, MINIMAL + "optimizer: {lr: 1e-4, eps: 1E-6}\ntrain: {steps: 1e3}\n")
    assert (project.optimizer.lr, project.optimizer.eps, project.train.steps) == (1e-4, 1e-6, 1000)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no"])
def test_yaml_1_1_booleans_are_words(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, MINIMAL + f"caption: {{trigger_word: {word}}}\n").caption.trigger_word == word
    finding = findings(tmp_path, MINIMAL + f"bucket: {{upscale: {word}}}\n")["bucket.upscale"]
    assert finding.fix.startswith("Write `true`" if word in {"on", "yes"} else "Write `false`")


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir("/")
    text = "model: {family: sd15, path: ../base}\ndatasets: [{path: ./cats/}, {path: /abs}, {path: ~/home}]\n"
    project = load(tmp_path / "configs", text)
    assert project.model.path == tmp_path / "base"
    assert [dataset.path for dataset in project.datasets] == [
        tmp_path / "configs" / "cats",
        Path("/abs"),
        Path("~/home").expanduser(),
    ]


def test_relative_paths_of_overrides_start_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    overrides = ("datasets.0.path=dogs", "model={family: sdxl, path: big}")
    project = load(tmp_path, MINIMAL, *overrides)
    assert (project.datasets[0].path, project.model.path) == (Path("/usr/dogs"), Path("/usr/big"))


def test_overrides_are_yaml_and_win_over_the_file(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        MINIMAL + "train: {steps: 5}\n",
        "train.steps=1e2",
        "datasets.0.repeats=2",
        "datasets.1.path=/dogs",
        "optimizer.betas=[0.5, 0.6]",
        "caption.trigger_word=",
        "model.config_path=null",
        "name=other",
    )
    assert (project.train.steps, project.name, project.optimizer.betas) == (100, "other", (0.5, 0.6))
    assert [(dataset.label, dataset.repeats) for dataset in project.datasets] == [("cats", 2), ("dogs", 1)]


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", ""])
def test_an_override_that_is_not_an_assignment_is_refused(tmp_path: Path, override: str) -> None:
    assert "group.field=value" in findings(tmp_path, MINIMAL, override)[f"--set {override}"].message


def test_an_override_of_a_dataset_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "no `3`" in findings(tmp_path, MINIMAL, "datasets.3.repeats=2")["--set datasets.3.repeats"].message


def test_a_broken_value_of_an_override_names_the_override(tmp_path: Path) -> None:
    assert "is not YAML" in findings(tmp_path, MINIMAL, "train.steps=[1")["--set train.steps"].message


def test_a_wrong_override_is_reported_as_the_override_and_not_as_the_line_of_the_file(tmp_path: Path) -> None:
    found = findings(tmp_path, MINIMAL + "train: {steps: 5}\n", "train.steps=0")
    assert "--set train.steps" in found["train.steps"].message


def test_all_errors_are_reported_at_once_with_value_line_wish_and_fix(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + "train:\n  steps: 0\n  batch_size: true\nschedule:\n  name: cosin\nadapter: 5\nsample: {prompts: [1]}\n"
    )
    found = findings(tmp_path, text)
    assert set(found) == {"train.steps", "train.batch_size", "schedule.name", "adapter", "sample.prompts.0"}
    assert "is 0 (" in found["train.steps"].message
    assert f"{tmp_path}/cat.yaml:4)" in found["train.steps"].message
    assert "a whole number from 1 to 10000000" in found["train.steps"].message
    assert found["train.steps"].fix == "The default is null."
    assert found["schedule.name"].fix == "Did you mean `cosine`?"


def test_a_number_in_quotes_is_not_a_number(tmp_path: Path) -> None:
    assert findings(tmp_path, MINIMAL + 'optimizer: {lr: "1e-4"}\n')["optimizer.lr"].fix.endswith("without quotes.")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lr", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("network_dim", "adapter.rank"),
        ("adapter.network_alpha", "adapter.alpha"),
        ("pretrained_model_name_or_path", "model.path"),
        ("optimiser", "optimizer"),
        ("optimiser.lr", "optimizer"),
        ("bucket.resolutoin", "bucket.resolution"),
        ("train.max_grad_norm", "optimizer.max_grad_norm"),
        ("datasets.0.num_repeats", "datasets.0.repeats"),
        ("train.warmup_steps", "schedule.warmup_steps"),
    ],
)
def test_an_unknown_key_comes_with_the_setting_that_was_meant(tmp_path: Path, key: str, meant: str) -> None:
    found = findings(tmp_path, MINIMAL, f"{key}=1")
    (unknown,) = [finding for finding in found.values() if "is not a setting" in finding.message]
    assert f"`{meant}`" in unknown.fix


def test_an_unknown_key_like_no_other_lists_what_there_is(tmp_path: Path) -> None:
    assert "optimizer" in findings(tmp_path, MINIMAL + "zzz: 1\n")["zzz"].fix
    assert "weight_decay" in findings(tmp_path, MINIMAL + "optimizer: {zzzz: 1}\n")["optimizer.zzzz"].fix


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    found = findings(tmp_path, MINIMAL + "train:\n  steps: 1\n  steps: 2\ntrain:\n  steps: 3\n")
    assert found["train.steps"].message.endswith("cat.yaml:4 and " + f"{tmp_path}/cat.yaml:5.")
    assert found["train"].message.endswith(f"{tmp_path}/cat.yaml:6.")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("model: [1\ntrain: 2\n", ":2:6"),
        ("model: *nobody\n", ":1:8"),
        ("model: !!python/object:os.system 1\n", ":1:8"),
        ("model: &a [*a]\n", ":1:8"),
        ("\tmodel: 1\n", ":1:1"),
        ("model: 1\n---\nmodel: 2\n", ":2:1"),
    ],
)
def test_a_syntax_error_is_one_finding_with_line_and_column(tmp_path: Path, text: str, where: str) -> None:
    (field,) = findings(tmp_path, text)
    assert field == f"{tmp_path}/cat.yaml{where}"


def test_an_empty_file_names_what_is_missing(tmp_path: Path) -> None:
    assert set(findings(tmp_path, "# nothing\n")) == {"model", "datasets"}


def test_an_empty_list_of_datasets_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, "model: {family: sd15, path: x}\ndatasets: []\n")
    assert "at least one dataset" in found["datasets"].message


def test_a_bad_dataset_is_not_also_called_an_empty_list(tmp_path: Path) -> None:
    found = findings(tmp_path, "model: {family: sd15, path: x}\ndatasets: [{path: x, repeats: 0}]\n")
    assert set(found) == {"datasets.0.repeats"}


def test_a_list_is_not_a_project(tmp_path: Path) -> None:
    assert "wanted groups" in findings(tmp_path, "- a\n")[f"{tmp_path}/cat.yaml"].message


def test_a_file_name_that_cannot_be_a_name_asks_for_one(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL, "my cat.yaml")
    with pytest.raises(ConfigError, match="give `name:`"):
        load_project(path)
    assert load_project(path, ["name=cat"]).name == "cat"


def test_a_missing_or_unreadable_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_project(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_project(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_project(tmp_path / "latin.yaml")


def test_a_dataset_name_cannot_hold_a_slash(tmp_path: Path) -> None:
    assert "datasets.0.name" in findings(tmp_path, MINIMAL, "datasets.0.name=a/b")


def test_no_number_accepts_nan_or_infinity(tmp_path: Path) -> None:
    numbers = [row.path for row in field_rows().values() if "number" in row.wanted and row.group != "datasets"]
    assert len(numbers) > 30
    for path in numbers:
        for value in (".nan", ".inf", "-.inf"):
            text = f"[{value}, {value}]" if path == "optimizer.betas" else value
            assert any(name.startswith(path) for name in findings(tmp_path, MINIMAL, f"{path}={text}")), path


def test_the_home_is_beside_the_configs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)
    assert project_home(Path("/p/configs/cat.yaml")) == Path("/p/.lora-assets")
    assert project_home(Path("/p/cat.yaml")) == Path("/p/.lora-assets")


def test_the_home_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_ASSETS_HOME", "elsewhere")
    assert project_home(Path("/p/configs/cat.yaml")) == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("before", ["before"]), ("[before, /b]", ["before", "/b"]), ("null", []), ("[]", [])],
)
def test_one_control_folder_may_stand_for_a_list_of_one(tmp_path: Path, given: str, wanted: list[str]) -> None:
    text = MINIMAL.replace("path: cats", f"path: cats, control_path: {given}")
    project = load(tmp_path, text + "sample: {control_paths: [a.png, [b.png, /c.png], []]}\n")
    assert project.datasets[0].control_path == tuple(tmp_path / name for name in wanted)
    shown = ((tmp_path / "a.png",), (tmp_path / "b.png", Path("/c.png")), ())
    assert project.sample.control_paths == shown


def test_a_control_path_that_is_no_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"datasets.0.control_path.1: is 3 .*wanted a path or a list, each a path"):
        load(tmp_path, MINIMAL, "datasets.0.control_path=[a, 3]")


def test_the_documentation_of_every_field_is_present() -> None:
    assert [row.path for row in field_rows().values() if not row.text.endswith((".", "`", ")"))] == []


def test_no_group_has_more_than_fifteen_fields() -> None:
    assert {
        name: len(model.model_fields) for name, model in group_models().items() if len(model.model_fields) > 15
    } == {}


# Of the control characters only those that YAML can write; a surrogate is no text at all.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=40)


@given(
    prompts=st.lists(TEXT, max_size=3),
    trigger=st.sampled_from(["on", "1e-4", "null", "~", "0x1F", "2020-01-01", "a: b", "#", "- x", "'", '"', ""]),
    lr=st.floats(min_value=1e-12, max_value=10),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_dumped_project_loads_as_itself(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], trigger: str, lr: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("dump")
    plain = load(folder, MINIMAL)
    project = plain.model_copy(
        update={
            "sample": plain.sample.model_copy(update={"prompts": tuple(prompts)}),
            "caption": plain.caption.model_copy(update={"trigger_word": trigger}),
            "optimizer": plain.optimizer.model_copy(update={"lr": lr}),
            "train": plain.train.model_copy(update={"seed": seed}),
        }
    )
    assert load(folder, dump_project(project)) == project


def test_a_dump_keeps_the_order_of_the_groups(tmp_path: Path) -> None:
    data = YAML(typ="safe", pure=True).load(dump_project(load(tmp_path, MINIMAL)))
    assert list(data) == list(Project.model_fields)
    assert not math.isnan(data["optimizer"]["lr"])
