"""The model card: a README.md for people and for the Hugging Face Hub, from facts alone.

Nothing here looks at a clock, so equal runs give equal cards. Source of the front matter's fields:
https://huggingface.co/docs/hub/model-cards and the cards that diffusers' own training scripts write.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

from trainer_core.types import Verdict

SAMPLES = "samples.png"
_TAGS = ("lora", "diffusers", "template:sd-lora")
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_HUB_CACHE = re.compile(r"models--(.+)")
# An underscore between letters is one, so names of settings stay readable in the source.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_]))")
_BLOCK = re.compile(r"^(?=[-+=#])|^(\d{1,9})(?=[.)])")


@dataclass(frozen=True)
class Trained:
    """What was trained."""

    family: str
    """The family's title, `Stable Diffusion 1.5`."""
    rank: int
    alpha: float
    targets: str
    steps: int
    """Steps of the run."""
    step: int
    """The step that was chosen."""
    base_model: str = ""
    """Hub id or folder name of the base; `base_name` makes it of a path. Empty where unknown."""
    trigger_word: str = ""
    kind: str = "lora"
    """`adapter.type`."""
    replaced: Mapping[str, str] = field(default_factory=dict[str, str])
    """Component of the base -> name of what was read in its place."""


@dataclass(frozen=True)
class Rendered:
    """How the samples were rendered, and so how the LoRA is used."""

    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    steps: int = 25
    guidance: float = 5.0
    width: int = 0
    """In pixels; 0 is the pipeline's own."""
    height: int = 0
    """In pixels; 0 is the pipeline's own."""
    controls: int = 0
    """Most control pictures that a prompt edits."""
    guidance_argument: str = "guidance_scale"
    """Argument of the pipeline's call that takes `guidance`."""


@dataclass(frozen=True)
class Figure:
    """A measured value, of the base and of the LoRA; None where it was not measured."""

    name: str
    base: float | None
    lora: float | None


@dataclass(frozen=True)
class TrainingData:
    """What the dataset consists of."""

    trained: int
    """Pictures that were trained on."""
    held_out: int
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])
    """Reason -> pictures left out for it."""
    buckets: tuple[tuple[str, int, int], ...] = ()
    """(bucket, pictures, how many of them are held out)."""
    paired: int = 0
    """Pictures, trained on or held out, that have control pictures."""


@dataclass(frozen=True)
class Lineage:
    """Where the file comes from: fingerprints in hex, and versions of libraries by name."""

    base_fingerprint: str
    dataset_version: str
    weights_sha256: str
    file_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card tells."""

    name: str
    """The project's name."""
    file: str
    """Name of the LoRA file beside the card that diffusers reads; empty if there is none."""
    trained: Trained
    data: TrainingData
    lineage: Lineage
    rendered: Rendered = field(default_factory=Rendered)
    figures: tuple[Figure, ...] = ()
    """Held-out loss first."""
    verdict: Verdict | None = None
    """None where there is no gate."""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """Setting -> value, in the order of the table."""
    comfyui_file: str = ""
    """Name of the file that ComfyUI reads, if there is one."""
    lycoris_file: str = ""
    """Name of the file in LyCORIS's own keys, if there is one."""
    denoiser: str = "unet"
    """What the pipeline calls the model that is adapted."""
    license: str = "other"
    """Identifier of the Hub."""


def model_card(facts: CardFacts) -> str:
    """Return a card as Markdown with the Hub's front matter; equal facts give equal text."""
    sections = (
        _front_matter(facts),
        f"# {_inline(facts.name)}\n\n{_what(facts)}",
        _samples(facts.rendered),
        f"## Use\n\n{_use(facts)}",
        _figures(facts.figures),
        _verdict(facts.verdict),
        _data(facts.data),
        _settings(facts.settings),
        _lineage(facts.lineage),
    )
    text = "\n\n".join(section for section in sections if section) + "\n"
    # Half a surrogate pair, which YAML lets a prompt hold, could not be written to a file.
    return text.encode("utf-8", "replace").decode()


