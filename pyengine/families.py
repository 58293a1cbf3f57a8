"""Where each architecture keeps its parts: a table with one row per model type.

In every family the FFN coefficient is the *input of the down-projection*; that module is
called `value` here because its rows are the value vectors. A new architecture is one new row.
"""

from dataclasses import dataclass, replace
from typing import Any

from pyengine.errors import PyengineError


@dataclass(frozen=True)
class Stack:
    """One run of identical blocks. Paths are templates over the block index, from the body.

    Attributes:
        name: `decoder` (causal) or `encoder` (bidirectional).
        blocks: the `ModuleList` of blocks.
        ffn: the feed-forward module of a block, as a whole.
        key: the matrix whose columns are the keys; a gated FFN's *gate*.
        up: the second input matrix of a gated FFN; None where no variant is gated.
        activation: the module of the non-linearity.
        value: the down-projection; its input is the coefficient, its rows are the values.
        attention: output projections of the block's attentions; their input is the context.
        projections: of each attention: queries, keys and values, or one matrix for all three.
        norms: the block's norms, in order of use.
        embedding: the token embedding that the first block reads, from the body.
        positions: the position embedding; T5's relative position bias, which all blocks share.
        between: the modules whose first input is the residual stream between two sublayers.
        final_norm: the norm after the last block; None where there is none: then the norms come
            after the additions (BERT, openai-gpt), not before the sublayers.
        takes_masks: whether it takes attention masks [B, 1, T, T]; openai-gpt makes its own.
        returns: what blocks and attentions return their results in.
        scaled: whether attention scores are divided by the root of the head's width.
        relative: whether `positions` is a bias on attention scores.
        rebranches: whether the block goes on adding to what `between` reads, so that an edit of the
            residual stream there has to reach both (see `pyengine.taps`).
    """

    name: str
    blocks: str
    ffn: str
    key: tuple[str, ...]
    activation: str
    value: str
    attention: tuple[str, ...]
    projections: tuple[tuple[str, ...], ...]
    norms: tuple[str, ...]
    embedding: str
    positions: str
    between: tuple[str, ...]
    up: str | None = None
    final_norm: str | None = None
    takes_masks: bool = True
    returns: type = tuple
    scaled: bool = True
    relative: bool = False
    rebranches: bool = False

    @property
    def causal(self) -> bool:
        return self.name == "decoder"


@dataclass(frozen=True)
class Family:
    """One architecture: its stacks in layer order and the configuration names that we read.

    Attributes:
        model_type: Hugging Face's `config.model_type`.
        stacks: encoder before decoder; layers are numbered through all of them.
        embedding: the token embedding that all stacks share, from the body. ELECTRA's, and with it
            the unembedding, may be narrower than the residual stream.
        max_positions: configuration attribute of the longest input.
        auto_class: the `transformers` class that loads the model with its output head.
        unembedding: the output embedding, from the whole model.
        head_transform: what the output head does before the unembedding, from the whole model.
        token_types: the token-type embedding, from the body.
        embedding_norm: the norm over the sum of the embeddings.
    """

    model_type: str
    stacks: tuple[Stack, ...]
    embedding: str
    max_positions: str
    auto_class: str
    unembedding: str = "lm_head"
    head_transform: str | None = None
    token_types: str | None = None
    embedding_norm: str | None = None

    @property
    def causal(self) -> bool:
        """Whether every layer sees only the prefix."""
        return all(stack.causal for stack in self.stacks)

    @property
    def encoder_decoder(self) -> bool:
        """Whether an encoder feeds a decoder (T5)."""
        return len(self.stacks) == 2


def _gpt(attention: str, projections: tuple[str, ...], scaled: bool) -> Stack:
    return Stack(
        name="decoder",
        blocks="h",
        ffn="h.{}.mlp",
        key=("h.{}.mlp.c_fc",),
        activation="h.{}.mlp.act",
        value="h.{}.mlp.c_proj",
        attention=(f"h.{{}}.{attention}",),
        projections=(tuple(f"h.{{}}.{path}" for path in projections),),
        norms=("h.{}.ln_1", "h.{}.ln_2"),
        embedding="wte",
        positions="wpe",
        between=("h.{}.ln_2",),
        final_norm="ln_f",
        scaled=scaled,
        rebranches=True,
    )


