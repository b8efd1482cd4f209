"""Tracks one target through a recording or a live stream: `had-snn track` (`had_snn/commands/track.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("track")
