"""What is measured on pictures of fixed prompts, and what a wrong judge is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny.tokenizers import clip_tokenizer
from trainer_core.errors import ConfigError, ModelError
from trainer_core.sampling.exam import Exam, load_clip_score, load_judge, render_exam, score_exam
from trainer_core.sampling.render import RenderSettings

SETTINGS = RenderSettings((), "", 2, 4.0, 7, 16, 16)


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (level, level, level))


def exam(pictures: int = 2, **scores: Any) -> Exam:
    return Exam(("a cat",), ("a dog", "a cow"), pictures, SETTINGS, scores)


def judge_file(folder: Path, code: str, name: str = "judge.py") -> Path:
    path = folder / name
    path.write_text(code)
    return path


@pytest.mark.setting("gate.concept_prompts", "gate.other_prompts")
def test_scores_are_means_over_the_pictures_of_their_own_prompts() -> None:
    pictures = [[grey(255), grey(0)], [grey(255)] * 2, [grey(0)] * 2]
    exam = Exam(("a cat",), ("a dog", "a cow"), 2, SETTINGS, {"": brightness, "clip_": half})
    figures = score_exam(exam, pictures).figures
    assert figures["concept_score"] == 0.5
    assert figures["following"] == 0.5
    assert figures["clip_concept_score"] == figures["clip_following"] == 0.5


def test_the_judges_score_of_every_picture_is_kept_in_the_order_of_prompts_and_seeds() -> None:
    pictures = [[grey(255), grey(0)], [grey(255)] * 2, [grey(0), grey(51)]]
    judged = score_exam(exam(2, **{"": brightness, "clip_": half}), pictures).judged
    assert judged == {"concept_score": (1.0, 0.0), "following": (1.0, 1.0, 0.0, 0.2)}


def brightness(picture: Image.Image, prompt: str) -> float:
    return picture.getpixel((0, 0))[0] / 255  # type: ignore[index]


def half(picture: Image.Image, prompt: str) -> float:
    return 0.5


def test_diversity_is_the_distance_between_seeds_of_one_prompt() -> None:
    alike = [[grey(10)] * 3] * 3
    assert score_exam(exam(3), alike).figures["diversity"] == 0.0
    opposite = [[grey(0), grey(255)]] * 3
    assert score_exam(exam(2), opposite).figures["diversity"] == 1.0


def test_one_picture_a_prompt_has_no_diversity() -> None:
    assert "diversity" not in score_exam(exam(1), [[grey(1)]] * 3).figures


class Pipeline:
    """Notes what it is asked, and gives a grey picture a generator."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, num_images_per_prompt: int = 1, **arguments: Any) -> Any:
        self.asked.append(arguments | {"count": num_images_per_prompt})
        generators = arguments["generator"]
        return ([grey(0)] * (len(generators) if isinstance(generators, list) else 1),)


class OneAtATime(Pipeline):
    """A pipeline that renders one picture a call."""

    def __call__(self, **arguments: Any) -> Any:  # type: ignore[override]
        self.asked.append(arguments)
        return ([grey(0)],)


def inputs(pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]) -> dict[str, Any]:
    return {"prompt": prompt} | ({"image": list(controls)} if controls else {})


@pytest.mark.setting("gate.seed", "gate.pictures")
def test_every_prompt_is_rendered_from_the_same_seeds() -> None:
    pipeline, counted = Pipeline(), list[int]()
    rendered = render_exam(pipeline, inputs, exam(3), lambda: counted.append(1))
    assert [len(pictures) for pictures in rendered] == [3, 3, 3]
    assert len(counted) == 9
    asked = [(call["prompt"], call["count"]) for call in pipeline.asked]
    assert asked == [(["a cat", "a dog"], 3), ("a cow", 3)]
    seeds = [[generator.initial_seed() for generator in call["generator"]] for call in pipeline.asked]
    assert seeds == [[7, 8, 9] * 2, [7, 8, 9]]


