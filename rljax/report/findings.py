"""What commonly breaks an agent, found in the numbers that its run recorded. Pure functions of arrays.

A rule maps what S seeds recorded to the seeds it holds for and a sentence with the numbers. `docs/doctor.md` has a
section for each finding, under its name.
"""

from collections.abc import Callable, Iterator

import numpy as np

from rljax.report import series
from rljax.report.evidence import LEARNED, Evidence, Finding, finding, highest, mean, not_learned, shown, where

# Entropy below this fraction of its start, or a standard deviation of actions below it, explores no more: a policy
# over two actions then takes the other one in less than 0.5% of the steps.
COLLAPSED_ENTROPY = 0.05
EARLY = 0.25  # of the run: healthy policies over discrete actions of our presets end sharp, but not by then
STUCK_ENTROPY = 0.97  # of its start, at the end: no preset of ours ends above 0.93
HIGH_KL = 0.1  # ten times the step of Spinning Up's PPO (target_kl 0.01)
HIGH_CLIP_FRACTION = 0.5  # most samples have no gradient; on presets at most 0.25
STILL_KL = 1e-6  # float32 rounds ratios to 1e-7
OVERESTIMATED = 2.0  # times the realised value above it: the formula for it is exact to a factor of 2, see `series`
VANISHING_GRADIENT = 1e-6  # near the epsilon of Adam, 1e-8 to 1e-5, below which it no longer rescales steps
EXPLODING_GRADIENT = 1e4  # on presets the highest mean of a window is 2,500, of PQN on CartPole
EXPLODING_GROWTH = 100.0  # times the first tenth of the run
EXPLAINED_VARIANCE = 0.05  # 0 is what a constant explains
LARGE_VALUE = 1000.0  # Adam moves an output's bias by the learning rate a step: 1e6 steps of 1e-3
EARLY_EPSILON, LOW_EPSILON = 0.02, 0.1  # of the run; an epsilon of 0.1 explores in a tenth of the steps
FEWEST_BATCHES, FEWEST_EPISODES = 10, 3  # that a replay holds: with fewer, its samples are nearly the same
OLDEST_POLICY = 1_000_000  # gradient steps; DQN's is 250,000, and older data is worse (Fedus et al. 2020)
LOST_SUCCESSORS = 0.01  # of sampled transitions
ENDLESS = 2000  # steps of an environment; limits of classic tasks are 200 to 1000
GROUP_GAP, GROUP_SEEDS, GROUP_PART = 0.6, 8, 0.2  # 2.2% of 8 exponential or uniform seeds, 0.6% of normal ones
EVALUATION_GAP = 0.5  # of the training return's range or size

_EPISODES = ("episode_return", "episode_length")
USED = (  # metrics that are read while a run trains
    *_EPISODES, "entropy", "temperature", "approximate_kl", "clip_fraction", "action_value", "gradient_norm",
    "lost_successors", "episodes", "env_steps", "reward",
)  # fmt: skip


Rule = Callable[[Evidence], Iterator[Finding]]


def of(evidence: Evidence) -> list[Finding]:
    """All findings in what was recorded."""
    return [finding for rule in (*_LIVE, *_AT_THE_END) for finding in rule(evidence)]


def so_far(evidence: Evidence) -> list[Finding]:
    """The findings that can be made while the seeds still train."""
    return [finding for rule in _LIVE for finding in rule(evidence)]


def _diverged(evidence: Evidence) -> Iterator[Finding]:
    if evidence.diverged:
        text = f"Parameters or losses of {len(evidence.diverged)} of {len(evidence.seeds)} seeds stopped being finite."
        yield finding("diverged", text, evidence.diverged)
    rewards, steps = evidence.metrics.get("reward"), evidence.metrics.get("env_steps")
    if rewards is None or steps is None or not rewards.size:
        return
    # A frozen run's steps stay at those of its last update, whose metrics say why it was frozen.
    steps, rows = np.nan_to_num(steps), np.arange(len(steps))
    last = np.argmax(steps == steps.max(axis=1, keepdims=True), axis=1)
    broken = np.isin(evidence.seeds, evidence.diverged) & ~np.isfinite(rewards[rows, last])
    updates = evidence.metrics.get("update")
    at = last + 1.0 if updates is None else updates[rows, last]
    yield from where(evidence, "reward-not-finite", broken, "The rewards of update {} were not finite.", at)


