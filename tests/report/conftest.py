"""A toy run whose folder other runs are copied from."""

import pytest
import toys
from toys import own

import rljax


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    out = tmp_path_factory.mktemp("template") / "run"
    rljax.run(own, own.Config(env=toys.walk), seeds=6, evaluations=4, eval_episodes=3, progress=False, out=out)
    return out
