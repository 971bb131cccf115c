"""Atari 2600 games of the Arcade Learning Environment (ale-py), from pixels, on the host: `atari/breakout`.

Observations are those of Mnih et al. 2015 (Methods, "Preprocessing"), as ale-py's `AtariVectorEnv` makes them: an
action is repeated for 4 frames, the pixelwise maximum of the last two is reduced to grey levels and 84 x 84 pixels, and
the last 4 of these are stacked by `frame_stack`, so that a replay buffer stores single ones. Environment steps and
episode lengths count decisions, of 4 frames. Rewards are the game's: `clip_reward` clips those of the learner.

The package is GPL-2.0: it is imported only for these ids.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from rljax.envs import host, pools
from rljax.envs.base import Env
from rljax.envs.observations import frame_stack
from rljax.envs.spaces import Box, Discrete
from rljax.errors import UsageError, number, shown, suggest

PREFIX = "atari/"

# Returns of uniformly random play and of a professional tester from no-op starts, as in DQN Zoo's atari_data.py.
SCORES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "alien": (227.8, 7127.7), "amidar": (5.8, 1719.5), "assault": (222.4, 742.0), "asterix": (210.0, 8503.3),
        "asteroids": (719.1, 47388.7), "atlantis": (12850.0, 29028.1), "bank_heist": (14.2, 753.1),
        "battle_zone": (2360.0, 37187.5), "beam_rider": (363.9, 16926.5), "berzerk": (123.7, 2630.4),
        "bowling": (23.1, 160.7), "boxing": (0.1, 12.1), "breakout": (1.7, 30.5), "centipede": (2090.9, 12017.0),
        "chopper_command": (811.0, 7387.8), "crazy_climber": (10780.5, 35829.4), "defender": (2874.5, 18688.9),
        "demon_attack": (152.1, 1971.0), "double_dunk": (-18.6, -16.4), "enduro": (0.0, 860.5),
        "fishing_derby": (-91.7, -38.7), "freeway": (0.0, 29.6), "frostbite": (65.2, 4334.7),
        "gopher": (257.6, 2412.5), "gravitar": (173.0, 3351.4), "hero": (1027.0, 30826.4), "ice_hockey": (-11.2, 0.9),
        "jamesbond": (29.0, 302.8), "kangaroo": (52.0, 3035.0), "krull": (1598.0, 2665.5),
        "kung_fu_master": (258.5, 22736.3), "montezuma_revenge": (0.0, 4753.3), "ms_pacman": (307.3, 6951.6),
        "name_this_game": (2292.3, 8049.0), "phoenix": (761.4, 7242.6), "pitfall": (-229.4, 6463.7),
        "pong": (-20.7, 14.6), "private_eye": (24.9, 69571.3), "qbert": (163.9, 13455.0),
        "riverraid": (1338.5, 17118.0), "road_runner": (11.5, 7845.0), "robotank": (2.2, 11.9),
        "seaquest": (68.4, 42054.7), "skiing": (-17098.1, -4336.9), "solaris": (1236.3, 12326.7),
        "space_invaders": (148.0, 1668.7), "star_gunner": (664.0, 10250.0), "surround": (-10.0, 6.5),
        "tennis": (-23.8, -8.3), "time_pilot": (3568.0, 5229.2), "tutankham": (11.4, 167.6),
        "up_n_down": (533.4, 11693.2), "venture": (0.0, 1187.5), "video_pinball": (16256.9, 17667.9),
        "wizard_of_wor": (563.5, 4756.5), "yars_revenge": (3092.9, 54576.9), "zaxxon": (32.5, 9173.3),
    }
)  # fmt: skip


def human_normalized(name: str, returns: Any) -> Any:
    """Returns `[...]` of a game as a fraction: 0 is random play, 1 a human's, by `SCORES`.

    Raises:
        UsageError: the published scores of the game are not in `SCORES`.
    """
    game = name.removeprefix(PREFIX)
    if game not in SCORES:
        raise UsageError(f"{name} has no human score here: {suggest(game, SCORES)}")
    random, human = SCORES[game]
    return (np.asarray(returns) - random) / (human - random)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a game, which `make` takes by name."""

    frame_skip: int = 4
    """Frames for which an action is repeated."""
    num_frames: int = 4
    """Observations that are stacked."""
    noop_max: int = 30
    """An episode begins with fewer than this many frames without an action, a random number of them."""
    fire_reset: bool = True
    """Press FIRE first in games that have it: some do not begin without."""
    life_loss: bool = False
    """Report a lost life as termination to the learner, while the game goes on. Returns are then those of one life:
    evaluate in the game without it, `eval_env="atari/breakout"`."""
    sticky: float = 0.0
    """Probability that a frame repeats the action before (Machado et al. 2018 recommend 0.25)."""
    full_actions: bool = False
    """All 18 actions of the console instead of the game's own."""
    max_frames: int = 108_000
    """Frames after which a game is truncated: 30 minutes."""


