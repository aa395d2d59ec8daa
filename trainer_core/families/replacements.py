"""Another VAE or other text encoders than the base model's own: found, checked against its config. No torch here.

A replacement is a folder with config and weights in the layout of diffusers or transformers, or a .safetensors file of
weights alone, whose config is then the base's own. Tokenizers always stay the base's.

Files are recognised by the names and shapes of their tensors:

| file | tensor | component |
|---|---|---|
| `ae.safetensors`, `sdxl_vae.safetensors` | `decoder.conv_in.weight` | a VAE of the class AutoencoderKL |
| `clip_l.safetensors`, `clip_g.safetensors` | `text_model.embeddings.token_embedding.weight` | a CLIP text encoder |
| `t5xxl_fp16.safetensors` | `shared.weight` or `encoder.embed_tokens.weight` | a T5 encoder |

A whole checkpoint that holds such tensors below a prefix is read too; the rest of it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError
from trainer_core.families.component_files import (
    PICKLE_REASON,
    PICKLES,
    MissingFile,
    class_problem,
    read_json,
    weight_files,
)
from trainer_core.families.single_file import DENOISER_PREFIX, SCALED_MARKS, part_of, read_header
from trainer_core.families.spec import ComponentSpec, FamilySpec

Config = Callable[[str], Mapping[str, Any]]
"""Component of the base -> its config."""

VAE, TEXT_ENCODERS = "model.vae_path", "model.text_encoder_paths"


@dataclass(frozen=True)
class Replacement:
    """The files of a component that replaces the base model's own."""

    path: Path
    """What the user named."""
    folder: Path | None
    """With config and weights; None where `file` holds the weights and the base has the config."""
    file: Path | None = None
    names: tuple[str, ...] = ()
    """Tensors of the component in `file` ..."""
    stored_prefix: str = ""
    """... the start of their names there ..."""
    prefix: str = ""
    """... and the start that diffusers' converters expect."""
    part: str = ""
    """What `single_file_digests` calls these tensors."""


@dataclass(frozen=True)
class _Layout:
    """How a kind of model is recognised among the tensors of a file."""

    title: str
    marks: tuple[str, ...]
    """One of these tensors is there; its second side is the width of the model."""
    width: str
    """Key of the config that has this width."""
    loaders: tuple[str, ...]
    prefix: str
    """Start of the names that diffusers' converters expect."""


_LAYOUTS = (
    _Layout("an AutoencoderKL", ("decoder.conv_in.weight",), "latent_channels", ("AutoencoderKL",), ""),
    _Layout(
        "a CLIP text encoder",
        ("text_model.embeddings.token_embedding.weight",),
        "hidden_size",
        ("CLIPTextModel", "CLIPTextModelWithProjection"),
        "cond_stage_model.transformer.",
    ),
    _Layout(
        "a T5 encoder",
        ("shared.weight", "encoder.embed_tokens.weight"),
        "d_model",
        ("T5EncoderModel",),
        "text_encoders.t5xxl.transformer.",
    ),
)
_WIDTHS = ("latent_channels", "d_model", "hidden_size")
"""Keys of configs that must be as in the base's own component: the denoiser reads so many channels."""


def find_replacements(
    spec: FamilySpec, config: Config, vae: Path | None, text_encoders: Sequence[Path]
) -> dict[str, Replacement]:
    """Return component -> the files that replace the base model's own.

    Args:
        spec: the family, or its variant.
        config: reads the config of a component of the base.
        vae: `model.vae_path`.
        text_encoders: `model.text_encoder_paths`.

    Raises:
        ModelError: a path is missing, cannot be read, or fits no component of the base. `field` names the setting.
    """
    encoders = [name for name in spec.text_components if spec.components[name].kind == "model"]
    replaced: dict[str, Replacement] = {}
    asked = [(VAE, vae, [spec.vae])] if vae is not None else []
    asked += [(TEXT_ENCODERS, path, encoders) for path in text_encoders]
    for field, path, names in asked:
        try:
            chosen = _in_folder(path, spec, names, config) if path.is_dir() else _in_file(path, spec, names, config)
        except (MissingFile, ModelError) as error:
            raise ModelError(f"{field}: {error}", field) from error
        if twice := sorted(chosen.keys() & replaced.keys()):
            message = f"{path} and {replaced[twice[0]].path} are both for {twice[0]}. Keep one of them."
            raise ModelError(f"{field}: {message}", field)
        replaced |= chosen
    return replaced


