"""Loading the components of a base model, and its pipeline: from folders, single files, or straight to a GPU."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.families.component_files import variant_of
from trainer_core.families.shared import processors
from trainer_core.families.single_file import DENOISER_PREFIX, read_header
from trainer_core.families.storage import reading
from trainer_core.families.storage.schemes import DENSE, Storage
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.model_source import ModelSource


def load_component(
    source: ModelSource, name: str, dtype: torch.dtype, storage: Storage = DENSE, kept: Path | None = None
) -> Any:
    """Load one component: a frozen model in eval mode, a tokenizer or a scheduler.

    Models come to the source's device, tensor by tensor; text encoders of single files to the CPU. `storage` and `kept`
    are as for `load_denoiser`, and for a denoiser alone.

    Raises:
        ModelError: The weights lack tensors that the config asks for, or have others.
    """
    component = source.spec.components[name]
    if component.kind == "scheduler":
        return _class("diffusers", source.config(name)["_class_name"]).from_config(source.config(name))
    if component.kind == "model":
        loaded = _load_model(source, name, dtype, storage, kept)
    else:
        loaded = load_tokenizer(source, name)
    return component.after_load(loaded) if component.after_load else loaded


def load_vae(source: ModelSource, dtype: torch.dtype) -> Any:
    """Load the VAE alone."""
    return load_component(source, source.spec.vae, dtype)


def load_text_encoders(source: ModelSource, dtype: torch.dtype) -> dict[str, Any]:
    """Load `spec.text_components` by name: encoders frozen and in eval mode, tokenizers as they are."""
    return {name: load_component(source, name, dtype) for name in source.spec.text_components}


def load_denoiser(source: ModelSource, dtype: torch.dtype, storage: Storage = DENSE, kept: Path | None = None) -> Any:
    """Load the denoiser alone, frozen.

    Args:
        source: the base.
        dtype: of the weights that stay dense.
        storage: how the others are held; each is put into its scheme while the files are read.
        kept: a file that `kept_copy.write` made of this very model, read in place of the base's.

    Raises:
        ModelError: the weights lack tensors that the config asks for, or have others.
    """
    return load_component(source, source.spec.denoiser, dtype, storage, kept)


def _load_model(source: ModelSource, name: str, dtype: torch.dtype, storage: Storage, kept: Path | None) -> Any:
    straight = source.device == "cuda" and source.spec.components[name].library == "diffusers"
    with _quiet():
        if straight or not storage.dense:
            model = _assembled(source, name, dtype, storage, kept)
        else:
            load = _model_from_file if source.in_file(name) else _model_from_folder
            model = load(source, name, dtype)
    return _freeze(model, str(kept or _origin(source, name)))


def _origin(source: ModelSource, name: str) -> Path:
    return source.weights_file(name)[0] if source.in_file(name) else source.folder(name)


def load_tokenizer(source: ModelSource, name: str) -> Any:
    """Load a tokenizer, or the processor that contains one; needs no torch."""
    component, folder = source.spec.components[name], str(source.folder(name))
    if component.kind == "processor":
        return processors.load(component.loader, folder)
    return _class(component.library, component.loader).from_pretrained(folder, local_files_only=True)


def load_pipeline(source: ModelSource, dtype: torch.dtype, denoiser: Any = None) -> Any:
    """Build the family's diffusers pipeline from its components, every model in `dtype`.

    `denoiser`: one that is loaded already; None to load it.
    """
    given = {} if denoiser is None else {source.spec.denoiser: denoiser}
    parts = {
        name: given[name] if name in given else load_component(source, name, dtype) for name in source.spec.components
    }
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
    component, folder = source.spec.components[name], source.folder(name)
    options: dict[str, Any] = {"dtype" if component.library == "transformers" else "torch_dtype": dtype}
    if variant := variant_of(folder, component):
        options["variant"] = variant
    if component.most_layers:
        options["config"] = _with_layers(_class(component.library, component.loader), folder, component.most_layers)
    if source.device == "cuda":
        # each tensor goes to the GPU as it is read: no copy of the whole model on the CPU
        options["device_map"] = {"": _device(source)}
    model, info = _class(component.library, component.loader).from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # transformers 5 and diffusers both convert while loading, and keep what would overflow in fp16 in fp32
        **options,
    )
    # transformers only warns when weights are missing, and goes on with random ones
    _refuse_missing(info.get("missing_keys") or (), f"{folder}")
    return model


def _with_layers(cls: Any, folder: Path, most: int) -> Any:
    """Return a config whose language model has no more layers than `most`, so that no others are read."""
    config = cls.config_class.from_pretrained(str(folder), local_files_only=True)
    text = config.get_text_config()
    text.num_hidden_layers = min(most, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:most]
    return config


def _device(source: ModelSource) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if source.device == "cuda" else torch.device("cpu")


def _assembled(source: ModelSource, name: str, dtype: torch.dtype, storage: Storage, kept: Path | None) -> Any:
    """Build a model of diffusers from its tensors, one after another, on the source's device."""
    from trainer_core.families.storage import assembly

    device, config = _device(source), source.folder(name)
    model = assembly.empty_model(_class("diffusers", source.spec.components[name].loader), config)
    if kept is not None:
        tensors: Iterable[tuple[str, Tensor]] = reading.read([kept], device)
    elif source.in_file(name):
        tensors = _converted_tensors(source, name, model, device if storage.dense else torch.device("cpu"), dtype)
    else:
        files = [file for file in source.component_files(name) if file.suffix == ".safetensors"]
        tensors = reading.read(files, device)
    missing = assembly.fill(model, tensors, dtype, device, source.spec.stored_layers, storage)
    _refuse_missing(sorted(missing), str(_origin(source, name)))
    return model.to(device)


