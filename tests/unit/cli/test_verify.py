from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.cli.support import Project, call, told
from trainer_core.export.safetensors_file import serialize, tensors_sha256
from trainer_core.store import Store


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """An outputs folder of two files."""
    folder = tmp_path / "outputs" / "cats"
    folder.mkdir(parents=True)
    lines = ""
    for name in ("ledger.csv", "metrics.json"):
        (folder / name).write_text(name * 10)
        lines += f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
    (folder / "checksums.sha256").write_text(lines)
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_sound_outputs_are_ok(outputs: Path) -> None:
    result = call("verify", outputs, "--json")
    assert result.exit_code == 0
    answer = told(result)
    assert set(answer) == {"ok", "files"}
    assert answer["ok"] is True
    assert [Path(row["path"]).name for row in answer["files"]] == ["ledger.csv", "metrics.json"]
    assert all(set(row) == {"path", "expected", "actual"} for row in answer["files"])


def test_a_flipped_bit_is_found_and_named(outputs: Path) -> None:
    flip(outputs / "metrics.json")
    result = call("verify", outputs, "--json")
    assert result.exit_code == 1
    answer = told(result)
    assert answer["ok"] is False
    wrong = [row for row in answer["files"] if row["expected"] != row["actual"]]
    assert [row["path"] for row in wrong] == [str(outputs / "metrics.json")]
    assert wrong[0]["actual"] == hashlib.sha256((outputs / "metrics.json").read_bytes()).hexdigest()


def test_a_missing_file_is_found(outputs: Path) -> None:
    (outputs / "metrics.json").unlink()
    for target in (outputs, outputs / "metrics.json"):
        result = call("verify", target, "--json")
        assert result.exit_code == 1
        assert "missing" in {row["actual"] for row in told(result)["files"]}


def test_people_see_what_differs(outputs: Path) -> None:
    flip(outputs / "ledger.csv")
    text = call("verify", outputs).stdout
    assert "DAMAGED" in text
    assert "ledger.csv" in text
    assert "ok " in text


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10" + b"\0" * 7 + b'{"a":           ', b"\0" * 40])
def test_a_file_that_is_no_lora_is_damaged_not_a_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cats.safetensors"
    path.write_bytes(content)
    result = call("verify", path, "--json")
    assert result.exit_code == 1, result.stderr
    assert told(result)["files"][0]["path"] == str(path)


def test_a_sound_file_of_which_nothing_is_known_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    result = call("verify", path)
    assert result.exit_code == 1
    assert "there is no checksum" in result.stderr


@pytest.mark.parametrize("target", ["nothing-here", "empty"])
def test_what_cannot_be_verified_is_wrong_usage(tmp_path: Path, target: str) -> None:
    (tmp_path / "empty").mkdir()
    assert call("verify", tmp_path / target).exit_code == 2


def test_a_project_means_its_outputs(project: Project) -> None:
    project.outputs.mkdir(parents=True)
    (project.outputs / "a.txt").write_text("a")
    (project.outputs / "checksums.sha256").write_text(f"{hashlib.sha256(b'a').hexdigest()}  a.txt\n")
    for name in ("cats", "configs/cats.yaml", project.config):
        result = call("verify", name, "--json")
        assert result.exit_code == 0, result.stderr
        assert told(result)["files"][0]["path"] == str(project.outputs / "a.txt")


def test_a_store_and_a_home_are_verified_by_their_own_checksums(tmp_path: Path, outputs: Path) -> None:
    Store.open(tmp_path / "store").close()
    assert told(call("verify", tmp_path / "store", "--json")) == {"ok": True, "files": []}
    assert len(told(call("verify", tmp_path, "--json"))["files"]) == 2
    (tmp_path / "store" / "refs" / "cats").mkdir(parents=True)
    (tmp_path / "store" / "refs" / "cats" / "samples.json").write_text("{}")
    for target in (tmp_path / "store", tmp_path):
        result = call("verify", target, "--json")
        assert result.exit_code == 1
        assert any("samples.json" in row["path"] for row in told(result)["files"])


def test_base_must_be_a_diffusers_folder_and_the_target_one_lora(outputs: Path, tmp_path: Path) -> None:
    assert call("verify", outputs, "--base", tmp_path).exit_code == 2


def test_a_published_file_without_metadata_is_held_against_its_checksum(outputs: Path) -> None:
    lora = outputs / "cats.safetensors"
    lora.write_bytes((2).to_bytes(8, "little") + b"{}")
    with (outputs / "checksums.sha256").open("a") as lines:
        lines.write(f"{hashlib.sha256(lora.read_bytes()).hexdigest()}  cats.safetensors\n")
    assert call("verify", outputs).exit_code == 0
    assert call("verify", lora).exit_code == 0


def test_of_several_loras_in_a_folder_the_projects_own_is_rendered(outputs: Path, tmp_path: Path) -> None:
    from trainer_core.cli.commands.verify import _lora_in

    for name in ("cats.safetensors", "cats.comfyui.safetensors", "champion.safetensors"):
        (outputs / name).touch()
    assert _lora_in(outputs) == outputs / "cats.safetensors"


CODE = """
import sys
from trainer_core.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as left:
    code = left.code
print(code, *sorted({"torch", "numpy", "diffusers", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", [["verify"], ["doctor", "--home"]])
def test_checking_bytes_loads_no_heavy_library(tmp_path: Path, command: list[str]) -> None:
    home = tmp_path / "home"
    with Store.open(home / "store") as store, store.entries.writer("latents") as writer:
        writer.add("1" * 64, {"latents": torch.ones(4, 8, 8)}, {"sample": "a.png"})
    outputs = home / "outputs" / "cats"
    outputs.mkdir(parents=True)
    tensors = {"a.weight": torch.ones(2, 3)}
    path = outputs / "cats.safetensors"
    path.write_bytes(serialize(tensors, {"lora_assets.weights_sha256": tensors_sha256(tensors)}))
    line = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    (outputs / "checksums.sha256").write_text(line)
    done = subprocess.run([sys.executable, "-c", CODE, *command, str(home)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
