"""The examples do what they show."""

import importlib.util
import pathlib

import toys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@toys.optimized()
def test_dqn_overestimates_and_double_dqn_less(tmp_path):
    spec = importlib.util.spec_from_file_location("overestimation", EXAMPLES / "overestimation.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    errors = example.main(str(tmp_path / "picture.png"), seeds=4)
    late = {name: curves[:, -5:].mean() for name, curves in errors.items()}
    assert late["DQN"] > 0.25
    assert late["Double DQN"] < 0.7 * late["DQN"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000
