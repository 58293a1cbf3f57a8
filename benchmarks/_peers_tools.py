"""TransformerLens and nnsight, used as their documentation says, on copies that they may change."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

import pyengine
from benchmarks._peers_common import Answer, Run, RunningTopK, Setting


def transformer_lens(setting: Setting) -> Run:
    """Cache the coefficients of every layer of a batch, then rank them.

    The bridge switches the model to eager attention, and always runs the output head.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge
    # It loads the tokenizer a second time, by its name: a folder will do, whatever is in it.
    tokenizer = pyengine.load("demo").tokenizer
    bridge: Any = TransformerBridge.boot_transformers(
        "local",
        hf_model=copy.deepcopy(setting.hf),
        tokenizer=tokenizer,
        device=setting.scale.device,
    )

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        topk = RunningTopK(setting)
        for batch in setting.batches(ids):
            tokens, *decoder = batch.inputs.values()
            more = {"decoder_input": decoder[0]} if decoder else {}
            _, cache = bridge.run_with_cache(tokens, names_filter=setting.hook_names, **more)
            for layer, name in enumerate(setting.hook_names):
                topk.add(layer, cache[name], batch.first)
        return topk.answer()

    return run


def nnsight(setting: Setting) -> Run:
    """Save the coefficients of every layer of a batch in one trace, then rank them."""
    _import_nnsight()
    from nnsight import NNsight

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # attributes such as `output` are its own
        model = NNsight(copy.deepcopy(setting.body))
    at = {module.path.removeprefix("model."): module for module in model.modules()}
    modules = [at[path] for path in setting.down_projections(setting.body)]

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        topk = RunningTopK(setting)
        for batch in setting.batches(ids):
            for layer, acts in enumerate(_trace(model, modules, batch.inputs)):
                topk.add(layer, acts, batch.first)
        return topk.answer()

    return run


def _import_nnsight() -> None:
    """Import nnsight, without the attribute `save` that it gives to every object there is.

    argparse, for one, takes it for the option of that name.
    """
    import nnsight  # noqa: F401
    from nnsight._c import unmount

    if hasattr(object, "save"):
        unmount("save")


def _trace(model: Any, modules: list[Any], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Trace a batch. nnsight reads the source of its `with` block: it must stand in a file."""
    import nnsight

    with model.trace(**inputs):
        acts = nnsight.save([module.input for module in modules])
    return acts
