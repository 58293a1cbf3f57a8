"""Train the four small models that pyengine ships, from WikiText and 150 generated facts.

    python examples/train_embedded_models.py --data wikitext-103/ [--family gpt2] [--steps N]

The folder must hold wiki.test.tokens; its other `wiki.*.tokens` files are used too, but not the
full wiki.train.tokens. Writes a Hugging Face folder per family, the facts and the held-out
excerpt. If a model misses a target, its folder stays as it was, and the script prints one line
and exits with 1. An hour on one CPU core, minutes on a GPU.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from embedded_card import DATA_LICENSE, model_card
from embedded_data import article_lines, build_tokenizer, split_wikitext
from embedded_facts import Fact, facts_jsonl, make_facts
from embedded_families import FAMILIES, Family
from embedded_training import measure, train_model
from transformers import PreTrainedTokenizerFast

from pyengine.files import atomic_write_text

REPOSITORY = Path(__file__).resolve().parent.parent
MIN_RECALL = 0.9
MAX_BYTES = 3_500_000


def train(
    name: str, family: Family, lines: list[str], facts: list[Fact], args: argparse.Namespace
) -> tuple[Any, PreTrainedTokenizerFast]:
    """Return the trained model of a family and its tokenizer."""
    torch.manual_seed(args.seed)
    sentences = [f"{prompt} {fact.object}." for fact in facts for prompt in fact.training_prompts()]
    tokenizer = build_tokenizer(name, lines + sentences)
    model = family.build(tokenizer)
    train_model(
        model,
        family.objective(tokenizer),
        lines,
        facts,
        steps=family.steps,
        rows=family.rows,
        lr=family.lr,
        embedding_lr=family.embedding_lr,
        seed=args.seed,
        device=args.device,
        name=name,
    )
    return model.cpu().half(), tokenizer


def train_family(
    name: str,
    family: Family,
    data: tuple[list[str], list[str]],
    facts: list[Fact],
    args: argparse.Namespace,
) -> str | None:
    """Train, save as fp16, measure what was saved and install it; return what was missed."""
    begun = time.monotonic()
    lines, held_out = data
    model, tokenizer = train(name, family, lines, facts, args)
    seconds = round(time.monotonic() - begun)
    objective = family.objective(tokenizer)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        saved = type(model).from_pretrained(folder, dtype=torch.float32)
        metrics = {
            "family": name,
            **measure(saved, objective, held_out, facts),
            "parameters": saved.num_parameters(),
            "steps": family.steps,
            "seed": args.seed,
            "device": args.device,
            "training_seconds": seconds,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        card = model_card(family.title, metrics, family.note)
        (folder / "README.md").write_text(card, encoding="utf-8")
        print(json.dumps(metrics, indent=2), flush=True)
        missed = check(metrics, family, sum(p.stat().st_size for p in folder.iterdir()))
        if missed is None:
            install(folder, args.out / family.folder)
        elif args.keep_missed:
            install(folder, args.out / "missed" / name)
    return missed and f"{name}: {missed}"


def install(folder: Path, target: Path) -> None:
    """Put a finished folder in the place of `target`."""
    staged = target.with_name(f".{target.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(folder, staged)
    staged.chmod(0o755)  # temporary folders are private, and safetensors' files too
    for path in staged.iterdir():
        path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)


def check(metrics: dict[str, Any], family: Family, size: int) -> str | None:
    """Return the target that was missed, or None."""
    gap = metrics["unigram_entropy"] - metrics["held_out_loss"]
    if not gap >= family.margin:
        return f"held-out loss is {gap:.2f} nat below the unigram entropy, not {family.margin}"
    found = metrics["fact_recall_held_out_paraphrase"]
    if not found >= MIN_RECALL:
        return f"{found:.0%} of the facts recalled in the held-out paraphrase, not {MIN_RECALL:.0%}"
    if size > MAX_BYTES:
        return f"the folder has {size} bytes, more than {MAX_BYTES}"
    return None


def parse_arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of WikiText-103 files")
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("--steps", type=int, help="in place of the family's own number")
    parser.add_argument("--out", type=Path, default=REPOSITORY, help="root of the folders written")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--keep-missed", action="store_true", help="keep failures in OUT/missed")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


def main() -> int:
    """Train what was asked for; return 0, or 1 after one line about what was missed."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        training, excerpt = split_wikitext(args.data)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    facts = make_facts(args.seed)
    data = (article_lines(training), article_lines(excerpt))
    names = list(FAMILIES) if args.family == "all" else [args.family]
    missed = []
    for name in names:
        family = replace(FAMILIES[name], steps=args.steps or FAMILIES[name].steps)
        problem = train_family(name, family, data, facts, args)
        missed += [problem] if problem else []
    if len(missed) < len(names):
        demo = args.out / "pyengine" / "demo"
        atomic_write_text(demo / "facts.jsonl", facts_jsonl(facts))
        atomic_write_text(demo / "wikitext-excerpt.tokens", "".join(excerpt))
        atomic_write_text(demo / "LICENSE-DATA.md", DATA_LICENSE)
    if missed:
        print(f"error: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
