"""The package's names of models and relations, and its ParaRel files."""

import json
from pathlib import Path

import pytest
import torch
from package_cases import MODELS

from pyengine import PyengineError
from pyengine.compat import knowledge_neurons as compat
from pyengine.compat import pararel_files


def test_names() -> None:
    assert [*compat.ALL_MODELS] == [
        *compat.BERT_MODELS,
        *compat.GPT2_MODELS,
        *compat.GPT_NEO_MODELS,
    ]
    assert [compat.model_type(name) for name in compat.ALL_MODELS] == [
        *["bert"] * 2,
        "gpt2",
        *["gpt_neo"] * 3,
    ]
    assert len(set(compat.PARAREL_RELATION_NAMES)) == 39


def test_loading_by_name() -> None:
    model, tokenizer = compat.initialize_model_and_tokenizer(str(MODELS / "gpt_neo"))
    assert compat.model_type(str(MODELS / "gpt_neo")) == "gpt_neo"
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer.encode(" Rome")
    with pytest.raises(PyengineError, match="'t5' is none of bert, gpt2, gpt_neo"):
        compat.initialize_model_and_tokenizer(str(MODELS / "t5"))
    with pytest.raises(PyengineError, match="'nowhere' is not supported"):
        compat.model_type("nowhere")


def test_pararel_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = tmp_path / "remote"
    patterns = [{"pattern": "[X] was born in [Y]."}, {"pattern": "[Y] is where [X] was born."}]
    fact = {"uuid": "u-{}", "sub_label": "Ann\u2028Lee", "obj_label": "Paris"}
    for relation in compat.PARAREL_RELATION_NAMES:
        own = [fact | {"uuid": f"u-{relation}"}]
        for folder, lines in zip(pararel_files.FILES.values(), (patterns, own), strict=True):
            path = remote / folder / f"{relation}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
            path.write_text(f"{text}\n\n", encoding="utf-8")
    monkeypatch.setattr(pararel_files, "SOURCE", remote.as_uri())
    path = tmp_path / "new" / "expanded.json"
    found = compat.pararel_expanded(str(path))
    assert len(found) == 39
    assert found["u-P19"] == {
        "sentences": ["Ann\u2028Lee was born in [MASK].", "[MASK] is where Ann\u2028Lee was born."],
        "relation_name": "P19",
        "obj_label": "Paris",
    }
    monkeypatch.setattr(pararel_files, "SOURCE", (tmp_path / "gone").as_uri())
    assert compat.pararel_expanded(str(path)) == found
    whole = compat.pararel(str(path.with_name("pararel.json")))
    assert whole["P19"] == {"graphs": patterns, "vocab": [fact | {"uuid": "u-P19"}]}
    with pytest.raises(PyengineError, match=r"cannot fetch .*P39\.jsonl"):
        compat.pararel(str(tmp_path / "other.json"))