def _entropy_collapse(evidence: Evidence) -> Iterator[Finding]:
    start, early = evidence.part("entropy", 0.0, 0.02), evidence.part("entropy", EARLY - 0.05, EARLY)
    if evidence.random is not None and evidence.final is not None:  # a sharp policy that is good is no fault
        early = np.where(not_learned(evidence), early, np.nan)
    if evidence.dimensions:  # a Gaussian's entropy has the logarithms of its standard deviations
        low = start + np.log(COLLAPSED_ENTROPY) * evidence.dimensions
    elif evidence.dimensions == 0 or np.all(start >= 0):
        low = COLLAPSED_ENTROPY * start
    else:
        return
    sentence = "The entropy fell from {} to {} nats in the first quarter of the run."
    yield from where(evidence, "entropy-collapse", early < low, sentence, start, early)


def _entropy_stuck(evidence: Evidence) -> Iterator[Finding]:
    if "temperature" in evidence.metrics or evidence.dimensions != 0:  # SAC's is tuned to a target
        return
    start, end = evidence.part("entropy", 0.0, 0.02), evidence.part("entropy", 0.9, 1.0)
    sentence = "The entropy began at {} and ended at {} nats."
    yield from where(evidence, "entropy-stuck", end > STUCK_ENTROPY * start, sentence, start, end)


def _kl_high(evidence: Evidence) -> Iterator[Finding]:
    peak = highest(evidence.windows("approximate_kl", 20))
    sentence = "The KL divergence of an update reached {} on average over a twentieth of the run."
    yield from where(evidence, "kl-high", peak > HIGH_KL, sentence, peak)


def _clip_fraction(evidence: Evidence) -> Iterator[Finding]:
    peak = highest(evidence.windows("clip_fraction", 20))
    sentence = "The clip fraction reached {} on average over a twentieth of the run."
    yield from where(evidence, "clip-fraction-high", peak > HIGH_CLIP_FRACTION, sentence, peak)


def _policy_still(evidence: Evidence) -> Iterator[Finding]:
    kl = evidence.part("approximate_kl", 0.0, EARLY)
    sentence = "The KL divergence of an update was {} on average in the first quarter of the run."
    yield from where(evidence, "policy-still", kl < STILL_KL, sentence, kl)


def _overestimation(evidence: Evidence) -> Iterator[Finding]:
    discount = evidence.number("discount")
    scaled = any(map(evidence.is_wrapped, ("normalize_rewards", "clip_reward", "shape_reward")))
    if (
        discount is None
        or not 0 <= discount < 1
        or scaled
        or not {"action_value", *_EPISODES} <= evidence.metrics.keys()
    ):
        return
    parts = [evidence.windows(name) for name in (*_EPISODES, "action_value")]
    realised = series.mean_value(parts[0], parts[1], discount)
    if {"temperature", "entropy"} <= evidence.metrics.keys():  # soft values have what the entropy earns
        bonus = evidence.windows("temperature") * np.maximum(evidence.windows("entropy"), 0.0)
        realised = realised + bonus / (1.0 - discount)
    size = highest(np.abs(realised))
    if evidence.eval_returns.size:  # the greedy policy's may be far higher than those with exploration
        best = np.nanmax(np.abs(evidence.eval_returns), axis=1, initial=0.0, where=np.isfinite(evidence.eval_returns))
        size = np.fmax(size, np.abs(series.mean_value(best, np.nan_to_num(highest(parts[1]), nan=1.0), discount)))
    if not evidence.is_complete:  # the first reward of a run may be in no episode that has ended
        size = np.where(size > 0, size, np.inf)
    above = parts[2] - realised - OVERESTIMATED * size[:, None]
    worst = np.argmax(np.nan_to_num(above, nan=-np.inf), axis=1)
    rows = np.arange(len(worst))
    sentence = "Action values were {} on average in a tenth of the run, and the discounted returns from states {}."
    yield from where(
        evidence, "overestimation", above[rows, worst] > 0, sentence, parts[2][rows, worst], realised[rows, worst]
    )


