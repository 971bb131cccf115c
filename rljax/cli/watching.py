"""`rljax watch` and `rljax playground`: what policies do, as pictures."""

import argparse
import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rljax import envs
from rljax.backend import devices, program_cache
from rljax.cli import user_code
from rljax.cli.environments import recorded_env
from rljax.cli.parsing import Parser, folder_first, integer
from rljax.cli.training import CUSTOM_ALGORITHM, CUSTOM_ENV
from rljax.envs.unwrapping import model_of
from rljax.errors import UsageError
from rljax.experiment import loading, manifest, remote, watching
from rljax.experiment.options import EVALUATED
from rljax.experiment.results import Result
from rljax.report import animation, playground


def watch_parser() -> Parser:
    """The options of `rljax watch`."""
    parser = Parser("rljax watch FOLDER", "Animate the policies of a run side by side.")
    hidden = argparse.SUPPRESS
    parser.add_argument("--out", default="policy.gif", metavar="FILE", help="a .gif or .mp4 (default: policy.gif)")
    parser.add_argument("--seeds", default=hidden, metavar="INT,...", help="their numbers (default: the first four)")
    parser.add_argument(
        "--checkpoints",
        default=hidden,
        metavar="NAME,...",
        help="last, best or numbers of updates, of a run with --keep best or --keep all; all for six of them "
        "(default: all for one seed of a run with --keep all, else last)",
    )
    parser.add_argument("--episodes", type=integer, default=hidden, metavar="INT", help="of each policy (default: 1)")
    parser.add_argument(
        "--max-steps", type=integer, default=hidden, metavar="INT", help="longest part of an episode (default: 500)"
    )
    parser.add_argument("--fps", type=integer, default=hidden, metavar="INT", help="pictures a second (default: 30)")
    parser.add_argument("--policy", choices=EVALUATED, default=hidden, help="which policy (default: greedy)")
    parser.add_argument(
        "--configuration", type=integer, default=hidden, metavar="INT", help="of a sweep (default: the best)"
    )
    parser.add_argument(
        "--map",
        action=argparse.BooleanOptionalAction,
        default=hidden,
        help="also plot values and policy next to the exact ones, in a tabular environment (default: if it is one)",
    )
    add_code(parser)
    return parser


def add_code(parser: argparse.ArgumentParser) -> None:
    """Add the options with which a user agrees to the import of code that a run's folder names."""
    hidden = argparse.SUPPRESS
    parser.add_argument("--algorithm", default=hidden, metavar="ALGO", help=f"the run's, if it is {CUSTOM_ALGORITHM}")
    parser.add_argument("--env", default=hidden, metavar="ENV", help=f"the run's, if it is {CUSTOM_ENV}")
    parser.add_argument("--trust", action="store_true", help="import the code that the run's folder names")


def watch(arguments: list[str]) -> int:
    """Animate the policies of a run."""
    parser = watch_parser()
    name, rest = folder_first(parser, arguments, "rljax watch runs/x --out policy.gif")
    given = vars(parser.parse_all(rest))
    path = animation.checked_path(given.pop("out"))
    wants_map = given.pop("map", None)
    named: dict[str, str] = {part: given.pop(part) for part in ("algorithm", "env") if part in given}
    trust = given.pop("trust")
    if "seeds" in given:
        given["seeds"] = [_number(text, "--seeds 0,1,2") for text in given["seeds"].split(",")]
    if given.get("checkpoints") not in (None, "all"):
        given["checkpoints"] = [
            text if text in ("last", "best") else _number(text, "--checkpoints last, best, all or 10,20")
            for text in given["checkpoints"].split(",")
        ]
    with remote.staged(name, writes=False) as folder:
        code = imported(folder, named, trust)
        start_jax()
        return _watch(loading.result_of(folder, given.pop("configuration", None), **code), path, wants_map, given)


def _watch(result: Result, path: pathlib.Path, wants_map: bool | None, given: dict[str, Any]) -> int:
    if wants_map:
        watching.exact_model(result)  # before the work of drawing
    shown = result.watch(path, **given)
    print(f"{path} has {len(shown.pictures)} pictures of policies in {result.config.env.label}")
    if wants_map or (wants_map is None and model_of(result.config.env) is not None):
        picture = path.with_name(f"{path.stem}_map.png")
        seeds = given.get("seeds")
        result.map(picture, seed=seeds[0] if seeds else None)
        print(f"{picture} shows values and policy next to the exact ones")
    return 0


