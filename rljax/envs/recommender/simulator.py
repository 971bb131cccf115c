r"""The simulated user: what is clicked, how taste, boredom and satisfaction move, and when a session ends.

Item i has an embedding $e_i$, a category $c_i$, an appeal $\alpha_i$, a quality $q_i$ and a length of $m_i$ minutes. A
person has a latent taste u, a context x with the direction $w_x$, boredom $b_c \in [0, 1]$ of each category, and a
satisfaction $s \in [0, 1]$. In a step a slate of k items is shown.

1. **Click.** The affinity for item i is $a_i = \kappa\, e_i^T (u + \omega w_x)$, and its value
   $v_i = \text{base} + a_i + \alpha_i - \beta b_{c_i}$. The person clicks one item of the slate, or none:
   $P(\text{click } i) = e^{v_i} / (1 + \sum_j e^{v_j})$, which for one item is $\sigma(v_i)$. An item that is in the
   slate twice counts once.
2. **Enjoyment** of a clicked item is $\theta_i = \sigma(a_i + q_i)$: the person watches $\theta_i m_i$ minutes, and
   with probability `rating_chance` gives $1 + \text{Binomial}(4, \theta_i)$ stars. Without a click, enjoyment is 0.
3. **Satisfaction** moves towards enjoyment: $s \leftarrow s + \text{pace}\, (\theta - s)$.
4. **Boredom** moves towards the fraction $f_c$ of the slate in each category:
   $b_c \leftarrow b_c + \text{tiring}\, (f_c - b_c)$.
5. **Taste** moves towards what was clicked, and at random:
   $u \leftarrow u + \text{drift}\, (e_i - u) + \text{walk}\, \epsilon$, with $\epsilon$ standard normal; the first term
   only after a click. The context is drawn anew with probability `context_change`.
6. **The session ends** with probability $\text{leave}\, (1 - \text{loyalty}\, s)$, with the new satisfaction.

The reward is `click_weight` for a click, plus `watch_weight` times the minutes, `rating_weight` times the stars,
`diversity_weight` and `novelty_weight` times two numbers of the slate: **diversity**, the mean over its items and over
the items shown before that are still in the history of $(1 - \cos(e_i, e_j)) / 2$, which is 0 at the start of a
session; and **novelty**, the mean of $-\ln p_i / \ln n$ with popularity $p_i$ (Vargas and Castells 2011, of n items).

The click model is the multinomial logit of RecSim (Ie et al. 2019); taste that moves towards what was consumed, and
satisfaction that decides how long a person stays, are in the spirit of its interest evolution and long-term
satisfaction environments.
"""

import dataclasses
import math
from typing import Any, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp

from rljax.envs.base import TimeStep, timestep
from rljax.envs.recommender.catalogue import Catalogue

INFO = {
    "clicks": "sum",
    "minutes": "sum",
    "ratings": "sum",
    "stars": "sum",
    "diversity": "mean",
    "novelty": "mean",
    "satisfaction": "last",
}
"""What every step reports; `stars` over `ratings` is the mean rating."""

START = 0.5  # satisfaction when a session begins


@dataclass_transform(frozen_default=True)
def _params[T](cls: type[T]) -> type[T]:
    made = dataclasses.dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(made, [f.name for f in dataclasses.fields(made)], [])  # type: ignore[arg-type]


@_params
class Params:
    """Numbers of the equations, free to sweep, and the catalogue. The defaults are those of `recommender/drift-100`."""

    catalogue: Catalogue
    base: float = -1.0
    sharpness: float = 2.5  # kappa
    context_weight: float = 0.3  # omega
    context_change: float = 0.1
    boredom: float = 1.0  # beta
    tiring: float = 0.2
    drift: float = 0.1
    walk: float = 0.01
    pace: float = 0.3
    leave: float = 0.1
    loyalty: float = 0.8
    rating_chance: float = 0.2
    warm: float = 0.0  # probability that a session begins with a history, of random items, instead of none
    click_weight: float = 1.0
    watch_weight: float = 0.0
    rating_weight: float = 0.0
    diversity_weight: float = 0.0
    novelty_weight: float = 0.0


class History(NamedTuple):
    """What was shown in the last H steps of k items, the newest first; L = H * k."""

    items: jax.Array  # [L] int32, n where nothing was shown
    clicks: jax.Array  # [L], 0 or 1
    ratings: jax.Array  # [L], stars from 1 to 5, 0 without a rating


class State(NamedTuple):
    """A person in a session."""

    taste: jax.Array  # [d]
    context: jax.Array  # [] int32
    boredom: jax.Array  # [K]
    satisfaction: jax.Array  # []
    history: History
    allowed: jax.Array  # [n] bool, the candidates
    filter: jax.Array  # [K] bool, the categories among which the person browses


