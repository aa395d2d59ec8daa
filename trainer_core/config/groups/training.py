"""How it is trained: the adapter, the optimizer, noise, loss and the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.config.groups.base import KEYED_IF_SET, NEUTRAL, Group, Precision, Probability, Rates

if TYPE_CHECKING:
    AdapterType = str
else:
    # Kinds are found as modules, so a new one needs no line here.
    AdapterType = Literal[tuple(adapter_kinds())]


class BlockConfig(Group):
    """Rank and alpha of some modules."""

    rank: Annotated[int, Field(ge=0, le=4096)]
    """In place of `adapter.rank`; 0 leaves the modules out."""
    alpha: Annotated[float, Field(gt=0, le=8192)] | None = None
    """In place of `adapter.alpha`; unless given, it keeps the ratio of `adapter.alpha` to `adapter.rank`."""


class AdapterConfig(Group):
    """The trained part."""

    type: AdapterType = "lora"
    """Kind of adapter; docs/adapters.md says what each is, and where its files load. Default: what every reader loads.
    kohya: `network_module` with `algo`. ai-toolkit: `network.type`."""
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """Rank of the two factors. Default: diffusers' examples take 4 to 16. kohya: `network_dim`. ai-toolkit:
    `network.linear`."""
    alpha: Annotated[float, Field(gt=0, le=8192)] = 16.0
    """The update is scaled by alpha / rank. Default: the rank, so that nothing is scaled. kohya: `network_alpha`.
    ai-toolkit: `network.linear_alpha`."""
    conv_rank: Annotated[int, Field(ge=0, le=4096)] = 0
    """Rank for convolutions larger than 1x1 (`locon` and other kinds that adapt them); 0 leaves them out, except that
    `locon` takes `rank`. kohya: `conv_dim`. ai-toolkit: `network.conv`."""
    conv_alpha: Annotated[float, Field(ge=0, le=8192)] = 0.0
    """Alpha for those; 0 is `conv_rank`, or `alpha` where `locon` takes `rank`. kohya: `conv_alpha`. ai-toolkit:
    `network.conv_alpha`."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapter's inputs dropped while training (kinds that add a matrix of their own). kohya:
    `network_dropout`. ai-toolkit: `network.dropout`."""
    rank_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the ranks dropped while training (kinds with low-rank factors); the others are scaled up. kohya:
    `rank_dropout`."""
    module_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability that a whole module's update is left out of a step. kohya: `module_dropout`."""
    targets: str = "attention"
    """Modules to adapt: `attention`, `attention+mlp`, `all-linear` (inside blocks), or a regex matched against the
    whole module name. Default: diffusers' examples'. kohya: `preset` and `target_module`. ai-toolkit:
    `only_if_contains`."""
    blocks: Mapping[str, BlockConfig] = {}
    """Regex, matched against the whole module name -> rank and alpha of those modules; the first that fits counts.
    kohya: `block_dims`, `block_alphas`, `network_reg_dims`."""
    text_encoders: tuple[str, ...] = ()
    """Text encoders that get a LoRA too, by the names of their folders (`text_encoder`, `text_encoder_2`). Their rate
    is `optimizer.text_encoder_lr`. kohya: `network_train_unet_only`, inverted. ai-toolkit: `train_text_encoder`."""
    init_from: Annotated[Path | None, NEUTRAL] = None
    """A LoRA file to go on from, in any format that `export` reads: its update is the initial one, and its content
    is in the run's key. kohya: `network_weights`. ai-toolkit: `network.pretrained_lora_path`."""
    rank_from_weights: bool = False
    """Take each module's rank and alpha from `init_from`. kohya: `dim_from_weights`."""
    train_norm: bool = False
    """Train the norms' weights and biases inside the blocks too (all kinds but `lora`). kohya: `train_norm`."""


class AdapterOptionsConfig(Group):
    """What only some kinds of adapter have."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank), so that large ranks still learn (all kinds with an alpha; arXiv 2312.03732). kohya:
    `rs_lora`."""
    factor: Annotated[int, Field(ge=-1, le=4096)] = -1
    """LoKr: the smaller side of the Kronecker product, or the largest divisor below it; -1 is the most even split.
    Default: LyCORIS's. kohya: `factor`. ai-toolkit: `network.lokr_factor`."""
    full_matrix: bool = False
    """LoKr: no low-rank factors, the large matrix whole, and nothing scaled by alpha. kohya: `full_matrix`.
    ai-toolkit: `network.lokr_full_rank`."""
    block_size: Annotated[int, Field(ge=0, le=4096)] = 0
    """DyLoRA: ranks trained together, must divide `rank`; Diag-OFT and BOFT: side of a rotated block at most; 0 is 4
    for DyLoRA, and `rank` for the others. kohya: `block_size`, `unit`."""
    constraint: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Diag-OFT and BOFT: how far a rotation may go, times the number of outputs (COFT, arXiv 2306.07280); 0 is no
    limit. kohya: `constraint`."""
    rescaled: bool = False
    """Diag-OFT and BOFT: train a scale of each output too. kohya: `rescaled`."""
    tucker: bool = False
    """LoCon, LoHa and LoKr: decompose convolutions' kernels as well (CP/Tucker). kohya: `use_tucker`, `use_cp`."""
    decompose: bool = False
    """LoHa, LoKr and LoCon: train direction and magnitude apart, as DoRA does for LoRA (arXiv 2402.09353). kohya:
    `dora_wd`."""


