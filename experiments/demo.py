"""The whole chain on simulated data, in minutes: `had-snn demo` (`had_snn/commands/demo.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("demo")
