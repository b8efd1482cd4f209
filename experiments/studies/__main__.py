"""Studies of trackers and trainings: `python -m experiments.studies NAME [option=value ...]`, in a checkout."""

from experiments.worker import start_one_of

if __name__ == "__main__":
    start_one_of("studies")
