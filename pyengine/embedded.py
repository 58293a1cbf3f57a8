"""What ships with the package: a small trained GPT-2, a WikiText excerpt, the facts it learnt."""

from pathlib import Path

FOLDER = Path(__file__).parent / "demo"
MODEL = FOLDER / "gpt2"
EXCERPT = FOLDER / "wikitext-excerpt.tokens"
FACTS = FOLDER / "facts.jsonl"