def _spelled_plainly(name: str) -> str:
    """Return a name as the table spells it, so that `AdamW8bit` and `adamw8bit` are one setting; paths stay."""
    return name if "." in name else name.lower().replace("_", "").replace("-", "")


class OptimizerConfig(Group):
    """How weights are updated."""

    name: Annotated[str, AfterValidator(_spelled_plainly)] = "adamw"
    """Optimizer: a name of the table in docs/optimizers.md (`adamw`, `adamw8bit`, `lion`, `prodigy`, `adafactor` ...),
    or any class of torch.optim, pytorch_optimizer or bitsandbytes.optim (`torch.optim.RAdam`,
    `pytorch_optimizer.SOAP`). Default: AdamW, as in diffusers' examples. kohya: `optimizer_type`. ai-toolkit:
    `optimizer`."""
    lr: Annotated[float, Field(gt=0, le=10.0)] = 1e-4
    """Peak learning rate; optimizers that find their own (`prodigy` ...) multiply it by this, usually 1. Default:
    diffusers' examples'. kohya: `learning_rate`, `unet_lr`. ai-toolkit: `lr`."""
    text_encoder_lr: Rates = ()
    """Peak rate of each of `adapter.text_encoders`, or one for all; `lr` unless given. kohya: `text_encoder_lr`."""
    lora_plus_ratio: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Rate of the up matrices (B) over that of the down matrices (LoRA+, arXiv 2402.12354; 16 is usual); 1 is plain.
    Default: plain LoRA. kohya: `loraplus_lr_ratio`."""
    weight_decay: Annotated[float, Field(ge=0, le=1.0)] = 0.01
    """Weight decay, decoupled where the optimizer has that. Default: torch's AdamW. kohya: `optimizer_args`.
    ai-toolkit: `optimizer_params`."""
    betas: tuple[Probability, ...] | None = None
    """Decay of the moments, as many as the optimizer has (AdamW: 0.9, 0.999). Default: the optimizer's own."""
    eps: Annotated[float, Field(gt=0, le=1e-2)] | None = None
    """Added to the denominator (AdamW: 1e-8). Default: the optimizer's own."""
    args: Mapping[str, JsonValue] = {}
    """More arguments of the optimizer's class, by name (`{momentum: 0.9}`, `{d_coef: 0.5}`); an unknown one is an error
    before training. kohya: `optimizer_args`. ai-toolkit: `optimizer_params`."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1000.0)] = 1.0
    """Gradients are scaled down to this global norm; 0 turns clipping off. Default: kohya's. kohya: `max_grad_norm`.
    ai-toolkit: `max_grad_norm`."""
    implementation: Literal["auto", "fused", "foreach", "loop"] = "auto"
    """How torch's own optimizers walk over the tensors: one fused kernel, many at once, or one by one; `auto` is fused
    where there is one."""


class ScheduleConfig(Group):
    """How the learning rate moves."""

    name: Literal[
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "rex", "warmup_stable_decay"
    ] = "constant"
    """Shape after the warm-up: level, a line, half a cosine, several of them, a power of the line, REX (arXiv
    2107.04197), or level with a decay at the end. `plan` draws it. Default: diffusers' examples'. kohya:
    `lr_scheduler`. ai-toolkit: `lr_scheduler`."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Optimizer steps over which the rate rises from 0 to its peak. kohya: `lr_warmup_steps`."""
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """The same as a share of the run, instead of `warmup_steps`. kohya: `lr_warmup_steps` below 1."""
    cycles: Annotated[int, Field(ge=1, le=1000)] = 1
    """Cosines of `cosine_with_restarts`. Default: kohya's. kohya: `lr_scheduler_num_cycles`."""
    power: Annotated[float, Field(gt=0, le=20)] = 1.0
    """Exponent of `polynomial`. Default: kohya's. kohya: `lr_scheduler_power`."""
    min_lr_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Lowest rate as a share of the peak, that the shapes fall to. kohya: `lr_scheduler_min_lr_ratio`."""
    decay_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of the run over which `warmup_stable_decay` falls. Default: arXiv 2404.06395 finds 10 to 20 % enough.
    kohya: `lr_decay_steps`."""


