"""Write every table, every line with figures and the picture of the READMEs from the results.

    python -m benchmarks render              # rewrites the READMEs and docs/performance.md
    python -m benchmarks render --check      # changes nothing; exit code 1 if something would

What stands between `<!-- figures: NAME -->` and `<!-- end -->` is replaced by the section NAME; the
results are benchmarks/results/*.json, docs/growth.svg is drawn from one of them.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks import (
    _growth_plot,
    _machine,
    _render_gpu,
    _render_heads,
    _render_performance,
    _render_shortcuts,
    _render_speed,
    _render_values,
)
from benchmarks._render_common import load

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ("pyengine", "kernels")
PICTURE = "docs/growth.svg"
DOCUMENTS = ("README.md", "benchmarks/README.md", "docs/performance.md")
SECTIONS: dict[str, Callable[[], str]] = {
    "triggers": _render_speed.triggers,
    "peers": _render_speed.peers,
    "peer_targets": _render_speed.peer_targets,
    "growth": _render_speed.growth,
    "growth_picture": _render_speed.growth_picture,
    "memory": _render_speed.memory,
    "heap_merge": _render_speed.heap_merge,
    "corpus": _render_speed.corpus,
    "values": _render_values.values,
    "predictions": _render_values.predictions,
    "attribution": _render_values.attribution,
    "shortcuts": _render_shortcuts.shortcuts,
    "heads": _render_heads.heads,
    "attention": _render_performance.attention,
    "launches": _render_performance.launches,
    "gpu": _render_gpu.search,
    "gpu_others": _render_gpu.others,
    "gpu_peers": _render_gpu.peers,
    "gpu_shortcuts": _render_shortcuts.gpu_shortcuts,
    "gpu_heads": _render_heads.gpu_heads,
}
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks render",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="say what would change")
    options = parser.parse_args(argv)
    stale = 0
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        rendered = render(text, SECTIONS)
        if rendered == text:
            continue
        stale += 1
        if options.check:
            print(f"{name}: {', '.join(changed(text, rendered))} not as in benchmarks/results/")
        else:
            path.write_text(rendered, encoding="utf-8")
            print(f"wrote {name}: {', '.join(changed(text, rendered))}")
    stale += _drawn(options.check)
    if older := outdated():
        told = ", ".join(f"{name} ({n})" for name, n in older.items())
        print(f"measured before the last commits to the package: {told}", file=sys.stderr)
    sys.exit(int(options.check and stale > 0))


def _drawn(check: bool) -> bool:
    """Draw the picture if it is not that of the results; return whether it was not."""
    record, path = load("cpu-growth"), ROOT / PICTURE
    if record is None:
        return False
    if matplotlib.__version__ != _growth_plot.DRAWN_WITH:
        wanted, here = _growth_plot.DRAWN_WITH, matplotlib.__version__
        print(f"{PICTURE}: left alone; matplotlib {wanted} draws it, this is {here}")
        return False
    drawn = _growth_plot.picture(record.figures)
    if path.exists() and path.read_bytes() == drawn:
        return False
    if check:
        print(f"{PICTURE}: not as in benchmarks/results/")
    else:
        path.write_bytes(drawn)
        print(f"wrote {PICTURE}")
    return True


def outdated() -> dict[str, int]:
    """Count the commits to the package since each results file was measured; without git, none."""
    found = {}
    for path in sorted(_machine.RESULTS.glob("*.json")):
        commit = json.loads(path.read_text(encoding="utf-8"))["machine"]["commit"]
        command = ["git", "rev-list", "--count", f"{commit}..HEAD", "--", *PACKAGE]
        try:
            count = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        if int(count.stdout):
            found[path.stem] = int(count.stdout)
    return found


def render(text: str, sections: Mapping[str, Callable[[], str]]) -> str:
    """Replace every marked part of a document.

    Raises:
        ValueError: for a mark without its end, or a section that there is not.
    """
    if text.count("<!-- figures: ") != len(MARKED.findall(text)):
        raise ValueError("a mark `<!-- figures: NAME -->` has no `<!-- end -->`")

    def section(found: re.Match[str]) -> str:
        if found[2] not in sections:
            raise ValueError(f"no section {found[2]}; known are: {', '.join(sections)}")
        return f"{found[1]}{sections[found[2]]()}\n{found[4]}"

    return MARKED.sub(section, text)


def changed(before: str, after: str) -> list[str]:
    """Name the sections that differ."""
    pairs = zip(MARKED.findall(before), MARKED.findall(after), strict=True)
    return [old[1] for old, new in pairs if old != new]
