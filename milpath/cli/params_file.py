"""`--params FILE`: parameters from a JSON, YAML or TOML file, which options override.

A file holds the parameters of one command, or groups of them named after their commands, as
`milpath info RESULT --params` prints them::

    {"tile": {"grid": {"mpp": 0.5}}, "train": {"epochs": 60}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer
from pydantic import ValidationError

from milpath.cli.console import describe_option
from milpath.errors import UsageError
from milpath.params import Params, describe_violation

_P = TypeVar("_P", bound=Params)

COMMANDS = ("tile", "train")
"""Commands with a `--params` option."""

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        metavar="FILE",
        help="Read parameters from a JSON, YAML or TOML file, as printed by milpath info RESULT "
        "--params. Options on the command line override the file.",
        show_default="none",
    ),
]

_MAX_BYTES = 1 << 20
_SUFFIXES = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML"}
_SCALARS = (str, int, float, type(None))


def given_options(context: typer.Context, names: Mapping[str, str]) -> dict[str, Any]:
    """Collect the options that the user gave, by the dotted names of their parameters.

    Parameters
    ----------
    context : of the command
    names : argument of the command's function to dotted name: `{"patch_size": "grid.patch_px"}`
    """
    found = {}
    for argument, name in names.items():
        source = context.get_parameter_source(argument)
        if source is not None and source.name == "COMMANDLINE":
            found[name] = context.params[argument]
    return found


def merge_params(kind: type[_P], command: str, file: Path | None, given: Mapping[str, Any]) -> _P:
    """Build the parameters of a command: defaults, overridden by a file, overridden by options.

    Raises as `GivenParams` does.
    """
    return GivenParams(kind, command, file, given).build()


class GivenParams(Generic[_P]):
    """The parameters that a user gave for a command, by a file and by options.

    Parameters
    ----------
    kind : of the parameters
    command : whose group of the file is read
    file : None for no file
    given : as from `given_options`

    Raises
    ------
    UsageError : the file cannot be read or has unknown names
    """

    def __init__(
        self, kind: type[_P], command: str, file: Path | None, given: Mapping[str, Any]
    ) -> None:
        self._kind = kind
        self._file = file
        self._options = dict(given)
        self._data: dict[str, Any] = {}
        if file is not None:
            self._data = _select_group(file, _parse(file), command, kind)
            _check_group(file, self._data, kind, "")
        for name, value in given.items():
            _set(self._data, name.split("."), value)

    def get(self, name: str) -> Any:
        """Return the value of a dotted name; None where it was not given."""
        value: Any = self._data
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def build(self, defaults: Mapping[str, Any] | None = None) -> _P:
        """Build all parameters; raise `UsageError` where a value is not valid.

        Parameters
        ----------
        defaults : in place of those of the kind, by their dotted names
        """
        data = deepcopy(self._data)
        for name, value in (defaults or {}).items():
            if self.get(name) is None:
                _set(data, name.split("."), value)
        try:
            return self._kind(**data)
        except ValidationError as error:
            name, rule = describe_violation(error)
        if name not in set(_list_names(self._kind)):
            raise UsageError(rule)  # about several parameters, which it names
        if self._file is None or name in self._options:
            raise UsageError(f"{describe_option(name)} {rule}")
        raise UsageError(f"{self._file}: {name} {rule}")


def _set(data: dict[str, Any], name: Sequence[str], value: Any) -> None:
    for group in name[:-1]:
        data = data.setdefault(group, {})
    data[name[-1]] = value


# -- reading -------------------------------------------------------------------------------------


def _parse(file: Path) -> dict[str, Any]:
    """Read a file as named values."""
    language = _SUFFIXES.get(file.suffix.lower())
    if language is None:
        raise UsageError(f"--params {file}: unknown file type; expected .json, .yaml or .toml")
    text = _read_text(file)
    try:
        data = _load(text, language)
    except _parse_errors() as error:
        lines = re.findall(r"line (\d+)", str(error))
        where = f" (line {lines[-1]})" if lines else ""
        raise UsageError(f"{file}: is not valid {language}{where}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{file}: has no parameters; expected names with values")
    return data


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--params {file}: cannot be read ({error.strerror})") from None
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{file}: larger than {_MAX_BYTES >> 20} MB, not a file of parameters")
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as redirected output is on Windows
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8 text; save it as UTF-8") from None


def _load(text: str, language: str) -> Any:
    if language == "JSON":
        import json

        return json.loads(text)
    if language == "TOML":
        import tomllib

        return tomllib.loads(text.replace("\r\n", "\n"))
    import yaml

    return yaml.safe_load(text)


def _parse_errors() -> tuple[type[Exception], ...]:
    import yaml

    return ValueError, RecursionError, OverflowError, TypeError, yaml.YAMLError


# -- checking ------------------------------------------------------------------------------------


def _select_group(
    file: Path, data: dict[str, Any], command: str, kind: type[Params]
) -> dict[str, Any]:
    """Return the parameters of one command."""
    if not any(name in data for name in COMMANDS):
        return data
    for name in data:
        if name not in COMMANDS:
            inner = [*kind.model_fields, *_list_names(kind)]
            raise _unknown(file, name, [*COMMANDS, *(f"{command}.{each}" for each in inner)])
    if command not in data:
        raise UsageError(f"{file}: has no parameters of {command}; expected a group {command!r}")
    group = data[command]
    if not isinstance(group, dict):
        raise UsageError(f"{file}: {command} must be a group of named values")
    return group


def _check_group(file: Path, data: Mapping[Any, Any], kind: type[Params], prefix: str) -> None:
    """Raise for an unknown name, or a value that is a group where a single one is expected."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        field = kind.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            raise _unknown(file, name, [prefix + each for each in _list_names(kind)])
        group = _as_group(field.annotation)
        if group is None:
            if not isinstance(value, _SCALARS):
                raise UsageError(f"{file}: {name} must be a single value")
            if isinstance(value, bool) and field.annotation is not bool:
                raise UsageError(f"{file}: {name} must not be true or false")
        elif isinstance(value, dict):
            _check_group(file, value, group, f"{name}.")
        else:
            raise UsageError(f"{file}: {name} must be a group of named values")


def _unknown(file: Path, name: Any, known: Sequence[str]) -> UsageError:
    """Describe an unknown name, with the known one that is most similar to it."""
    from difflib import SequenceMatcher

    text = str(name)[:50]

    def similarity(other: str) -> float:
        last = SequenceMatcher(None, text.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return last + SequenceMatcher(None, text, other).ratio()

    nearest = max(known, key=similarity)
    return UsageError(f"{file}: {text!a} is not a parameter; did you mean {nearest}?")


def _list_names(kind: type[Params]) -> Iterator[str]:
    """Yield the dotted names of all single values."""
    for name, field in kind.model_fields.items():
        group = _as_group(field.annotation)
        if group is None:
            yield name
        else:
            yield from (f"{name}.{inner}" for inner in _list_names(group))


def _as_group(annotation: Any) -> type[Params] | None:
    is_group = isinstance(annotation, type) and issubclass(annotation, Params)
    return annotation if is_group else None