class NoiseConfig(Group):
    """Which noise is added, and which noise levels are trained."""

    timestep_sampling: Literal["auto", "uniform", "logit_normal", "sigmoid", "mode", "cosmap"] = "auto"
    """Distribution of timesteps: `auto` is uniform for diffusion families and logit-normal, then shifted, for flow
    matching; `mode` and `cosmap` as in SD3 (arXiv 2403.03206); `sigmoid` is logit-normal of mean 0 without a shift,
    ai-toolkit's own. kohya: `timestep_sampling`, `weighting_scheme`. ai-toolkit: `timestep_type`."""
    logit_mean: Annotated[float, Field(ge=-5, le=5)] = 0.0
    """Mean of the logit of sigma (share of noise); above 0 means more noise. kohya: `logit_mean`."""
    logit_std: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Standard deviation of the logit of sigma. Default: SD3's. kohya: `logit_std`, `sigmoid_scale`."""
    mode_scale: Annotated[float, Field(ge=-1, le=1.75)] = 1.29
    """Scale of `mode` sampling. Default: SD3's. kohya: `mode_scale`."""
    shift: Annotated[float, Field(ge=0, le=100)] | Literal["resolution"] = 0.0
    """Flow shift k in s' = k*s / (1 + (k-1)*s); 0 is the family's own rule (FLUX.1: by number of packed tokens), 1
    is none, `resolution` is FLUX.1's rule by tokens for any flow family. kohya: `discrete_flow_shift`,
    `training_shift`."""
    min_timestep: Annotated[int, Field(ge=0, le=999)] = 0
    """Least noise that is trained, in thousandths, after the shift: the distribution is cut off there. kohya:
    `min_timestep`. ai-toolkit: 1000 minus `max_denoising_steps`, which counts from the noisiest."""
    max_timestep: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Most noise that is trained, in thousandths; diffusion families stop short of it. Default: all of them. kohya:
    `max_timestep`. ai-toolkit: 1000 minus `min_denoising_steps`."""
    offset: Annotated[float, Field(ge=0, le=1.0)] = 0.0
    """Strength of the per-channel noise offset of diffusion families. kohya: `noise_offset`. ai-toolkit:
    `noise_offset`."""
    adaptive_scale: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Adds this many times the mean of a picture's latents (each channel's absolute mean) to `offset`. kohya:
    `adaptive_noise_scale`, which needs an offset above 0."""
    multires_iterations: Annotated[int, Field(ge=0, le=16)] = 0
    """Noises of ever coarser grain that are added to the noise, the first as fine as itself (pyramid noise, diffusion
    families); 0 is none, 6 is usual. kohya: `multires_noise_iterations`."""
    multires_discount: Annotated[float, Field(gt=0, le=1.0)] = 0.3
    """Strength of each coarser noise relative to the one before. Default: kohya's. kohya:
    `multires_noise_discount`."""
    ip_gamma: Annotated[float, Field(ge=0, le=1.0)] = 0.0
    """Disturbs the noise that the denoiser sees, not the one it should predict (arXiv 2301.11706); 0.1 is usual. kohya:
    `ip_noise_gamma`."""
    zero_terminal_snr: bool = False
    """Rescale the betas so that the last timestep is pure noise (arXiv 2305.08891), for v-prediction models. kohya:
    `zero_terminal_snr`."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What a diffusion denoiser predicts; `auto` is what the base's scheduler says. kohya: `v_parameterization`."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Guidance value given to guidance-distilled denoisers (FLUX.1-dev) while training. Default: kohya's and
    ai-toolkit's. kohya: `guidance_scale`."""


class LossConfig(Group):
    """How errors are measured and weighted."""

    type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """Function of the error: its square, its size, pseudo-Huber, or smooth L1. Default: diffusion's own. kohya:
    `loss_type`. ai-toolkit: `loss_type`."""
    huber_c: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Error at which Huber losses turn from square to linear. Default: kohya's. kohya: `huber_c`."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How that error moves with the timestep: not at all, exponentially to `huber_c` at the most noise, or with the
    signal-to-noise ratio (arXiv 2403.16728). Default: kohya's. kohya: `huber_schedule`."""
    min_snr_gamma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Min-SNR weighting for diffusion families (arXiv 2303.09556); 5 is usual, 0 turns it off. kohya:
    `min_snr_gamma`. ai-toolkit: `min_snr_gamma`."""
    soft_min_snr: bool = False
    """With `min_snr_gamma`: the smooth snr * gamma / (snr + gamma) in place of the minimum (arXiv 2401.11605)."""
    debiased: bool = False
    """Weight by 1 / sqrt(SNR), for v-prediction 1 / (SNR + 1), in diffusion families (debiased estimation, arXiv
    2310.08442). kohya: `debiased_estimation_loss`."""
    mask_floor: Probability = 0.0
    """Weight of what a mask leaves out, in [0, 1]: black counts this much, white 1, grey in between. ai-toolkit:
    `mask_min_value`."""
    normalise_masks: bool = False
    """Divide a masked sample's loss by its mask's mean, so that small masks count as much as large ones."""
    prior_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """What the loss of regularisation pictures is multiplied by. Default: kohya's. kohya: `prior_loss_weight`.
    ai-toolkit: `reg_weight`."""
    preservation_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Differential output preservation: beside each draw, the caption with the class in place of the trigger word must
    give what the base gives for it; 0 turns it off. Doubles the time of a step. ai-toolkit:
    `diff_output_preservation_multiplier`."""
    preservation_class: str = ""
    """What the trigger word is replaced by there (`person`). ai-toolkit: `diff_output_preservation_class`."""


