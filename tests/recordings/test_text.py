"""Text as people write it: headers in comments, encodings, cells; what is understood, and what is refused and why."""

from __future__ import annotations

import pytest
from table_files import assert_reads_as, make_columns

from had_snn.errors import FormatError
from had_snn.recordings.readers import open_recording, read_events

COLUMNS = make_columns()


def lines(order: str = "txyp", separator: str = " ", **columns) -> str:
    known = {**COLUMNS, **columns}
    return "\n".join(separator.join(map(str, row)) for row in zip(*(known[n] for n in order), strict=True)) + "\n"


@pytest.mark.parametrize(
    ("head", "order"),
    [
        ("# t x y p\n", "txyp"),  # numpy.savetxt(header=...)
        ("#x,y,p,t\n", "xypt"),
        ("% Timestamp [us]  x [px]  y [px]  polarity\n", "txyp"),
        ("// timestamp x y polarity\n", "txyp"),
        ("# recorded 2024-02-29 with v2e 1.6\n# t y x p\n# end of header\n", "tyxp"),
        ("\ufefft x y p\n", "txyp"),
        ("\ufeff", "txyp"),
        ('"t" "x" "y" "p"\n', "txyp"),
        ("346 260\n", "txyp"),
        ("%geometry:346,260\n% columns follow\n", "txyp"),
        ("# width: 346\n# height: 260\n", "txyp"),
        ("# sensor_hw = (260, 346)\n# time unit: \u00b5s\n", "txyp"),
        ("# Format: time (float s), x, y, polarity (0=off, 1=on)\n# unit: us\n", "txyp"),
    ],
)
def test_what_precedes_the_events(tmp_path, head, order):
    path = tmp_path / "e.txt"
    path.write_text(head + lines(order), encoding="utf-8")
    if "float s" in head:  # seconds in one line, microseconds in another
        with pytest.raises(FormatError, match=r"states its unit of time twice: s \(comment\) and us .*time_unit="):
            read_events(path)
        assert_reads_as(read_events(path, time_unit="us"), COLUMNS)
        return
    recording = open_recording(path)
    assert_reads_as(recording.events, COLUMNS)
    assert recording.events.sensor_hw == (260, 346)
    stated = any(word in head for word in ("346", "width"))
    assert recording.info["sensor"] == ("file" if stated else "inferred")


def test_a_header_in_latin_1(tmp_path):
    head = "# gr\u00f6\u00dfe egal\nt [\u00b5s],x,y,p\n".encode("latin-1")
    (tmp_path / "e.csv").write_bytes(head + lines(separator=",").encode())
    recording = open_recording(tmp_path / "e.csv")
    assert_reads_as(recording.events, COLUMNS)
    assert recording.info["time_unit"] == "us"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("head", ["", "t,x,y,p\n", "# width=346 height=260\n"])
