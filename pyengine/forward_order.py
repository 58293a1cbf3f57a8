"""How far a forward pass runs when it is stopped before a layer."""

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.site_names import Names, resolve
from pyengine.sites import OUTPUT, Site, block_prefix, sites_of


def below(model: Model, names: Names, stop_at_layer: int | None) -> list[Site]:
    """Find those sites that the pass reaches.

    Raises:
        PyengineError: for one that is named, not only matched by a pattern, and lies beyond
            `stop_at_layer`.
    """
    if stop_at_layer is None:
        return resolve(model, names)
    order = [*sites_of(model)]
    stop = entering(model, stop_at_layer)
    reached = set(order[: order.index(stop.name) + (stop.tap == OUTPUT)])
    listed = (
        [names] if isinstance(names, str) else [] if names is None or callable(names) else names
    )
    for name in listed:
        one = resolve(model, name)
        if len(one) == 1 and one[0].name not in reached:
            raise PyengineError(f"{one[0].name} lies beyond stop_at_layer={stop_at_layer}")
    return [site for site in resolve(model, names) if site.name in reached]


def entering(model: Model, layer: int) -> Site:
    """Return the site of the residual stream that enters a layer, or leaves the last.

    Raises:
        PyengineError: if there is no such layer.
    """
    n = model.n_layers
    if isinstance(layer, bool) or not isinstance(layer, int) or not -n <= layer <= n:
        raise PyengineError(f"stop_at_layer must be from {-n} to {n}, got {layer!r}")
    sites = sites_of(model)
    index = layer + n if layer < 0 else layer
    if index < n:
        return sites[f"{block_prefix(model, model.layers[index])}.hook_resid_pre"]
    last = block_prefix(model, model.layers[-1])
    return sites.get(f"{last}.hook_normalized_resid_post") or sites[f"{last}.hook_resid_post"]