def playground_parser() -> Parser:
    """The options of `rljax playground`."""
    parser = Parser(
        "rljax playground", "Play random, heuristic and trained policies in several environments, and compare them."
    )
    hidden = argparse.SUPPRESS
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for results.json and index.html")
    parser.add_argument(
        "--envs",
        default=hidden,
        metavar="ENV,...",
        help=f"ids, or {CUSTOM_ENV} (default: those of the runs, or nine small ones)",
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="NAME,...",
        help="random, heuristic, or the folder of a run; may be repeated (default: random,heuristic)",
    )
    parser.add_argument("--episodes", type=integer, default=hidden, metavar="INT", help="of each policy (default: 20)")
    parser.add_argument(
        "--max-steps", type=integer, default=hidden, metavar="INT", help="of an episode at most (default: 1000)"
    )
    parser.add_argument("--seed", type=integer, default=hidden, metavar="INT", help="of all randomness (default: 0)")
    add_code(parser)
    return parser


def play(arguments: list[str]) -> int:
    """Play policies in several environments, and write what they reached."""
    given = vars(playground_parser().parse_all(arguments))
    named: dict[str, str] = {part: given.pop(part) for part in ("algorithm", "env") if part in given}
    out, trust = given.pop("out"), given.pop("trust")
    start_jax()
    listed = given["envs"].split(",") if "envs" in given else []
    if listed:
        given["envs"] = [envs.make(user_code.env(text)) for text in listed]
    policies = [name for text in given.pop("policy") or playground.POLICIES for name in text.split(",")]
    with contextlib.ExitStack() as stack:

        def played(name: str) -> Result | str:
            if not remote.is_url(name) and not os.path.isdir(name):
                return name
            folder = stack.enter_context(remote.staged(name, writes=False))
            return loading.result_of(folder, **imported(folder, named_for(folder, named, listed), trust))

        found = playground.playground(out, **given, policies={name: played(name) for name in policies})
    for one in found:
        returns = [f"{one[f'{which}_return']:.4g}" for which in ("average", "best", "worst")]
        print(f"{one['env_id']:26} {one['policy']:12} {'average {}, best {}, worst {}'.format(*returns)}")
    print(f"{playground.PAGE} and {playground.RESULTS} are in {out}")
    return 0


def imported(folder: str, named: dict[str, str], trust: bool) -> dict[str, Any]:
    """The custom algorithm and environment of a run: what the user names, or with `trust` what the folder does.

    Raises:
        UsageError: the folder names code that the user has not named, and is not trusted.
    """
    references = manifest.read(pathlib.Path(folder)).recipe["references"]
    recorded = {part: reference for part, reference in references.items() if reference is not None}
    for part, (reference, *_) in recorded.items():
        if part not in named and not trust:
            raise UsageError(
                f"{folder} was trained with the code in {reference}, which is only imported if you name it again, "
                f"--{part} {reference}, or trust the folder, --trust."
            )
    given = recorded | {part: [text, *recorded.get(part, [""])[1:]] for part, text in named.items()}
    code: dict[str, Any] = {}
    if "algorithm" in given:
        code["algorithm"] = user_code.algorithm(given["algorithm"][0])
    if "env" in given:
        code["env"] = recorded_env(given["env"])
    return code


def named_for(folder: str, named: dict[str, str], listed: Sequence[str]) -> dict[str, str]:
    """What the user names of a run's code: one of the environments to play in may be the run's."""
    recorded = manifest.read(pathlib.Path(folder)).recipe["references"].get("env")
    same = [text for text in listed if recorded is not None and user_code.absolute(text) == recorded[0]]
    return {"env": same[0], **named} if same else named


def start_jax() -> None:
    """Configure JAX as the other commands do."""
    devices.configure_jax()
    program_cache.use_default()


def _number(text: str, example: str) -> int:
    try:
        return integer(text)
    except ValueError:
        raise UsageError(f"{text!r} is not an integer: write {example}.") from None
