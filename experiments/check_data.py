"""Looks at a data set on disk and says what it lacks: `had-snn check-data` (`had_snn/commands/check_data.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("check_data")
