"""What people see: tasks at the start, a table that lives while a run goes on, scores and verdicts at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .. import metrics
from ..callback import Callback
from ..ranges import Range
from ..report.words import SIGNS, change, change_span, number, p_value, percent, span
from ..results import Comparison, Scores, TaskInfo
from ..train import Training
from ..verdicts import counted

if TYPE_CHECKING:
    from ..penalties import Penalty
    from ..results import Score

MOST = 40
"""Tasks that a table on the screen has at most."""
_IN_LINE = 6


class Screen:
    """Where people look: stdout, or stderr when stdout is for machines.

    Args:
        json: stdout is for machines.
        quiet: say nothing.
        log: is told every line as well.
    """

    def __init__(self, json: bool = False, quiet: bool = False, log: Callable[[str], None] | None = None) -> None:
        stream = sys.stderr if json else sys.stdout
        width = None if stream.isatty() else 120
        self.console = Console(
            file=stream, quiet=quiet, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False
        )
        self.log = log
        self.quiet = quiet

    @property
    def live(self) -> bool:
        """Whether a table can be redrawn in place."""
        return self.console.is_terminal and not self.quiet

    def say(self, text: str = "") -> None:
        """A line, on the screen and in the log."""
        self.console.print(text, soft_wrap=True)
        if self.log is not None and text.strip():
            self.log(text)

    def show(self, table: Table) -> None:
        """A table, on the screen alone."""
        self.console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """A function (what, done, of how many): a bar on a terminal, a line per tenth elsewhere."""
        if self.live:
            from rich.progress import Progress

            with Progress(console=self.console, transient=True) as bars:
                ids: dict[str, Any] = {}

                def draw(text: str, done: int, total: int) -> None:
                    if text not in ids:
                        ids[text] = bars.add_task(text, total=total)
                    bars.update(ids[text], completed=done, total=total)

                yield draw
            return
        tenths: dict[str, int] = {}

        def tell(text: str, done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenth > tenths.get(text, 0):
                tenths[text] = tenth
                self.say(f"{text}: {done} of {total}")

        yield tell

    # -- at the start

    def begin(self, tasks: Sequence[TaskInfo], objective: str, remarks: Sequence[str] = ()) -> None:
        """The tasks with their labels and how they are sampled, and what is minimised.

        Args:
            tasks: each task as the run sees it.
            objective: what the sampling minimises, in words.
            remarks: further lines.
        """
        self.show(tasks_table(tasks))
        if len(tasks) > MOST:
            self.say(f"... and {len(tasks) - MOST} further tasks: see tasks.json")
        self.say(f"Minimised: {objective}.")
        for remark in remarks:
            self.say(remark)

    # -- at the end

    def scores(self, found: Sequence[Scores]) -> None:
        """The scores of every split, primary metric first."""
        for scores in found:
            if scores.scores:
                self.show(scores_table(scores))
                for score in [s for s in scores.scores if s.primary and s.parts][:MOST]:
                    self.say(part_line(score))
                for task, score in scores.primary().items():
                    if self.log is not None:
                        self.log(f"{scores.split}: {task} {score.metric} {number(score.value)} {span(score.interval)}")

    def verdicts(self, comparison: Comparison) -> None:
        """Every method's score, what sharing did to each task, and why."""
        self.show(comparison_table(comparison))
        for name, task in list(comparison.tasks.items())[:MOST]:
            self.say(f"{SIGNS.get(task.verdict, ' ')} {name}: {task.why or task.verdict}")
        interval = change_span(comparison.interval)
        self.say(
            f"delta-m {change(comparison.delta_m)} {interval} over {counted(comparison.repeats, 'repeat')}. "
            f"{comparison.summary}"
        )

    def end(self, warnings: Sequence[str], commands: Sequence[str]) -> None:
        """The warnings again, and what to try next.

        Args:
            warnings: sentences.
            commands: lines for a shell.
        """
        if warnings:
            self.say(f"Warnings ({len(warnings)}):")
            for warning in warnings[:20]:
                self.say(f"  {warning}")
            if len(warnings) > 20:
                self.say(f"  ... and {len(warnings) - 20} more: see report.json")
        if commands:
            self.say("Next:")
            for command in commands:
                self.say(f"  {command}")


