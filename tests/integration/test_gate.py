"""The gate on the bundled demo: an honest LoRA becomes the champion, and what was trained or written wrongly does not.

Two honest LoRAs are made once a session, each the champion of a project of its own in one store. `demo` is the demo
with fewer and smaller steps and a smaller exam: `EARLY`. `short` is trained for `SHORT` steps: each sabotage is held
against it, so that it fails for what was broken and not for the few steps it was given. What a test asserts of an
honest run holds by a margin, which it states, so that no CPU's rounding decides it. The whole demo, with its own
settings, is trained by `test_the_demo_is_promoted_by_a_wide_margin`, a campaign, and by `make train`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.shared_builds import SharedBuilds
from trainer_core import run
from trainer_core.config.load import load_project
from trainer_core.run import StageResult
from trainer_core.types import JSON

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"
SHORT = 40
FEW = ("train.batch_size=8", "train.ema_decay=0", "train.checkpoint_every=0", "sample.prompts=[a zorbling]")
EARLY = (
    *(*FEW, "train.steps=80", "optimizer.lr=2e-3", "gate.pictures=3"),
    *("gate.min_concept_score=0.1", "gate.max_following_loss=0.5"),
)
"""The concept is half learned, other prompts are followed at 80 to 90 %; the standard error of 24 pictures is 10 %."""
QUICK = (
    *(*FEW, "name=short", f"train.steps={SHORT}", "optimizer.lr=1e-3", "train.evaluate_every=250"),
    *("gate.concept_prompts=[]", "gate.min_concept_score=0"),
)
BY_LOSS = (*QUICK, "gate.other_prompts=[]", "datasets.0.held_out=0.2")
"""Examined by the held-out loss alone, of 29 pictures.

Captions of neighbours raised the loss of 72 by 32 %, with a noise of 4 %; that of 29 pictures is about 7 %.
"""
LOST = 0.5
"""How much worse than the base a LoRA of `by_pictures` may follow prompts: honest ones lose 0.2, sabotaged ones 0.8."""
OWN_RUN = "schedule.cycles=2"
"""Is in the run's key and changes nothing else, so a sabotage is trained anew from the same seed."""


def by_pictures() -> tuple[str, ...]:
    """A project without a champion, examined by three pictures of each of two other prompts, too.

    They ask for no star: zorblings are made of one, and a short run has not yet told them apart.
    """
    prompts = load_project(CONFIG, ()).gate.other_prompts[2:4]
    return (
        *QUICK,
        "name=drawn",
        f"gate.other_prompts={json.dumps(prompts)}",
        "gate.pictures=3",
        f"gate.max_following_loss={LOST}",
    )


@dataclass(frozen=True)
class Home:
    """A folder of store and outputs."""

    path: Path

    def run(self, *overrides: str) -> dict[str, StageResult]:
        session = run.open_session(CONFIG, overrides, home=self.path)
        try:
            return {result.name: result for result in run.run_until(session, "metrics")}
        finally:
            session.close()

    def output(self, name: str) -> bytes:
        return (self.path / "outputs" / "demo" / name).read_bytes()


@pytest.fixture(scope="session")
def honest(shared_builds: SharedBuilds) -> Path:
    """The home of both champions; read only: copy it."""

    def build(folder: Path) -> None:
        home = Home(folder)
        assert refusal(home.run(*EARLY)) == ""
        assert refusal(home.run(*BY_LOSS)) == ""

    return shared_builds.folder("demo", build)


@pytest.fixture
def home(honest: Path, tmp_path: Path) -> Home:
    shutil.copytree(honest, tmp_path / "home")
    return Home(tmp_path / "home")


def figures(results: Mapping[str, StageResult]) -> Mapping[str, JSON]:
    return results["metrics"].published.metadata


def refusal(results: Mapping[str, StageResult]) -> str:
    """Return why a LoRA was not promoted; empty if it was."""
    settled = results["metrics"].settled
    return "" if settled["promoted"] else "; ".join(settled["reasons"])


def test_an_honest_lora_is_promoted_and_examined_once(home: Home) -> None:
    results = home.run(*EARLY)
    assert {result.action for result in results.values()} == {"reused"}
    assert refusal(results) == ""
    found = figures(results)
    assert found["exam_pictures"] == 24
    assert found["held_out_loss_change"] < -0.3
    assert found["concept_score_base"] <= 0.1
    assert found["concept_score_lora"] >= 0.25


@pytest.mark.campaign
@pytest.mark.timeout(2400)
def test_the_demo_is_promoted_by_a_wide_margin(tmp_path: Path) -> None:
    results = Home(tmp_path / "home").run()
    assert refusal(results) == ""
    found, limits = figures(results), load_project(CONFIG, ()).gate
    assert found["held_out_loss_change"] < -0.1
    assert found["concept_score_base"] <= 0.1
    assert found["concept_score_lora"] >= limits.min_concept_score + 0.1
    assert found["following_base"] - found["following_lora"] <= limits.max_following_loss


