"""Which saved steps are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer_core.stages.training.intermediate_saves import output_names
from trainer_core.stages.training.save_schedule import SaveSchedule, is_saved_output


def schedule(saved: set[int], last: int = 0, best: int = 0) -> SaveSchedule:
    return SaveSchedule(frozenset(), frozenset(saved), last, best)


def test_without_a_limit_all_are_kept() -> None:
    assert schedule({2, 4, 6, 8}).kept(6, {2: 0.1}) == {2, 4, 6}


def test_the_last_and_the_best_are_kept() -> None:
    losses = {2: 0.3, 4: 0.1, 6: 0.2, 8: 0.4, 10: 0.5, 5: 0.01}
    assert schedule({2, 4, 6, 8, 10}, last=2).kept(10, losses) == {8, 10}
    assert schedule({2, 4, 6, 8, 10}, last=1, best=2).kept(10, losses) == {4, 6, 10}
    assert schedule({2, 4}, last=1, best=1).kept(4, {}) == {4}, "with nothing held out only the last"


@given(st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=12), st.integers(0, 4), st.integers(0, 4))
def test_what_is_given_up_is_never_wanted_again(losses: list[float], last: int, best: int) -> None:
    known = dict(enumerate(losses, 1))
    found = schedule(set(known), last, best)
    given_up: set[int] = set()
    for step in known:
        kept = found.kept(step, {at: loss for at, loss in known.items() if at <= step})
        assert not kept & given_up
        given_up |= {at for at in known if at <= step} - kept
        assert len(kept) <= found.most_kept


def test_a_run_forgets_nothing_in_its_key_that_decides_what_is_there() -> None:
    assert schedule(set()).key == {}
    assert schedule({2, 4}).key == {"snapshots": [2, 4]}
    keys = [str(schedule({2, 4}, last, best).key) for last, best in ((0, 0), (1, 0), (2, 0), (1, 1))]
    assert len(set(keys)) == 4
    assert SaveSchedule(frozenset({4}), frozenset({2}), 0, 0).all == {2, 4}


def test_files_of_steps_are_told_from_others() -> None:
    names = [name.format(name="my.cat") for name in output_names(500).values()]
    assert "my.cat-step00000500.safetensors" in names and "my.cat-step00000500.comfyui.safetensors" in names
    assert all(is_saved_output(name, "my.cat") for name in names)
    for other in ("my.cat.safetensors", "myxcat-step00000500.safetensors", "my.cat-step5.safetensors", "grid.png"):
        assert not is_saved_output(other, "my.cat")