class World(NamedTuple):
    """What fixes shapes."""

    slate: int  # k
    steps: int  # H
    categories: int  # K
    candidates: str | None  # "category", "neighbours" or None
    num_candidates: int  # of "neighbours"


def affinities(state: State, params: Params) -> jax.Array:
    """Affinities `[n]` of all items."""
    items = params.catalogue
    return params.sharpness * (items.embeddings @ (state.taste + params.context_weight * items.contexts[state.context]))


def click_logits(state: State, params: Params) -> jax.Array:
    """Values `[n]` of all items."""
    items = params.catalogue
    return params.base + affinities(state, params) + items.appeal - params.boredom * state.boredom[items.categories]


def enjoyments(state: State, params: Params) -> jax.Array:
    """How much each item `[n]` would be enjoyed, in [0, 1]."""
    return jax.nn.sigmoid(affinities(state, params) + params.catalogue.quality)


def slate_logits(slate: jax.Array, logits: jax.Array) -> jax.Array:
    """Logits `[1 + k]` of no click and of each place of a slate `[k]`, -inf for an item that is in it before."""
    repeated = jnp.any(jnp.tril(slate[:, None] == slate, -1), axis=1)
    return jnp.concatenate([jnp.zeros(1), jnp.where(repeated, -jnp.inf, logits[slate])])