def _t5(name: str, attentions: tuple[str, ...]) -> Stack:
    block, n = f"{name}.block.{{}}", len(attentions)
    ffn = f"{block}.layer.{n}.DenseReluDense"
    return Stack(
        name=name,
        blocks=f"{name}.block",
        ffn=ffn,
        key=(f"{ffn}.wi", f"{ffn}.wi_0"),
        up=f"{ffn}.wi_1",
        activation=f"{ffn}.act",
        value=f"{ffn}.wo",
        attention=tuple(f"{block}.layer.{i}.{a}.o" for i, a in enumerate(attentions)),
        projections=tuple(
            tuple(f"{block}.layer.{i}.{a}.{part}" for part in "qkv")
            for i, a in enumerate(attentions)
        ),
        norms=tuple(f"{block}.layer.{i}.layer_norm" for i in range(n + 1)),
        embedding=f"{name}.embed_tokens",
        positions=f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        between=tuple(f"{block}.layer.{i + 1}" for i in range(n)),
        final_norm=f"{name}.final_layer_norm",
        scaled=False,
        relative=True,
    )


_BERT = Stack(
    name="encoder",
    blocks="encoder.layer",
    ffn="encoder.layer.{}",
    key=("encoder.layer.{}.intermediate.dense",),
    activation="encoder.layer.{}.intermediate.intermediate_act_fn",
    value="encoder.layer.{}.output.dense",
    attention=("encoder.layer.{}.attention.output.dense",),
    projections=(
        tuple(f"encoder.layer.{{}}.attention.self.{part}" for part in ("query", "key", "value")),
    ),
    norms=("encoder.layer.{}.attention.output.LayerNorm", "encoder.layer.{}.output.LayerNorm"),
    embedding="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    between=("encoder.layer.{}.attention.output.LayerNorm",),
)


def _bert(model_type: str, unembedding: str, head_transform: str) -> Family:
    return Family(
        model_type,
        (_BERT,),
        embedding="embeddings.word_embeddings",
        max_positions="max_position_embeddings",
        auto_class="AutoModelForMaskedLM",
        unembedding=unembedding,
        head_transform=head_transform,
        token_types="embeddings.token_type_embeddings",
        embedding_norm="embeddings.LayerNorm",
    )


_GPT_NEO = (
    "attn.attention.out_proj",
    tuple(f"attn.attention.{part}_proj" for part in "qkv"),
)

_OPENAI_GPT = replace(
    _gpt("attn.c_proj", ("attn.c_attn",), scaled=True),
    embedding="tokens_embed",
    positions="positions_embed",
    between=("h.{}.ln_1",),
    final_norm=None,
    takes_masks=False,
    returns=list,
    rebranches=False,
)

FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "gpt2",
            (_gpt("attn.c_proj", ("attn.c_attn",), scaled=True),),
            embedding="wte",
            max_positions="n_positions",
            auto_class="AutoModelForCausalLM",
        ),
        Family(
            "gpt_neo",
            (_gpt(*_GPT_NEO, scaled=False),),
            embedding="wte",
            max_positions="max_position_embeddings",
            auto_class="AutoModelForCausalLM",
        ),
        _bert("bert", "cls.predictions.decoder", "cls.predictions.transform"),
        _bert("electra", "generator_lm_head", "generator_predictions"),
        Family(
            "openai-gpt",
            (_OPENAI_GPT,),
            embedding="tokens_embed",
            max_positions="n_positions",
            auto_class="AutoModelForCausalLM",
        ),
        Family(
            "t5",
            (
                _t5("encoder", ("SelfAttention",)),
                _t5("decoder", ("SelfAttention", "EncDecAttention")),
            ),
            embedding="shared",
            max_positions="n_positions",
            auto_class="AutoModelForSeq2SeqLM",
        ),
    )
}


def family_of(config: Any) -> Family:
    """Return the table's row for a Hugging Face configuration.

    Raises:
        PyengineError: for an architecture that the table does not hold.
    """
    model_type = getattr(config, "model_type", type(config).__name__)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise PyengineError(f"unknown architecture {model_type!r}; known are: {known}")
    return FAMILIES[model_type]
