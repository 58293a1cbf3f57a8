"""Moments: count, mean, variance, extremes and histogram of every key, over any stream."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyengine import ops
from pyengine.errors import PyengineError
from pyengine.reducers import settings
from pyengine.reducers.chan import join, summarize
from pyengine.reducers.competing import Competing
from pyengine.reducers.histogram import Bins

CHUNK = 1 << 17  # activations added at once: they stay in the cache
ASKED = ("cpu",)  # devices that can be asked, without waiting, whether anything is left out


class KeyMoments(NamedTuple):
    """What is known of every key.

    Attributes:
        count: int64 [n_keys], activations that are numbers.
        n_nan: int64 [n_keys], NaN activations: counted here, and nowhere else.
        mean: float64 [n_keys]; ±inf or NaN where an activation was infinite, NaN without any.
        variance: float64 [n_keys], of the population: the mean square deviation. NaN without any
            activation, or where one was infinite.
        min, max: float32 [n_keys]; NaN without any activation.
        histogram: int64 [n_keys, bins + 2]: below the range, in bin 0, 1, …, from its end on; or
            None.
        edges: float32 [bins + 1]: bin i is [edges[i], edges[i + 1]); or None.
    """

    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    n_nan: Tensor
    mean: Tensor
    variance: Tensor
    min: Tensor
    max: Tensor
    histogram: Tensor | None
    edges: Tensor | None

    @property
    def sample_variance(self) -> Tensor:
        """The unbiased estimate, float64 [n_keys]: divided by count - 1; NaN below two."""
        count = self.count.double()
        return torch.where(count > 1, self.variance * (count / (count - 1)), math.nan)


class Moments:
    """Keep count, mean, variance, minimum, maximum and a histogram of every key, in fixed memory.

    Works in anybody's loop::

        moments = Moments(n_keys=3072, bins=100, range=(-1, 5))
        for acts, mask in batches:                # acts [B, T, n_keys]
            moments.update(acts, mask=mask)
        print(moments.compute().mean)

    Counts, extremes and the histogram are exact in any order. Mean and variance are kept in float64
    as mean and squared deviations, and joined by the formula of Chan et al. (1979), which does not
    cancel for means that are large beside the deviations; another order of batches or merges
    changes their last bits.

    Args:
        n_keys: number of keys.
        bins: bins of the histogram, 1 to 65,536, of equal width; None: no histogram.
        range: (low, high), where the first bin begins and the last ends.
        exclude: token ids that never compete, for `update(..., token_ids=...)`.
        skip_first: the first so many tokens of each row never compete; see `StreamingTopK`.
        device: where the state lives; the activations must be there too.

    Raises:
        PyengineError: for an argument out of range, or one of bins and range without the other.
    """

    def __init__(
        self,
        n_keys: int,
        *,
        bins: int | None = None,
        range: tuple[float, float] | None = None,
        exclude: Sequence[int] = (),
        skip_first: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if (bins is None) != (range is None):
            raise PyengineError("a histogram needs both bins and range")
        self._competing = Competing(n_keys, exclude, skip_first)
        self.n_keys, self.bins, self.range = n_keys, bins, range
        self._bins = None
        self._state = {
            "count": torch.zeros(n_keys, dtype=torch.int64, device=device),
            "n_nan": torch.zeros(n_keys, dtype=torch.int64, device=device),
            "mean": torch.zeros(n_keys, dtype=torch.float64, device=device),
            "squares": torch.zeros(n_keys, dtype=torch.float64, device=device),
            "min": torch.full((n_keys,), math.inf, device=device),
            "max": torch.full((n_keys,), -math.inf, device=device),
        }
        if bins is not None and range is not None:
            self._bins = Bins(bins, *range, device)
            shape = n_keys, self._bins.n
            self._state["histogram"] = torch.zeros(shape, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(
        self,
        acts: Tensor,
        unit_ids: Tensor | None = None,
        mask: Tensor | None = None,
        token_ids: Tensor | None = None,
        *,
        first_position: int = 0,
        positions: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            acts: [B, T, n_keys], float32, float16 or bfloat16.
            unit_ids: not used; taken so that all reducers are called alike.
            mask: [B, T], bool or 0 and 1; False is left out. None: all count.
            token_ids: integers [B, T]; needed to leave out the tokens of `exclude`.
            first_position, positions: as in `StreamingTopK.update`, for `skip_first`.

        Raises:
            PyengineError: if a shape or dtype does not fit.
        """
        places = self._competing.of(acts, mask, token_ids, first_position, positions)
        self._add(acts, places.competes, 0)

    @torch.no_grad()
    def fold(
        self,
        captured: ops.Captured,
        rows: ops.Rows,
        *,
        first_key: int = 0,
        seen: int = 0,
        careful: bool = False,
    ) -> None:
        """Add captured activations to the keys from `first_key` on, where `rows.ids` are >= 0.

        `seen` and `careful` are for reducers that can overflow. Adding a batch twice counts twice.
        """
        self._add(captured.values, rows.ids >= 0, first_key)

    def flush(self) -> None:
        """Do nothing: nothing is ever pending."""

    def take_overflow(self) -> bool:
        """Return False: nothing can overflow."""
        return False

    def merge(self, other: "Moments") -> None:
        """Add what another reducer has seen, on any device.

        Raises:
            PyengineError: if the two differ in a setting.
        """
        settings.check_same(self._settings(), other._settings(), "merge reducers with")
        device = self._state["count"].device
        theirs = {name: tensor.to(device) for name, tensor in other._state.items()}
        join(self._state, theirs)
        self._state["n_nan"] += theirs["n_nan"]
        if self._bins is not None:
            self._state["histogram"] += theirs["histogram"]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state and the settings, on the CPU: any tensor file can hold them.

        `count`, `n_nan` int64, `mean`, `squares` (sums of squared deviations) float64, `min`,
        `max` float32, all [n_keys]; `histogram` int64 [n_keys, bins + 2]; `settings`, uint8: JSON.
        """
        state = {name: tensor.cpu() for name, tensor in self.snapshot().items()}
        return state | {"settings": settings.to_tensor(self._settings())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the stream continues as if it had not stopped.

        Raises:
            PyengineError: if a tensor is missing or has another shape or dtype, or if the state is
                of a reducer with other settings.
        """
        settings.check_state(self._settings(), self._state, state)
        self.restore(state)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the state on its device, for `restore`."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to a snapshot."""
        for name, tensor in self._state.items():
            tensor.copy_(snapshot[name])

    def compute(self) -> KeyMoments:
        """Return what has been seen so far, on the CPU."""
        state = self.state_dict()
        count, low, high = state["count"], state["min"], state["max"]
        none, infinite = count == 0, low.isinf() | high.isinf()
        mean = torch.where(infinite, low.double() + high.double(), state["mean"])
        variance = state["squares"] / count
        return KeyMoments(
            count,
            state["n_nan"],
            mean.masked_fill(none, math.nan),
            variance.masked_fill(none | infinite, math.nan),
            low.masked_fill(none, math.nan),
            high.masked_fill(none, math.nan),
            state.get("histogram"),
            None if self._bins is None else self._bins.edges.cpu(),
        )

    def _add(self, values: Tensor, competes: Tensor, first_key: int) -> None:
        keys = slice(first_key, first_key + values.shape[2])
        if not 0 <= keys.start <= keys.stop <= self.n_keys:
            raise PyengineError(f"keys [{keys.start}, {keys.stop}) must lie in [0, {self.n_keys})")
        if not values.numel():
            return
        state = {name: tensor[keys] for name, tensor in self._state.items()}  # views
        size = max(1, CHUNK // values.shape[2])
        flat, places = values.flatten(0, 1).split(size), competes.flatten().split(size)
        for chunk, inside in zip(flat, places, strict=True):
            self._add_chunk(state, chunk.float(), inside)

    def _add_chunk(self, state: dict[str, Tensor], values: Tensor, inside: Tensor) -> None:
        """Add float32 [n, F] to the keys of `state`, where `inside`, bool [n]."""
        left_out = None
        if values.device.type in ASKED:
            values = values if inside.all() else values[inside]
            if not len(values):
                return
            if values.sum().isnan():  # inf - inf only costs the detour
                left_out = values.isnan()
                state["n_nan"].add_(left_out.sum(0))
        else:
            left_out = values.isnan() | ~inside[:, None]
            state["n_nan"].add_((values.isnan() & inside[:, None]).sum(0))
        join(state, summarize(values, left_out))
        if self._bins is not None:
            self._bins.count(state["histogram"], values, left_out)

    def _settings(self) -> dict[str, Any]:
        bounds = None if self.range is None else [float(bound) for bound in self.range]
        return {"bins": self.bins, "range": bounds} | self._competing.settings()
