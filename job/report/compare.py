"""`python -m job compare`: published runs side by side, as a table, as JSON or as a page."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from job.errors import Exit, JobError
from job.output.io_errors import output_errors
from job.report import compare_table, comparison
from job.report.published_run import read_published_runs
from job.system import files

if TYPE_CHECKING:
    from pathlib import Path

    from job.report.comparison import Comparison


def run(output: Path, *, as_json: bool = False, html: Path | None = None) -> None:
    """Print the comparison of an output folder's published runs, as a table or as JSON (see Comparison).

    Args:
        output: the folder.
        as_json: print JSON.
        html: the file in which to write the page as well.

    Raises:
        JobError: 66 if there is no published run; 73 if the page cannot be written; 73 or 75 if the file system refuses
            to read; 65 if a run is damaged, after everything else is printed.
    """
    compared = compare_folder(output)
    if html:
        from job.report import compare_page  # noqa: PLC0415 - matplotlib takes 0.5 s

        try:
            files.write(html, compare_page.render_comparison(compared).encode())
        except OSError as error:
            message = f"{html} cannot be written: {error.strerror or error}"
            raise JobError(Exit.OUTPUT, "page-not-writable", message, "give another file with --html") from error
    if as_json:
        sys.stdout.write(json.dumps(comparison.as_json(compared), indent=2, ensure_ascii=False) + "\n")
    else:
        compare_table.print_comparison(compared)
    if compared.damaged:
        name, reason = next(iter(compared.damaged.items()))
        more = f" (and {len(compared.damaged) - 1} more)" if len(compared.damaged) > 1 else ""
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"the published run {name} is damaged: {reason}{more}")


def compare_folder(output: Path) -> Comparison:
    """Read an output folder's published runs and compare them.

    Raises:
        JobError: 66 if there is no published run; 65 if all are damaged; 73 or 75 from the file system.
    """
    with output_errors(output, "read"):
        published = read_published_runs(output)
    if published.runs:
        return comparison.compare_runs(published)
    if published.damaged:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in published.damaged.items())
        raise JobError(Exit.DATA_DAMAGED, "run-damaged", f"no published run in {output} can be read ({reasons})")
    begun = f"; begun and not published: {', '.join(published.unpublished)}" if published.unpublished else ""
    message = f"there is no published run in {output}{begun}"
    raise JobError(Exit.DATA_MISSING, "no-runs", message, "`python -m job train` makes one")
