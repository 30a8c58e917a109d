"""Lines: a stream cut anywhere gives the same lines."""

from hypothesis import given, strategies as st

from xds_server.kubernetes.lines import Lines


@given(st.lists(st.binary(max_size=5).filter(lambda line: b"\n" not in line and line.strip())), st.data())
def test_wherever_a_stream_is_cut_its_lines_are_the_same(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    reader = Lines()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == lines


def test_a_line_without_its_end_waits_and_empty_lines_are_left_out() -> None:
    reader = Lines()
    assert reader.feed(b"a\n\r\nb") == [b"a"]
    assert reader.feed(b"") == []
    assert reader.feed(b"c\n") == [b"bc"]
