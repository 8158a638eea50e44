"""Reports, read back."""

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.report import report, writer


def tables(markdown):
    """Every Markdown table, as rows by header."""
    found = []
    for block in markdown.split("\n\n"):
        if block.startswith("| "):
            header, _, *lines = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
            found.append([dict(zip(header, line, strict=True)) for line in lines])
    return found


def text_of(folder, **more):
    verdicts = [*map(judge, experiments(load([folder])))]
    chapters = report.chapters(verdicts, command="adabelief report runs", **more)
    return writer.markdown(report.title_of(verdicts), "", chapters)
