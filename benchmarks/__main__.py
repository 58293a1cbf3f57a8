"""`python -m benchmarks STEM [options]` runs benchmarks/STEM.py; without a stem it lists them."""

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the benchmark that the first argument names."""
    folder = Path(__file__).parent
    stems = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
    if len(sys.argv) < 2 or sys.argv[1] not in stems:
        print(f"usage: python -m benchmarks {{{','.join(stems)}}} [options]", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    module.main(sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
