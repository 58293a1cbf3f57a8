"""What excites the neurons of every layer most, by hooks of a TransformerLens 4 bridge.

    pip install transformer-lens
    python examples/reducer_transformer_lens.py

A bridge's tokenizer starts every text with a BOS token, whose activations are unlike all others:
`skip_first` leaves them out. A hook's own name may be another than the one asked for (here it is
`blocks.0.mlp.out.hook_in`), so each reducer is tied to the name that was asked for.
"""

from functools import partial
from typing import Any

import torch
from reducer_texts import sentences, show
from transformer_lens.model_bridge import TransformerBridge

from pyengine import StreamingTopK
from pyengine.embedded import MODEL


@torch.inference_mode()
def main() -> dict[str, StreamingTopK]:
    """Read the sentences, show the best examples of three keys, and return the reducers."""
    bridge = TransformerBridge.boot_transformers(str(MODEL), device="cpu", dtype=torch.float32)
    texts = sentences()
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(bridge.cfg.n_layers)]
    reducers = {
        name: StreamingTopK(5, bridge.cfg.d_mlp, bridge.cfg.n_ctx, skip_first=1) for name in names
    }

    def hook(acts: torch.Tensor, hook: Any, topk: StreamingTopK) -> None:
        topk.update(acts, units, batch.attention_mask)

    hooks = [(name, partial(hook, topk=topk)) for name, topk in reducers.items()]
    for units in torch.arange(len(texts)).split(8):
        batch = bridge.tokenizer(
            [texts[unit] for unit in units], padding=True, padding_side="right", return_tensors="pt"
        )
        bridge.run_with_hooks(
            batch.input_ids, attention_mask=batch.attention_mask, fwd_hooks=hooks, return_type=None
        )

    show(reducers[names[2]], bridge.tokenizer, texts)
    return reducers


if __name__ == "__main__":
    main()
