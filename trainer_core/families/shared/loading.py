"""Steps that families share: loading components, CLIP and T5 encoding, VAE normalisation, packing. Plain functions."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.families.shared.single_file import DENOISER_PREFIX

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer_core.families.model_source import ModelSource


def load_component(source: ModelSource, name: str, dtype: torch.dtype) -> Any:
    """Load one component: a frozen model in eval mode, a tokenizer or a scheduler.

    Models come to the CPU; those of diffusers to the source's device, where they are read from a folder.

    Raises:
        ModelError: The weights lack tensors that the config asks for, or have others.
    """
    component = source.spec.components[name]
    if component.kind == "model":
        load, place = (
            (_model_from_file, source.file) if source.in_file(name) else (_model_from_folder, source.folder(name))
        )
        with _quiet():
            model = load(source, name, dtype)
        return _settle(model, f"{place}")
    if component.kind == "scheduler":
        import diffusers

        return getattr(diffusers, source.config(name)["_class_name"]).from_config(source.config(name))
    return load_tokenizer(source, name)


def load_tokenizer(source: ModelSource, name: str) -> Any:
    """Load a tokenizer, or the processor that holds one; needs no torch."""
    component, folder = source.spec.components[name], str(source.folder(name))
    if component.kind == "processor":
        from trainer_core.families.shared import processors

        return processors.load(component.loader, folder)
    return _class(component.library, component.loader).from_pretrained(folder, local_files_only=True)


def load_text_encoders(source: ModelSource, dtype: torch.dtype) -> dict[str, Any]:
    """Load all text components by name."""
    return {name: load_component(source, name, dtype) for name in source.spec.text_components}


def load_pipeline(source: ModelSource, dtype: torch.dtype, **extra: Any) -> Any:
    """Build the family's pipeline from its components; `extra` goes to the pipeline's constructor."""
    import diffusers

    parts = {name: load_component(source, name, dtype) for name in source.spec.components}
    return getattr(diffusers, source.spec.pipeline)(**parts, **extra)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the libraries' progress bars and advice to programmers from the user's terminal while they load."""
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
    import importlib

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
    import torch

    from trainer_core.families.shared import fast_loading

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
            f"{source.file}: its {name} does not fit {source.folder(name)}/config.json ({error}). "
            "Give model.config_path the configs of this very model."
        ) from error


