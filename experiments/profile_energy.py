"""Counts spikes, synaptic operations and energy: `had-snn profile` (`had_snn/commands/profile_energy.py`)."""

from had_snn.commands.entry import start

if __name__ == "__main__":
    start("profile_energy")
