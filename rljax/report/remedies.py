"""What each finding of the doctor compares, and what to try first; `docs/doctor.md` explains them at length."""

from typing import NamedTuple


class About(NamedTuple):
    """A finding in words."""

    threshold: str
    remedy: str


ABOUT = {
    "diverged": About(
        "a parameter or a loss is NaN or infinite",
        "Lower learning_rate, clip gradients with max_grad_norm, and look for a division by zero or a logarithm of 0 "
        "in custom code.",
    ),
    "reward-not-finite": About(
        "the mean reward of an update at which a seed diverged is NaN or infinite",
        "Look for a division by zero, a logarithm of 0 or an overflow in the environment's reward; run rljax.check.",
    ),
    "entropy-collapse": About(
        "within a quarter of the run below 5% of its start, or for continuous actions a standard deviation below 5%, "
        "in a seed that did not learn",
        "Raise entropy_coefficient, lower learning_rate, and check the sign of the entropy bonus.",
    ),
    "entropy-stuck": About(
        "at the end above 97% of its start, for discrete actions",
        "Lower entropy_coefficient, raise learning_rate, and check the sign and the scale of the policy loss.",
    ),
    "kl-high": About(
        "above 0.1 on average over a twentieth of the run",
        "Lower learning_rate or num_epochs, set target_kl, and check that log-probabilities are those of the actions "
        "and of the policy that collected the data.",
    ),
    "clip-fraction-high": About(
        "above 0.5 on average over a twentieth of the run",
        "Lower learning_rate or num_epochs, and check the stored log-probabilities.",
    ),
    "policy-still": About(
        "KL divergence below 1e-6 on average in the first quarter of the run",
        "Raise learning_rate, and check that the policy loss has a gradient.",
    ),
    "overestimation": About(
        "action values above the discounted return by more than twice its size, averaged over a tenth of the run",
        "Check that a terminal step has no bootstrap and that the target network moves slowly; then try "
        "Double Q-learning or two critics, or a lower learning_rate.",
    ),
    "gradient-vanishing": About(
        "norm below 1e-6 on average in the first quarter of the run",
        "Check that the loss depends on the parameters (no stop_gradient on what is trained), and the rewards.",
    ),
    "gradient-exploding": About(
        "norm above 10,000 and above 100 times that of the first tenth, averaged over a tenth of the run",
        "Lower learning_rate, clip gradients, normalize rewards, and check that targets do not bootstrap from "
        "themselves.",
    ),
    "critic-explains-nothing": About(
        "explained variance below 0.05 in every tenth of the run except the first, in a seed that did not learn",
        "Check that the value loss trains the critic (no stop_gradient on its output) and that its targets are "
        "returns; then raise value_coefficient or normalize rewards.",
    ),
    "reward-scale": About(
        "discounted returns above 1,000 in size, averaged over a tenth of the run",
        "Wrap the environment with normalize_rewards or scale_reward.",
    ),
    "reward-clipped": About(
        "the mean raw reward of a step outside the bounds of clip_reward, in a tenth of the run",
        "Widen the bounds, or use scale_reward or normalize_rewards instead.",
    ),
    "no-reward": About(
        "every reward of the run is 0",
        "Check the reward function; if the reward is rare, shape it, explore more, or train longer.",
    ),
    "epsilon-early": About(
        "epsilon at most 0.1 after 2% of the run, in a seed that did not learn",
        "Let epsilon fall over a larger part of the run, as linear(1.0, 0.05, fraction=0.2) does.",
    ),
    "replay-small": About("fewer than 10 batches or 3 episodes in the replay buffer", "Raise buffer_size."),
    "replay-stale": About(
        "the oldest transition is over 1,000,000 gradient steps old, or the buffer does not get the run's steps",
        "Lower buffer_size or gradient_steps, and check that every step is added to the buffer.",
    ),
    "lost-successors": About(
        "above 1% of the sampled transitions",
        "Raise successor_slots: the environment truncates more episodes than the default has room for.",
    ),
    "target-still": About(
        "the target network equals the initial one at the end of the run, or the config cannot move it",
        "Set target_rate above 0 or lower target_period, and check that the update returns the new target.",
    ),
    "parameters-still": About(
        "a parameter has the same bits at the end of the run as at its start",
        "Check that the loss depends on it, that no stop_gradient hides it, and that learning_rate is not 0; "
        "parameters that are frozen on purpose are listed as well.",
    ),
    "episodes-endless": About(
        "no episode has ended in 2,000 steps of each environment",
        "Check the conditions of terminated and truncated, or add the wrapper time_limit.",
    ),
    "seeds-in-two-groups": About(
        "of 8 seeds or more, a gap of over 60% of their range with a fifth of the seeds on either side",
        "Compare two such seeds in the diagnostics; more exploration or a lower learning_rate often joins the groups.",
    ),
    "evaluation-far-from-training": About(
        "below the training return by more than half of its size or range, in the last quarter of the run",
        "Evaluate with eval_policy='stochastic' to see whether the greedy policy is the cause, and check that both "
        "use the same observations and actions.",
    ),
    "hardly-better-than-random": About(
        "less than a fifth of the way from the random policy's return to the reference's; without a reference, of "
        "the random policy's return",
        "Read the other findings first, then train longer or tune learning_rate; a preset shows values that work.",
    ),
    "observations-unscaled": About(
        "an entry above 100 in size, all entries below 0.01, or one that varies 1,000 times as much as another",
        "Wrap the environment with normalize_observations.",
    ),
    "observations-constant": About(
        "all entries of the observation, or half of those of a vector, never change",
        "Check what the environment observes: the policy cannot tell its states apart.",
    ),
    "actions-same": About(
        "one action in more than 99.9% of the steps, in a seed that did not learn",
        "Explore more, and check the sign of the loss and whether observations reach the network.",
    ),
    "actions-at-bounds": About(
        "99% of the actions within 1% of their bounds, in a seed that did not learn",
        "Lower the actor's learning_rate, normalize rewards, and check the scale of the actions.",
    ),
    "dead-units": About(
        "three quarters of a layer's units give 0 (ReLU) or saturate (tanh above 0.999), in a seed that did not learn",
        "Lower learning_rate, normalize observations, or use another activation or layer_norm.",
    ),
    "ends-mixed-up": About(
        "over half of the episodes terminate at the same, longest length in states like earlier ones, or truncations "
        "come at many lengths",
        "Return a time limit as truncated and an end of the task as terminated.",
    ),
}
