"""Plays a recording as a live stream: `had-snn replay` (`had_snn/commands/replay.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("replay")
