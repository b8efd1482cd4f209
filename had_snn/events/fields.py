"""What event arrays call their columns: those of tonic, Metavision, dv, aedat, event_stream and text files."""

from __future__ import annotations

#: Names by role, as they stand in files and arrays.
NAMES = {
    "t": "t ts time times timestamp timestamps time_stamp time_stamps stamp stamps",
    "x": "x xs col cols column x_pos pos_x x_position xaddr x_addr x_coord x_coordinate",
    "y": "y ys row rows y_pos pos_y y_position yaddr y_addr y_coord y_coordinate",
    "p": "p ps pol pols polarity polarities on is_on sign increase is_increase positive is_positive",
}
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
