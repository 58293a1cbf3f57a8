"""docs/sites.md names every site, and no other."""

import re
from itertools import product
from pathlib import Path

import pytest
from tiny_models import tiny_model

import pyengine
from pyengine.sites import sites_of

DOCUMENT = (Path(__file__).parent.parent / "docs" / "sites.md").read_text(encoding="utf-8")
GENERAL, T5 = DOCUMENT.split("T5 has two stacks")
COLUMNS = [
    ("gpt2", 2),
    ("gpt_neo", 2),
    ("openai-gpt", 3),
    ("bert", 4),
    ("electra", 4),
    ("electra_small", 4),
]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    """Spell out "`a.x`, `.y`, `hook_z`": what follows takes the first one's beginning."""
    first, *rest = re.findall(r"`([^`]+)`", cell)
    stem = first.rpartition(".")[0]
    return [
        first,
        *(
            f"{stem}.{name.removeprefix('.')}" if stem and "." not in name[1:] else name
            for name in rest
        ),
    ]


@pytest.mark.parametrize(("family", "column"), COLUMNS)
def test_the_table_lists_every_site(family: str, column: int) -> None:
    model = pyengine.load(tiny_model(family))
    listed = {
        name.replace("{l}", str(block))
        for row in rows(GENERAL)
        if row[column] == "✔"
        for name, block in product(names(row[0]), range(model.n_layers))
    }
    assert listed == set(sites_of(model))


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_t5_has_the_names_that_the_document_says(family: str) -> None:
    model = pyengine.load(tiny_model(family))
    blocks = {
        name.removeprefix("blocks.{l}.")
        for row in rows(GENERAL)
        if row[2] == "✔"
        for name in names(row[0])
        if name.startswith("blocks.")
    }
    encoder = {name for name in sites_of(model) if name.startswith("encoder_blocks.0.")}
    gated = {"mlp.hook_pre_linear"} if family == "t5_gated" else set()
    assert {name.removeprefix("encoder_blocks.0.") for name in encoder} == blocks | gated
    decoder = {
        n.removeprefix("decoder_blocks.0.") for n in sites_of(model) if "decoder_blocks.0." in n
    }
    attention = {name for name in blocks if name.startswith("attn.")}
    renamed = {name.replace("attn.", f"{kind}.", 1) for name, kind in product(attention, KINDS)}
    ln3 = {name.replace("ln2", "ln3") for name in blocks if name.startswith("ln2")}
    more = {"hook_cross_attn_out", "hook_resid_mid_cross"}
    assert decoder == blocks - attention | renamed | ln3 | more | gated
    rest = {name for name in sites_of(model) if "_blocks." not in name}
    for name in rest:
        stem = name.replace("encoder_ln", "{encoder,decoder}_ln").replace(
            "decoder_ln", "{encoder,decoder}_ln"
        )
        assert name in DOCUMENT or stem.rpartition(".")[0].split(",")[-1] in T5, name


KINDS = ("self_attn", "cross_attn")
