"""The model card: what the Hub reads of it, and that no text of a user breaks it."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trainer_core.export.card.document import model_card
from trainer_core.export.card.facts import CardFacts, Figure, Lineage, Rendered, Trained, TrainingData, base_name
from trainer_core.types import Verdict

PROMPTS = ("a zorbling on a white background", 'say "hi": a | b')
FACTS = CardFacts(
    name="demo",
    file="demo.safetensors",
    comfyui_file="demo.comfyui.safetensors",
    trained=Trained("Stable Diffusion 1.5", 16, 16.0, "attention+mlp", 600, 480, "base", ("zorbling",)),
    data=TrainingData(
        31, 5, {"no caption": 2, "damaged: image file | truncated": 1}, (("48x80", 8, 3), ("64x64", 16, 0))
    ),
    lineage=Lineage("a" * 64, "b" * 64, "c" * 64, "d" * 64, {"torch": "2.9.0", "diffusers": "0.36.0"}),
    rendered=Rendered(PROMPTS, "blurry", 20, 4.0, 64, 64, strengths=(0.5, 1.0, 1.5)),
    figures=(
        Figure("held-out loss", 0.08214, 0.05127, noise=0.00493),
        Figure("concept score", 0.0, 0.9375, share=True, interval=(0.83, 0.98), pictures=48),
        Figure("speed", None, 1.5),
    ),
    verdict=Verdict(False, ("prompt following fell by 0.12, more than 0.1", "- a *list* of its own")),
    settings={
        "optimizer.name": "adamw",
        "optimizer.lr": 0.002,
        "train.epochs": None,
        "noise.timesteps": (0, 1000),
        "loss.masked": True,
        "adapter.init_from": "/home/me/secret/older.safetensors",
        "note": "a|b\nc",
    },
    kohya_file="demo.kohya.safetensors",
)
NASTY = [
    "yes",
    "1e3",
    "a: b # c",
    'it\'s "quoted"',
    "---",
    "a\n---\nb",
    "{a: [b]}",
    "&x *y !z",
    "x | y",
    "日本 😀",
    "\\",
    "",
]


def front_matter(card: str) -> dict[str, Any]:
    begin, text, _ = card.split("---\n", 2)
    assert begin == ""
    return YAML(typ="safe", pure=True).load(text)


def rows(card: str, heading: str) -> list[list[str]]:
    section = card.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in section.splitlines()
        if line.startswith("|")
    ]


def snippet(card: str) -> str:
    found = re.search(r"^(`{3,})python\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[2]


def test_the_front_matter_tells_the_hub_what_it_is() -> None:
    facts = replace(FACTS, trained=replace(FACTS.trained, base_model="stabilityai/sdxl"))
    assert front_matter(model_card(facts)) == {
        "license": "other",
        "license_name": "license-of-the-base-model",
        "license_link": "https://huggingface.co/stabilityai/sdxl",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "lora", "diffusers", "template:sd-lora"],
        "base_model": "stabilityai/sdxl",
        "base_model_relation": "adapter",
        "instance_prompt": "zorbling",
        "widget": [
            {"text": PROMPTS[0], "output": {"url": "sample-1.png"}},
            {"text": PROMPTS[1], "output": {"url": "sample-2.png"}},
        ],
    }


def test_a_folder_name_is_no_model_of_the_hub() -> None:
    card = model_card(FACTS)
    assert "base_model" not in front_matter(card)
    assert 'base = "base"  # replace it: where the base model lies here' in snippet(card)


@pytest.mark.parametrize("text", NASTY)
def test_any_prompt_and_trigger_word_comes_back_as_the_hub_reads_it(text: str) -> None:
    facts = replace(FACTS, trained=replace(FACTS.trained, trigger_words=(text,)), rendered=Rendered((text, text)))
    card = model_card(facts)
    for read in (front_matter(card), ModelCard(card, ignore_metadata_errors=False).data.to_dict()):
        assert read.get("instance_prompt", "") == text
        assert [one["text"] for one in read["widget"]] == [text, text]


@given(st.text(max_size=200))
def test_no_text_of_a_user_breaks_the_card(text: str) -> None:
    facts = replace(
        FACTS,
        name=text,
        trained=replace(FACTS.trained, trigger_words=(text, text), base_model=text, targets=text, kind=text),
        rendered=Rendered((text,), text),
        data=TrainingData(1, 0, {text: 1}, ((text, 1, 0),)),
        settings={text: text},
        verdict=Verdict(True, (text,)),
    )
    card = model_card(facts)
    assert card.encode()
    assert front_matter(card)["widget"][0]["text"] == text
    assert [len(row) for row in rows(card, "Training settings")] == [2, 2, 2]
    assert [len(row) for row in rows(card, "Training data")] == [2, 2, 2, 3, 3, 3]
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings == [f"## {name}" for name in SECTIONS]
    strings = [node.value for node in ast.walk(ast.parse(snippet(card))) if isinstance(node, ast.Constant)]
    assert text in strings


SECTIONS = ("Samples", "Use", "Figures", "Gate", "Training data", "Training settings", "License", "Lineage")


def test_half_a_surrogate_pair_can_still_be_written() -> None:
    assert model_card(replace(FACTS, rendered=Rendered(("a\ud800b",)))).encode()


def test_the_snippet_is_python_that_loads_this_file() -> None:
    card = model_card(FACTS)
    code = snippet(card)
    ast.parse(code)
    assert 'weight_name="demo.safetensors"' in code
    assert '"a zorbling on a white background"' in code
    assert 'negative_prompt="blurry"' in code
    assert "`models/loras`" in card


def test_a_long_prompt_stays_in_one_line_of_the_front_matter() -> None:
    long, short = (model_card(replace(FACTS, rendered=Rendered((text,)))) for text in ("--- cat " * 200, "cat"))
    assert front_matter(long)["widget"][0]["text"] == "--- cat " * 200
    assert len(long.splitlines()) == len(short.splitlines())


@pytest.mark.parametrize("text", ["# cat", "- cat", "+ cat", "=== cat", "12. cat"])
def test_a_prompt_begins_no_heading_and_no_list_of_its_own(text: str) -> None:
    mark, rest = re.split("(?=[#+=.-])", text, maxsplit=1)
    assert f"1. {mark}\\{rest}\n" in model_card(replace(FACTS, rendered=Rendered((text,))))


def test_backticks_in_a_prompt_do_not_end_the_snippet() -> None:
    assert '"``` x"' in snippet(model_card(replace(FACTS, rendered=Rendered(("``` x",)))))


def test_the_figures_tell_what_changed_where_both_are_known() -> None:
    assert rows(model_card(FACTS), "Figures")[2:] == [
        ["held-out loss", "0.08214", "0.05127", "-37.6% ± 6.0%", ""],
        ["concept score", "0.0%", "93.8%", "+93.8 points", "83.0% to 98.0% (48 pictures)"],
        ["speed", "", "1.5", "", ""],
    ]


def test_the_data_is_counted_with_its_exclusions() -> None:
    card = model_card(FACTS)
    assert "Trained on 31 pictures; 5 held out to measure the loss, 3 excluded." in card
    assert [r"damaged: image file \| truncated", "1"] in rows(card, "Training data")
    assert ["48x80", "8", "3"] in rows(card, "Training data")


def test_the_verdict_stands_there_with_its_reasons_and_left_out_without_a_gate() -> None:
    assert "Not promoted to its project's champion.\n\n- prompt following fell" in model_card(FACTS)
    assert "## Gate" not in model_card(replace(FACTS, verdict=None))
    assert "\n\nPromoted: it keeps every limit of its project, whose champion it is.\n" in model_card(
        replace(FACTS, verdict=Verdict(True))
    )


def test_what_is_not_known_is_left_out() -> None:
    bare = CardFacts(
        "x", "x.safetensors", Trained("SDXL", 4, 4.0, "attention", 10, 10), TrainingData(3, 0), FACTS.lineage
    )
    card = model_card(bare)
    assert set(front_matter(card)) == {"license", "license_name", "library_name", "pipeline_tag", "tags"}
    assert "10 steps." in card and "samples.png" not in card
    assert not re.search(r"^## (Samples|Figures|Gate|Training settings)$", card, re.MULTILINE)


def test_equal_facts_give_equal_cards_whatever_the_order_of_versions() -> None:
    turned = replace(FACTS.lineage, versions=dict(reversed(FACTS.lineage.versions.items())))
    assert model_card(replace(FACTS, lineage=turned)) == model_card(FACTS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/sdxl-base", "sdxl-base"),
        ("/models/juggernaut.v9.safetensors", "juggernaut.v9"),
        ("/hub/models--stabilityai--sdxl/snapshots/0a1b", "stabilityai/sdxl"),
    ],
)
def test_a_base_is_called_by_its_id_or_its_folder(path: str, name: str) -> None:
    assert base_name(PurePath(path)) == name


def test_comfyui_is_given_the_file_that_it_reads_or_none() -> None:
    assert "put `demo.comfyui.safetensors` into `models/loras`" in model_card(FACTS)
    assert "ComfyUI" not in model_card(replace(FACTS, comfyui_file=""))


def test_a_card_of_edits_tells_how_a_picture_is_given() -> None:
    rendered = replace(FACTS.rendered, controls=1)
    card = model_card(replace(FACTS, rendered=rendered, data=replace(FACTS.data, paired=3)))
    assert 'image=load_image("control-1.png"),' in card and "from diffusers.utils import load_image" in card
    assert f"prompt={json.dumps(FACTS.rendered.prompts[0])}" in card
    assert "pipeline_tag: image-to-image" in card
    assert "3 of them are edits of a control picture." in card
    two = model_card(replace(FACTS, rendered=replace(rendered, controls=2)))
    assert 'image=[load_image("control-1.png"), load_image("control-2.png")],' in two


def test_each_tool_is_given_the_file_that_it_reads() -> None:
    card = model_card(FACTS)
    assert "put `demo.kohya.safetensors` into `models/Lora` and write `<lora:demo.kohya:1>` into the prompt" in card
    assert "Forge" not in model_card(replace(FACTS, kohya_file=""))


def test_the_card_says_what_to_write_into_the_prompt() -> None:
    assert "**Trigger word**: **zorbling**. Put it into the prompt." in model_card(FACTS)
    several = replace(FACTS.trained, trigger_words=("tom", "kit", "ann"))
    assert "**Trigger words**: **tom**, **kit** or **ann**." in model_card(replace(FACTS, trained=several))
    without = model_card(replace(FACTS, trained=replace(FACTS.trained, trigger_words=())))
    assert (
        f"**No trigger word**: word the prompt like the captions that it was trained with, for example: {PROMPTS[0]}"
        in without
    )
    assert "instance_prompt" not in front_matter(without)


def test_the_card_advises_a_strength_and_names_those_that_it_shows() -> None:
    assert "The samples above show 0.5, 1 and 1.5." in model_card(FACTS)
    assert "The samples above show" not in model_card(replace(FACTS, rendered=Rendered()))


def test_settings_are_written_as_a_project_has_them_and_paths_are_not_given_away() -> None:
    shown = {name: value for name, value, *_ in rows(model_card(FACTS), "Training settings")}
    assert shown["train.epochs"] == "none"
    assert shown["noise.timesteps"] == "0, 1000"
    assert shown["loss.masked"] == "true"
    assert shown["adapter.init_from"] == "older.safetensors"


def test_the_gallery_shows_the_first_prompts_alone() -> None:
    many = replace(FACTS, rendered=Rendered(tuple(f"cat {number}" for number in range(20))))
    assert [one["output"]["url"] for one in front_matter(model_card(many))["widget"]] == [
        f"sample-{number}.png" for number in range(1, 9)
    ]


def test_a_dataset_with_regularisation_pictures_says_so() -> None:
    card = model_card(replace(FACTS, data=replace(FACTS.data, regularisation=10)))
    assert "10 of those trained on are regularisation pictures, without the concept." in card
