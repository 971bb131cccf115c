"""`rljax eval`: the policies of a run in new episodes, greedy or stochastic, and elsewhere."""

import argparse
import pathlib
from typing import Any

import numpy as np

from rljax.cli import user_code
from rljax.cli.environments import env_with
from rljax.cli.exporting import add_choice, checkpoint_of
from rljax.cli.parsing import Parser, folder_first, integer, without_params
from rljax.cli.training import CUSTOM_ALGORITHM, CUSTOM_ENV
from rljax.cli.watching import imported, start_jax
from rljax.errors import UsageError
from rljax.experiment import loading, manifest, remote
from rljax.experiment.assessing import Assessment
from rljax.report import console


def eval_parser() -> Parser:
    """The options of `rljax eval`."""
    parser = Parser("rljax eval RUN", "Evaluate the policies of a run again, in new episodes.")
    hidden = argparse.SUPPRESS
    parser.add_argument("--episodes", type=integer, default=hidden, metavar="INT", help="of each seed (default: 100)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--greedy", dest="policy", action="store_const", const="greedy", default=hidden, help="the greedy policies"
    )
    which.add_argument(
        "--stochastic",
        dest="policy",
        action="store_const",
        const="stochastic",
        default=hidden,
        help="the policies that training collects its data with (default: the greedy ones)",
    )
    parser.add_argument(
        "--env", default=hidden, metavar="ENV", help=f"where: a listed id, or {CUSTOM_ENV} (default: the run's)"
    )
    parser.add_argument(
        "--env.PARAM", dest="_", default=hidden, metavar="VALUE", help="a param of the environment: --env.gravity 5"
    )
    parser.add_argument(
        "--gymnasium", default=hidden, metavar="ID", help="play in this environment of Gymnasium; needs that extra"
    )
    parser.add_argument("--seeds", default=hidden, metavar="INT,...", help="their numbers (default: all)")
    parser.add_argument("--key", type=integer, default=hidden, metavar="INT", help="of the randomness (default: 0)")
    add_choice(parser)
    parser.add_argument("--algorithm", default=hidden, metavar="ALGO", help=f"the run's, if it is {CUSTOM_ALGORITHM}")
    parser.add_argument("--trust", action="store_true", help="import the code that the run's folder names")
    return parser


def evaluate(arguments: list[str]) -> int:
    """Evaluate the policies of a run, and print their returns."""
    parser = eval_parser()
    name, rest = folder_first(parser, arguments, "rljax eval runs/x --episodes 1000")
    params, rest = without_params(rest)
    given = vars(parser.parse_all(rest))
    where = given.pop("env", None)
    if "gymnasium" in given and (where is not None or params):
        raise UsageError("--gymnasium is an environment by itself: leave --env out.")
    named: dict[str, str] = {"algorithm": given.pop("algorithm")} if "algorithm" in given else {}
    trust = given.pop("trust")
    if "checkpoint" in given:
        given["checkpoint"] = checkpoint_of(given["checkpoint"])
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"])
    with remote.staged(name, writes=False) as folder:
        is_its_own = where is not None and user_code.absolute(where) == _recorded(folder)
        if is_its_own:
            named["env"] = where
        code = imported(folder, named, trust)
        start_jax()
        result = loading.result_of(folder, given.pop("configuration", None), **code)
        if params or (where is not None and not is_its_own):
            given["env"] = env_with(result.config.env if where is None or is_its_own else where, params)
        assessed = result.evaluate(given.pop("episodes", 100), **given)
    console.print_with(lambda screen: _show(screen, assessed))
    return 0


def _recorded(folder: str) -> str | None:
    """The reference of the custom environment that a run's folder names."""
    reference = manifest.read(pathlib.Path(folder)).recipe["references"].get("env")
    return None if reference is None else str(reference[0])


def _seeds(text: str) -> list[int]:
    try:
        return [integer(one) for one in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds are integers, such as --seeds 0,1,2, got {text!r}.") from None


def _show(screen: Any, assessed: Assessment) -> None:
    """A row for each seed, and the interquartile mean over them."""
    from rich.table import Table

    seeds, episodes = assessed.returns.shape
    screen.print(f"{assessed.label}: {episodes:,} episodes of each seed")
    table = Table()
    means = {name: values.mean(axis=1) for name, values in assessed.measures.items()}
    for head in ("seed", "mean", "std. error", "min", "max", *means):
        table.add_column(head, justify="right", no_wrap=True)
    places = console.decimals(*assessed.returns.mean(axis=1)[np.isfinite(assessed.returns.mean(axis=1))])
    for row, returns in enumerate(assessed.returns):
        error = returns.std(ddof=1) / np.sqrt(episodes) if episodes > 1 else np.nan
        numbers = (returns.mean(), error, returns.min(), returns.max())
        others = [f"{values[row]:.4g}" for values in means.values()]
        table.add_row(str(assessed.seeds[row]), *(f"{x:.{places}f}" for x in numbers), *others)
    screen.print(table)
    summary = assessed.summary
    low, high = summary["ci95"]
    interval = f", 95% interval {low:.{places}f} to {high:.{places}f}" if np.isfinite(low) else ""
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    missing = (
        f"; without the {len(summary['not_finite'])} that did not end all episodes" if summary["not_finite"] else ""
    )
    screen.print(f"IQM of {count}: {summary['iqm']:.{places}f}{interval}{missing}")
