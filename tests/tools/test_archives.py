"""An sdist and a wheel hold the packages once and nothing else, and what is wrong with another is named."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from archives import SDIST, WHEEL, call
from contents import packaged, sdist_problems, wheel_problems, wheels_differ


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return call(SDIST, tree, tmp_path_factory.mktemp("sdist"))


def test_both_hold_what_users_need(tree, wheel, sdist):
    files = packaged(tree)
    kinds = {"kernels/cuda/ldl.cu", "kernels/cuda/tiles.cuh", "experiments/reports/page.css", "py.typed"}
    assert {f"fastrank/{name}" for name in {*kinds, "experiments/configs/digits.toml", "kernels/step/sgd.py"}} <= files
    assert wheel_problems(wheel, tree) == []
    assert sdist_problems(sdist, tree) == []


def test_the_sdist_is_enough_to_build_the_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = call(WHEEL, unpacked, tmp_path / "wheel")
    assert wheels_differ(again, wheel) == []


def test_what_a_wheel_should_not_be_is_named(tree, wheel, tmp_path):
    other = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            if name != "fastrank/py.typed":
                target.writestr(name, source.read(name))
        with pytest.warns(UserWarning, match="Duplicate name"):
            target.writestr("fastrank/metrics.py", "")
        target.writestr("tests/test_metrics.py", "")
        link = zipfile.ZipInfo("fastrank/link.py")
        link.external_attr = 0o120777 << 16
        target.writestr(link, "metrics.py")
    assert wheel_problems(other, tree) == [
        "fastrank/py.typed is missing",
        "fastrank/link.py does not belong there",
        "tests/test_metrics.py does not belong there",
        "fastrank/metrics.py is there twice",
        "fastrank/link.py is a link",
    ]
    assert wheels_differ(other, wheel) == [
        *("fastrank/link.py", "fastrank/metrics.py", "fastrank/py.typed", "tests/test_metrics.py"),
    ]


def test_what_setuptools_takes_by_itself_is_named(tree, tmp_path):
    """Without MANIFEST.in it takes the tests that lie in tests/ itself, and links would be copied as they are."""
    broken = tmp_path / "tree"
    shutil.copytree(tree, broken, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info", "build", "results"))
    (broken / "MANIFEST.in").unlink()
    found = sdist_problems(call(SDIST, broken, tmp_path / "sdist"), tree)
    assert "tests/test_metrics.py does not belong there" in found
    assert "CITATION.cff is missing" in found
