"""Adapts a student to recordings without labels: `had-snn adapt` (`had_snn/commands/adapt.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("adapt")