def test_encodings(tmp_path, encoding, head, monkeypatch):
    monkeypatch.setattr("had_snn.recordings.text_cells._READ", 1_001)  # a character may be cut
    path = tmp_path / "e.csv"
    path.write_text(head + lines(separator=","), encoding=encoding)
    seen = []
    assert_reads_as(read_events(path, progress=lambda done, total: seen.append((done, total))), COLUMNS)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_damaged_and_wide_encodings_say_why(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(lines(separator=","), encoding="utf-32")
    with pytest.raises(FormatError, match=r"UTF-32 \(save it as UTF-8\)|unknown format"):
        read_events(path)
    with pytest.raises(FormatError, match=r"UTF-32 \(save it as UTF-8\)"):
        read_events(path, format="text")
    content = lines(separator=",").encode("utf-16")
    path.write_bytes(content + b"\x00\xd8\x31\x00")  # half of a pair
    with pytest.raises(FormatError, match="not the utf-16"):
        read_events(path)


@pytest.mark.parametrize("separator", [";", "\t", " "])
def test_decimal_commas(tmp_path, separator):
    t = [f"{t // 10**6},{t % 10**6:06d}" for t in COLUMNS["t"].tolist()]
    path = tmp_path / "e.csv"
    for head in ("", separator.join("txyp") + "\n"):
        path.write_text(head + lines(separator=separator, t=t))
        recording = open_recording(path)
        assert_reads_as(recording.events, COLUMNS)
        assert recording.info["time_unit"] == "s"


def test_commas_that_separate_too_are_asked_about(tmp_path):
    t = [f"{t // 10**6},{t % 10**6:06d}" for t in COLUMNS["t"].tolist()]
    path = tmp_path / "e.csv"
    path.write_text("t,x,y,p\n" + lines(separator=",", t=t))
    with pytest.raises(FormatError, match=r"names 4 columns \(t, x, y, p\), but its lines hold 5 numbers.*columns="):
        read_events(path)
    path.write_text(lines(separator=", "))  # a comma and a blank are one separator
    assert_reads_as(read_events(path), COLUMNS)


def test_row_names_without_a_name(tmp_path):
    """R writes the numbers of the rows in a column that its header does not count; pandas leaves its name empty."""
    index = list(range(1, len(COLUMNS["t"]) + 1))
    path = tmp_path / "e.csv"
    path.write_text(",t,x,y,p\n" + lines("itxyp", ",", i=index))
    assert_reads_as(read_events(path), COLUMNS)
    path.write_text("t x y p\n" + lines("itxyp", i=index))
    with pytest.raises(FormatError, match=r"names 4 columns.*5 numbers.*columns="):
        read_events(path)
    assert_reads_as(read_events(path, columns="_txyp"), COLUMNS)


@pytest.mark.parametrize("words", [("False", "True"), ("false", "true"), ("OFF", "ON"), ("neg", "pos")])
@pytest.mark.parametrize("head", ["", "t,x,y,on\n", "t,x,y,p\n"])
def test_words_for_polarities(tmp_path, words, head):
    path = tmp_path / "e.csv"
    path.write_text(head + lines(separator=",", p=[words[p] for p in COLUMNS["p"].tolist()]))
    assert_reads_as(read_events(path), COLUMNS)
    path.write_text(head + lines(separator=",", p=[words[p] for p in COLUMNS["p"].tolist()]) + "50000,1,1,maybe\n")
    with pytest.raises(FormatError, match="expected 4 numbers in a line, found '50000,1,1,maybe'"):
        read_events(path)


def test_two_columns_of_times_are_told(tmp_path, caplog):
    path = tmp_path / "e.csv"
    path.write_text("t,ts,x,y,p\n" + lines("ttxyp", ","))
    assert_reads_as(read_events(path), COLUMNS)
    assert "columns t and ts both look like t; reading t (columns=" in caplog.text


def test_what_is_stated_wins_over_the_header_and_says_so(tmp_path, caplog):
    path = tmp_path / "e.csv"
    path.write_text("t [ns],y,x,p\n" + lines(separator=",", t=(COLUMNS["t"] * 1000).tolist()))
    assert_reads_as(read_events(path, columns="txyp"), COLUMNS)  # the unit still is the header's
    assert "columns=txyp is stated, though the file names its columns t[ns], y, x, p" in caplog.text
    assert read_events(path, time_unit="us").t.tolist() == (COLUMNS["t"] * 1000).tolist()
    assert "time_unit=us is stated, though the file says ns (comment), ns (name)" in caplog.text


def test_times_that_were_printed_with_few_digits(tmp_path):
    t = [f"{1.7e9 + t / 1e6:g}" for t in COLUMNS["t"].tolist()]  # 1.7e+09
    path = tmp_path / "e.txt"
    path.write_text(lines(t=t))
    with pytest.raises(FormatError, match=r"all 600 events have the time .*lost their digits"):
        read_events(path, columns="txyp", time_unit="s")


def test_the_first_line_of_a_file_without_numbers_is_shown(tmp_path):
    (tmp_path / "e.csv").write_text("time|col|row|sign\n1|2|3|0\n2|3|4|1\n")
    with pytest.raises(FormatError, match=r"no line of numbers.*it begins with 'time\|col"):
        read_events(tmp_path / "e.csv")
