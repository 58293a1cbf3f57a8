"""Predictions the obvious way: hooks, one unit at a time, all logits in float64. Shares no code.

Rows are dicts, one per example and layer, with the package's column names; None for nothing.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor

# Per family and stack: module that reads what the FFN's output is added to, down-projection, norm.
STACKS = {
    "gpt2": [("transformer.h.{}.ln_2", "transformer.h.{}.mlp.c_proj", "transformer.ln_f")],
    "openai-gpt": [
        ("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj", "transformer.h.{}.ln_2")
    ],
    "t5": [
        (
            f"{stack}.block.{{}}.layer.{n}.layer_norm",
            f"{stack}.block.{{}}.layer.{n}.DenseReluDense.wo",
            f"{stack}.final_layer_norm",
        )
        for stack, n in (("encoder", 1), ("decoder", 2))
    ],
}
STACKS["gpt_neo"] = STACKS["gpt2"]
for bert in ("bert", "electra"):
    layer = f"{bert}.encoder.layer.{{}}"
    STACKS[bert] = [
        (f"{layer}.intermediate.dense", f"{layer}.output.dense", f"{layer}.output.LayerNorm")
    ]
HEADS = {"bert": ("cls.predictions.transform", "cls.predictions.decoder")}
HEADS["electra"] = ("generator_predictions", "generator_lm_head")


class Oracle:
    """Reads a model out; `hf` runs in its own dtype, everything after it in float64."""

    def __init__(self, hf: Any, *, final_norm: bool, head: str) -> None:
        self.hf, self.final_norm, self.head = hf.eval(), final_norm, head
        self.wide = copy.deepcopy(hf).double()
        self.family = hf.config.model_type
        self.layers: list[tuple[int, str, str, str]] = []
        for stack, templates in enumerate(STACKS[self.family]):
            for block in range(100):
                try:
                    hf.get_submodule(templates[1].format(block))
                except AttributeError:
                    break
                entry, down, norm = (template.format(block) for template in templates)
                self.layers.append((stack, entry, down, norm))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Any, list[tuple[Tensor, ...]]]:
        """Return the model's output and (r, y, m) of each layer, [T, ...] each."""
        seen: dict[str, Tensor] = {}
        handles = []
        for _, entry, down, _ in self.layers:
            for name, module in (("r" + down, entry), ("m" + down, down)):
                hook = lambda _m, x, name=name: seen.__setitem__(name, x[0][0].clone())  # noqa: E731
                handles.append(self.hf.get_submodule(module).register_forward_pre_hook(hook))
            out = lambda _m, _x, y, name="y" + down: seen.__setitem__(name, y[0].clone())  # noqa: E731
            handles.append(self.hf.get_submodule(down).register_forward_hook(out))
        with torch.no_grad():
            output = self.hf(**inputs)
        for handle in handles:
            handle.remove()
        return output, [tuple(seen[k + layer[2]] for k in "rym") for layer in self.layers]

    def values(self, layer: int) -> Tensor:
        module: Any = self.wide.get_submodule(self.layers[layer][2])
        weight = module.weight.detach()
        return weight if type(module).__name__ == "Conv1D" else weight.t()

    def logits(self, x: Tensor, layer: int, *, norm: bool, head: str) -> Tensor:
        """Return the logits of [R, d_model]."""
        x = x.double()
        with torch.no_grad():
            if norm:
                x = self.wide.get_submodule(self.layers[layer][3])(x)
            if self.family in HEADS:
                transform, decoder = map(self.wide.get_submodule, HEADS[self.family])
                if head == "full":
                    x = transform(x)
                return x @ decoder.weight.t() + (decoder.bias if head == "full" else 0)
            if getattr(self.hf.config, "scale_decoder_outputs", False):
                x = x * self.hf.config.d_model**-0.5
            return x @ self.wide.lm_head.weight.t()

    def own_logits(self, output: Any, stack: int) -> Tensor:
        """Return the model's own logits [T, V] at every position of a stack."""
        if self.family == "t5" and stack == 0:
            hidden = output.encoder_last_hidden_state[0]
            return self.logits(hidden, 0, norm=False, head="full")
        return output.logits[0].double()


def splitmix64(seed: int, index: int) -> int:
    mask = 2**64 - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def positions(rule: str, seed: int, unit: int, length: int) -> list[int]:
    if rule == "all":
        return list(range(length))
    return [length - 1] if rule == "last" else [splitmix64(seed, unit) % length]


def top(logits: Tensor) -> int:
    return int((logits == logits.max()).nonzero()[0])


def rank(logits: Tensor, token: int | None) -> int | None:
    if token is None:
        return None
    return int((logits > logits[token]).sum() + (logits[:token] == logits[token]).sum())


def prob(logits: Tensor, token: int | None) -> float | None:
    return None if token is None else float(logits.softmax(0)[token])


