"""Exports a student to NIR and verifies the file in simulators: `had-snn export` (`had_snn/commands/export_nir.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("export_nir")
