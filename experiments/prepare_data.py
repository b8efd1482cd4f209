"""Makes the simulated data set, or decodes one on disk: `had-snn simulate` (`had_snn/commands/prepare_data.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("prepare_data")
