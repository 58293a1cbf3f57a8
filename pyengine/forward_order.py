"""How far a forward pass runs when it is stopped before a layer."""

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.site_names import Names, resolve
from pyengine.sites import OUTPUT, Site, block_prefix, sites_of


def below(model: Model, names: Names, stop_at_layer: int | None) -> list[Site]:
    """Find sites that the pass reaches.

    Raises:
        PyengineError: for a site that is named and lies beyond `stop_at_layer`.
    """
    if stop_at_layer is None:
        return resolve(model, names)
    order = [*sites_of(model)]
    stop = entering(model, stop_at_layer)
    reached = set(order[: order.index(stop.name) + (stop.tap == OUTPUT)])
    if names is None:
        return [site for site in resolve(model, None) if site.name in reached]
    found = resolve(model, names)
    if beyond := [site.name for site in found if site.name not in reached]:
        raise PyengineError(f"{beyond[0]} lies beyond stop_at_layer={stop_at_layer}")
    return found


def entering(model: Model, layer: int) -> Site:
    """Return the site of the residual stream that enters a layer, or leaves the last.

    Raises:
        PyengineError: if there is no such layer.
    """
    n = model.n_layers
    if not -n <= layer <= n:
        raise PyengineError(f"stop_at_layer must be from {-n} to {n}, got {layer}")
    sites = sites_of(model)
    index = layer + n if layer < 0 else layer
    if index < n:
        return sites[f"{block_prefix(model, model.layers[index])}.hook_resid_pre"]
    last = block_prefix(model, model.layers[-1])
    return sites.get(f"{last}.hook_normalized_resid_post") or sites[f"{last}.hook_resid_post"]
