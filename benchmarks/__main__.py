"""`python -m benchmarks STEM [options]` runs benchmarks/STEM.py; `--help` lists the stems."""

import ast
import importlib
import sys
from pathlib import Path

HELP = ("-h", "--help")


def main() -> int:
    """Run the benchmark that the first argument names."""
    folder = Path(__file__).parent
    stems = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    usage = f"usage: python -m benchmarks {{{','.join(stems)}}} [options]"
    if sys.argv[1:2] and sys.argv[1] in HELP:
        print(f"{usage}\n")
        for stem in stems:
            print(f"  {stem:12}{_first_line(folder / f'{stem}.py')}")
        return 0
    if len(sys.argv) < 2 or sys.argv[1] not in stems:
        print(usage, file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    module.main(sys.argv[2:])
    return 0


def _first_line(file: Path) -> str:
    """Read what a stem measures without importing it: some take seconds."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