def diversities(history: History, params: Params) -> jax.Array:
    """The diversity `[n]` of showing each item next."""
    embeddings = params.catalogue.embeddings
    lengths = jnp.maximum(jnp.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    directions = embeddings / lengths
    shown = history.items < len(embeddings)
    cosines = directions @ directions.at[history.items].get(mode="fill", fill_value=0.0).T
    distances = jnp.where(shown, (1.0 - cosines) / 2.0, 0.0)
    return distances.sum(axis=1) / jnp.maximum(shown.sum(), 1)


def novelties(params: Params) -> jax.Array:
    """The novelty `[n]` of each item."""
    popularity = params.catalogue.popularity
    return -jnp.log(popularity) / math.log(len(popularity))


def bonuses(history: History, params: Params) -> jax.Array:
    """The part of the reward `[n]` that each item has whether or not it is clicked."""
    bonus = params.diversity_weight * diversities(history, params)
    return bonus + params.novelty_weight * novelties(params)


def expected_rewards(state: State, params: Params) -> jax.Array:
    """The expected reward `[n]` of the next step for each item, if it is shown without others."""
    enjoyment, items = enjoyments(state, params), params.catalogue
    of_click = params.click_weight + params.watch_weight * items.minutes * enjoyment
    of_click += params.rating_weight * params.rating_chance * (1.0 + 4.0 * enjoyment)
    return jax.nn.sigmoid(click_logits(state, params)) * of_click + bonuses(state.history, params)


def moved(
    state: State, slate: jax.Array, item: jax.Array, is_click: jax.Array, enjoyment: Any, params: Params
) -> State:
    """The state after a slate `[k]` of which `item` was clicked, or none; without the random walk and the context."""
    shown = jax.nn.one_hot(params.catalogue.categories[slate], len(state.boredom)).mean(axis=0)
    pull = params.drift * (params.catalogue.embeddings[item] - state.taste)
    return state._replace(
        taste=state.taste + jnp.where(is_click, pull, 0.0),
        boredom=state.boredom + params.tiring * (shown - state.boredom),
        satisfaction=state.satisfaction + params.pace * (jnp.where(is_click, enjoyment, 0.0) - state.satisfaction),
    )


def ending(satisfaction: jax.Array, params: Params) -> jax.Array:
    """The probability that the session ends."""
    return params.leave * (1.0 - params.loyalty * satisfaction)


def reset(world: World, key: jax.Array, params: Params) -> tuple[dict[str, jax.Array], State]:
    """A person begins a session."""
    names = ("person", "context", "warm", "items", "clicks", "rate", "stars", "filter", "least")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    items, length = params.catalogue, world.steps * world.slate
    n = len(items.appeal)
    browsed = jax.random.bernoulli(keys["filter"], 0.5, (world.categories,))
    browsed = browsed.at[jax.random.randint(keys["least"], (), 0, world.categories)].set(True)
    none = jnp.full(length, n, jnp.int32)
    state = State(
        taste=items.tastes[jax.random.randint(keys["person"], (), 0, len(items.tastes))],
        context=jax.random.randint(keys["context"], (), 0, len(items.contexts), jnp.int32),
        boredom=jnp.zeros(world.categories),
        satisfaction=jnp.float32(START),
        history=History(none, jnp.zeros(length), jnp.zeros(length)),
        allowed=jnp.ones(n, bool),
        filter=browsed,
    )
    past = jax.random.randint(keys["items"], (length,), 0, n, jnp.int32)
    is_click = jax.random.bernoulli(keys["clicks"], jax.nn.sigmoid(click_logits(state, params))[past])
    rated = is_click & jax.random.bernoulli(keys["rate"], params.rating_chance, (length,))
    stars = _stars(keys["stars"], enjoyments(state, params)[past])
    warm = jax.random.bernoulli(keys["warm"], params.warm)
    seen = History(past, is_click.astype(jnp.float32), jnp.where(rated, stars, 0.0))
    state = state._replace(history=jax.tree.map(lambda a, b: jnp.where(warm, a, b), seen, state.history))
    state = state._replace(allowed=_candidates(world, state, params))
    return observe(state, params), state


def _stars(key: jax.Array, enjoyment: jax.Array) -> jax.Array:
    """Stars `[...]` float32 for enjoyments `[...]`."""
    coins = jax.random.uniform(key, (4, *enjoyment.shape)) < enjoyment
    return 1.0 + coins.sum(axis=0).astype(jnp.float32)


def step(world: World, key: jax.Array, state: State, action: jax.Array, params: Params) -> tuple[TimeStep, State]:
    """Show a slate `[k]`, or one item `[]`."""
    names = ("click", "rate", "stars", "walk", "changes", "context", "end")
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    items, slate = params.catalogue, jnp.reshape(action, (world.slate,)).astype(jnp.int32)
    choice = jax.random.categorical(keys["click"], slate_logits(slate, click_logits(state, params))) - 1
    is_click = choice >= 0
    item = slate[jnp.maximum(choice, 0)]
    enjoyment = enjoyments(state, params)[item]
    rated = is_click & jax.random.bernoulli(keys["rate"], params.rating_chance)
    stars = jnp.where(rated, _stars(keys["stars"], enjoyment), 0.0)
    minutes = jnp.where(is_click, items.minutes[item] * enjoyment, 0.0)
    reward = params.click_weight * is_click + params.watch_weight * minutes + params.rating_weight * stars
    reward += bonuses(state.history, params)[slate].mean()

    after = moved(state, slate, item, is_click, enjoyment, params)
    changes = jax.random.bernoulli(keys["changes"], params.context_change)
    context = jax.random.randint(keys["context"], (), 0, len(items.contexts), jnp.int32)
    clicked = (jnp.arange(world.slate) == choice).astype(jnp.float32)
    newest = History(slate, clicked, clicked * stars)
    after = after._replace(
        taste=after.taste + params.walk * jax.random.normal(keys["walk"], after.taste.shape),
        context=jnp.where(changes, context, state.context),
        history=jax.tree.map(lambda new, old: jnp.concatenate([new, old])[: len(old)], newest, state.history),
    )
    after = after._replace(allowed=_candidates(world, after, params))
    info = {
        "clicks": is_click,
        "minutes": minutes,
        "ratings": rated,
        "stars": stars,
        "diversity": diversities(state.history, params)[slate].mean(),
        "novelty": novelties(params)[slate].mean(),
        "satisfaction": after.satisfaction,
    }
    ended = jax.random.bernoulli(keys["end"], ending(after.satisfaction, params))
    return timestep(observe(after, params), reward, ended, info=info), after


def observe(state: State, params: Params) -> dict[str, jax.Array]:
    """What a system sees: the history, with the features of its items, zeros for none; and the context."""
    items, clicks, ratings = state.history
    features = params.catalogue.features.at[items].get(mode="fill", fill_value=0.0)
    return {"items": items, "features": features, "clicks": clicks, "ratings": ratings, "context": state.context}


def clicked_mean(obs: dict[str, jax.Array], decay: float = 0.9) -> jax.Array:
    """The recency-weighted mean `[..., d]` of the features of clicked items, zeros without a click.

    Weights fall by `decay` from one place of the history to the next.
    """
    weights = obs["clicks"] * decay ** jnp.arange(obs["clicks"].shape[-1])
    total = jnp.sum(weights[..., None] * obs["features"], axis=-2)
    return total / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)


def _candidates(world: World, state: State, params: Params) -> jax.Array:
    """The items `[n]` bool that may be recommended."""
    items = params.catalogue
    if world.candidates == "category":
        return state.filter[items.categories]
    if world.candidates == "neighbours":
        profile = clicked_mean(observe(state, params))
        distances = jnp.square(items.features - profile).sum(axis=1)
        near = jax.lax.top_k(-distances, world.num_candidates)[1]
        is_new = ~jnp.any(state.history.clicks > 0)  # all items, until there is a click to be near to
        return jnp.zeros(len(distances), bool).at[near].set(True) | is_new
    return jnp.ones(len(items.appeal), bool)
