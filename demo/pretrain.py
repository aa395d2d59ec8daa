"""Pretrain the demo base model on procedural drawings, on a CPU or a GPU.

    python -m demo.pretrain --work DIR --vae-steps 4000 --unet-steps 20000 --threads 2
    python -m demo.pretrain export --work DIR --out demo/base

Phase 1 trains the VAE; phase 2 the text encoder and the UNet together; phase 3 polishes the VAE's
decoder, which no latent depends on. Stop it whenever you like
(Ctrl-C, SIGTERM): it saves and leaves, and `--resume` goes on. `export` writes the pipeline from
the last checkpoints at any time, also while training runs.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from demo.base_model import BaseModel, balance_latents, build_base_model, to_pipeline
from demo.captions import caption
from demo.drawings import draw, random_scene
from demo.fitting import Task, fit, load_mean, write_atomically
from demo.streams import LatentBank, build_bank, picture_batch, to_pixels

KL_WEIGHT = 1e-4
SQUARE_WEIGHT = 2.0
EDGE_WEIGHT = 0.25
HUE_WEIGHT = 1.0
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0


@dataclass(frozen=True)
class Options:
    """The command line."""

    work: Path
    out: Path
    vae_steps: int
    unet_steps: int
    decoder_steps: int
    vae_batch: int
    unet_batch: int
    bank_size: int
    threads: int
    seed: int
    resume: bool

    @property
    def vae_checkpoint(self) -> Path:
        """Weights, mean and optimizer of phase 1."""
        return self.work / "vae.safetensors"

    @property
    def vae_folder(self) -> Path:
        """The finished VAE; delete it to train phase 1 further."""
        return self.work / "vae"

    @property
    def unet_checkpoint(self) -> Path:
        """Weights, mean and optimizer of phase 2."""
        return self.work / "unet.safetensors"

    @property
    def decoder_checkpoint(self) -> Path:
        """Weights, mean and optimizer of phase 3."""
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
    if not options.resume and options.vae_checkpoint.exists():
        raise SystemExit(f"{options.vae_checkpoint} exists. Add --resume, or use another --work.")
    if not pretrain(options):
        print("stopped; the same command with --resume goes on", flush=True)
        return 1
    export(options)
    return 0


def pretrain(options: Options) -> bool:
    """Run both phases; False if a signal stopped them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_base_model(options.seed)
    model.vae.to(device)
    if not options.vae_folder.exists():
        if not fit(vae_task(model, options)):
            return False
        finish_vae(model.vae, options)
    vae = AutoencoderKL.from_pretrained(options.vae_folder).to(device)
    bank = build_bank(vae, options.seed, options.bank_size, options.bank_file)
    print(f"bank of {options.bank_size} drawings, scaling_factor {bank.scale:.4f}", flush=True)
    model.unet.to(device)
    model.text_encoder.to(device)
    return fit(unet_task(model, bank, options)) and fit(decoder_task(vae, options))


def finish_vae(vae: AutoencoderKL, options: Options) -> None:
    """Take the mean weights, balance the latents, and keep the VAE: phase 2 is bound to it."""
    load_mean(options.vae_checkpoint, vae)
    vae.eval()
    rng = Random(f"balance {options.seed}")
    pixels = to_pixels([draw(random_scene(rng), 64, 64) for _ in range(256)])
    balance_latents(vae, pixels.to(vae.device))
    unfinished = options.work / "vae.tmp"
    vae.save_pretrained(unfinished)
    unfinished.replace(options.vae_folder)


def vae_task(model: BaseModel, options: Options) -> Task:
    """Phase 1: pixels to pixels through noisy latents."""

    def loss(step: int) -> Tensor:
        device = model.vae.device
        pixels = picture_batch(options.seed, step, options.vae_batch).to(device)
        generator = torch.Generator(device).manual_seed(options.seed * 1_000_003 + step)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.vae.encode(pixels).latent_dist
            decoded = model.vae.decode(posterior.sample(generator)).sample
        return vae_loss(pixels, decoded.float(), posterior.kl().mean() / posterior.mean[0].numel())

    return Task("vae", model.vae, loss, options.vae_steps, 1.5e-3, options.vae_checkpoint)


