"""Pretrain the demo base model on procedural drawings, on a CPU or a GPU.

    python -m demo.pretrain --work DIR --out demo/base
    python -m demo.pretrain export --work DIR --out demo/base

The VAE's encoder is computed (`demo.encoder`). Phase 1 trains its decoder, phase 2 the text encoder and the UNet
together. Stop it whenever you like (Ctrl-C, SIGTERM): it saves and
leaves, and `--resume` goes on. `export` writes the pipeline from the last checkpoints at any time, also while
training runs.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from demo.base_model import BaseModel, build_base_model, to_pipeline
from demo.captions import caption
from demo.drawings import draw, random_scene
from demo.encoder import compute_encoder
from demo.fitting import Task, fit, load_mean, write_atomically
from demo.streams import LatentBank, build_bank, doodle, picture_batch, to_pixels

SQUARE_WEIGHT = 2.0
EDGE_WEIGHT = 0.25
LATENT_NOISE = 0.15
"""Most noise in the latents that the decoder learns from, in their deviations: what a UNet paints is never exact."""
CAPTION_DROPOUT = 0.05
UNET_RATE = 2e-3


@dataclass(frozen=True)
class Options:
    """The command line."""

    work: Path
    out: Path
    decoder_steps: int
    unet_steps: int
    decoder_batch: int
    unet_batch: int
    bank_size: int
    threads: int
    seed: int
    resume: bool

    @property
    def unet_checkpoint(self) -> Path:
        """Weights, mean and optimizer of phase 2."""
        return self.work / "unet.safetensors"

    @property
    def decoder_checkpoint(self) -> Path:
        """Weights, mean and optimizer of phase 1."""
        return self.work / "decoder.safetensors"

    @property
    def bank_file(self) -> Path:
        """The encoded drawings of phase 2."""
        return self.work / "bank.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 when stopped by a signal."""
    action, options = _parse(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if action == "export":
        export(options)
        return 0
    if not options.resume and options.decoder_checkpoint.exists():
        raise SystemExit(f"{options.decoder_checkpoint} exists. Add --resume, or use another --work.")
    if not pretrain(options):
        print("stopped; the same command with --resume goes on", flush=True)
        return 1
    export(options)
    return 0


def pretrain(options: Options) -> bool:
    """Run both phases; False if a signal stopped them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(options)
    model.vae.to(device)
    if not fit(decoder_task(model.vae, options)):
        return False
    bank = build_bank(model.vae, options.seed, options.bank_size, options.bank_file)
    print(f"bank of {options.bank_size} drawings", flush=True)
    model.unet.to(device)
    model.text_encoder.to(device)
    return fit(unet_task(model, bank, options))


def build(options: Options) -> BaseModel:
    """Every part with random weights, but the VAE's encoder, which is computed."""
    model = build_base_model(options.seed)
    rng = Random(f"encoder {options.seed}")
    scenes = [draw(random_scene(rng), 64, 64) for _ in range(256)]
    compute_encoder(model.vae, to_pixels([*scenes, *(doodle(rng, 64, 64) for _ in range(128))]))
    model.vae.eval().requires_grad_(False)
    return model


def decoder_task(vae: AutoencoderKL, options: Options) -> Task:
    """Phase 1: latents to pixels, from latents that are a little wrong."""

    def loss(step: int) -> Tensor:
        pixels = picture_batch(options.seed, step, options.decoder_batch).to(vae.device)
        generator = torch.Generator(vae.device).manual_seed(options.seed * 1_000_003 + step)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()
        amount = LATENT_NOISE * torch.rand(len(pixels), 1, 1, 1, generator=generator, device=vae.device)
        latents = latents + amount * torch.randn(latents.shape, generator=generator, device=vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            decoded = vae.decode(latents).sample
        return picture_loss(pixels, decoded.float())

    decoder = _decoder(vae).requires_grad_(True)
    return Task(
        "decoder", decoder, loss, options.decoder_steps, 3e-3, options.decoder_checkpoint, lambda n, _: ".conv" in n
    )


def picture_loss(pixels: Tensor, decoded: Tensor) -> Tensor:
    """Loss of pictures (B, 3, H, W): error, squared error, and slopes, which keep edges sharp."""
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + EDGE_WEIGHT * edges


def _decoder(vae: AutoencoderKL) -> nn.Module:
    return nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})


