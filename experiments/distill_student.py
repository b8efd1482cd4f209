"""Trains a spiking student, alone or under a teacher: `had-snn distill` (`had_snn/commands/distill_student.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("distill_student")
