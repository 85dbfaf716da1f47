"""YAML whose values remember the line they were written on, so that an error can point at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cgd.errors import StudyError, closest

Location = tuple[int | str, ...]


@dataclass(frozen=True)
class LocatedYAML:
    """The mapping of a YAML document, and its parse tree, which carries the positions."""

    values: dict[str, Any]
    root: yaml.Node | None

    def line(self, location: Location) -> int:
        """1-based line of the value at `location`, or of its nearest ancestor that is in the file."""
        node, line = self.root, 1
        for part in location:
            node, start = _find_child(node, part)
            if node is None:
                break
            line = start
        return line

    def say(self, location: Location, message: str) -> str:
        """`line N: where: message`, without the line where there is no file."""
        where = ".".join(str(part) for part in location)
        line = f"line {self.line(location)}: " if self.root else ""
        return f"{line}{where}: {message}" if where else f"{line}{message}"


def _find_child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node | None, int]:
    """The node under `part` and the 1-based line where it starts (for a mapping: the line of its key)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None, 0


def list_built_in(folder: Path) -> list[str]:
    """Names of the YAML files of a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_yaml(folder: Path, name_or_path: str | Path, what: str) -> Path:
    """The file of a built-in name, or the one at a path. Raises StudyError with the closest name where neither is."""
    names = list_built_in(folder)
    path = folder / f"{name_or_path}.yaml" if str(name_or_path) in names else Path(name_or_path)
    if not path.is_file():
        hint = closest(str(name_or_path), names)
        raise StudyError(f"no {what} '{name_or_path}' and no such file; {hint} (--list shows them)")
    return path


def read_yaml(path: Path, expected: str = "a study with 'name:', 'question:', 'factor:' ...") -> LocatedYAML:
    """Read a YAML mapping.

    Raises
    ------
    StudyError
        With the line: malformed YAML, a key that is written twice (YAML would keep the last one without a word), or
        anything but a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise StudyError(f"{path}{where}: not valid YAML: {error.problem or error.context}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path} is not a readable YAML file: {error}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise StudyError(f"{path}, line 1: expected {expected}, found {found}")
    if (twice := _find_repeated_key(root, set())) is not None:
        line = twice.start_mark.line + 1
        raise StudyError(f"{path}, line {line}: the key '{twice.value}' is written twice; keep one of them")
    return LocatedYAML(values, root)


def _find_repeated_key(node: yaml.Node | None, seen: set[int]) -> yaml.Node | None:
    """The first key of a mapping at or below `node` that stands there for the second time."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an alias may point back at its parent
        return None
    seen.add(id(node))
    keys: set[str] = set()
    for item in node.value:
        if isinstance(node, yaml.MappingNode):
            key, value = item
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                return key
            keys.add(str(key.value))
        else:
            value = item
        if (found := _find_repeated_key(value, seen)) is not None:
            return found
    return None
