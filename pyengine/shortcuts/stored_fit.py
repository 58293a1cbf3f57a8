"""The files of a fit in its run's directory."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyengine.analyses.agreement_result import write_table
from pyengine.cache_files import write_tensors
from pyengine.shortcuts.stored_maps import FITS_FILE, MapFiles, StoredMaps, map_file
from pyengine.shortcuts.validation import StoredValidation, Validation, validation_file
from pyengine.token_text import TokenText

_MAPS = re.compile(r"maps-(\w+)-(\d+)\.safetensors")
_VALIDATION = re.compile(r"validation-(\w+)\.safetensors")


def write_fit(
    folder: Path, maps: StoredMaps, validation: Mapping[str, Validation], text: TokenText
) -> list[str]:
    """Write the maps, one source point after another, and all else; return the files' names."""
    names = []
    for place, tensors in maps.each():
        write_tensors(folder / map_file(place), tensors)
        names.append(map_file(place))
    write_table(maps.fits(), folder / FITS_FILE)
    for stack, of in validation.items():
        of.write(folder / validation_file(stack))
    names += [FITS_FILE, *map(validation_file, validation)]
    tokenizer = text.save(folder)
    return [*names, tokenizer] if tokenizer else names


def stored_fit(folder: Path, files: Iterable[str]) -> tuple[MapFiles, StoredValidation]:
    """Return what `write_fit` wrote, read when it is asked for."""
    names = list(files)
    places = [match for match in map(_MAPS.fullmatch, names) if match]
    stacks = [match[1] for match in map(_VALIDATION.fullmatch, names) if match]
    maps = MapFiles(folder, [(match[1], int(match[2])) for match in places])
    return maps, StoredValidation(folder, stacks)
