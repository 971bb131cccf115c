"""Compare the speed of our loop with a suite's own: random steps, and PPO on Brax next to Brax's PPO.

    python benchmarks/suite_speed.py brax/inverted_pendulum brax/ant --set backend=spring
    python benchmarks/suite_speed.py brax/inverted_pendulum --ppo

Both sides are compiled once in one process and take turns, and the one that begins changes. The ratio is our speed
divided by the suite's, the median of all pairs of turns [minimum, maximum]; the bars are 0.95 for random steps and 1.2
for PPO. In random stepping the suite resets environments by its own wrapper: Brax's and Playground's return to the same
first state, which costs nothing, where our loop draws a new one. PPO's equal work: environments, steps, minibatches,
epochs and networks; Brax times its own epochs. Run it on an idle machine.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import script

import rljax
from rljax import core, ppo, rollout
from rljax.backend import devices
from rljax.cli.parsing import param
from rljax.envs import Env
from rljax.errors import UsageError

BARS = {"random": 0.95, "ppo": 1.2}
Run = Callable[[jax.Array], Any]


def ours(env: Env, num_envs: int, num_steps: int) -> Run:
    """Random steps in our loop; the final states, so that no step is left out as unused, and the mean reward."""
    space = env.action_space

    def run(key: jax.Array) -> Any:
        key_reset, key_actions, key_rollout = jax.random.split(key, 3)
        start = rollout.reset(key_reset, env, num_envs)
        keys = jax.random.split(key_actions, (num_steps, num_envs))

        def policy(keys: jax.Array, obs: Any) -> tuple[jax.Array, tuple[()]]:
            return jax.vmap(space.sample)(keys), ()

        end, _, metrics = rollout.rollout(key_rollout, policy, keys, start, env, num_steps)
        return end, metrics["reward"]

    return jax.jit(run)


def theirs(env: Env, num_envs: int, num_steps: int) -> Run:
    """The same with the suite's own wrappers for limits and automatic resets."""
    suite = env.name.partition("/")[0]
    if suite not in WRAPPED:
        raise UsageError(f"{env.name}: its suite has no entry in benchmarks/suite_speed.py: add one to WRAPPED.")
    reset, step = WRAPPED[suite](env)
    space = env.action_space

    def run(key: jax.Array) -> Any:
        key_reset, key_actions = jax.random.split(key)
        state = reset(jax.random.split(key_reset, num_envs))

        def once(state: Any, keys: jax.Array) -> Any:
            state, reward = step(state, jax.vmap(space.sample)(keys))
            return state, reward.mean()

        keys = jax.random.split(key_actions, (num_steps, num_envs))
        return jax.lax.scan(once, state, keys)

    return jax.jit(run)


def _object(env: Env) -> Any:
    """The suite's object."""
    step: Any = env.step
    return step.arguments[0]


def _with_brax_wrappers(env: Env) -> tuple[Callable, Callable]:
    """Brax's training wrappers; Playground's environments have Brax's interface, and its wrappers are Brax's."""
    from brax.envs.wrappers.training import AutoResetWrapper, EpisodeWrapper, VmapWrapper

    from rljax.envs.suites.adapting import in_32_bits

    limit = int(env.params.max_steps_in_episode)
    wrapped = AutoResetWrapper(EpisodeWrapper(VmapWrapper(_object(env)), limit, action_repeat=1))

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        state = in_32_bits(wrapped.step(state, action))
        return state, state.reward

    return lambda keys: in_32_bits(wrapped.reset(jax.random.key_data(keys))), step


WRAPPED: dict[str, Callable[[Env], tuple[Callable, Callable]]] = {
    "brax": _with_brax_wrappers,
    "playground": _with_brax_wrappers,
}
"""By suite: from our `Env` to `(reset(keys [N]) -> state, step(state, actions [N, ...]) -> (state, reward [N]))`."""