def vae_loss(pixels: Tensor, decoded: Tensor, kl: Tensor) -> Tensor:
    """Loss of pictures (B, 3, H, W): error, squared error, slopes, hue, and KL per latent value.

    The slopes keep edges sharp. Hue (red minus green, green minus blue) is weighed on its own:
    brightness varies more, and a short training would learn little else.
    """
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    value = error.abs().mean() + SQUARE_WEIGHT * error.square().mean()
    hue = error.diff(dim=1).abs().mean()
    return value + EDGE_WEIGHT * edges + HUE_WEIGHT * hue + KL_WEIGHT * kl


def decoder_task(vae: AutoencoderKL, options: Options) -> Task:
    """Phase 3: latents to pixels only; the encoder stays, so the UNet's latents stay true."""

    def loss(step: int) -> Tensor:
        pixels = picture_batch(options.seed + 1, step, options.vae_batch).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.mode()
            decoded = vae.decode(latents).sample
        return vae_loss(pixels, decoded.float(), torch.zeros((), device=vae.device))

    steps = options.decoder_steps
    return Task("decoder", _decoder(vae), loss, steps, 8e-4, options.decoder_checkpoint)


def _decoder(vae: AutoencoderKL) -> nn.Module:
    return nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})


def unet_task(model: BaseModel, bank: LatentBank, options: Options) -> Task:
    """Phase 2: v-prediction, loss weighted by min-SNR, one caption in ten empty."""
    # Measured on two AMX cores: plain attention trains 20 % faster than the fused CPU kernel,
    # whose backward pass is slow. The weights are the same.
    model.unet.set_attn_processor(AttnProcessor())
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
    return Task("unet", module, loss, options.unet_steps, 8e-4, options.unet_checkpoint)


def v_loss(model: BaseModel, latents: Tensor, ids: Tensor, signal_share: Tensor, generator: torch.Generator) -> Tensor:
    """min-SNR weighted v-prediction loss of latents (B, 4, h, w) and token ids (B, 77).

    Source: v of Salimans and Ho, arXiv 2202.00512; weights of Hang et al., arXiv 2303.09556.
    """
    device = latents.device
    time = torch.randint(0, len(signal_share), (len(latents),), generator=generator, device=device)
    share = signal_share[time].view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    noised = share.sqrt() * latents + (1 - share).sqrt() * noise
    target = share.sqrt() * noise - (1 - share).sqrt() * latents
    with torch.autocast(device.type, torch.bfloat16):
        text = model.text_encoder(ids).last_hidden_state
        predicted = model.unet(noised, time, text).sample
    snr = (share / (1 - share)).flatten()
    weight = snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)
    return (weight * F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))).mean()


def export(options: Options) -> None:
    """Write the pipeline in float16, from the running means, and its SHA256SUMS."""
    model = build_base_model(options.seed)
    model = replace(model, vae=AutoencoderKL.from_pretrained(options.vae_folder))
    if options.decoder_checkpoint.exists():
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
    parser.add_argument("--vae-steps", type=int, default=4000)
    parser.add_argument("--unet-steps", type=int, default=20_000)
    parser.add_argument("--decoder-steps", type=int, default=3000)
    parser.add_argument("--vae-batch", type=int, default=4, help="64 x 64 pictures per VAE step")
    parser.add_argument("--unet-batch", type=int, default=16, help="pictures per UNet step")
    parser.add_argument("--bank-size", type=int, default=30_000, help="drawings encoded once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --work")
    values = vars(parser.parse_args(arguments))
    action = values.pop("action")
    return action, Options(**values)


if __name__ == "__main__":
    raise SystemExit(main())
