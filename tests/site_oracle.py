"""Every site of a model recomputed by hand: float64, the weights, the inputs, plain torch.

No module of the model is run, none is hooked, and no code of the package is used. Dictionaries are
filled in the order of the forward pass. Masked scores are -inf; a query that may look nowhere
(padding) attends to every key alike, as Hugging Face's most negative finite number has it, so that
nothing becomes NaN.
"""

from typing import Any

from site_oracle_bert import bert_sites, electra_sites
from site_oracle_gpt import gpt2_sites, gpt_neo_sites, openai_gpt_sites
from site_oracle_parts import Inputs, Sites, Weights
from site_oracle_t5 import t5_sites

_FAMILIES = {
    "gpt2": gpt2_sites,
    "gpt_neo": gpt_neo_sites,
    "bert": bert_sites,
    "t5": t5_sites,
    "openai-gpt": openai_gpt_sites,
    "electra": electra_sites,
}


def site_oracle(hf: Any, inputs: Inputs) -> Sites:
    """Recompute every site of a model of any family, with its head.

    Args:
        hf: the model as Hugging Face has it; only its `config` and `state_dict()` are read.
        inputs: `input_ids` [B, T] and what the family takes of `attention_mask`, `position_ids`,
            `token_type_ids`, `decoder_input_ids` and `decoder_attention_mask`.

    Returns:
        float64 tensors by canonical name.
    """
    weights = {name: tensor.double() for name, tensor in hf.state_dict().items()}
    return _FAMILIES[hf.config.model_type](Weights(weights), hf.config, inputs)