def test_a_pipeline_that_knows_no_batches_renders_the_same_seeds_one_by_one() -> None:
    pipeline = OneAtATime()
    assert [len(pictures) for pictures in render_exam(pipeline, inputs, exam(2), lambda: None)] == [2, 2, 2]
    asked = [(call["prompt"], call["generator"].initial_seed()) for call in pipeline.asked]
    assert sorted(asked) == [(prompt, seed) for prompt in ("a cat", "a cow", "a dog") for seed in (7, 8)]


def test_each_prompt_of_an_exam_edits_its_own_picture() -> None:
    pipeline, pictures = Pipeline(), [grey(level) for level in (1, 2, 3)]
    settings = replace(SETTINGS, controls=tuple((picture,) for picture in pictures))
    render_exam(pipeline, inputs, Exam(("a cat",), ("a cat", "a cow"), 1, settings, {}), lambda: None)
    assert [(call["prompt"], call["image"]) for call in pipeline.asked] == [
        ("a cat", [pictures[0]]),
        ("a cat", [pictures[1]]),
        ("a cow", [pictures[2]]),
    ]


@pytest.mark.setting("gate.judge")
def test_a_judge_in_a_package_is_imported_by_its_full_name(tmp_path: Path) -> None:
    package = tmp_path / "seen_only_here"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("VALUE = 0.25\n")
    code = "from seen_only_here.helper import VALUE\n\ndef score(picture, prompt):\n    return VALUE\n"
    assert load_judge(judge_file(package, code))(grey(0), "a cat") == 0.25


def test_a_changed_judge_is_read_anew_and_files_of_one_name_are_two(tmp_path: Path) -> None:
    values: list[float] = []
    for folder, value in (("a", 0.1), ("b", 0.2), ("a", 0.3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = judge_file(tmp_path / folder, f"def score(picture, prompt):\n    return {value}\n")
        values.append(load_judge(path)(grey(0), "a cat"))
    assert values == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_like_that\n", "cannot be imported: ModuleNotFoundError"),
        ("def rate(picture, prompt):\n    return 1\n", "has no function `score`"),
    ],
)
def test_a_file_that_is_no_judge_is_refused_by_name(tmp_path: Path, code: str, told: str) -> None:
    path = judge_file(tmp_path, code, f"judge_{abs(hash(code))}.py")
    with pytest.raises(ConfigError) as caught:
        load_judge(path)
    assert told in str(caught.value) and str(path) in str(caught.value)


def test_a_judge_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_judge(tmp_path / "judge.py")


@pytest.mark.parametrize(
    ("body", "told"), [("return 1.5", "gave 1.5 for 'a cat'"), ("raise KeyError('x')", "failed on 'a cat': KeyError")]
)
def test_a_judge_that_fails_names_the_prompt(tmp_path: Path, body: str, told: str) -> None:
    path = judge_file(tmp_path, f"def score(picture, prompt):\n    {body}\n", f"wrong_{abs(hash(body))}.py")
    with pytest.raises(ConfigError) as caught:
        load_judge(path)(grey(0), "a cat")
    assert told in str(caught.value)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder, tokenizer = tmp_path_factory.mktemp("clip"), clip_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config=small | ids | {"vocab_size": len(tokenizer), "projection_dim": 16},
        vision_config=small | {"image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes: Any = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    return folder


@pytest.mark.setting("gate.clip_path")
def test_the_clip_score_is_the_cosine_of_the_models_own_embeddings(clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model: Any = CLIPModel.from_pretrained(clip)
    processor: Any = CLIPProcessor.from_pretrained(clip)
    picture = Image.effect_noise((48, 40), 80).convert("RGB")
    inputs = processor(text=["a cat"], images=[picture], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.item()
    score = load_clip_score(clip, torch.device("cpu"))
    assert score(picture, "a cat") == pytest.approx(logits / model.logit_scale.exp().item(), abs=1e-5)
    assert score(picture, "a cat") != score(picture, "a dog on a moon")


def test_a_folder_without_a_clip_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gate.clip_path") as caught:
        load_clip_score(tmp_path, torch.device("cpu"))
    assert str(tmp_path) in str(caught.value)