def base_name(path: PurePath) -> str:
    """Return what to call a base model: its id on the Hub for a folder of the Hub's cache, else its folder or file."""
    for part in reversed(path.parts):
        if found := _HUB_CACHE.fullmatch(part):
            return found[1].replace("--", "/")
    return path.stem if path.suffix == ".safetensors" else path.name


def _front_matter(facts: CardFacts) -> str:
    trained = facts.trained
    front: dict[str, object] = {"license": Quoted(facts.license), "library_name": "diffusers"}
    task = "image-to-image" if facts.rendered.controls else "text-to-image"
    front |= {"pipeline_tag": task, "tags": [task, *_TAGS]}
    # The Hub takes ids of models, and no other names.
    if _HUB_ID.fullmatch(trained.base_model):
        front["base_model"] = Quoted(trained.base_model)
    if trained.trigger_word:
        front["instance_prompt"] = Quoted(trained.trigger_word)
    if facts.rendered.prompts:
        # Quoted, because `yes` and `1e3` are words to YAML 1.2 and something else to the Hub's YAML 1.1.
        front["widget"] = [{"text": Quoted(text), "output": {"url": SAMPLES}} for text in facts.rendered.prompts]
    yaml, stream = YAML(), io.StringIO()
    # A prompt stays in its line, however long it is.
    yaml.width = 1 << 30
    yaml.dump(front, stream)
    return f"---\n{stream.getvalue()}---"


def _what(facts: CardFacts) -> str:
    trained = facts.trained
    base = f" ({_inline(trained.base_model)})" if trained.base_model else ""
    chosen = f"step {trained.step} of {trained.steps}" if trained.step != trained.steps else f"{trained.steps} steps"
    lines = [
        f"{_kind(trained)} for {_inline(trained.family)}{base}: rank {trained.rank}, alpha {trained.alpha:g}, "
        f"on {_inline(trained.targets)}, {chosen}."
    ]
    if trained.replaced:
        named = ", ".join(f"{_inline(name)} ({component})" for component, name in sorted(trained.replaced.items()))
        lines.append(f"Trained with other components than the base's own: {named}. Load them when you render.")
    if trained.trigger_word:
        lines.append(f"Trigger word: **{_inline(trained.trigger_word)}**. Put it into the prompt.")
    return "\n\n".join(lines)


def _kind(trained: Trained) -> str:
    return "A LoRA" if trained.kind == "lora" else f"An adapter ({trained.kind})"


def _samples(rendered: Rendered) -> str:
    if not rendered.prompts:
        return ""
    prompts = "\n".join(f"{number}. {_item(text) or '(no prompt)'}" for number, text in enumerate(rendered.prompts, 1))
    told = "The base beside the LoRA at several strengths; one row a prompt, one seed a row."
    return f"## Samples\n\n![samples]({SAMPLES})\n\n{told}\n\n{prompts}"


def _use(facts: CardFacts) -> str:
    told = [_with_diffusers(facts) if facts.file else "diffusers itself loads no adapter of this kind."]
    if facts.lycoris_file and not facts.file:
        told.append(_with_lycoris(facts))
    if facts.comfyui_file:
        name = _code(facts.comfyui_file)
        told.append(f"ComfyUI: put {name} into `models/loras` and load it with the node Load LoRA.")
    return "\n\n".join(told)


def _with_lycoris(facts: CardFacts) -> str:
    """Return how LyCORIS puts the file on a pipeline; it runs the layers, as merging scales some kinds twice."""
    snippet = (
        "from diffusers import DiffusionPipeline\nfrom lycoris import create_lycoris_from_weights\n\n"
        f"pipe = DiffusionPipeline.from_pretrained({_literal(_base(facts.trained))})\n"
        f"file, model = {_literal(facts.lycoris_file)}, pipe.{facts.denoiser}\n"
        "network, _ = create_lycoris_from_weights(1.0, file, model)  # 1.0 is its strength\n"
        "network.apply_to()\n"
        "network.eval()"
    )
    return f"With LyCORIS (`pip install lycoris_lora`), in the folder of this file:\n\n```python\n{snippet}\n```"


