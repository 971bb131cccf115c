"""A toy run, and the folder of one that stopped halfway."""

import shutil

import pytest
import toys
from resuming import OPTIONS, stopped
from toys import own

import rljax


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk)


@pytest.fixture(scope="module")
def whole(config):
    return rljax.run(own, config, **OPTIONS)


@pytest.fixture(scope="module")
def halfway(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "halfway"
    with pytest.MonkeyPatch.context() as monkeypatch:
        stopped(monkeypatch, out, own, config, 10)
    return out


@pytest.fixture
def folder(halfway, tmp_path):
    return shutil.copytree(halfway, tmp_path / "x")
