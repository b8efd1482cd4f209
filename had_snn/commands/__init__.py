"""Jobs that users start: their options, and what has to hold before one begins."""
