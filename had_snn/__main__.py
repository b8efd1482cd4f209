"""`python -m had_snn JOB`."""

from had_snn.commands.cli import main

if __name__ == "__main__":
    main()