def _in_folder(path: Path, spec: FamilySpec, names: Iterable[str], config: Config) -> dict[str, Replacement]:
    """Return the components in a folder: of one model, or of a pipeline with a folder for each."""
    folders = {name: path if (path / "config.json").is_file() else path / name for name in names}
    there = {name: folder for name, folder in folders.items() if (folder / "config.json").is_file()}
    if not there:
        raise ModelError(f"{path} holds no config.json, nor a folder {' or '.join(folders)} that does.")
    problems = {name: _folder_problem(folder, name, spec.components[name], config) for name, folder in there.items()}
    if fitting := [name for name in there if problems[name] is None]:
        for name in fitting:
            weight_files(there[name], spec.components[name])
        return {name: Replacement(path, there[name]) for name in fitting}
    raise ModelError(f"{path} does not fit: {'; '.join(filter(None, problems.values()))}.")


def _folder_problem(folder: Path, name: str, component: ComponentSpec, config: Config) -> str | None:
    given, own = read_json(folder / "config.json"), config(name)
    if problem := class_problem(name, component, given):
        return problem
    for key in _WIDTHS:
        if key in own and given.get(key) != own[key]:
            return f"its {key} is {given.get(key)}, that of the base's {name} {own[key]}"
    blocks = [len(config.get("block_out_channels") or ()) for config in (given, own)]
    return "it makes latents of another size than the base's" if len(set(blocks)) > 1 else None


def _in_file(path: Path, spec: FamilySpec, names: Sequence[str], config: Config) -> dict[str, Replacement]:
    """Return the components whose weights a .safetensors file holds."""
    _refuse_unreadable(path)
    header = read_header(path)
    if any(tensor.endswith(SCALED_MARKS) for tensor in header):
        raise ModelError(
            f"{path}: its weights are scaled 8-bit numbers, which are not read. Give the fp16 or bf16 file."
        )
    bare = not any(tensor.startswith(DENOISER_PREFIX) for tensor in header)
    chosen: dict[str, Replacement] = {}
    contents: list[str] = []
    for layout in _LAYOUTS:
        for mark in (tensor for tensor in header if tensor.endswith(layout.marks)):
            start, width = _start(mark, layout), header[mark]["shape"][1]
            contents.append(f"{layout.title} of width {width}")
            for name in names:
                if spec.components[name].loader in layout.loaders and config(name).get(layout.width) == width:
                    tensors = tuple(sorted(tensor for tensor in header if tensor.startswith(start)))
                    part = part_of(mark, bare)
                    chosen.setdefault(name, Replacement(path, None, path, tensors, start, layout.prefix, part))
    if not chosen:
        raise ModelError(_no_fit(path, contents, spec, names, config))
    return chosen


def _refuse_unreadable(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise ModelError(f"{path.name}: {PICKLE_REASON.partition(';')[0]}; convert it to .safetensors.")
    if not path.is_file():
        raise ModelError(f"there is no such file or folder: {path}.")
    if path.suffix.lower() != ".safetensors":
        raise ModelError(f"{path.name} is no .safetensors file. Give one, or a folder with config.json and weights.")


def _start(mark: str, layout: _Layout) -> str:
    return next(mark.removesuffix(end) for end in layout.marks if mark.endswith(end))


def _no_fit(path: Path, contents: Sequence[str], spec: FamilySpec, names: Iterable[str], config: Config) -> str:
    """Say what a file holds, and what the base could take from a file."""
    holds = " and ".join(dict.fromkeys(contents)) or "neither an AutoencoderKL, a CLIP text encoder nor a T5 encoder"
    readable: list[str] = []
    for name in names:
        for layout in _LAYOUTS:
            if spec.components[name].loader in layout.loaders:
                readable.append(f"{layout.title} of width {config(name).get(layout.width)} ({name})")
    wanted = f"This base takes {' or '.join(readable)}" if readable else "This base takes a folder only"
    return f"{path.name} holds {holds}. {wanted}; a folder with config.json and weights is read for every component."
