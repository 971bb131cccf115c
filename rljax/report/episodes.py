"""Recorded episodes on the host, and animations of them side by side."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.envs import Env
from rljax.evaluation import Recording
from rljax.report import animation, render
from rljax.report.animation import Animation, Panel

MOST_PICTURES = 300  # of an animation; a longer one leaves out steps in between


class Episode(NamedTuple):
    """One episode of L steps."""

    states: Any
    """The environment's states `[L + 1, ...]`, from the reset on."""
    actions: np.ndarray
    """`[L, ...]`."""
    rewards: np.ndarray
    """`[L]`."""
    has_ended: bool
    """False if it was cut off at the limit of steps."""


class Played(NamedTuple):
    """Episodes that one panel of an animation shows, one after the other."""

    title: str
    env: Env
    episodes: Sequence[Episode]


def split(recording: Recording) -> list[Episode]:
    """The N episodes of a recording, without what follows their ends."""
    recording = jax.tree.map(render.on_host, recording)

    def episode(i: int, steps: int) -> Episode:
        states = jax.tree.map(lambda x: x[: steps + 1, i], recording.states)
        actions, rewards = (np.asarray(x[:steps, i]) for x in (recording.actions, recording.rewards))
        return Episode(states, actions, rewards, bool(recording.episodes.ended[i]))

    return [episode(i, steps) for i, steps in enumerate(recording.episodes.measures["length"].tolist())]


def animate(played: Sequence[Played], fps: int = 30) -> Animation:
    """Draw episodes side by side, each panel with its return so far; long ones leave out steps in between."""
    longest = max(sum(len(episode.rewards) + 1 for episode in panel.episodes) for panel in played)
    every = -(-longest // MOST_PICTURES)
    return animation.side_by_side([_panel(panel, every) for panel in played], fps)


def _panel(played: Played, every: int) -> Panel:
    pictures, written = [], []
    for number, episode in enumerate(played.episodes, start=1):
        times = np.unique(np.append(np.arange(0, len(episode.rewards), every), len(episode.rewards)))
        pictures.append(render.frames(played.env, jax.tree.map(lambda x, times=times: x[times], episode.states)))
        which = f"episode {number}   " if len(played.episodes) > 1 else ""
        written += [which + text for text in captions(episode, times)]
    return Panel(_joined(pictures), played.title, written)


def captions(episode: Episode, times: np.ndarray) -> Iterator[str]:
    """What is written over the pictures of an episode at these times `[T]`."""
    so_far = np.concatenate([[0.0], np.cumsum(episode.rewards, dtype=np.float64)])
    for time in times.tolist():
        ending = "   end" if time == len(episode.rewards) and episode.has_ended else ""
        yield f"return {_number(so_far[time])}   step {time}{ending}"


def _number(value: float) -> str:
    """At most two decimals, and none that are zero."""
    return f"{round(value, 2) + 0.0:,.2f}".rstrip("0").rstrip(".")


def _joined(pictures: list[np.ndarray]) -> np.ndarray:
    """The pictures of all episodes, of which text may have more lines in some."""
    height = max(one.shape[1] for one in pictures)
    room = [np.pad(one, ((0, 0), (0, height - one.shape[1]), (0, 0), (0, 0)), constant_values=255) for one in pictures]
    return np.concatenate(room)
