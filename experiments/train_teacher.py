"""Trains an RGB+event teacher: `had-snn train-teacher` (`had_snn/commands/train_teacher.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("train_teacher")
