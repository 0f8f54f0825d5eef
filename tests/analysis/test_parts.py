"""The parts of one model: all of them and nothing else is read, or it is said which is missing or of another model."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastrank.analysis import AnalyzeError
from fastrank.analysis.parts import files_of, local, read


def save(folder: Path, **parts: list[str]) -> None:
    """A file of safetensors for each part, with these names in it; `__` in its name is a `-`."""
    for part, names in parts.items():
        save_file({name: torch.full((2, 2), float(i)) for i, name in enumerate(names)}, stored(folder, part))


def stored(folder: Path, part: str) -> Path:
    return folder / f"{part.replace('__', '-')}.safetensors"


def index(folder: Path, name: str = "model.safetensors.index.json", **weight_map: str) -> Path:
    path = folder / name
    path.write_text(
        json.dumps({"metadata": {}, "weight_map": {k: f"{part}.safetensors" for k, part in weight_map.items()}})
    )
    return path


def test_an_index_says_which_files_are_read(tmp_path: Path) -> None:
    save(tmp_path, one=["a"], two=["b"], old=["a", "b", "c"])
    path = index(tmp_path, a="one", b="two")
    for checkpoint in (tmp_path, path):
        assert sorted(read(checkpoint)) == ["a", "b"]
    # The same model in PyTorch's own format, as many repositories of the hub have it.
    index(tmp_path, "pytorch_model.bin.index.json", a="gone")
    assert sorted(read(tmp_path)) == ["a", "b"]


def test_what_an_index_names_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, one=["a"])
    path = index(tmp_path, a="one", b="two", c="three")
    for checkpoint in (tmp_path, path):
        with pytest.raises(AnalyzeError, match=r"parts of the model are missing: two\.safetensors, three\.safetensors"):
            read(checkpoint)
    index(tmp_path, a="one", b="one")
    with pytest.raises(AnalyzeError, match=r"names b, which is not in one\.safetensors"):
        read(tmp_path)
    stored(tmp_path, "one").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AnalyzeError, match=r"one\.safetensors: is a pointer of git-lfs"):
        read(tmp_path)


def test_one_of_several_indices_has_to_be_named(tmp_path: Path) -> None:
    save(tmp_path, one=["a"])
    index(tmp_path, a="one")
    half = index(tmp_path, "model.safetensors.index.fp16.json", a="one")
    with pytest.raises(AnalyzeError, match=r"several indices: name one of model\.safetensors\.index\.fp16\.json, "):
        read(tmp_path)
    assert sorted(read(half)) == ["a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "t JSON"),
        ("[]", "no weight_map"),
        ('{"hidden_size": 8}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', ""),
    ],
)
def test_other_json_is_no_index(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(AnalyzeError, match=rf"config\.json: is no.*{reason}"):
        read(tmp_path / "config.json")


def test_a_name_that_stands_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    save(tmp_path, model=["w", "b"], model_old=["b"])
    with pytest.raises(AnalyzeError, match=r"b stands in two files, model\.safetensors and model_old\.safetensors"):
        read(tmp_path)
    stored(tmp_path, "model_old").unlink()
    assert sorted(read(tmp_path)) == ["b", "w"]


def test_parts_of_torch_save_are_read_together_too(tmp_path: Path) -> None:
    for i, names in enumerate([["a"], ["b", "c"]], 1):
        torch.save({name: torch.eye(2) for name in names}, tmp_path / f"pytorch_model-0000{i}-of-00002.bin")
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")  # which a trainer puts beside them
    assert sorted(read(tmp_path)) == ["a", "b", "c"]
    torch.save({"a": torch.eye(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(AnalyzeError, match=r"a stands in two files, pytorch_model-00001-of-00002\.bin and "):
        read(tmp_path)
    torch.save([torch.eye(2)], tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(AnalyzeError, match=r"is no part of a model: holds a list"):
        read(tmp_path)


def test_a_gap_in_the_numbers_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, model__00001__of__00003=["a"], model__00003__of__00003=["c"])
    with pytest.raises(AnalyzeError, match=r"model-00002-of-00003\.safetensors is missing: 2 of 3 parts are there"):
        read(tmp_path)
    save(tmp_path, model__00002__of__00003=["b"])
    assert sorted(read(tmp_path)) == ["a", "b", "c"]


def test_numbers_may_begin_at_zero(tmp_path: Path) -> None:
    save(tmp_path, model__0__of__2=["a"], model__1__of__2=["b"])
    assert sorted(read(tmp_path)) == ["a", "b"]
    stored(tmp_path, "model__1__of__2").unlink()
    with pytest.raises(AnalyzeError, match=r"model-1-of-2\.safetensors is missing"):
        read(tmp_path)


def test_a_folder_of_torch_distributed_is_called_so(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(AnalyzeError, match=r"is a checkpoint of torch\.distributed: .* dcp_to_torch"):
        read(tmp_path)


def test_a_name_on_the_hub_is_fetched_and_a_path_never_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str | None]] = []

    def fetched(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        if any("bin" in pattern for pattern in allow_patterns):
            torch.save({"w": torch.eye(2)}, tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("model.safetensors", "runs/best", "none/x.pt", "/none/x", "a/b/c", "~/x", "."):
        local(path)
    assert asked == []
    assert files_of(local("owner/model@v1.0")) == [tmp_path / "pytorch_model.bin"]  # there are no safetensors
    assert asked == [("owner/model", "v1.0")] * 2
    save(tmp_path, model=["w"])
    assert list(read(local("owner/my.model-2b"))) == ["w"]
    assert asked[2:] == [("owner/my.model-2b", None)]

    def refused(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(AnalyzeError, match=r"^owner/model: is not a file or folder here, and .* Hub: no network$"):
        local("owner/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="huggingface_hub is needed: pip install huggingface_hub"):
        local("owner/model")
