"""`lora-assets`: the list of commands."""

from __future__ import annotations

import gc as garbage
from typing import Annotated

import typer

from trainer_core.cli.commands.check import check
from trainer_core.cli.commands.doctor import doctor
from trainer_core.cli.commands.export import export
from trainer_core.cli.commands.find_lr import find_lr
from trainer_core.cli.commands.gc import gc
from trainer_core.cli.commands.import_config import import_config
from trainer_core.cli.commands.init import init
from trainer_core.cli.commands.plan import plan
from trainer_core.cli.commands.sample import sample
from trainer_core.cli.commands.train import train
from trainer_core.cli.commands.verify import verify
from trainer_core.cli.options import examples

EPILOG = examples(
    ("lora-assets check cats", "is everything right with configs/cats.yaml and its pictures?"),
    ("lora-assets plan cats", "what would be computed, and why?"),
    ("lora-assets train cats", "train; what is fresh is reused"),
)
"""Shown under `lora-assets --help`."""

# Plain help: Rich's boxes would cost every `--help` as much again as all the rest.
app = typer.Typer(
    name="lora-assets",
    help="Train LoRAs for image diffusion models. Only what changed is computed again.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lora-assets {version('lora-assets')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train LoRAs for image diffusion models. Only what changed is computed again."""


_NAMES = {"import_config": "import"}
"""Commands whose names Python keeps for itself."""

for _command, _examples in (
    (
        init,
        (
            ("lora-assets init pictures/cats --base models/sdxl", "asks what it cannot know"),
            ("lora-assets init pictures/cats --base models/sdxl --trigger ohwx --goal style --yes", "asks nothing"),
        ),
    ),
    (
        import_config,
        (
            ("lora-assets import lora_sdxl.toml", "sd-scripts, with the dataset file that it names"),
            ("lora-assets import config.json --dataset multidatabackend.json", "SimpleTuner"),
            ("lora-assets import train_lora_flux.yaml -o configs/flux.yaml", "ai-toolkit, under a name of your own"),
        ),
    ),
    (check, (("lora-assets check cats --set train.steps=500", "check with another setting"),)),
    (plan, (("lora-assets plan cats --json", "for programs"),)),
    (
        find_lr,
        (
            ("lora-assets find-lr cats", "which learning rate suits the project?"),
            ("lora-assets find-lr cats --from 1e-5 --to 1e-2 --steps 200", "a closer look"),
        ),
    ),
    (
        train,
        (
            ("lora-assets train cats", "train and publish the LoRA, its samples and its metrics"),
            ("lora-assets train cats --until cached_latents", "encode the pictures only"),
            ("lora-assets train cats --set optimizer.lr=5e-5", "with another learning rate"),
        ),
    ),
    (
        sample,
        (
            ("lora-assets sample cats", "the project's own samples"),
            ('lora-assets sample cats --prompt "a cat on the moon" --seed 7', "a prompt of your own, base beside LoRA"),
        ),
    ),
    (
        verify,
        (
            ("lora-assets verify .lora-assets/outputs/cats", "everything that was published"),
            ("lora-assets verify cats.safetensors --base models/sd15", "does it load, and change a picture?"),
        ),
    ),
    (
        export,
        (
            ("lora-assets export cats.safetensors --format comfyui", "for ComfyUI"),
            ("lora-assets export flux.safetensors --format diffusers --base models/flux", "from kohya's keys, fused"),
            ("lora-assets export cats.safetensors --format kohya --dtype fp16 -o a1111/cats.safetensors", "elsewhere"),
        ),
    ),
    (gc, (("lora-assets gc --dry-run", "what could be removed?"),)),
    (doctor, (("lora-assets doctor", "is this machine fit?"),)),
):
    app.command(_NAMES.get(_command.__name__), epilog=examples(*_examples))(_command)


def main() -> None:
    """Run the command line."""
    # Looking at 10,000 pictures makes a million small objects that stay to the end. Python would walk them again and
    # again, in a fifth of the time of a run with nothing to do.
    garbage.set_threshold(100_000, 20, 20)
    app()


if __name__ == "__main__":
    main()