def _gradients(evidence: Evidence) -> Iterator[Finding]:
    early = evidence.part("gradient_norm", 0.0, EARLY)
    sentence = "The gradient's norm was {} on average in the first quarter of the run."
    yield from where(evidence, "gradient-vanishing", early < VANISHING_GRADIENT, sentence, early)
    windows = evidence.windows("gradient_norm")
    peak, first = highest(windows), windows[:, 0]
    exploded = (peak > EXPLODING_GRADIENT) & (peak > EXPLODING_GROWTH * first)
    sentence = "The gradient's norm reached {} on average over a tenth of the run, and began at {}."
    yield from where(evidence, "gradient-exploding", exploded, sentence, peak, first)


def _explained_variance(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.is_complete:
        return
    # Where a good policy's returns are all alike, there is nothing to explain.
    peak = np.where(not_learned(evidence), highest(evidence.windows("explained_variance")[:, 1:]), np.nan)
    sentence = "The values explained at most {} of the variance of the returns, averaged over a tenth of the run."
    yield from where(evidence, "critic-explains-nothing", peak < EXPLAINED_VARIANCE, sentence, np.maximum(peak, -99.0))


def _reward_scale(evidence: Evidence) -> Iterator[Finding]:
    discount = evidence.number("discount")
    scaled = any(map(evidence.is_wrapped, ("normalize_rewards", "clip_reward")))
    if scaled or not {"gradient_norm", *_EPISODES} <= evidence.metrics.keys():  # tables may have values of any size
        return
    returns, lengths = evidence.windows("episode_return"), evidence.windows("episode_length")
    size = highest(np.abs(series.mean_value(returns, lengths, discount) if discount and discount < 1 else returns))
    sentence = "Discounted returns from states have a size of up to {}, averaged over a tenth of the run."
    yield from where(evidence, "reward-scale", size > LARGE_VALUE, sentence, size)


def _reward_clipped(evidence: Evidence) -> Iterator[Finding]:
    env = evidence.config.get("env")
    recipe = env.get("recipe") or () if isinstance(env, dict) else ()
    bounds = next((step[1] for step in recipe if step and step[0] == "clip_reward"), None)
    if bounds is None:
        return
    low, high = (
        (-np.inf, np.inf)
        if len(bounds) < 2
        else (
            -np.inf if bounds[0] is None else bounds[0],
            np.inf if bounds[1] is None else bounds[1],
        )
    )
    windows = evidence.windows("reward")
    clipped = (highest(windows) > high) | (-highest(-windows) < low)
    text = f"The mean raw reward of a step was {{}}, and the learner's are clipped to {low:g} to {high:g}."
    yield from where(evidence, "reward-clipped", clipped, text, evidence.part("reward", 0.0, 1.0))


def _no_reward(evidence: Evidence) -> Iterator[Finding]:
    rewards = evidence.metrics.get("reward")
    if rewards is None or not rewards.size or not evidence.is_complete:
        return
    seen = np.isfinite(rewards)
    none = np.all((rewards == 0.0) | ~seen, axis=1) & seen.any(axis=1) & ~np.isin(evidence.seeds, evidence.diverged)
    yield from where(evidence, "no-reward", none, "Every reward of the whole run was 0.")


def _epsilon(evidence: Evidence) -> Iterator[Finding]:
    epsilon = evidence.part("epsilon", EARLY_EPSILON, EARLY_EPSILON)
    holds = (epsilon <= LOW_EPSILON) & not_learned(evidence) & (not evidence.config.get("noisy"))
    sentence = "Epsilon was {} after 2% of the run, and the final return is {}, hardly better than a random policy's."
    final = np.full(len(holds), np.nan) if evidence.final is None else evidence.final
    yield from where(evidence, "epsilon-early", holds, sentence, epsilon, final)


def _replay(evidence: Evidence) -> Iterator[Finding]:
    names = ("buffer_size", "batch_size", "num_envs", "num_steps", "gradient_steps")
    numbers = [evidence.number(name) for name in names]
    if None in numbers:
        return
    size, batch, num_envs, steps, gradient_steps = (number or 0.0 for number in numbers)
    lengths = highest(evidence.windows("episode_length"))
    length = float(np.nanmedian(lengths)) if np.isfinite(lengths).any() else 0.0
    if size < FEWEST_BATCHES * batch or size < FEWEST_EPISODES * length:
        text = f"The replay buffer holds {size:,.0f} transitions, a batch {batch:,.0f}, and an episode {shown(length)}."
        yield finding("replay-small", text)
    age = size / (num_envs * steps) * gradient_steps
    planned = evidence.num_updates * gradient_steps
    if min(age, planned) > OLDEST_POLICY:
        yield finding(
            "replay-stale", f"The oldest transitions come from a policy {min(age, planned):,.0f} gradient steps ago."
        )
    lost = evidence.part("lost_successors", 0.0, 1.0)
    sentence = "{:.2%} of the sampled transitions had lost their true next observation."
    yield from where(evidence, "lost-successors", lost > LOST_SUCCESSORS, sentence, lost)


def _target(evidence: Evidence) -> Iterator[Finding]:
    rate, period, steps = (evidence.number(name) for name in ("target_rate", "target_period", "gradient_steps"))
    if rate == 0:
        yield finding("target-still", "target_rate is 0.")
    elif period is not None and period > evidence.num_updates * (steps or 1):
        total = evidence.num_updates * (steps or 1)
        yield finding(
            "target-still", f"target_period is {period:,.0f}, and the whole run has {total:,.0f} gradient steps."
        )


def _endless(evidence: Evidence) -> Iterator[Finding]:
    episodes, steps, num_envs = (
        evidence.metrics.get("episodes"),
        evidence.metrics.get("env_steps"),
        evidence.number("num_envs"),
    )
    if episodes is None or steps is None or not episodes.size:
        return
    each = np.nanmax(steps, axis=1) / (num_envs or 1.0)
    none = np.nansum(episodes, axis=1) == 0
    yield from where(
        evidence,
        "episodes-endless",
        none & (each > ENDLESS),
        "No episode has ended in {} steps of each environment.",
        each,
    )


def _groups(evidence: Evidence) -> Iterator[Finding]:
    final = evidence.final
    if final is None or np.isfinite(final).sum() < GROUP_SEEDS:
        return
    seeds, values = evidence.seeds[np.isfinite(final)], np.sort(final[np.isfinite(final)])
    least = max(2, int(np.ceil(GROUP_PART * len(values))))
    gaps = np.diff(values)[least - 1 : len(values) - least]
    split = int(np.argmax(gaps)) + least
    low, high = values[:split], values[split:]
    known = np.array([evidence.random, evidence.reference, *values], dtype=float)
    matters = high.mean() - low.mean() > LEARNED * np.nanmax(np.abs(known - known[2]))
    if matters and gaps.max() > GROUP_GAP * (values[-1] - values[0]):
        lower = np.sort(seeds[final[np.isfinite(final)] <= low[-1]])
        text = (
            f"{len(low)} seeds have final returns of {shown(low[0])} to {shown(low[-1])}, and {len(high)} of "
            f"{shown(high[0])} to {shown(high[-1])}."
        )
        yield finding("seeds-in-two-groups", text, lower)


def _evaluation_gap(evidence: Evidence) -> Iterator[Finding]:
    if evidence.final is None or evidence.other_env or not evidence.eval_returns.size:
        return
    windows = evidence.windows("episode_return")
    late = max(evidence.eval_returns.shape[1] // 4, 1)
    evaluated, trained = mean(evidence.eval_returns[:, -late:]), evidence.part("episode_return", 0.75, 1.0)
    low = np.min(np.where(np.isfinite(windows), windows, np.inf), axis=1)
    size = np.maximum(highest(windows) - low, np.abs(trained))
    sentence = "In the last quarter of the run, evaluations returned {} on average, and training {} with exploration."
    far = trained - evaluated > EVALUATION_GAP * size
    yield from where(evidence, "evaluation-far-from-training", far, sentence, evaluated, trained)


def _random(evidence: Evidence) -> Iterator[Finding]:
    if evidence.final is None or evidence.random is None:
        return
    good = "" if evidence.reference is None else f", and a good one's {shown(evidence.reference)}"
    sentence = f"The final return is {{}}, a random policy's {shown(evidence.random)}{good}."
    yield from where(evidence, "hardly-better-than-random", not_learned(evidence), sentence, evidence.final)


_LIVE: tuple[Rule, ...] = (
    _diverged, _entropy_collapse, _kl_high, _clip_fraction, _policy_still, _overestimation, _gradients, _reward_scale,
    _reward_clipped,
    _replay, _target, _endless,
)  # fmt: skip
_AT_THE_END: tuple[Rule, ...] = (
    _entropy_stuck, _explained_variance, _no_reward, _epsilon, _groups, _evaluation_gap, _random
)  # fmt: skip