def unet_task(model: BaseModel, bank: LatentBank, options: Options) -> Task:
    """Phase 2: v-prediction, all noise levels alike, one caption in twenty empty."""
    # Measured on two AMX cores: plain attention trains 20 % faster than the fused CPU kernel,
    # whose backward pass is slow. The weights are the same.
    model.unet.set_attn_processor(AttnProcessor())
    model.text_encoder.set_attn_implementation("eager")
    model.unet.to(memory_format=torch.channels_last)
    signal_share = model.scheduler.alphas_cumprod.to(model.unet.device)

    def loss(step: int) -> Tensor:
        device = model.unet.device
        rng = Random(f"captions {options.seed} {step}")
        scenes, latents = bank.batch(rng, options.unet_batch)
        texts = ["" if rng.random() < CAPTION_DROPOUT else caption(s, rng) for s in scenes]
        ids = model.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        generator = torch.Generator(device).manual_seed(options.seed * 1_000_003 + step)
        return v_loss(model, latents.to(device), ids.input_ids.to(device), signal_share, generator)

    module = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder})
    return Task("unet", module, loss, options.unet_steps, UNET_RATE, options.unet_checkpoint, _is_hidden)


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    ends = ("conv_in", "conv_out", "embedding", "embeddings")
    return not any(part.startswith(ends) or part.endswith(ends) for part in name.split(".")[:-1])


def v_loss(model: BaseModel, latents: Tensor, ids: Tensor, signal_share: Tensor, generator: torch.Generator) -> Tensor:
    """Loss of v of latents (B, 12, h, w) and token ids (B, 32), at noise levels spread evenly over the batch.

    Source: v of Salimans and Ho, arXiv 2202.00512.
    """
    device, count = latents.device, len(signal_share)
    places = torch.arange(len(latents), device=device) + torch.rand(len(latents), generator=generator, device=device)
    time = (places / len(latents) * count).long().clamp(max=count - 1)
    share = signal_share[time].view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    noised = share.sqrt() * latents + (1 - share).sqrt() * noise
    target = share.sqrt() * noise - (1 - share).sqrt() * latents
    with torch.autocast(device.type, torch.bfloat16):
        text = model.text_encoder(ids).last_hidden_state
        predicted = model.unet(noised.contiguous(memory_format=torch.channels_last), time, text).sample
    return F.mse_loss(predicted.float(), target)


def export(options: Options) -> None:
    """Write the pipeline in float16, from the running means, and its SHA256SUMS."""
    model = build(options)
    load_mean(options.decoder_checkpoint, _decoder(model.vae))
    module = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder})
    step = load_mean(options.unet_checkpoint, module)
    pipeline = to_pipeline(model).to(dtype=torch.float16)
    pipeline.save_pretrained(options.out, safe_serialization=True)
    forget_origin(options.out)
    write_checksums(options.out)
    print(f"{options.out}: written after UNet step {step}", flush=True)


def forget_origin(folder: Path) -> None:
    """Drop the path that diffusers notes in the config of a model loaded from disk."""
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            write_atomically(file, (json.dumps(config, indent=2) + "\n").encode())


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS for every file below `folder`, as `sha256sum -c` reads it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    write_atomically(folder / "SHA256SUMS", "".join(lines).encode())


def _parse(arguments: Sequence[str] | None) -> tuple[str, Options]:
    parser = argparse.ArgumentParser("python -m demo.pretrain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", nargs="?", choices=("train", "export"), default="train")
    parser.add_argument("--work", type=Path, default=Path("demo-pretraining"), help="checkpoints")
    parser.add_argument("--out", type=Path, default=Path("demo/base"), help="pipeline folder")
    parser.add_argument("--decoder-steps", type=int, default=3000)
    parser.add_argument("--unet-steps", type=int, default=9000)
    parser.add_argument("--decoder-batch", type=int, default=8, help="64 x 64 pictures a step of the decoder")
    parser.add_argument("--unet-batch", type=int, default=32, help="pictures a step of the UNet")
    parser.add_argument("--bank-size", type=int, default=24_000, help="drawings encoded once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --work")
    values = vars(parser.parse_args(arguments))
    action = values.pop("action")
    return action, Options(**values)


if __name__ == "__main__":
    raise SystemExit(main())