def _converted_tensors(
    source: ModelSource, name: str, model: Any, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield a component's tensors of a single file under diffusers' names; each is let go before the next is asked for.

    They are read to `device` where nothing becomes of them but other names; else they are views of the file.
    """
    from diffusers.loaders import single_file_model

    ldm: Any = single_file_model

    tensors = _file_tensors(source, name, device if _stored_in(source, name, dtype) else torch.device("cpu"))
    if ldm._should_convert_state_dict_to_diffusers(model.state_dict(), tensors):
        mapping = ldm.SINGLE_FILE_LOADABLE_CLASSES[source.spec.components[name].loader]["checkpoint_mapping_fn"]
        try:
            tensors = mapping(config=dict(model.config), checkpoint=tensors)
        except (ValueError, KeyError, RuntimeError) as error:
            raise _does_not_fit(source, name, error) from error
    for key in list(tensors):
        yield key, tensors.pop(key)


def _stored_in(source: ModelSource, name: str, dtype: torch.dtype) -> bool:
    """Say whether all tensors of a component lie in the single file in the precision that is asked for."""
    path, names = source.weights_file(name)
    header, wanted = read_header(path), {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    return all(header[tensor]["dtype"] == wanted for tensor in names)


def _model_from_file(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    """Convert one component's tensors of a single file, offline, with diffusers' own mapping."""
    from diffusers.loaders import single_file_utils as ldm

    component, root = source.spec.components[name], str(source.config_root)
    cls, tensors = _class(component.library, component.loader), _file_tensors(source, name, torch.device("cpu"))
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
        raise _does_not_fit(source, name, error) from error


def _does_not_fit(source: ModelSource, name: str, error: Exception) -> ModelError:
    return ModelError(
        f"{source.weights_file(name)[0]}: its {name} does not fit {source.folder(name)}/config.json ({error}). "
        "Give model.config_path the configs of this very model."
    )


def _file_tensors(source: ModelSource, name: str, device: torch.device) -> dict[str, Tensor]:
    """Read a component's tensors from a file, under the names that diffusers' converters expect."""
    path, names = source.weights_file(name)
    other = source.replaced.get(name)
    stored, expected = (other.stored_prefix, other.prefix) if other else ("", "")
    if not other and source.spec.single_file.names == "diffusers":
        stored = DENOISER_PREFIX
    tensors = {
        expected + tensor.removeprefix(stored): value
        for tensor, value in reading.read([path], device, frozenset(names))
    }
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
