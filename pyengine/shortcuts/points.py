"""The points of a stack that maps lead from and to, and which pairs of them get a map.

x_0 … x_L is the residual stream: what block l reads is x_l, what the last one leaves, before any
final norm, is x_L. Within a block there are the taps t_0 … t_n: t_0 is x_l, t_n is x_{l+1}, and
each step between two is one sub-module.
"""

from dataclasses import dataclass
from itertools import pairwise

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.families import Stack
from pyengine.models import Model
from pyengine.sites import Site, block_prefix, sites_of

# What a step from one tap to the next is.
NORM, ATTENTION, CROSS, FFN, ADD = "norm", "attention", "cross", "ffn", "add"

# Taps after t_0 with the step that leads there; `None` in place of a name is t_n.
_NORM_FIRST = (
    ("ln1.hook_out", NORM),
    ("hook_attn_out", ATTENTION),
    ("hook_resid_mid", ADD),
    ("ln2.hook_out", NORM),
    ("hook_mlp_out", FFN),
    (None, ADD),
)
_NORM_LAST = (  # BERT
    ("hook_attn_out", ATTENTION),
    ("hook_resid_mid", ADD),
    ("hook_normalized_resid_mid", NORM),
    ("hook_mlp_out", FFN),
    ("hook_resid_post", ADD),
    (None, NORM),
)
_WITH_CROSS = (
    ("ln1.hook_out", NORM),
    ("hook_attn_out", ATTENTION),
    ("hook_resid_mid", ADD),
    ("ln2.hook_out", NORM),
    ("hook_cross_attn_out", CROSS),
    ("hook_resid_mid_cross", ADD),
    ("ln3.hook_out", NORM),
    ("hook_mlp_out", FFN),
    (None, ADD),
)

# Which pairs of x_0 … x_L get a map: those to the last, or all i < j.
TO_LAST, ALL = "last", "all"


@dataclass(frozen=True)
class Points:
    """The points of one stack.

    Attributes:
        stack: `encoder` or `decoder`.
        sites: where each point is read; the first L + 1 are x_0 … x_L.
        n_blocks: L.
        taps: of each block, the indices of t_0 … t_n among the points; empty without sub-modules.
        steps: what leads from t_a to t_{a+1}, of any block.
    """

    stack: str
    sites: tuple[Site, ...]
    n_blocks: int
    taps: tuple[tuple[int, ...], ...] = ()
    steps: tuple[str, ...] = ()

    def pairs(self, which: str = TO_LAST) -> list[tuple[int, int]]:
        """List the (source, target) that get a map, of x_0 … x_L first, sources ascending.

        Args:
            which: `last` or `all`; sub-modules come always, where there are taps.
        """
        check_choice("pairs", which, (TO_LAST, ALL))
        last = self.n_blocks
        if which == ALL:
            found = [(i, j) for i in range(last) for j in range(i + 1, last + 1)]
        else:
            found = [(i, last) for i in range(last)]
        steps = [pair for block in self.taps for pair in pairwise(block)]
        return [*found, *(pair for pair in steps if pair not in found)]

    def name(self, source: int, target: int) -> str:
        """Name the map of a pair: `i_j`, or `pl_a_b` from tap a to tap b of block l."""
        if source <= self.n_blocks and target <= self.n_blocks:
            return f"{source}_{target}"
        for number, block in enumerate(self.taps):
            if source in block and target in block:
                return f"p{number}_{block.index(source)}_{block.index(target)}"
        raise PyengineError(f"there is no map from point {source} to point {target}")


def points_of(model: Model, stack: str, *, sub_modules: bool = False) -> Points:
    """Return the points of one stack of a model.

    Args:
        model: the model.
        stack: `encoder` or `decoder`.
        sub_modules: also the taps within each block.

    Raises:
        PyengineError: if the model has no such stack.
    """
    layers = [layer for layer in model.layers if layer.stack.name == stack]
    if not layers:
        known = ", ".join(stacks_of(model))
        raise PyengineError(f"{model.name} has no {stack}; its stacks are: {known}")
    sites = sites_of(model)
    prefixes = [block_prefix(model, layer) for layer in layers]
    last = "hook_resid_post" if layers[0].stack.final_norm else "hook_normalized_resid_post"
    residual = [sites[f"{prefix}.hook_resid_pre"] for prefix in prefixes]
    found = [*residual, sites[f"{prefixes[-1]}.{last}"]]
    if not sub_modules:
        return Points(stack, tuple(found), len(layers))
    rows = _rows(layers[0].stack)
    taps = []
    for block, prefix in enumerate(prefixes):
        inside = [sites[f"{prefix}.{name}"] for name, _ in rows if name is not None]
        taps.append((block, *range(len(found), len(found) + len(inside)), block + 1))
        found += inside
    return Points(stack, tuple(found), len(layers), tuple(taps), tuple(step for _, step in rows))


def stacks_of(model: Model) -> list[str]:
    """Name the stacks of a model, encoder before decoder."""
    return list(dict.fromkeys(layer.stack.name for layer in model.layers))


def _rows(stack: Stack) -> tuple[tuple[str | None, str], ...]:
    if stack.final_norm is None:
        return _NORM_LAST
    return _WITH_CROSS if len(stack.attention) > 1 else _NORM_FIRST