def _file_tensors(source: ModelSource, name: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    assert source.file is not None, "only called for components in the file"
    prefix = DENOISER_PREFIX if source.spec.file_names == "diffusers" else ""
    with safe_open(source.file, framework="pt", device="cpu") as file:  # type: ignore[no-untyped-call]
        handle: Any = file
        names = source.file_parts[source.part(name)]
        return {tensor.removeprefix(prefix): handle.get_tensor(tensor) for tensor in names}


def _settle(model: Any, place: str) -> Any:
    """Freeze a model and give it memory of its own.

    Loaders leave views into the mapped file, whose alignment is the file's: kernels may then sum in another order than
    with aligned memory, and a result would not be repeatable bit for bit. On a GPU memory is dear and aligned anyway.
    """
    import torch

    if hasattr(model, "tie_weights"):
        model.tie_weights()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    _refuse_missing([name for name, tensor in tensors if tensor.is_meta], place)
    for tensor in (tensor for _, tensor in tensors if tensor.device.type == "cpu"):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model.eval().requires_grad_(False)


def _refuse_missing(names: Sequence[str], place: str) -> None:
    if names:
        listed = ", ".join(sorted(names)[:3])
        raise ModelError(f"{place}: {len(names)} tensors are missing ({listed} ...). Copy the model again.")


def encode_normalised(vae: Any, pixels: Tensor, shift: float | None = None) -> Tensor:
    """Encode pixels [B, 3, H, W] in [-1, 1] by an AutoencoderKL: mode, minus its shift, times its scale; float32.

    `shift` replaces that of the VAE's config.
    """
    import torch

    # Not `vae.device` and `vae.dtype`: diffusers walks all modules for each, 1 ms a picture.
    like: Tensor = next(vae.parameters())
    with torch.no_grad():
        mode = vae.encode(pixels.to(like.device, like.dtype)).latent_dist.mode().float()
    shift = vae.config.shift_factor or 0.0 if shift is None else shift
    return ((mode - shift) * vae.config.scaling_factor).contiguous()


def token_ids(tokenizer: Any, captions: Sequence[str], length: int, device: torch.device) -> Tensor:
    """Tokenize to int64 [B, length]: cut, and padded with the tokenizer's own pad token."""
    tokens = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(device)


def gradients_if_trained(model: Any) -> Any:
    """Return a context that records gradients only where the model has something that is trained."""
    import torch

    trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    return torch.set_grad_enabled(trained)


def clip_states(encoder: Any, tokenizer: Any, captions: Sequence[str], pieces: int = 1) -> Any:
    """Run a CLIP text encoder without a mask; the output holds `hidden_states` and the pooled output.

    With several `pieces` of 75 tokens a caption has as many rows, one after another (`clip.joined`).
    """
    from trainer_core.families.shared import clip

    with gradients_if_trained(encoder):
        if pieces > 1:
            ids = clip.piece_ids(tokenizer, captions, pieces * clip.PIECE, encoder.device)
        else:
            ids = token_ids(tokenizer, captions, tokenizer.model_max_length, encoder.device)
        return encoder(ids, output_hidden_states=True)


def t5_states(encoder: Any, tokenizer: Any, captions: Sequence[str], length: int) -> Tensor:
    """Run a T5 encoder over `length` tokens [B, length, D]; pads take part, as they did when the base was trained."""
    import torch

    with torch.no_grad():
        return encoder(token_ids(tokenizer, captions, length, encoder.device))[0]


def language_states(body: Any, tokens: Any) -> tuple[Tensor, ...]:
    """Return all hidden states of a language model without its head, for `input_ids` and `attention_mask` [B, L]."""
    import torch

    device = next(body.parameters()).device
    with torch.no_grad():
        return body(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states


def prompts_as_text(pipeline: Any, prompt: str, negative_prompt: str) -> dict[str, Any]:
    """Return a pipeline's arguments for prompts that it encodes itself; a negative prompt only where it takes one."""
    import inspect

    takes_negative = "negative_prompt" in inspect.signature(type(pipeline).__call__).parameters
    return {"prompt": prompt} | ({"negative_prompt": negative_prompt} if negative_prompt and takes_negative else {})


def denoiser_dtype(denoiser: nn.Module) -> torch.dtype:
    """Return the precision of the frozen base, whatever adapters and 4- or 8-bit weights lie about in it."""
    frozen = (p.dtype for p in denoiser.parameters() if p.is_floating_point() and not p.requires_grad)
    return next(frozen, next(denoiser.parameters()).dtype)


def denoiser_device(denoiser: nn.Module) -> torch.device:
    """Return where the denoiser is."""
    return next(denoiser.parameters()).device


def denoiser_config(denoiser: Any) -> Mapping[str, Any]:
    """Return the denoiser's config, also through a wrapper for distributed training."""
    return getattr(denoiser, "module", denoiser).config


def pack(latents_BCHW: Tensor) -> Tensor:
    """Fold 2x2 patches into tokens [B, H/2 * W/2, C * 4], features in the order (channel, row, column)."""
    B, C, H, W = latents_BCHW.shape
    patches = latents_BCHW.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // 2) * (W // 2), C * 4)


def unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack` for latents of `height` x `width`."""
    B, _, D = tokens_BND.shape
    patches = tokens_BND.reshape(B, height // 2, width // 2, D // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(B, D // 4, height, width)


def grid_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Return the position (0, row, column) of each packed token of latents `height` x `width`: [N, 3] float32."""
    import torch

    rows, columns = torch.arange(height // 2, device=device), torch.arange(width // 2, device=device)
    grid = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1).float()
