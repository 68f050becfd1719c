"""Tables of a summary in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from iris_fast.envs.games import ATARI_100K_SCORES

from .statistics import AGGREGATES, Estimate
from .summary import Summary

FORMATS = {"markdown": ".md", "latex": ".tex", "csv": ".csv"}
LATEX = {
    "\\": r"\textbackslash{}",
    "Δ": r"$\Delta$",
    "ε": r"$\epsilon$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def tables(summary: Summary, form: str) -> dict[str, str]:
    """Every table by its name."""
    made = {"aggregates": aggregates_table(summary, form), "games": games_table(summary, form)}
    if summary.improvements:
        made["improvement"] = improvement_table(summary, form)
    return made


def aggregates_table(summary: Summary, form: str) -> str:
    """A row a method: aggregates with intervals, superhuman games, and runs a game."""
    rows: list[list[str]] = []
    for method in summary.methods:
        counts = sorted({len(scores) for scores in method.scores.values()})
        runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        cells = [_cells(summary.aggregates[method.name][name], form) for name in AGGREGATES]
        human = f"{summary.superhuman[method.name]}" + ("" if form == "csv" else f" of {len(method.scores)}")
        rows.append([method.name, *(cell for each in cells for cell in each), human, runs])
    heads = [head for name in AGGREGATES for head in _heads(name, form)]
    return write(["method", *heads, "superhuman games", "runs a game"], rows, form)


def improvement_table(summary: Summary, form: str) -> str:
    """A row a method: the probability that the subject's run beats one of it on a game."""
    rows = [[name, *_cells(found, form)] for name, found in summary.improvements.items()]
    return write(["Y", *_heads(f"P({summary.subject} > Y)", form)], rows, form)


def games_table(summary: Summary, form: str) -> str:
    """A row a game: mean raw scores, of random play and the human player first. The best method stands in bold."""
    rows = []
    for game in summary.games:
        means = [
            float(np.mean(method.scores[game])) if game in method.scores else None
            for method in summary.methods
        ]
        best = max(mean for mean in means if mean is not None)
        cells = ["" if mean is None else _bold(f"{mean:.1f}", mean == best, form) for mean in means]
        rows.append([game, *(f"{score:.1f}" for score in ATARI_100K_SCORES[game]), *cells])
    return write(["game", "Random", "Human", *(method.name for method in summary.methods)], rows, form)


def returns_table(returns: Mapping[str, Sequence[float]], form: str) -> str:
    """A row a game: of the mean returns of its runs the mean, the lowest and the highest. Of any game."""
    rows = [
        [game, str(len(means)), *(f"{value:.4g}" for value in (np.mean(means), min(means), max(means)))]
        for game, means in returns.items()
    ]
    return write(["game", "runs", "mean return", "lowest run", "highest run"], rows, form)


def write(heads: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> str:
    """A table in one of `FORMATS`; LaTeX needs the package booktabs."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([heads, *rows])
        return text.getvalue().rstrip("\n")
    if form == "latex":
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in [heads, *rows]]
        begin, end = rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\end{tabular}"
        return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end])
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    first, *others = widths
    rule = [f"{'-' * first}", *(f"{'-' * (width - 1)}:" for width in others)]

    def line(cells: Sequence[str]) -> str:
        right = [cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True)]
        return f"| {' | '.join([cells[0].ljust(first), *right])} |"

    return "\n".join(map(line, [heads, rule, *rows]))


def _heads(name: str, form: str) -> list[str]:
    return [name, f"{name} low", f"{name} high"] if form == "csv" else [name]


def _cells(found: Estimate, form: str) -> list[str]:
    """A value and its interval: in one cell, or in three of a CSV file (empty where there is no interval)."""
    ends = [] if found.interval is None else [f"{end:.3f}" for end in found.interval]
    if form == "csv":
        return [f"{found.value:.3f}", *(ends or ["", ""])]
    return [f"{found.value:.3f} ({'–'.join(ends)})" if ends else f"{found.value:.3f}"]


def _bold(text: str, best: bool, form: str) -> str:
    """Marked bold in Markdown; LaTeX turns the marks into its own."""
    return f"**{text}**" if best and form != "csv" else text


def _latex(text: str) -> str:
    bold = text.startswith("**")
    escaped = "".join(LATEX.get(sign, sign) for sign in text.strip("*"))
    return rf"\textbf{{{escaped}}}" if bold else escaped