def predictions(
    hf: Any,
    units: list[list[int]],
    mode: str,
    *,
    final_norm: bool,
    head: str,
    rule: str = "random",
    seed: int = 0,
    n: int = 10,
    prefix: tuple[int, ...] = (),
    suffix: tuple[int, ...] = (),
) -> list[dict[str, Any]]:
    """Return the rows of a table, in order of unit, position and layer."""
    oracle = Oracle(hf, final_norm=final_norm, head=head)
    rows = []
    for index, unit in enumerate(units):
        inputs = {"input_ids": torch.tensor([[*prefix, *unit, *suffix]])}
        if oracle.family == "t5":
            start = hf.config.decoder_start_token_id
            inputs["decoder_input_ids"] = torch.tensor([[start, *unit]])
        output, sites = oracle.forward(inputs)
        for position in positions(rule, seed, index, len(unit)):
            for layer, (stack, *_) in enumerate(oracle.layers):
                decoder = oracle.family == "t5" and stack == 1
                at = position + (1 if decoder else len(prefix))
                r, y, m = (part[at] for part in sites[layer])
                own = oracle.own_logits(output, stack)[at]
                gold: int | None = unit[position]
                if decoder or "gpt" in oracle.family:
                    gold = unit[position + 1] if position + 1 < len(unit) else None
                row: dict[str, Any] = {"unit": index, "position": position, "layer": layer}
                row |= {"gold_token": gold, "residual_norm": float(r.double().norm())}
                row |= {"final_token": top(own), "final_prob": prob(own, top(own))}
                row |= {"n_active": int((m > 0).sum()), "n_negative": int((m < 0).sum())}
                read = _layer_row if mode == "layer" else _value_row
                rows.append(row | read(oracle, layer, r, y, m, row, n))
    return rows


def _layer_row(
    oracle: Oracle, layer: int, r: Tensor, y: Tensor, m: Tensor, row: dict[str, Any], _: int
) -> dict[str, Any]:
    how: dict[str, Any] = {"norm": oracle.final_norm, "head": oracle.head}
    found: dict[str, Any] = {}
    logits = {}
    for name, x in (("layer", r + y), ("residual", r), ("ffn", y)):
        z = logits[name] = oracle.logits(x[None], layer, **how)[0]
        found |= {f"{name}_token": top(z), f"{name}_prob": prob(z, top(z))}
        for target in ("final", "gold"):
            token = row[f"{target}_token"]
            found[f"{name}_{target}_rank"] = rank(z, token)
            found[f"{name}_{target}_prob"] = prob(z, token)
    o, a, b = (found[f"{name}_token"] for name in ("layer", "residual", "ffn"))
    found["ffn_residual_rank"] = rank(logits["ffn"], a)
    found["ffn_residual_prob"] = prob(logits["ffn"], a)
    found["changed_without_residual"] = o != b
    memories = oracle.logits(m.double()[:, None] * oracle.values(layer), layer, **BARE)
    tops = [top(z) for z, c in zip(memories, m, strict=True) if c > 0]
    found |= {"n_matching_layer": tops.count(o), "n_matching_ffn": tops.count(b)}
    sizes = m.double().clamp(min=0) * oracle.values(layer).norm(dim=1)
    found["residual_norm_rank"] = int((sizes > r.double().norm()).sum())
    if o == a == b:
        return found | {"kind": "agreement"}
    return found | {"kind": "residual" if o == a else "ffn" if o == b else "composition"}


BARE: dict[str, Any] = {"norm": False, "head": "embedding"}


def _value_row(
    oracle: Oracle, layer: int, r: Tensor, y: Tensor, m: Tensor, row: dict[str, Any], n: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    logits = {}
    for name, x in (("residual", r), ("ffn", y)):
        z = logits[name] = oracle.logits(x[None], layer, **BARE)[0]
        found |= {f"{name}_token": top(z), f"{name}_prob": prob(z, top(z))}
        found[f"{name}_final_rank"] = rank(z, row["final_token"])
        found[f"{name}_final_prob"] = prob(z, row["final_token"])
    a, b = found["residual_token"], found["ffn_token"]
    found["ffn_residual_rank"] = rank(logits["ffn"], a)
    found["ffn_residual_prob"] = prob(logits["ffn"], a)
    values = oracle.values(layer)
    memories = oracle.logits(m.double()[:, None] * values, layer, **BARE)
    tops = [top(z) for z in memories]
    active = [t for t, c in zip(tops, m, strict=True) if c > 0]
    targets = {"final": row["final_token"], "gold": row["gold_token"], "ffn": b}
    for name, token in targets.items():
        found[f"n_matching_{name}"] = None if token is None else active.count(token)
    found["n_distinct"] = len(set(active))
    sizes = (m.double().abs() * values.norm(dim=1)).tolist()
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))[:n]
    for name, dims in (("top", order), ("all", range(len(sizes)))):
        found[f"{name}_dims"] = list(dims)
        found[f"{name}_coefficients"] = [float(m[i]) for i in dims]
        found[f"{name}_contributions"] = [sizes[i] for i in dims]
        found[f"{name}_tokens"] = [tops[i] for i in dims]
        found[f"{name}_probs"] = [prob(memories[i], tops[i]) for i in dims]
        for target, token in targets.items():
            found[f"{name}_{target}_ranks"] = [rank(memories[i], token) for i in dims]
            found[f"{name}_{target}_probs"] = [prob(memories[i], token) for i in dims]
    return found


def disagreements(table: Any, rows: list[dict[str, Any]], relative: float) -> list[str]:
    """Name every cell of an Arrow table that is not as the rows say; numbers within `relative`."""
    found = table.to_pylist()
    wrong = [] if len(found) == len(rows) else [f"{len(found)} rows, not {len(rows)}"]
    for mine, theirs in zip(found, rows, strict=False):
        for name, value in mine.items():
            if not _equal(value, theirs[name], relative):
                where = tuple(mine[key] for key in ("unit", "position", "layer"))
                wrong.append(f"{where} {name}: {value} != {theirs[name]}")
    return wrong


def _equal(a: Any, b: Any, relative: float) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(_equal(x, y, relative) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=relative, abs_tol=1e-37)
    return type(a) is type(b) and bool(a == b)
