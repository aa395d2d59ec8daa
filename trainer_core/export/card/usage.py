"""The part of a model card that says how to use the LoRA: words of the prompt, strength, and each tool."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from trainer_core.export.card.facts import CardFacts, Trained
from trainer_core.export.card.markdown import code, inline, literal

_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def hub_id(trained: Trained) -> str:
    """Return the base's id on the Hub; empty where its name is none."""
    return trained.base_model if _HUB_ID.fullmatch(trained.base_model) else ""


def usage(facts: CardFacts) -> str:
    """Return the section's paragraphs."""
    parts = [_prompt(facts), _strength(facts)]
    if facts.comfyui_file:
        parts.append(
            f"**ComfyUI**: put {code(facts.comfyui_file)} into `models/loras` and load it with the node Load LoRA, "
            "between the checkpoint and the sampler."
        )
    if facts.kohya_file:
        parts.append(_kohya(facts.kohya_file))
    if facts.lycoris_file and not facts.file:
        parts.append(_with_lycoris(facts))
    parts.append(_with_diffusers(facts) if facts.file else "diffusers itself loads no adapter of this kind.")
    return "\n\n".join(parts)


def _prompt(facts: CardFacts) -> str:
    words, prompts = [inline(word) for word in facts.trained.trigger_words], facts.rendered.prompts
    if words:
        several = "Trigger words" if len(words) > 1 else "Trigger word"
        return f"**{several}**: {_listed([f'**{word}**' for word in words], 'or')}. Put it into the prompt."
    example = next((shown for text in prompts if (shown := inline(text))), "")
    like = f", for example: {example}" if example else ""
    return f"**No trigger word**: word the prompt like the captions that it was trained with{like}"


def _strength(facts: CardFacts) -> str:
    shown = [f"{strength:g}" for strength in facts.rendered.strengths]
    grid = f" The samples above show {_listed(shown, 'and')}." if shown and facts.rendered.prompts else ""
    measured = ", at which the figures below were measured" if facts.figures else ""
    return (
        f"**Strength**: begin with 1{measured}. Lower it where the LoRA overrules the rest of the prompt, and when "
        f"several LoRAs are used together.{grid}"
    )


def _kohya(file: str) -> str:
    prompt = code(f"<lora:{PurePath(file).stem}:1>")
    return (
        f"**A1111, Forge**: put {code(file)} into `models/Lora` and write {prompt} into the prompt. "
        f"**kohya's scripts**: {code(f'--network_module networks.lora --network_weights {file}')}."
    )


def _with_lycoris(facts: CardFacts) -> str:
    """Return how LyCORIS puts the file on a pipeline; it runs the layers, as merging scales some kinds twice."""
    snippet = (
        "from diffusers import DiffusionPipeline\nfrom lycoris import create_lycoris_from_weights\n\n"
        f"{_base(facts.trained)}\n"
        "pipe = DiffusionPipeline.from_pretrained(base)\n"
        f"file, model = {literal(facts.lycoris_file)}, pipe.{facts.denoiser}\n"
        "network, _ = create_lycoris_from_weights(1.0, file, model)  # 1.0 is its strength\n"
        "network.apply_to()\n"
        "network.eval()"
    )
    return f"**LyCORIS** (`pip install lycoris_lora`), in the folder of this file:\n\n```python\n{snippet}\n```"


def _with_diffusers(facts: CardFacts) -> str:
    rendered, trained = facts.rendered, facts.trained
    prompt = rendered.prompts[0] if rendered.prompts else " ".join(trained.trigger_words)
    arguments: dict[str, object] = {"num_inference_steps": rendered.steps}
    arguments |= {rendered.guidance_argument: rendered.guidance}
    arguments |= {"negative_prompt": rendered.negative_prompt} if rendered.negative_prompt else {}
    arguments |= {side: size for side, size in (("width", rendered.width), ("height", rendered.height)) if size}
    images = ", ".join(f'load_image("control-{number}.png")' for number in range(1, rendered.controls + 1))
    shown = f"    image={images if rendered.controls == 1 else f'[{images}]'},\n" if images else ""
    loader = "from diffusers.utils import load_image\n" if images else ""
    call = shown + "".join(f"    {name}={literal(value)},\n" for name, value in arguments.items())
    snippet = (
        f"import torch\nfrom diffusers import DiffusionPipeline\n{loader}\n"
        f"{_base(trained)}\n"
        'device = "cuda" if torch.cuda.is_available() else "cpu"\n'
        'dtype = torch.bfloat16 if device == "cuda" else torch.float32\n'
        "pipe = DiffusionPipeline.from_pretrained(base, torch_dtype=dtype)\n"
        f'pipe.to(device).load_lora_weights(".", weight_name={literal(facts.file)})\n'
        "pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=[1.0])  # its strength\n"
        f"picture = pipe(\n    {'prompt=' if images else ''}{literal(prompt)},\n{call}"
        # some pipelines name their pictures otherwise than `images`, but all return them first
        "    return_dict=False,\n)[0][0]\n"
        'picture.save("picture.png")'
    )
    return f"**diffusers**, in the folder of this file:\n\n```python\n{snippet}\n```"


def _base(trained: Trained) -> str:
    """Return the line that names the base: to be replaced where it is not on the Hub."""
    if name := hub_id(trained):
        return f"base = {literal(name)}"
    return f"base = {literal(trained.base_model or 'base-model')}  # replace it: where the base model lies here"


def _listed(words: Sequence[str], last: str) -> str:
    """Return words as a sentence lists them: `a, b and c`."""
    return f" {last} ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]