def _with_diffusers(facts: CardFacts) -> str:
    rendered, trained = facts.rendered, facts.trained
    prompt = rendered.prompts[0] if rendered.prompts else trained.trigger_word
    arguments: dict[str, object] = {"num_inference_steps": rendered.steps}
    arguments |= {rendered.guidance_argument: rendered.guidance}
    arguments |= {"negative_prompt": rendered.negative_prompt} if rendered.negative_prompt else {}
    arguments |= {side: size for side, size in (("width", rendered.width), ("height", rendered.height)) if size}
    images = ", ".join(f'load_image("control-{number}.png")' for number in range(1, rendered.controls + 1))
    shown = f"    image={images if rendered.controls == 1 else f'[{images}]'},\n" if images else ""
    loader = "from diffusers.utils import load_image\n" if images else ""
    call = shown + "".join(f"    {name}={_literal(value)},\n" for name, value in arguments.items())
    snippet = (
        f"import torch\nfrom diffusers import DiffusionPipeline\n{loader}\n"
        'device = "cuda" if torch.cuda.is_available() else "cpu"\n'
        'dtype = torch.bfloat16 if device == "cuda" else torch.float32\n'
        f"pipe = DiffusionPipeline.from_pretrained({_literal(_base(trained))}, torch_dtype=dtype)\n"
        f'pipe.to(device).load_lora_weights(".", weight_name={_literal(facts.file)})\n'
        "pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=[1.0])  # its strength\n"
        f"picture = pipe(\n    {'prompt=' if images else ''}{_literal(prompt)},\n{call}"
        # some pipelines name their pictures otherwise than `images`, but all return them first
        "    return_dict=False,\n)[0][0]\n"
        'picture.save("picture.png")'
    )
    return f"With diffusers, in the folder of this file:\n\n```python\n{snippet}\n```"


def _base(trained: Trained) -> str:
    name = trained.base_model
    return name if _HUB_ID.fullmatch(name) else f"path/to/{name or 'the-base-model'}"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    rows = [(one.name, _number(one.base), _number(one.lora), _change(one)) for one in figures]
    return f"## Figures\n\n{_table(('', 'base', 'LoRA', 'change'), rows)}"


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    told = "## Gate\n\n" + ("Promoted to champion." if verdict.promoted else "Not promoted to champion.")
    reasons = "\n".join(f"- {_item(reason)}" for reason in verdict.reasons)
    return f"{told}\n\n{reasons}" if reasons else told


def _data(data: TrainingData) -> str:
    told = f"{data.trained} pictures trained on, {data.held_out} held out, {sum(data.excluded.values())} excluded."
    if data.paired:
        told += f" {data.paired} of them are edits of a control picture."
    parts = ["## Training data", told]
    if data.excluded:
        parts.append(_table(("excluded because", "pictures"), sorted(data.excluded.items())))
    if data.buckets:
        parts.append(_table(("bucket", "pictures", "held out"), data.buckets))
    return "\n\n".join(parts)


def _settings(settings: Mapping[str, object]) -> str:
    return f"## Settings\n\n{_table(('setting', 'value'), list(settings.items()))}" if settings else ""


def _lineage(lineage: Lineage) -> str:
    rows = [
        ("base model, fingerprint", lineage.base_fingerprint),
        ("dataset, data version", lineage.dataset_version),
        ("weights, SHA-256", lineage.weights_sha256),
        ("file, SHA-256", lineage.file_sha256),
        *sorted(lineage.versions.items()),
    ]
    return f"## Lineage\n\n{_table(('', ''), rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(head), ["---"] * len(head), *([_inline(str(value)) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: str) -> str:
    """Return text that Markdown shows as it is, in one line, in tables too."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _item(text: str) -> str:
    """Return text for a list item, where a leading `#`, dash or number would begin a block of its own."""
    return _BLOCK.sub(r"\1\\", _inline(text))


def _code(text: str) -> str:
    """Return a code span; a name with a backtick in it is plain text instead."""
    return _inline(text) if "`" in text or "|" in text else f"`{text}`"


def _literal(value: object) -> str:
    """Return a Python literal in double quotes, in one line."""
    return json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _change(figure: Figure) -> str:
    if figure.base is None or figure.lora is None or figure.base == 0:
        return ""
    return f"{figure.lora / figure.base - 1:+.1%}"
