"""The tables of a report in LaTeX, to be \\input into a paper."""

from __future__ import annotations

import re

from ablations.report.content import Content
from ablations.report.sheets.sheet import Cell, Sheet

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": "{`}",
    "−": "$-$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": r"\textendash{}",
    "…": r"\dots{}",
    "·": r"\textperiodcentered{}",
    "\u202f": r"\,",
}
_LIGATURE = re.compile(r"([-'])(?=\1)")  # -- would become a dash
_HEAD = r"""% Tables of the ablation study {name}, one table environment each; \input this file.
% In the preamble: \usepackage{{booktabs}} \usepackage{{graphicx}} \usepackage[T1]{{fontenc}}"""
_BEYOND = "% Some names hold characters beyond Latin: compile with LuaLaTeX and a font that has them, without fontenc."
_BREAK = r" \\ "


def escape(text: str) -> str:
    """`text` as it is, in one line, so that no character of it is a command."""
    visible = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return _LIGATURE.sub(r"\1{}", "".join(_SPECIAL.get(character, character) for character in visible))


def to_latex(content: Content) -> str:
    """All tables. Under the published protocol every caption carries the stamp."""
    name = content.results.study.name
    tables = [
        _set_table(sheet, name, "" if sheet.key == "paper" else content.stamp)
        for sheet in content.sheets
        if sheet.lines
    ]
    text = "\n\n".join(tables)
    head = _HEAD.format(name=name) + (f"\n{_BEYOND}" if re.search(r"[^\x00-\u017f]", text) else "")
    return f"{head}\n\n{text}\n"


def _set_table(sheet: Sheet, study: str, stamp: str) -> str:
    columns = "l" * sheet.n_names + "r" * (len(sheet.columns) - sheet.n_names)
    rows = [_set_row([_set_heading(name) for name in sheet.columns]), r"\midrule"]
    for i, line in enumerate(sheet.lines):
        rows += [r"\midrule"] * (line.has_rule and i > 0)
        rows.append(_set_row([_set_cell(cell) for cell in line.cells]))
    caption = " ".join(escape(text) for text in (sheet.title.removesuffix(".") + ".", stamp, sheet.note) if text)
    label = re.sub(r"[^A-Za-z0-9:.]", "-", f"tab:{study}:{sheet.key}")
    body = "\n".join(rows)
    return rf"""\begin{{table}}[htbp]
\centering\small
\caption{{{caption}}}
\label{{{label}}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{{columns}}}
\toprule
{body}
\bottomrule
\end{{tabular}}}}
\end{{table}}"""


def _set_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _set_heading(text: str) -> str:
    """A heading of more than two words is set in lines, so that it does not widen its column."""
    words = text.split(" ")
    half = (len(words) + 1) // 2
    lines = [" ".join(words[:half]), " ".join(words[half:])] if len(words) > 2 else [text]
    return _stack([escape(line) for line in lines])


def _set_cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.is_strong and text else text
    tags = f" ({escape(', '.join(cell.tags))})" if cell.tags else ""
    return _stack([text + tags, *(rf"{{\scriptsize {escape(note)}}}" for note in cell.beneath)])


def _stack(lines: list[str]) -> str:
    # what follows \\ as a bracket or a star would be taken for its argument
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]
    return rf"\shortstack{{{_BREAK.join(lines)}}}" if len(lines) > 1 else lines[0]