DEFAULT_STEPS = 1500
"""Length of a run where neither `train.steps` nor `train.epochs` is given."""


class TrainConfig(Group):
    """The run itself."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps; 1500 where `epochs` is not given either. Default: 15 to 50 pictures seen 30 to 100 times. kohya:
    `max_train_steps`. ai-toolkit: `steps`."""
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """The length of the run in passes over the pictures with their repeats, in place of `steps`; docs/steps.md has the
    arithmetic. kohya: `max_train_epochs`."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """Samples in one forward pass on one device. Default: kohya's. kohya: `train_batch_size`. ai-toolkit:
    `batch_size`."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=1024)] = 1
    """Forward passes to one optimizer step. Default: kohya's. kohya: `gradient_accumulation_steps`. ai-toolkit:
    `gradient_accumulation`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Order, noise, timesteps and initial weights are functions of this number. Default: any number, the same for all.
    kohya: `seed`."""
    precision: Precision = "auto"
    """Precision of the base model's arithmetic; LoRA weights and optimizer state stay fp32. kohya:
    `mixed_precision`. ai-toolkit: `dtype`."""
    gradient_checkpointing: Annotated[bool | Literal["auto", "every_second"], NEUTRAL] = "auto"
    """Recompute activations in the backward pass: about half the memory, a third slower, the same result.
    `every_second` does so in every second block, `auto` as far as the step would not fit otherwise. kohya:
    `gradient_checkpointing`. ai-toolkit: `gradient_checkpointing`."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of an exponential moving average of the adapter's weights, which is then what is measured, saved and
    exported; starts lower, as min(decay, (1 + step) / (10 + step)); 0 turns it off. ai-toolkit: `ema_decay`."""
    select: Literal["best", "last"] = "best"
    """Which step becomes the LoRA: the one with the lowest held-out loss, or the last. With nothing held out, the last.
    With `best`, other held-out pictures train anew; with `last`, they are only measured. Default: an overfitted last
    step is the commonest disappointment."""
    evaluate_every: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps between measurements of the held-out loss, which `select: best` chooses from; 0 is a tenth of the run,
    or seldomer where `evaluate_share` asks for it. kohya: `validate_every_n_steps`."""
    evaluate_samples: Annotated[int, Field(ge=0, le=1_000_000), KEYED_IF_SET] = 32
    """Held-out pictures that are measured at most, chosen by a hash of their names, each dataset in proportion; 0 is
    all of them. Default: their mean is known well enough to tell steps apart, as all steps are measured on the same."""
    evaluate_share: Annotated[float, Field(gt=0.0, le=100.0), KEYED_IF_SET] = 0.05
    """Share of the training time that measuring may take: fewer noise levels (two a picture) and then fewer pictures
    are measured at a time where it would take more, and seldomer unless `evaluate_every` is given. `plan` says what
    comes of it. Default: a cost that nobody notices."""
    checkpoint_every: Annotated[int, Field(ge=0, le=1_000_000), NEUTRAL] = 250
    """Steps between resumable checkpoints; 0 saves only when stopping. Default: a few minutes lost at most on usual
    GPUs. kohya: `save_state`."""
    keep_last: Annotated[int, Field(ge=1, le=1000), NEUTRAL] = 2
    """Resumable checkpoints to keep. Default: one to fall back on if the last is damaged. kohya:
    `save_last_n_steps_state`."""
    profile: Annotated[Mapping[Literal["from", "steps"], Annotated[int, Field(ge=1, le=1_000_000)]], NEUTRAL] = {}
    """`{from: 10, steps: 3}` records steps 10 to 12 with torch's profiler: `profile/` beside the LoRA gets the trace
    and a page with the ten dearest operators. Default: recording slows steps down."""
