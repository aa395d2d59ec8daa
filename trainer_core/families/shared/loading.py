"""Loading the components of a base model, and its pipeline: from folders, single files, or straight to a GPU."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.families.shared import fast_loading, processors
from trainer_core.families.single_file import DENOISER_PREFIX
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.model_source import ModelSource


def load_component(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    """Load one component: a frozen model in eval mode, a tokenizer or a scheduler.

    Models come to the CPU; those of diffusers to the source's device, where they are read from a folder.

    Raises:
        ModelError: The weights lack tensors that the config asks for, or have others.
    """
    component = source.spec.components[name]
    if component.kind == "scheduler":
        return _class("diffusers", source.config(name)["_class_name"]).from_config(source.config(name))
    loaded = load_tokenizer(source, name) if component.kind != "model" else _load_model(source, name, dtype)
    return component.after_load(loaded) if component.after_load else loaded


def load_vae(source: ModelSource, dtype: torch.dtype) -> Any:
    """Load the VAE alone."""
    return load_component(source, source.spec.vae, dtype)


def load_text_encoders(source: ModelSource, dtype: torch.dtype) -> dict[str, Any]:
    """Load `spec.text_components` by name: encoders frozen and in eval mode, tokenizers as they are."""
    return {name: load_component(source, name, dtype) for name in source.spec.text_components}


def load_denoiser(source: ModelSource, dtype: torch.dtype) -> Any:
    """Load the denoiser alone, frozen."""
    return load_component(source, source.spec.denoiser, dtype)


def _load_model(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    load, origin = (
        (_model_from_file, source.weights_file(name)[0])
        if source.in_file(name)
        else (_model_from_folder, source.folder(name))
    )
    with _quiet():
        model = load(source, name, dtype)
    return _freeze(model, f"{origin}")


def load_tokenizer(source: ModelSource, name: str) -> Any:
    """Load a tokenizer, or the processor that contains one; needs no torch."""
    component, folder = source.spec.components[name], str(source.folder(name))
    if component.kind == "processor":
        return processors.load(component.loader, folder)
    return _class(component.library, component.loader).from_pretrained(folder, local_files_only=True)


def load_pipeline(source: ModelSource, dtype: torch.dtype) -> Any:
    """Build the family's diffusers pipeline from its components, on the CPU, every model in `dtype`."""
    parts = {name: load_component(source, name, dtype) for name in source.spec.components}
    rendering = source.spec.rendering
    options = rendering.options(source.pipeline_config()) if rendering.options else {}
    pipeline = _class("diffusers", source.spec.pipeline)(**parts, **options)
    return rendering.after_load(pipeline) if rendering.after_load else pipeline


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the libraries' progress bars and their advice to programmers while models load."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs: list[Any] = [diffusers_log, transformers_log]
    levels = [log.get_verbosity() for log in logs]
    bars = transformers_log.is_progress_bar_enabled()
    try:
        for log in logs:
            log.set_verbosity_error()
        transformers_log.disable_progress_bar()
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            transformers_log.enable_progress_bar()


@contextmanager
def without_bars() -> Generator[None]:
    """Keep transformers from drawing a progress bar for every LoRA that it loads into a text encoder."""
    from transformers.utils import logging as transformers_log

    shown = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_log.enable_progress_bar()


def _class(library: str, name: str) -> Any:
    return getattr(importlib.import_module(library), name)


def _model_from_folder(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    component = source.spec.components[name]
    if source.device == "cuda" and component.library == "diffusers":
        return _model_to_gpu(source, name, dtype)
    model, info = _class(component.library, component.loader).from_pretrained(
        str(source.folder(name)),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # transformers 5 and diffusers both convert while loading, and keep what would overflow in fp16 in fp32
        **{"dtype" if component.library == "transformers" else "torch_dtype": dtype},
    )
    # transformers only warns when weights are missing, and goes on with random ones
    _refuse_missing(info.get("missing_keys") or (), f"{source.folder(name)}")
    return model


def _model_to_gpu(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    cls, folder = _class("diffusers", source.spec.components[name].loader), source.folder(name)
    files = [file for file in source.component_files(name) if file.suffix == ".safetensors"]
    model, missing = fast_loading.load(cls, folder, files, dtype, torch.device("cuda", torch.cuda.current_device()))
    _refuse_missing(sorted(missing), f"{folder}")
    return model


def _model_from_file(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    """Convert one component's tensors of a single file, offline, with diffusers' own mapping."""
    from diffusers.loaders import single_file_utils as ldm

    component, root = source.spec.components[name], str(source.config_root)
    cls, tensors = _class(component.library, component.loader), _file_tensors(source, name)
    try:
        if component.library == "diffusers":
            return cls.from_single_file(tensors, config=root, subfolder=name, torch_dtype=dtype, local_files_only=True)
        convert: Any = (
            ldm.create_diffusers_t5_model_from_checkpoint
            if component.loader.startswith("T5")
            else ldm.create_diffusers_clip_model_from_ldm
        )
        return convert(cls, checkpoint=tensors, config=root, subfolder=name, torch_dtype=dtype, local_files_only=True)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{source.weights_file(name)[0]}: its {name} does not fit {source.folder(name)}/config.json ({error}). "
            "Give model.config_path the configs of this very model."
        ) from error


def _file_tensors(source: ModelSource, name: str) -> dict[str, Tensor]:
    """Read a component's tensors from a file, under the names that diffusers' converters expect."""
    path, names = source.weights_file(name)
    other = source.replaced.get(name)
    stored, expected = (other.stored_prefix, other.prefix) if other else ("", "")
    if not other and source.spec.single_file.names == "diffusers":
        stored = DENOISER_PREFIX
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call]
        handle: Any = file
        tensors = {expected + tensor.removeprefix(stored): handle.get_tensor(tensor) for tensor in names}
    return _with_projection(tensors, expected, source, name) if other else tensors


def _with_projection(tensors: dict[str, Tensor], prefix: str, source: ModelSource, name: str) -> dict[str, Tensor]:
    """Add the projection of CLIP-L that separate files leave out: the identity, as diffusers and ComfyUI have it."""
    config, projection = source.config(name), f"{prefix}text_projection.weight"
    square = config.get("projection_dim") == config.get("hidden_size")
    if source.spec.components[name].loader == "CLIPTextModelWithProjection" and square and projection not in tensors:
        return {**tensors, projection: torch.eye(config["hidden_size"])}
    return tensors


def _freeze(model: Any, origin: str) -> Any:
    """Freeze a model and give it memory of its own.

    Loaders leave views into the mapped file, whose alignment is the file's: kernels may then sum in another order than
    with aligned memory, and a result would not be repeatable bit for bit. On a GPU memory is dear and aligned anyway.
    """
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    _refuse_missing([name for name, tensor in tensors if tensor.is_meta], origin)
    for tensor in (tensor for _, tensor in tensors if tensor.device.type == "cpu"):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model.eval().requires_grad_(False)


def _refuse_missing(names: Sequence[str], origin: str) -> None:
    if names:
        listed = ", ".join(sorted(names)[:3])
        raise ModelError(f"{origin}: {len(names)} tensors are missing ({listed} ...). Copy the model again.")


def prompts_as_text(pipeline: Any, prompt: str, negative_prompt: str) -> dict[str, Any]:
    """Return a pipeline's arguments for prompts that it encodes itself; a negative prompt only where it takes one."""
    takes_negative = "negative_prompt" in inspect.signature(type(pipeline).__call__).parameters
    return {"prompt": prompt} | ({"negative_prompt": negative_prompt} if negative_prompt and takes_negative else {})
