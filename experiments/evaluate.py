"""Evaluates trackers beside baselines and result folders: `had-snn evaluate` (`had_snn/commands/evaluate.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("evaluate")
