"""One page over all reports of a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from ablations.report.formats.files import write_files
from ablations.report.pages.page import render_template
from ablations.report.pages.write import CARD, Card
from cgd.errors import CGDError, TrackingError


@dataclass(frozen=True)
class Entry:
    """One report in the index; `link` is relative to the index, `date` when its page was last written (UTC)."""

    card: Card
    date: str
    link: str


def write_index(folder: str | Path) -> Path:
    """Write `index.html` over every report in `folder` and its subfolders, the newest first.

    Raises
    ------
    CGDError
        The folder does not exist or cannot be written.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CGDError(f"no folder {root}; expected the 'reports' folder of an output")
    entries, unreadable = _read_entries(root)
    page = render_template("index.html", entries=entries, unreadable=unreadable)
    write_files(root, {"index.html": page}, "the index")
    return root / "index.html"


def _read_entries(root: Path) -> tuple[list[Entry], list[str]]:
    """The reports, and the files that should describe one but do not."""
    entries, unreadable = [], []
    for path in sorted(root.rglob("*.json")):
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text)
            if isinstance(content, dict) and content.get("kind") == CARD:
                entries.append(_read_entry(text, path, root))
        except (OSError, ValueError, TrackingError) as error:
            unreadable.append(f"{path.relative_to(root)}: {error}")
    return sorted(entries, key=lambda entry: (entry.date, entry.link), reverse=True), unreadable


def _read_entry(text: str, path: Path, root: Path) -> Entry:
    """Raises TrackingError or ValueError where a card is not one, OSError where its page is missing."""
    card = Card.from_json(text, "the card", "write the report again")
    if Path(card.page).name != card.page:
        raise ValueError(f"page '{card.page}' is not a file beside it; write the report again")
    page = path.with_name(card.page)
    date = datetime.fromtimestamp(page.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
    return Entry(card, date, quote(page.relative_to(root).as_posix()))
