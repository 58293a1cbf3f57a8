"""What excites a neuron most, inside an nnsight trace; equal beginnings compete once.

    pip install nnsight
    python examples/reducer_nnsight.py

To a causal model two sentences that begin alike are the same until they differ: `per="prefix"`
lets only the first of them compete with what they share.
"""

import torch
from nnsight import NNsight
from reducer_texts import sentences, show
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyengine import StreamingTopK
from pyengine.embedded import MODEL

LAYER = 2


@torch.inference_mode()
def main() -> StreamingTopK:
    """Read the sentences, show the best examples of three keys, and return the reducer."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    texts, traced = sentences(), NNsight(model)
    topk = StreamingTopK(5, model.config.n_inner, model.config.n_positions, per="prefix")
    for units in torch.arange(len(texts)).split(8):
        batch = tokenizer([texts[unit] for unit in units], padding=True, return_tensors="pt")
        with traced.trace(**batch):
            acts = traced.transformer.h[LAYER].mlp.act.output
            topk.update(acts, units, batch.attention_mask, batch.input_ids)
    show(topk, tokenizer, texts)
    return topk


if __name__ == "__main__":
    main()