def negate_the_training_target(patch: pytest.MonkeyPatch) -> None:
    from trainer_core.train import objective

    real = objective.weighted_error
    patch.setattr(objective, "weighted_error", lambda prediction, target, *rest: real(prediction, -target, *rest))


def negate_the_schedules_target(patch: pytest.MonkeyPatch) -> None:
    from trainer_core.diffusion.ddpm import DDPMSchedule

    real = DDPMSchedule.target
    patch.setattr(DDPMSchedule, "target", lambda *arguments: -real(*arguments))


def give_captions_to_their_neighbours(patch: pytest.MonkeyPatch) -> None:
    from trainer_core.train import batches

    real = batches.stack_text
    patch.setattr(batches, "stack_text", lambda texts, *rest: real([*texts[1:], texts[0]], *rest))


def stop_the_optimizer(patch: pytest.MonkeyPatch) -> None:
    from accelerate.optimizer import AcceleratedOptimizer

    patch.setattr(AcceleratedOptimizer, "step", lambda *arguments: None)


def ignore_alpha(patch: pytest.MonkeyPatch) -> None:
    from trainer_core.adapters.adapter import ADAPTERS

    kind = load_project(CONFIG, ()).adapter.type
    real = ADAPTERS[kind]

    def layers(state: Mapping[str, Any], config: Any) -> Any:
        # LoRA's alpha is the setting, that of the other kinds a tensor of each module.
        forgotten = {
            name: config.rank + 0 * value if name.endswith("alpha") else value for name, value in state.items()
        }
        return real.layers(forgotten, config.model_copy(update={"alpha": config.rank}))

    patch.setitem(ADAPTERS, kind, replace(real, layers=layers))


def scale_latents_wrongly(patch: pytest.MonkeyPatch) -> None:
    from trainer_core.families.shared import kl_vae

    real = kl_vae.encode_normalised
    patch.setattr(kl_vae, "encode_normalised", lambda vae, pixels: 4 * real(vae, pixels))


def test_runs_as_short_as_the_sabotaged_ones_pass_what_those_fail(home: Home) -> None:
    found = home.run(*by_pictures())
    assert refusal(found) == ""
    assert figures(found)["following_base"] - figures(found)["following_lora"] <= LOST - 0.15
    few = home.run(*BY_LOSS, OWN_RUN, "train.steps=5")
    assert figures(few)["held_out_loss_change"] < -0.005
    assert "no lower than the base's" not in refusal(few)


@pytest.mark.parametrize(
    ("sabotage", "overrides", "reason"),
    [
        (negate_the_training_target, BY_LOSS, "no lower than the base's"),
        (negate_the_schedules_target, by_pictures(), "follows prompts without the concept"),
        (give_captions_to_their_neighbours, BY_LOSS, "against the champion's"),
        (stop_the_optimizer, (*BY_LOSS, "train.steps=5"), "no lower than the base's"),
    ],
)
def test_a_lora_trained_wrongly_is_not_promoted(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    overrides: tuple[str, ...],
    reason: str,
) -> None:
    sabotage(monkeypatch)
    results = home.run(*overrides, OWN_RUN)
    assert results["lora_checkpoint"].items_reused == 0
    assert reason in refusal(results)


def test_a_file_that_forgets_alpha_is_not_promoted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    ignore_alpha(monkeypatch)
    results = home.run(*EARLY, "export.dtype=fp32")
    assert results["lora_checkpoint"].items_computed == 0, "the honest training is exported again"
    assert "against the champion's" in refusal(results)


def test_latents_of_a_wrong_scale_give_no_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_latents_wrongly(monkeypatch)
    # A store of its own: the others hold the right latents under these keys.
    assert "follows prompts without the concept" in refusal(Home(tmp_path / "home").run(*by_pictures()))


def test_a_worse_lora_leaves_the_champion_alone_until_the_limits_let_it_pass(home: Home) -> None:
    champion = home.output("demo.safetensors")
    worse = (*EARLY, "train.steps=20")
    assert "against the champion's" in refusal(home.run(*worse))
    newest = home.output("demo.safetensors")
    assert newest != champion
    assert home.output("champion.safetensors") == champion
    limits = ("gate.max_held_out_rise=10", "gate.min_concept_score=0", "gate.max_following_loss=1")
    assert "clearly below the champion's" in refusal(home.run(*worse, *limits)), "no limit allows that"
    again = home.run(*worse, *limits, "gate.concept_prompts=[]")
    assert again["lora_checkpoint"].action == "reused"
    assert refusal(again) == ""
    assert home.output("champion.safetensors") == newest
