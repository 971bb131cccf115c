"""Environments of the command line: an id or a custom one, with the params and wrappers of their options."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from rljax import envs
from rljax.cli import user_code
from rljax.cli.parsing import param, wrapper
from rljax.config import value_at, with_values
from rljax.envs.base import check_param
from rljax.errors import UsageError


def settings_of(env: str, texts: list[str]) -> tuple[list[str], list[str]]:
    """The texts of `--env.NAME` that are settings of `rljax.make`, such as a grid's size, and those of params."""
    given = user_code.env(env)
    if not isinstance(given, str) or not texts:
        return [], texts
    params = envs.make(given).params
    is_param = [hasattr(params, text.partition("=")[0]) for text in texts]
    pairs = list(zip(texts, is_param, strict=True))
    return [text for text, is_one in pairs if not is_one], [text for text, is_one in pairs if is_one]


def changed_env(env: Any, texts: Iterable[str], wraps: Iterable[str]) -> Any:
    """The environment with params changed and wrappers added."""
    params = dict(map(param, texts))
    for name, value in params.items():
        check_param(f"--env.{name}", value_at(env, f"params.{name}"), value)
    env = with_values(env, {f"params.{name}": value for name, value in params.items()}) if params else env
    for text in wraps:
        env = _wrapped(env, text)
    return env


def _wrapped(env: Any, text: str) -> Any:
    """An environment in the wrapper of the text of a `--wrap`."""
    name, arguments = wrapper(text)
    make = envs.wrappers.WRAPPERS[name]
    signature = inspect.signature(make)
    try:
        signature.bind(env, *arguments)
    except TypeError:
        takes = ", ".join(list(signature.parameters)[1:])
        example = f"{takes}, such as --wrap {name}={takes.upper().replace(', ', ',')}" if takes else "no values"
        raise UsageError(f"--wrap {text} has the wrong values: {name} takes {example}.") from None
    try:
        return make(env, *arguments)
    except TypeError as error:
        raise UsageError(f"--wrap {text}: {error}.") from error


def env_with(env: Any, texts: list[str]) -> Any:
    """An environment, or that of an id or a reference, with the settings and params of these texts, `NAME=VALUE`."""
    if isinstance(env, str):
        settings, texts = settings_of(env, texts)
        env = envs.make(user_code.env(env), **dict(map(param, settings)))
    return changed_env(env, texts, [])


def recorded_env(recorded: Sequence[str]) -> Any:
    """A custom environment from where a manifest says that it was imported, with the changes that follow there."""
    reference, *changes = recorded
    params = [text for text in changes if not text.startswith("+")]
    wraps = [text[1:] for text in changes if text.startswith("+")]
    return changed_env(envs.make(user_code.env(reference)), params, wraps)


def mistakes_of_env(reference: str, texts: list[str], wraps: Iterable[str]) -> list[str]:
    """What is wrong with an environment, and with each of its params and wrappers."""
    mistakes, env = [], None
    for one in ([], *([text] for text in texts)):
        try:
            env = env_with(user_code.env(reference), one)
        except UsageError as error:
            mistakes.append(str(error))
    for text in wraps:
        try:
            env = wrapper(text) and None if env is None else _wrapped(env, text)
        except UsageError as error:
            mistakes.append(str(error))
    return mistakes
