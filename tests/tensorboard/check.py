"""The event files of runs as TensorBoard reads them, against their metrics.csv."""

import csv
import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = {
    "loss/train": "train_loss",
    "loss/{}": "test_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/{}": "test_accuracy",
    "learning_rate": "learning_rate",
    "seconds_per_epoch": "seconds",
}


def check(folder: Path, rows: list[dict[str, str]], judged_on: str) -> None:
    """Every figure of every row must be there, at its step, and nothing else."""
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = {tag.format(judged_on): column for tag, column in COLUMNS.items()}
    assert set(events.Tags()["scalars"]) == set(tags), events.Tags()
    for tag, column in tags.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        want = [(int(row["step"]), float(row[column])) for row in rows]
        assert [step for step, _ in found] == [step for step, _ in want], (tag, found, want)
        for (_, value), (_, figure) in zip(found, want):
            # Values are f32, and metrics.csv rounds seconds.
            assert abs(value - figure) <= 1e-6 * abs(figure) + (6e-4 if column == "seconds" else 1e-9), (tag, value, figure)


def main() -> None:
    for run in map(Path, sys.argv[1:]):
        with open(run / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        summary = json.loads((run / "summary.json").read_text())
        judged_on = "held_out" if summary["hold_out"] else "test"
        nets = summary.get("replicas", [])
        if not nets:
            check(run, rows, judged_on)
        for place, net in enumerate(nets):
            folder = run / "tensorboard" / net["file"].removesuffix(".safetensors")
            check(folder, rows[place :: len(nets)], judged_on)
        print(f"{run.name}: TensorBoard reads all {len(rows)} rows")


main()
