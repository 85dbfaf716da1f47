"""A table of a report as text, written once and set in HTML, Markdown and LaTeX alike."""

from __future__ import annotations

from dataclasses import dataclass

DATA_SET, TABLE_ONE = "data:", "table-one:"  # how the keys of the tables of one data set begin
DRAWS, TABLE_ONE_DRAWS = "draws:", "draws-of-methods:"  # and those of its draws


@dataclass(frozen=True)
class Cell:
    """What stands in one field: `text`, smaller its `bounds` and `notes` beneath it, `tags` after it.

    `is_strong` marks what a reader looks for, `is_bad` what went wrong.
    """

    text: str = ""
    notes: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    is_strong: bool = False
    is_bad: bool = False

    @property
    def beneath(self) -> tuple[str, ...]:
        """The interval, then the notes."""
        return (f"[{', '.join(self.bounds)}]", *self.notes) if self.bounds else self.notes


@dataclass(frozen=True)
class Line:
    """One row. `kind` is floor, ceiling or level; `has_rule` draws a line above it."""

    cells: tuple[Cell, ...]
    kind: str = "level"
    has_rule: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes
    ----------
    key
        Its name in file formats that need one (a LaTeX label).
    columns, lines
        Every line has a cell for every column.
    n_names
        The first so many columns are names, not numbers.
    intro, note
        Paragraphs before it, and what a reader must know to read it.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    n_names: int = 1
    note: str = ""
    intro: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(line.cells) == len(self.columns) for line in self.lines)