def registered() -> list[str]:
    """The ids of the games in ale-py's wheel, found without importing it."""
    spec = importlib.util.find_spec("ale_py")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    games = [path.stem for folder in folders for path in (pathlib.Path(folder) / "roms").glob("*.bin")]
    return [f"{PREFIX}{game}" for game in sorted(games)]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a game by id; settings are the fields of `Settings`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    if name not in registered():
        raise UsageError(f"There is no environment {name!r}: {suggest(name, registered())}")
    chosen = _checked(name, settings)
    maker = _Maker(name, dataclasses.replace(chosen, num_frames=1))
    pool = maker(1)
    space, actions = Box(0, 255, (84, 84, 1), np.uint8), Discrete(pool.num_actions)
    pool.close()
    env = host.env(maker, space, actions, settings, render=_render)
    return frame_stack(env, chosen.num_frames).replace(recipe=env.recipe)


def _checked(name: str, settings: dict[str, Any]) -> Settings:
    known = {field.name: field.default for field in dataclasses.fields(Settings)}
    for setting, value in settings.items():
        what = f"{setting} of {name}"
        if setting not in known:
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, known)}")
        if isinstance(known[setting], bool):
            if not isinstance(value, bool):
                raise UsageError(f"{what} must be True or False, got {shown(value)}.")
        elif isinstance(known[setting], float):
            number(what, value, minimum=0, maximum=1)
        else:
            number(what, value, integer=True, minimum=0 if setting == "noop_max" else 1, maximum=2**31 - 1)
    return Settings(**settings)


def _render(state: host.HostState, _: Any) -> np.ndarray:
    """The newest observation, twice as large."""
    return np.repeat(np.repeat(np.repeat(np.asarray(state.obs), 2, axis=0), 2, axis=1), 3, axis=2)


@dataclasses.dataclass(frozen=True)
class _Maker:
    name: str
    settings: Settings

    @property
    def time_limit(self) -> int:
        return -(-self.settings.max_frames // self.settings.frame_skip)

    def __call__(self, num_envs: int) -> "_Pool":
        return _Pool(self, num_envs)


class _Pool:
    """Games in one of ale-py's vector environments, which resets them in the step that ends them."""

    def __init__(self, maker: _Maker, num_envs: int) -> None:
        from ale_py.vector_env import AtariVectorEnv
        from gymnasium.vector import AutoresetMode

        chosen = maker.settings
        self._games: Any = AtariVectorEnv(
            maker.name.removeprefix(PREFIX),
            num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            stack_num=1,
            frameskip=chosen.frame_skip,
            noop_max=chosen.noop_max,
            use_fire_reset=chosen.fire_reset,
            life_loss_info=chosen.life_loss,
            repeat_action_probability=chosen.sticky,
            full_action_space=chosen.full_actions,
            max_num_frames_per_episode=chosen.max_frames,
            reward_clipping=False,
        )
        self.num_actions = int(self._games.single_action_space.n)
        self._lives = np.zeros(num_envs, np.int32)

    def reset(self, seeds: list[int]) -> np.ndarray:
        obs, info = self._games.reset(seed=np.array(seeds, np.int32))
        self._lives = info["lives"]
        return np.moveaxis(obs, 1, -1)

    def send(self, actions: np.ndarray) -> None:
        self._games.send(actions)

    def receive(self) -> pools.Stepped:
        obs, reward, terminated, truncated, info = self._games.recv()
        # After a game has ended there are as many lives as at its start, never fewer than before.
        goes_on = terminated & (info["lives"] < self._lives)
        self._lives = info["lives"]
        begins = (terminated | truncated) & ~goes_on
        next_obs = obs
        if begins.any():
            next_obs = np.where(begins[:, None, None, None], info["final_obs"], obs)
        return pools.Stepped(np.moveaxis(next_obs, 1, -1), reward, terminated, truncated, np.moveaxis(obs, 1, -1))

    def close(self) -> None:
        self._games.close()