def in_turns(left: Callable[[int], float], right: Callable[[int], float], repeats: int) -> dict[str, Any]:
    """Seconds of both sides, measured in turns; each is called once before."""
    seconds: dict[str, list[float]] = {"rljax": [], "suite": []}
    sides = [("rljax", left), ("suite", right)]
    for turn in range(-1, repeats):
        for name, side in sides if turn % 2 else reversed(sides):
            spent = side(turn + 1)
            if turn >= 0:
                seconds[name].append(spent)
    return compared(seconds)


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The seconds of both sides, and our speed divided by the suite's: median, least and most of all turns."""
    ratios = [suite / mine for mine, suite in zip(seconds["rljax"], seconds["suite"], strict=True)]
    return {"seconds": seconds, "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def timed(run: Run, seed: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(jax.random.key(seed)))
    return time.perf_counter() - start


def random_steps(env: Env, num_envs: int, num_steps: int, repeats: int) -> dict[str, Any]:
    mine, suites = ours(env, num_envs, num_steps), theirs(env, num_envs, num_steps)
    return in_turns(functools.partial(timed, mine), functools.partial(timed, suites), repeats)


def train_ppo(env: Env, num_envs: int, updates: int, repeats: int) -> dict[str, Any]:
    """PPO: 32 steps, 8 minibatches, 4 epochs, 2 x 64 tanh; our turn comes after each of Brax's epochs of updates."""
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo import train as brax_ppo

    steps, minibatches, epochs = 32, 8, 4
    config = ppo.Config(
        env=rljax.envs.normalize_observations(env), total_steps=updates * steps * num_envs, num_envs=num_envs,
        num_steps=steps, num_minibatches=minibatches, num_epochs=epochs, learning_rate=3e-4, discount=0.97,
        clip=0.3, entropy_coefficient=1e-2, hidden_sizes=(64, 64),
    )  # fmt: skip
    state = jax.jit(ppo.init)(jax.random.key(0), config)
    learn = jax.jit(lambda key, state: core.advance(ppo.update, key, state, config, 0, updates, updates))
    timed(lambda key: learn(key, state), 0)
    seconds: dict[str, list[float]] = {"rljax": [], "suite": []}
    # Brax 0.14.2 calls a function that JAX 0.11 has removed; this is what it returned for one device.
    setattr(jax, "device_put_replicated", lambda tree, _: jax.tree.map(lambda x: jnp.stack([x]), tree))  # noqa: B010

    def after_epoch(done: int, metrics: dict[str, Any]) -> None:
        if "training/sps" in metrics:
            seconds["suite"].append(updates * steps * num_envs / float(metrics["training/sps"]))
            seconds["rljax"].append(timed(lambda key: learn(key, state), done))

    brax_ppo.train(
        environment=_object(env), num_timesteps=updates * steps * num_envs * (repeats + 2),
        num_evals=repeats + 3, run_evals=False, max_devices_per_host=1, episode_length=1000, num_envs=num_envs,
        unroll_length=steps, batch_size=num_envs // minibatches, num_minibatches=minibatches,
        num_updates_per_batch=epochs, learning_rate=3e-4, discounting=0.97, entropy_cost=1e-2,
        normalize_observations=True, progress_fn=after_epoch,
        network_factory=functools.partial(
            networks.make_ppo_networks, policy_hidden_layer_sizes=(64, 64), value_hidden_layer_sizes=(64, 64),
            activation=jnp.tanh,
        ),
    )  # fmt: skip
    return compared({name: spent[2:] for name, spent in seconds.items()})  # Brax's first two epochs compile


def main(arguments: list[str]) -> None:
    """Measure the chosen environments, and print a line for each."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("env", nargs="+", help="ids, such as brax/ant")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of rljax.make")
    parser.add_argument("--num-envs", type=script.positive, default=256)
    parser.add_argument("--steps", type=script.positive, default=500, help="random steps of each environment a turn")
    parser.add_argument("--ppo", action="store_true", help="train PPO next to Brax's instead of random steps")
    parser.add_argument("--updates", type=script.positive, default=10, help="of PPO in a turn")
    parser.add_argument("--repeats", type=script.positive, default=7)
    parser.add_argument("--out", type=script.output, help="a JSON file for the results")
    options = parser.parse_args(arguments)
    devices.configure_jax(single_run=True)
    found = {}
    for name in options.env:
        env = rljax.make(name, **dict(map(param, options.set)))
        what = "ppo" if options.ppo else "random"
        work = (train_ppo, options.updates) if options.ppo else (random_steps, options.steps)
        result = work[0](env, options.num_envs, work[1], options.repeats)
        found[f"{what} {env.label}"] = result
        passed = "reached" if result["ratio"] >= BARS[what] else "missed"
        print(
            f"{what} {env.label}, {options.num_envs} environments: {result['ratio']:.2f} times the suite's speed "
            f"[{result['least']:.2f}, {result['most']:.2f}], bar {BARS[what]} {passed}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    script.run(main, "nothing is written.")
