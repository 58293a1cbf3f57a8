"""What excites a neuron most, by a plain forward hook in a loop of your own.

    python examples/reducer_forward_hook.py

The batches are padded on the left, where positions are easily got wrong: a bare GPT-2 would count
them from the first padding, and the column of a token is not its position in the text.
"""

import torch
from reducer_texts import sentences, show
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyengine import Moments, StreamingTopK
from pyengine.embedded import MODEL

LAYER = 2


@torch.inference_mode()
def main() -> tuple[StreamingTopK, Moments]:
    """Read the sentences, show the best examples of three keys, and return the reducers."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    texts, width = sentences(), model.config.n_inner
    topk = StreamingTopK(k=5, n_keys=width, max_positions=model.config.n_positions)
    moments = Moments(n_keys=width, bins=40, range=(-1, 3))

    def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        topk.update(inputs[0], units, mask, positions=positions)
        moments.update(inputs[0], units, mask)

    # In every family the keys' activations are the input of the second feed-forward matrix.
    handle = model.transformer.h[LAYER].mlp.c_proj.register_forward_pre_hook(hook)
    for units in torch.arange(len(texts)).split(8):
        batch = tokenizer([texts[unit] for unit in units], padding=True, return_tensors="pt")
        mask = batch.attention_mask
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        model(**batch, position_ids=positions)
    handle.remove()

    show(topk, tokenizer, texts)
    found = moments.compute()
    for key in range(3):
        mean, deviation = found.mean[key], found.variance[key].sqrt()
        print(f"key {key}: {mean:.4f} ± {deviation:.4f} over {found.count[key]} tokens")
    return topk, moments


if __name__ == "__main__":
    main()
