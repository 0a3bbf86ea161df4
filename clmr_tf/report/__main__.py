"""python -m clmr_tf.report: tables and pictures of a folder of evaluations, next to the published numbers."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from clmr_tf.config.command_line import parse_command
from clmr_tf.console import run_command, stdout
from clmr_tf.errors import UsageError
from clmr_tf.files import write_atomically

REPORT_FILE = "report.md"


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Settings of the report."""

    results: Path = Path("savedmodels")
    """Folder to search for evaluation-*.json, including its sub-folders."""
    out: Path | None = None
    """Folder for report.md and its pictures, created if necessary. Default: reports/NAME-OF-THE-RESULTS-FOLDER."""


def report(config: ReportConfig) -> Path:
    """Writes the report and returns the path of its page.

    Raises:
        UsageError: If there are no results, a file is not a result, or `out` cannot be a folder.
    """
    # Imported only once the command line is valid: Matplotlib takes a second to import.
    from clmr_tf.report.page import make_report
    from clmr_tf.report.pictures import png_of
    from clmr_tf.report.results import read_results

    folder = config.results.expanduser()
    # Not into the folder itself, which may be a model folder: an export rejects one that contains other files.
    out = Path("reports") / folder.resolve().name if config.out is None else config.out.expanduser()
    page, figures = make_report(read_results(folder))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be a folder ({error.strerror}); choose another --out.") from error
    for name, figure in figures.items():
        write_atomically(out / name, png_of(figure))
    write_atomically(out / REPORT_FILE, page)
    return out / REPORT_FILE


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    config = parse_command(
        ReportConfig,
        arguments,
        program="python -m clmr_tf.report",
        description="Makes tables and pictures from a folder of evaluations, next to the published numbers.",
    )
    stdout.print(f"Written to {report(config)}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
