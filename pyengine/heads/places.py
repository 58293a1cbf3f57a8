"""Where sentence vectors are read: the heads of an attention, a block's output, an FFN's output."""

from dataclasses import dataclass

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.sites import Site, attention_name, block_prefix, coefficient_site, sites_of

# The context of self-attention and of a decoder's cross-attention before their output projections;
# outputs of blocks and of FFNs; FFN coefficients after the non-linearity.
HEAD, CROSS, BLOCK, FFN, NEURONS = "head", "cross", "block", "ffn", "neurons"
LOCATIONS = (HEAD, CROSS, BLOCK, FFN, NEURONS)
WITH_HEADS = (HEAD, CROSS)


@dataclass(frozen=True)
class Place:
    """A site of one layer, whose vectors have one part per head, or one in all.

    Attributes:
        location: one of `LOCATIONS`.
        layer: index through all stacks, the encoder's first.
        site: the site.
        n_parts: heads; 1 where there are none.
    """

    location: str
    layer: int
    site: Site
    n_parts: int

    @property
    def name(self) -> str:
        """`head.3`, `block.11`, ..."""
        return f"{self.location}.{self.layer}"


def places_of(model: Model, locations: tuple[str, ...]) -> list[Place]:
    """List the places of a model at some locations, layer by layer.

    Raises:
        PyengineError: for an unknown location, or one that the model has nowhere.
    """
    for location in locations:
        check_choice("location", location, LOCATIONS)
    sites = sites_of(model)
    found = []
    for location in dict.fromkeys(locations):
        of = [
            Place(location, layer.index, site, max(1, site.heads))
            for layer in model.layers
            if (site := sites.get(_site_name(model, layer, location))) is not None
        ]
        if not of:
            raise PyengineError(f"{model.name} has no location {location!r}: it has no such layer")
        found += of
    return found


def _site_name(model: Model, layer: Layer, location: str) -> str:
    prefix = block_prefix(model, layer)
    if location == NEURONS:
        return coefficient_site(model, layer.index).name
    if location == BLOCK:
        # Where norms come after the additions, the block's output is normalised.
        after = layer.stack.final_norm is None
        return f"{prefix}.{'hook_normalized_resid_post' if after else 'hook_resid_post'}"
    return {
        HEAD: f"{prefix}.{attention_name(model, layer)}.hook_z",
        CROSS: f"{prefix}.cross_attn.hook_z",
        FFN: f"{prefix}.hook_mlp_out",
    }[location]
