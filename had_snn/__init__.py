"""HAD-SNN: a spiking event-camera tracker taught by an RGB+event network."""

__version__ = "0.1.0"
