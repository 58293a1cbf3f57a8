"""What `run_with_cache` kept: a mapping from site name to tensor."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.site_names import canonical
from pyengine.sites import attention_name, block_prefix, sites_of


class ActivationCache(Mapping[str, Tensor]):
    """The values of some sites in one forward pass, by canonical name, in the order of the pass.

    A value is looked up in any spelling that `pyengine.site_names.resolve` understands.

    Args:
        values: by canonical name, in the order of the pass.
        model: what they come from.
    """

    def __init__(self, values: Mapping[str, Tensor], model: Model) -> None:
        self.model = model
        self._values = dict(values)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._values[name if name in self._values else canonical(self.model, name)]
        except (PyengineError, KeyError, TypeError) as error:
            raise KeyError(f"{name!r} is not in the cache, which holds {self._listed()}") from error

    def __contains__(self, name: object) -> bool:
        try:
            self[name]  # type: ignore[index]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} sites, {self.nbytes / 1e6:.1f} MB: {self._listed()})"

    @property
    def nbytes(self) -> int:
        """Bytes of all values; sites that share one tensor count it once each."""
        return sum(value.numel() * value.element_size() for value in self.values())

    def to(self, target: Any) -> "ActivationCache":
        """Return a cache with all values on a device, or of a dtype (`torch.float32`)."""
        return ActivationCache({name: value.to(target) for name, value in self.items()}, self.model)

    def stack(self, name: str, stack: str | None = None) -> Tensor:
        """Stack one site over layers.

        Args:
            name: the site within its block: `mlp.hook_post`, `hook_resid_post`, `attn.hook_z`.
            stack: T5: `encoder` or `decoder`; None where only one of them has the site here.

        Returns:
            [n, …], one value per layer that the cache holds, in order of the layers.

        Raises:
            PyengineError: if no layer holds it, or both stacks do.
        """
        found: dict[str, list[Tensor]] = {}
        for layer in self.model.layers:
            own = attention_name(self.model, layer)
            spelled = f"{own}.{name[5:]}" if name.startswith("attn.") else name
            value = self._values.get(f"{block_prefix(self.model, layer)}.{spelled}")
            if value is not None and stack in (None, layer.stack.name):
                found.setdefault(layer.stack.name, []).append(value)
        if len(found) != 1:
            raise PyengineError(
                f"{name!r} is held for no layer; the cache holds {self._listed()}"
                if not found
                else f"{name!r} is held for both stacks; say stack='encoder' or 'decoder'"
            )
        (values,) = found.values()
        return torch.stack([value.to(values[0].device) for value in values])

    def by_head(self, name: str) -> Tensor:
        """Return queries, keys, values, contexts, scores or patterns with the heads first.

        Returns:
            [n_heads, B, T, d_head], or [n_heads, B, T, S]; a view.

        Raises:
            PyengineError: for a site without heads.
        """
        value, shape = self[name], sites_of(self.model)[canonical(self.model, name)].shape
        if shape not in ("BTHD", "BHTS"):
            raise PyengineError(f"{name} has no heads")
        return value.movedim(2 if shape == "BTHD" else 1, 0)

    def head_results(self, name: str) -> Tensor:
        """Return what each head writes into the residual stream: z_h · W_O^h (Elhage et al. 2021).

        They add up to the attention's output, but for its bias and rounding.

        Args:
            name: a `hook_z` that the cache holds.

        Returns:
            [n_heads, B, T, d_model].

        Raises:
            PyengineError: for another site.
        """
        site = sites_of(self.model)[canonical(self.model, name)]
        if not site.name.endswith("hook_z"):
            raise PyengineError(f"head_results takes a hook_z, not {site.name}")
        out: Any = self.model.body.get_submodule(site.module)
        weight: Tensor = out.weight.detach()
        rows = weight if type(out).__name__ == "Conv1D" else weight.t()
        z = self.by_head(name)
        heads = rows.unflatten(0, (site.heads, -1)).to(z.device)
        return torch.einsum("hbtd,hdm->hbtm", z, heads.to(z.dtype))

    def _listed(self) -> str:
        names = [*self._values]
        return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") if names else "nothing"
