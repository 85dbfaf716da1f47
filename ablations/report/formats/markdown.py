"""A report in Markdown (GitHub's flavour)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ablations.report.content import Content, describe_data, describe_replicates, describe_statistics, explain_stamp
from ablations.report.sheets.sheet import Cell, Sheet

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$&@])")
_OPENS_BLOCK = re.compile(r"^(\s*)([-+=]|\d+[.)])")


def escape(text: str) -> str:
    """`text` in one line, so that no part of it is read as Markdown or HTML."""
    line = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return _OPENS_BLOCK.sub(lambda found: found[1] + found[2][:-1] + "\\" + found[2][-1], line)


def set_code(text: str) -> str:
    """`text` as a code block; the fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def to_markdown(content: Content, figure: str, effects: str) -> str:
    """The report; `figure` and `effects` are the names of the image files beside it."""
    study = content.results.study
    parts = [f"# {escape(study.title)}", f"**{escape(content.opening)}**"]
    parts += [f"**{escape(text)}**" for text in content.troubles]
    parts += [*_describe_setup(content), *_set_stamp(content)]
    parts += [f"![Mean PCC of each level on each data set]({figure})", f"![Paired differences]({effects})"]
    parts += [f"**{escape(name)}.** {escape(text)}" for name, text in content.verdicts]
    parts += [escape(text) for text in content.notes]
    for sheet in content.sheets:
        parts += [f"## {escape(sheet.title)}", *_introduce(content, sheet), set_table(sheet)]
        parts += [f"*{escape(sheet.note)}*"] * bool(sheet.note)
    parts += [
        *_list_unfinished(content),
        "## How it was made",
        escape(describe_statistics(content.results.study)),
        *_describe_origin(content),
    ]
    return "\n\n".join(parts) + "\n"


def set_table(sheet: Sheet) -> str:
    """A table; where every line has names first, numbers are set right."""
    rule = [":--" if i < sheet.n_names else "--:" for i in range(len(sheet.columns))]
    rows = [
        [escape(name) for name in _head_columns(sheet)],
        rule,
        *([_set_cell(c) for c in line.cells] for line in sheet.lines),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _head_columns(sheet: Sheet) -> list[str]:
    """Column names with the group they stand under, since Markdown has one row of headings."""
    groups = [name for name, width in sheet.groups for _ in range(width)] or [""] * len(sheet.columns)
    return [f"{name} ({group})" if group else name for name, group in zip(sheet.columns, groups, strict=True)]


def _set_cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"**{text}**" if cell.is_strong and text else text
    tags = f" ({escape(', '.join(cell.tags))})" if cell.tags else ""
    return "<br>".join([text + tags, *(escape(note) for note in cell.notes)])


def _describe_setup(content: Content) -> Iterator[str]:
    study = content.results.study
    levels = [f"{escape(label)}{' (default)' if default else ''}" for label, _, default in content.levels]
    lines = [("Question", escape(study.question)), ("Hypothesis", escape(study.hypothesis))]
    lines += [("Factor", escape(", ".join(f"{axis.name} ({axis.path})" for axis in study.axes) or study.title))]
    lines += [("Levels", "; ".join(levels)), ("Replicates", escape(describe_replicates(content)))]
    lines += [("Protocol", escape(content.results.protocol.replace("_", " ")))]
    yield "\n".join(f"- {name}: {text}" for name, text in lines)


def _set_stamp(content: Content) -> Iterator[str]:
    if content.stamp:
        yield f"> **{escape(content.stamp)}** {escape(explain_stamp(content))}"


def _introduce(content: Content, sheet: Sheet) -> Iterator[str]:
    """What stands between a heading and its table."""
    study = content.results.study
    if content.stamp and sheet.key != "paper":
        yield f"**{escape(content.stamp)}**"
    if sheet in content.data_sets:
        yield escape(describe_data(content.tables[content.data_sets.index(sheet)]))
    if sheet is content.overall:
        yield from (escape(f"{name}: {text}") for name, text in content.method_notes)
    if sheet.key == "cost":
        yield from (escape(text) for text in content.cheapest)
    if sheet.key == "paper" and study.paper:
        yield escape(f"{study.paper.claim} {study.paper.note}".strip())


def _list_unfinished(content: Content) -> Iterator[str]:
    if content.unfinished:
        yield "## Trials without a result"
    for trial in content.unfinished:
        where = f"{trial['dataset']}, level {trial['level']}, seed {trial['seed']}, fold {trial['fold']}"
        yield escape(f"{where}: {trial['status'] or 'not started'}")
        if trial["error"]:
            yield set_code(str(trial["error"]))


def _describe_origin(content: Content) -> Iterator[str]:
    results = content.results
    versions = [f"{name} {version}" for name, version in results.versions.items()]
    versions += [f"code {results.code_version}"] * bool(results.code_version)
    yield escape(f"Study run {results.run_id}. {'; '.join(versions)}.")
    yield "Held fixed:"
    yield set_code("\n".join(f"{path}: {value}" for path, value in content.fixed.items()))
