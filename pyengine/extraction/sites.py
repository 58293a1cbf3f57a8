"""Which sites a key of `extract` stands for, and how many keys each has."""

from typing import Any

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.site_names import resolve
from pyengine.sites import OUTPUT, Site

# Sites with one vector per token.
SHAPES = ("BTD", "BTHD", "BT1")


def sites_of_key(model: Model, key: Any) -> list[Site]:
    """Return the sites of a name, a pattern, or a tuple of them, one after another.

    Raises:
        PyengineError: for an unknown site, one named twice, or one that has not one vector per
            token or lies in the output head.
    """
    names = (key,) if isinstance(key, str) else key
    if not isinstance(names, tuple) or not names:
        raise PyengineError(f"a site is a name or a tuple of names, not {key!r}")
    sites = [site for name in names for site in resolve(model, name)]
    if len(set(sites)) < len(sites):
        raise PyengineError(f"{key!r} names a site twice")
    for site in sites:
        if site.in_head:
            raise PyengineError(f"{site.name} lies in the output head, which a pass does not run")
        if site.shape not in SHAPES:
            raise PyengineError(f"{site.name} has not one vector for each token")
    return sites


def site_width(model: Model, site: Site) -> int:
    """Return how many keys a site has; of heads, of all of them together."""
    if site.shape == "BT1":
        return 1
    module = model.body.get_submodule(site.module)
    weight: Any = getattr(module, "weight", None)
    if weight is None:  # a block or a sublayer, which read and write the residual stream
        return int(model.values(0).shape[1])
    if weight.ndim == 1:  # of a norm
        return len(weight)
    n_in, n_out = weight.shape if _is_transposed(module) else reversed(weight.shape)
    return int(n_out // site.part[1] if site.tap == OUTPUT else n_in)


def _is_transposed(module: Any) -> bool:
    return type(module).__name__ in ("Conv1D", "Embedding")
