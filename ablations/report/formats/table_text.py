"""Table I of one comparison in Markdown, to stand in a document."""

from __future__ import annotations

from ablations.findings.results import StudyResults
from ablations.findings.tables import build_tables
from ablations.report.content import describe_data, describe_replicates, describe_statistics, explain_stamp, gather
from ablations.report.formats.markdown import escape, set_table


def table_text(results: StudyResults) -> str:
    """What was found, the tables over all data sets, per data set and of the intervals, and how they were made."""
    content = gather(results, build_tables(results))
    assert content.overall is not None, "a comparison"
    parts = [f"### Table I, {results.protocol.replace('_', ' ')} protocol", escape(content.opening)]
    if content.stamp:
        parts.append(f"> **{escape(content.stamp)}** {escape(explain_stamp(content))}")
    parts += [f"**{escape(text)}**" for text in content.troubles] + [escape(text) for text in content.notes]
    parts += [set_table(content.overall), f"*{escape(content.overall.note)}*"]
    parts += ["\n".join(f"- {escape(f'{name}: {text}')}" for name, text in content.method_notes)]
    for sheet, numbers, (_, verdict) in zip(content.data_sets, content.tables, content.verdicts, strict=True):
        parts += [f"#### {escape(sheet.title)}", escape(describe_data(numbers)), escape(verdict)]
        parts += [f"**{escape(content.stamp)}**"] * bool(content.stamp)
        parts.append(set_table(sheet))
    parts += [f"*{escape(note)}*" for note in dict.fromkeys(sheet.note for sheet in content.data_sets)]
    if content.intervals:
        sheet = content.intervals
        parts += [f"#### {escape(sheet.title)}", set_table(sheet), f"*{escape(sheet.note)}*"]
    parts += [escape(f"{describe_replicates(content)} {describe_statistics(results.study)}")]
    parts += [escape(f"Run {results.run_id}, code {results.code_version or 'not recorded'}.")]
    return "\n\n".join(part for part in parts if part)