class Watch(Callback):
    """Shows a training: a table redrawn after each epoch on a terminal, a line per epoch elsewhere.

    Args:
        screen: where.
    """

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._live: Live | None = None
        self._began = (0.0, 0)

    def on_start(self, training: Training) -> None:
        """Begin, or go on."""
        self._began = (time.monotonic(), training.epoch)
        if training.epoch or training.step:
            self.screen.say(f"Going on at epoch {training.epoch}, step {training.step}.")
        if self.screen.live and self._live is None and not training.finished:
            self._live = Live(console=self.screen.console, auto_refresh=False, transient=True)
            self._live.start()

    def on_epoch(self, training: Training) -> None:
        """Show the epoch that ended."""
        line = self.line(training)
        if self._live is not None:
            self._live.update(self.table(training), refresh=True)
            if self.screen.log is not None:
                self.screen.log(line)
        else:
            self.screen.say(line)

    def on_end(self, training: Training) -> None:
        """Take the table away."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, whatever happened."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def left(self, training: Training) -> str:
        """The time that the rest takes at most."""
        began, first = self._began
        done = training.epoch - first
        if training.finished or done < 1:
            return ""
        seconds = (time.monotonic() - began) / done * (training.n_epochs - training.epoch)
        return f"at most {int(seconds // 60)}:{int(seconds % 60):02d} left"

    def line(self, training: Training) -> str:
        """One epoch in a line."""
        last = _last(training)
        parts = [f"epoch {training.epoch}/{training.n_epochs}"]
        if training.best.value is not None:
            skill = last.get(("valid", None, "skill"))
            parts.append(f"skill {number(skill)} (best {number(training.best.value)} in {training.best.epoch + 1})")
        shown = list(training.tasks)[:_IN_LINE]
        parts.append("loss " + ", ".join(f"{t} {number(last.get(('train', t, 'loss')))}" for t in shown))
        if len(training.tasks) > _IN_LINE:
            parts[-1] += ", ..."
        return "  ".join([*parts, self.left(training)]).rstrip()

    def table(self, training: Training) -> Table:
        """One row per task: train loss, primary metric, its best, and when that was."""
        last = _last(training)
        skill = number(last.get(("valid", None, "skill")))
        table = _table(f"epoch {training.epoch} of {training.n_epochs}, skill {skill}, {self.left(training)}")
        for heading in ("task", "train loss", "metric", "valid", "best", "in epoch"):
            table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
        for name, task in list(training.tasks.items())[:MOST]:
            metric = metrics.find(task.metrics[0])
            best = training.best_of[name]
            value = best.value if best.value is None or metric.greater_is_better else -best.value
            table.add_row(
                name, number(last.get(("train", name, "loss"))), metric.name,
                number(last.get(("valid", name, metric.name))), number(value),
                str(best.epoch + 1) if best.epoch >= 0 else "–",
            )  # fmt: skip
        return table


def _last(training: Training) -> dict[tuple[str, str | None, str], float | None]:
    """The numbers of the last epoch."""
    found: dict[tuple[str, str | None, str], float | None] = {}
    for record in reversed(training.history):
        if record.epoch < training.epoch - training.settings.val_check_interval:
            break
        found.setdefault((record.split, record.task, record.metric), record.value)
    return found


def _table(title: str) -> Table:
    from rich import box

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def tasks_table(tasks: Sequence[TaskInfo]) -> Table:
    """The tasks, their labels per split, and how they are sampled."""
    table = _table(f"{len(tasks)} task{'s' if len(tasks) != 1 else ''}")
    parts = list(dict.fromkeys(part for task in tasks for part in task.rows))
    for heading in ("task", "type", "metric", *(f"labels {part}" for part in parts), "share of draws", "passes/epoch"):
        table.add_column(heading, justify="left" if heading in ("task", "type", "metric") else "right", overflow="fold")
    for task in tasks[:MOST]:
        cells = [
            f"{task.labels.get(p, 0)} ({percent(task.coverage(p), 0)})" if task.rows.get(p) else "–" for p in parts
        ]
        table.add_row(task.name, task.kind, task.metric, *cells, percent(task.probability, 0), number(task.passes, 2))
    return table


def scores_table(scores: Scores) -> Table:
    """One row per task and metric: value, interval, labels."""
    table = _table(f"scores on {scores.split}")
    for heading in ("task", "metric", "value", "95 % interval", "labels", ""):
        table.add_column(heading, justify="right" if heading in ("value", "labels") else "left", overflow="fold")
    rows: list[Score] = [s for s in scores.scores if len(scores.primary()) <= MOST or s.primary][: 4 * MOST]
    for score in rows:
        name = score.task if score.primary else ""
        why = "" if score.value is not None else score.why or ""
        table.add_row(name, score.metric, number(score.value), span(score.interval), str(score.labels), why)
    return table


def part_line(score: Score) -> str:
    """A score by label, class or type, from the worst to the best; of many the ends."""
    there = [part for part in score.parts if part.value is not None]
    ordered = sorted(there, key=lambda part: (part.value or 0.0) * (1 if score.greater_is_better else -1))
    said = [f"{part.name} {number(part.value)}" for part in ordered]
    shown = said if len(said) <= _IN_LINE else [*said[: _IN_LINE // 2], "...", *said[-(_IN_LINE // 2) :]]
    lost = f"; {len(score.parts) - len(there)} without a value" if len(there) < len(score.parts) else ""
    return f"{score.task}, {score.parts[0].word} of each part: {', '.join(shown) or 'none'}{lost}"


def comparison_table(comparison: Comparison) -> Table:
    """One row per task: every method, the delta of sharing, its interval, p, and the verdict."""
    table = _table("joint model against one model per task (positive delta = sharing is better)")
    kinds = ("joint", "single", "linear", "boosting", "constant")
    methods = [k for k in kinds if any(getattr(t, k) is not None for t in comparison.tasks.values())]
    for heading in ("task", "metric", *methods, "delta", "95 % interval", "p", "verdict"):
        table.add_column(
            heading, justify="left" if heading in ("task", "metric", "verdict") else "right", overflow="fold"
        )
    for name, task in list(comparison.tasks.items())[:MOST]:
        table.add_row(
            name, task.metric, *(number(getattr(task, m)) for m in methods), change(task.delta, task.absolute),
            change_span(task.interval, task.absolute), p_value(task.p), f"{SIGNS.get(task.verdict, '')} {task.verdict}",
        )  # fmt: skip
    return table


def settings_table(title: str, rows: Mapping[str, Any]) -> Table:
    """Names and values in two columns."""
    table = _table(title)
    table.add_column("")
    table.add_column("", overflow="fold")
    for key, value in rows.items():
        table.add_row(key, str(value))
    return table


def entry_table(name: str, entry: Mapping[str, Any]) -> Table:
    """One word of a catalogue: its sentence, a line per setting, cost and reference.

    Args:
        name: the word.
        entry: what `doctor.entries` has about it.
    """
    from rich.text import Text

    def plain(text: str) -> str:
        return text.replace("``", "`")

    settings = Table.grid(padding=(0, 2))
    settings.add_column(no_wrap=True)
    settings.add_column(max_width=24, overflow="fold", style="dim")
    settings.add_column(overflow="fold")
    for key, default in entry["settings"].items():
        shown = "needed" if key in entry["required"] else "null" if default is None else str(default)
        about = plain(entry["about"].get(key, ""))
        if range_ := entry.get("tuned", {}).get(key):
            about = f"{about} Tuned: {Range.of(range_)}.".strip()
        settings.add_row(key, shown, about)
    below = Table.grid(padding=(0, 2))
    below.add_column(width=1)
    below.add_column(overflow="fold")
    if entry["settings"]:
        below.add_row("", settings)
    for heading in ("cost", "reference"):
        if entry[heading]:
            below.add_row("", plain(f"{heading.capitalize()}: {entry[heading]}"))
    whole = Table.grid()
    whole.add_row(Text.assemble((name, "bold"), f": {plain(entry['sentence'])}"))
    whole.add_row(below)
    whole.add_row("")
    return whole


def plan_lines(plan: Sequence[tuple[int, str]], most: int = 12) -> list[str]:
    """A sharing scheme's plan as indented lines; none where it has only one to say.

    Args:
        plan: (depth, text) per line.
        most: lines shown.
    """
    if len(plan) < 2:
        return []
    shown = [f"{'  ' * (depth + 1)}{text}" for depth, text in plan[:most]]
    return [*shown, *([f"  ... and {len(plan) - most} more"] if len(plan) > most else [])]


WHAT = {
    "copies": "weights of which each task has its own", "heads": "heads of one shape", "shared": "shared weights",
    "all": "all weights", "features": "shared and private features",
}  # fmt: skip
"""Where a penalty acts, in words."""
FROM = {
    "zero": "", "mean": ", their deviation from the mean over tasks", "start": ", their deviation from where they began"
}  # fmt: skip


def penalty_line(name: str, penalty: Penalty) -> str:
    """What a penalty keeps small, and how.

    Args:
        name: its word.
        penalty: with its settings.
    """
    how = "added to the loss" if penalty.step == "loss" else "by a proximal step after each update"
    where = WHAT.get(penalty.on, penalty.on)
    return f"Penalty {name}, strength {penalty.strength:g}: {where}{FROM.get(penalty.of, '')}; {how}."
