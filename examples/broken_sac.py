"""A broken SAC, taken apart: four bugs, found one after another by the doctor, the checks and logged numbers.

The loss below has four bugs. Each step of the script trains for a while or runs the checks, prints what they see, and
removes the bug that this points to. At the end the algorithm swings the pendulum up:

    python examples/broken_sac.py        # takes some minutes
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import off_policy, returns, sac

BUGS = {
    "critic": "the critics' loss is taken of detached values",
    "sign": "the actor goes down its objective",
    "temperature": "the temperature moves away from where the entropy meets its target",
    "termination": "targets bootstrap over terminations",
}


def loss_with(bugs: set[str]) -> Callable[..., Any]:
    """SAC's loss for continuous actions, as in `rljax.sac`, with some bugs."""

    def loss(params: Any, target_params: Any, batch: Any, noise: jax.Array, config: sac.Config) -> Any:
        fixed = jax.lax.stop_gradient(params)
        next_value, _ = sac._soft_value(noise[1], fixed._replace(critics=target_params), batch.next_obs, config)
        discount = jnp.full_like(batch.discount, config.discount) if "termination" in bugs else batch.discount
        targets = returns.one_step(batch.reward, discount, next_value)
        values = sac._action_values(params.critics, batch, config)
        values = jax.lax.stop_gradient(values) if "critic" in bugs else values
        critic_loss, metrics = off_policy.critic_loss(values, targets, batch.weight)
        value, entropy = sac._soft_value(noise[0], fixed._replace(actor=params.actor), batch.obs, config)
        policy_loss, entropy = (value if "sign" in bugs else -value).mean(), entropy.mean()
        excess = jax.lax.stop_gradient(entropy) - sac._target_entropy(batch.obs, config)
        temperature = jnp.exp(params.log_temperature)
        total = critic_loss + policy_loss + temperature * (-excess if "temperature" in bugs else excess)
        return total, {"loss": total, **metrics, "entropy": entropy, "temperature": temperature}

    return loss


def made(bugs: set[str]) -> Any:
    """The algorithm with these bugs."""
    return rljax.algos.variant(sac, name="broken_sac", loss=loss_with(bugs))


def config_of(steps: int) -> sac.Config:
    """A small SAC for the pendulum, whose target entropy is -1 nat."""
    return sac.Config(
        env=rljax.make("Pendulum-v1"), total_steps=steps, num_envs=4, num_steps=4, gradient_steps=8, batch_size=64,
        buffer_size=20_000, prefill_steps=400, learning_rate=3e-3, hidden_sizes=(32, 32), discount=0.95,
    )  # fmt: skip


def train(bugs: set[str], steps: int) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """What the doctor finds in a run, and some logged numbers of its first seed early and late in training."""
    result = rljax.run(made(bugs), config_of(steps), seeds=2, evaluations=4, eval_episodes=8, progress=False)
    numbers = {}
    for name in ("reward", "action_value", "entropy", "temperature"):
        logged = result.metrics[name][0]
        logged = logged[np.isfinite(logged)]  # a run that diverges stops
        part = len(logged) // 10
        numbers[name] = float(logged[:part].mean()), float(logged[-part:].mean())
    return [f"{one.name}: {one.evidence}" for one in rljax.doctor(result)], numbers


def check(bugs: set[str], probe_steps: int) -> list[str]:
    """What the checks find."""
    return rljax.check_algorithm(made(bugs), config_of(2_000), probe_steps)


def show(title: str, found: list[str], numbers: dict[str, tuple[float, float]] | None = None) -> None:
    """Print what a step has found."""
    print(f"\n{title}")
    for line in found or ["nothing is wrong"]:
        print(f"  {line}")
    for name, (early, late) in (numbers or {}).items():
        print(f"  {name:12} {early:12.4g} -> {late:12.4g}")


def main(steps: int = 12_000, probe_steps: int = 6_000) -> None:
    """Find the four bugs, and train without them."""
    bugs = set(BUGS)
    show("1. The doctor: the critics' parameters never move.", *train(bugs, steps))
    show("   The checks agree, after a few updates.", check(bugs, 0))
    bugs.remove("critic")
    show("2. Entropy collapses, and the actor should raise it: it goes down its objective.", *train(bugs, steps))
    bugs.remove("sign")
    show("3. Q explodes as the temperature grows, though the entropy is above its target of -1.", *train(bugs, steps))
    bugs.remove("temperature")
    show("4. The pendulum never terminates, so the doctor and the log are silent.", *train(bugs, steps))
    show("   The probes of the checks are not.", check(bugs, probe_steps))
    bugs.remove("termination")
    show("5. All are silent, and the reward rises.", *train(bugs, steps))
    show("   The checks:", check(bugs, probe_steps))


if __name__ == "__main__":
    rljax.configure_jax(single_run=True)
    main(*map(int, sys.argv[1:]))
