"""Write every table and every line with figures of the READMEs from benchmarks/results/*.json.

    python -m benchmarks render              # rewrites the READMEs and docs/performance.md
    python -m benchmarks render --check      # changes nothing; exit code 1 if something would

What stands between `<!-- figures: NAME -->` and `<!-- end -->` is replaced by the section NAME.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import (
    _render_gpu,
    _render_performance,
    _render_shortcuts,
    _render_speed,
    _render_values,
)

ROOT = Path(__file__).resolve().parents[1]
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
    "attention": _render_performance.attention,
    "launches": _render_performance.launches,
    "gpu": _render_gpu.search,
    "gpu_others": _render_gpu.others,
    "gpu_peers": _render_gpu.peers,
    "gpu_shortcuts": _render_shortcuts.gpu_shortcuts,
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
    sys.exit(int(options.check and stale > 0))


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
