"""Finds a user's own scorers: entry points of the group `penstock.scorers`, and functions in files of one directory.

A shell: it runs the user's code. Whoever writes an EndpointPickerConfig chooses only among what the operator installed or put into
the directory: no other module can be named. What a scorer is: plugins/own.py.
"""

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
from typing import Any

from picker.plugins.own import Function, Own

GROUP = "penstock.scorers"
_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def own(directory: Path | None = None, clock: Callable[[], float] = perf_counter) -> Own:
    """`directory`: where the files are; None: only entry points are found."""
    return Own(lambda name: find(name, directory), clock)


def find(name: str, directory: Path | None) -> Function:
    """The function of an entry point, or of `module:function` in the directory. Raises LookupError, its message has the remedy."""
    path = _PATH.fullmatch(name)
    if path is None:
        return _installed(name)
    if directory is None:
        raise LookupError(f"{name!r} names a file, and no directory is given; start the gateway with --scorers DIR")
    file = directory.joinpath(*path[1].split(".")).with_suffix(".py")
    if not file.is_file():
        raise LookupError(f"there is no {file.relative_to(directory)} in the directory of --scorers")
    try:
        # Read anew at each configuration: an edit takes effect with it. Not in sys.modules, so it can replace nobody's module.
        spec = spec_from_file_location(f"penstock_scorers.{path[1]}", file)
        assert spec is not None  # noqa: S101 -- a .py file has a loader
        assert spec.loader is not None  # noqa: S101
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        found = getattr(module, path[2], None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- the file is a stranger's
        raise LookupError(f"{file.name} cannot be loaded: {type(error).__name__}: {error}") from None
    return _function(found, name)


def _installed(name: str) -> Function:
    known = entry_points(group=GROUP)
    matching = [one for one in known if one.name == name]
    if not matching:
        names = ", ".join(sorted(one.name for one in known)) or "none"
        raise LookupError(f"no installed package has a scorer {name!r}; name one (known: {names}), or module:function")
    try:
        found = matching[0].load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- the package is a stranger's
        raise LookupError(f"the scorer {name!r} cannot be loaded: {type(error).__name__}: {error}") from None
    return _function(found, name)


def _function(found: Any, name: str) -> Function:
    if callable(found):
        function: Function = found
        return function
    raise LookupError(f"{name!r} is not a function; name one that takes a view and gives a list of figures")
