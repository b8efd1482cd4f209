"""Benchmarks: `python -m experiments.bench NAME [option=value ...]`, in a checkout."""

from experiments.worker import start_one_of

if __name__ == "__main__":
    start_one_of("bench")
