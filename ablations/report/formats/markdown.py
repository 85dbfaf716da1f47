"""A report in Markdown (GitHub's flavour)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ablations.report.content import Content, describe_replicates, describe_statistics, explain_stamp
from ablations.report.sheets.sheet import TABLE_ONE, Cell, Sheet
from cgd.metrics.facts import METRICS

# Left alone: an interval such as [0.1, 0.2] that no link can be made of, and a `_` within a word
_SPECIAL = re.compile(
    r"(?P<interval>\[[-+−]?[\d.]+, [-+−]?[\d.]+\](?![(\[:]))"
    r"|[\\`*\[\]>|~$#@]|<(?! )|&(?=[#A-Za-z])|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\."
)
_OPENS_BLOCK = re.compile(r"^([-+=]+|\d+[.)])(?=\s|$)")


def escape(text: str) -> str:
    """`text` in one line, so that no part of it is read as Markdown, as HTML or as an address to be linked."""
    line = _SPECIAL.sub(lambda found: found[0] if found["interval"] else f"\\{found[0]}", " ".join(text.split()))
    return _OPENS_BLOCK.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


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
    means = " and ".join(METRICS[metric].label for metric in content.results.outcomes)
    parts += [f"![Mean {means} of each level on each data set]({figure})", f"![Paired differences]({effects})"]
    parts += [f"**{escape(name)}.** {escape(text)}" for name, text in content.verdicts]
    parts += [escape(text) for text in content.notes]
    noted: set[str] = set()
    for sheet in content.sheets:
        stamp = [f"**{escape(content.stamp)}**"] * bool(content.stamp and sheet.key != "paper")
        parts += [f"## {escape(sheet.title)}", *stamp, *map(escape, sheet.intro), set_table(sheet)]
        parts += _set_note(sheet, noted)
    parts += [*_list_unfinished(content), "## How it was made", escape(describe_statistics(study))]
    return "\n\n".join(part for part in [*parts, *_describe_origin(content)] if part) + "\n"


def write_table_one(content: Content) -> str:
    """Table I of a comparison as a page of its own: over all data sets, per data set, and how it was made."""
    results, stamp = content.results, [f"**{escape(content.stamp)}**"] * bool(content.stamp)
    parts = [f"# Table I, {results.protocol.replace('_', ' ')} protocol", escape(content.opening), *_set_stamp(content)]
    parts += [f"**{escape(text)}**" for text in content.troubles] + [escape(text) for text in content.notes]
    verdicts, noted = dict(content.verdicts), set[str]()
    for sheet in content.sheets:
        parts.append(f"## {escape(sheet.title)}")
        if sheet in content.data_sets:
            verdict = verdicts[sheet.key.removeprefix(TABLE_ONE)]
            parts += [*map(escape, sheet.intro), escape(verdict), *stamp, set_table(sheet)]
        else:
            parts += [*(stamp if sheet in content.draws_of_methods else []), set_table(sheet)]
            parts += ["\n".join(f"- {escape(text)}" for text in sheet.intro)]
        parts += _set_note(sheet, noted)
    parts += ["## How it was made", escape(f"{describe_replicates(content)} {describe_statistics(results.study)}")]
    parts += [escape(f"Run {results.run_id}, code {results.code_version or 'not recorded'}.")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _set_note(sheet: Sheet, noted: set[str]) -> list[str]:
    """The note of a table, unless a table before it had the same."""
    is_new = bool(sheet.note) and sheet.note not in noted
    noted.add(sheet.note)
    return [f"*{escape(sheet.note)}*"] * is_new


def set_table(sheet: Sheet) -> str:
    """A table, numbers set right; nothing where it has no line."""
    if not sheet.lines:
        return ""
    rule = [":--" if i < sheet.n_names else "--:" for i in range(len(sheet.columns))]
    rows = [[*map(escape, sheet.columns)], rule, *([_set_cell(cell) for cell in line.cells] for line in sheet.lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _set_cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"**{text}**" if cell.is_strong and text else text
    tags = f" ({escape(', '.join(cell.tags))})" if cell.tags else ""
    return "<br>".join([text + tags, *(escape(note) for note in cell.beneath)])


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
