"""Converts a recording of events into another format: `had-snn convert` (`had_snn/commands/convert.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("convert")
