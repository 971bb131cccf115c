"""Encoders of the history that a recommender observes: which items were shown, and what was clicked.

They read the observations of `rljax.envs.recommender`, or of any environment whose observations are a dict with
`items` `[L]`, integers of which the highest means none, the newest first; their `features` `[L, d]`; `clicks` `[L]` and
`ratings` `[L]`, from 0 to 5; and a `context`, an integer. All features end with the context, one-hot.

- `none`: only the context; the policy has no state.
- `one_hot`: how often each item of the history was shown, and clicked.
- `mean`: the recency-weighted means of the features of clicked items and of shown ones, and that of clicks.
- `gru`: a gated recurrent unit from the oldest entry to the newest (as Hidasi et al. 2016 for sessions).
- `attention`: two heads of attention from a learned query to the entries and their places (Vaswani et al. 2017; as
  Kang and McAuley 2018 for histories, with one layer).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.envs import Dict, Space
from rljax.errors import UsageError, number, suggest

DECAY = 0.9  # of the weights of `mean`, from one place to the next


def _entries(obs: dict[str, jax.Array], num_items: int) -> jax.Array:
    """Entries `[..., L, d + 3]`: features, whether an item was shown and clicked, and its rating over 5."""
    shown = (obs["items"] < num_items).astype(jnp.float32)
    numbers = jnp.stack([shown, obs["clicks"], obs["ratings"] / 5.0], axis=-1)
    return jnp.concatenate([obs["features"], numbers], axis=-1)


class HistoryEncoder(nn.Module):
    """Features `[..., F]` of a history and its context, by one of the ways above."""

    space: Dict
    kind: str
    size: int = 32

    @nn.compact
    def __call__(self, obs: dict[str, jax.Array]) -> jax.Array:
        num_items = self.space.spaces["items"].nvec[0] - 1
        context = jax.nn.one_hot(obs["context"], self.space.spaces["context"].n)
        if self.kind == "none":
            return context
        if self.kind == "one_hot":
            shown = jax.nn.one_hot(obs["items"], num_items)
            clicked = shown * obs["clicks"][..., None]
            return jnp.concatenate([shown.sum(axis=-2), clicked.sum(axis=-2), context], axis=-1)
        entries = _entries(obs, num_items)
        if self.kind == "mean":
            weights = DECAY ** jnp.arange(entries.shape[-2]) * entries[..., -3]
            means = []
            for weight in (weights, weights * obs["clicks"]):
                total = jnp.sum(weight[..., None] * entries, axis=-2)
                means.append(total / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-9))
            return jnp.concatenate([*means, context], axis=-1)
        if self.kind == "gru":
            core = nn.RNN(nn.GRUCell(self.size), reverse=True, return_carry=True, name="gru")
            return jnp.concatenate([core(entries)[0], context], axis=-1)
        length = entries.shape[-2]
        places = self.param("places", nn.initializers.normal(0.02), (length, self.size))
        query = self.param("query", nn.initializers.normal(0.02), (1, self.size))
        inputs = nn.Dense(self.size, name="entries")(entries) + places
        queries = jnp.broadcast_to(query, (*entries.shape[:-2], 1, self.size))
        mask = entries[..., None, None, :, -3] > 0
        mask = mask | ~mask.any(axis=-1, keepdims=True)
        pooled = nn.MultiHeadDotProductAttention(2, name="attention")(queries, inputs, mask=mask)[..., 0, :]
        return jnp.concatenate([nn.tanh(pooled), context], axis=-1)


KINDS = ("none", "one_hot", "mean", "gru", "attention")


@dataclasses.dataclass(frozen=True)
class _Histories:
    kind: str
    size: int

    def __call__(self, space: Space) -> HistoryEncoder:
        names = {"items", "features", "clicks", "ratings", "context"}
        if not isinstance(space, Dict) or not names <= set(space.spaces):
            raise UsageError("A history encoder needs a recommender's observations, such as recommender/drift-100's.")
        return HistoryEncoder(space, self.kind, self.size)


HISTORY_ENCODERS = {f"history_{kind}": _Histories(kind, 32) for kind in KINDS}
"""The encoders by the names that the field `encoder` of a config takes, with the default size."""


def history_encoder(kind: str, size: int = 32) -> Any:
    """An encoder of histories for the field `encoder` of a config, which also takes its name, such as "history_gru".

    Args:
        kind: `none`, `one_hot`, `mean`, `gru` or `attention`.
        size: width of a GRU or of attention, even.

    Raises:
        UsageError: the kind is unknown, or the size is not an even integer.
    """
    if kind not in KINDS:
        raise UsageError(f"There is no history encoder {kind!r}: {suggest(kind, KINDS)}")
    if number("size", size, integer=True, minimum=2) % 2:
        raise UsageError(f"size must be even, for two heads of attention, got {size}.")
    return _Histories(kind, size)
