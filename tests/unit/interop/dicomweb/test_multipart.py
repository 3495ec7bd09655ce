from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interop.dicomweb.multipart import (
    MAX_HEADER_BYTES,
    MultipartParser,
    MultipartWriter,
    PartBegin,
    PartData,
    PartEnd,
)
from interop.errors import BadRequest, PayloadTooLarge

Part = tuple[dict[str, str], bytes]


def parse(body: bytes, boundary: str = "b", chunk: int = 7, **options: int) -> list[Part]:
    parser = MultipartParser(boundary, **options)
    parts: list[tuple[dict[str, str], bytearray]] = []
    ended = 0
    for at in range(0, len(body), chunk):
        for event in parser.feed(body[at : at + chunk]):
            if isinstance(event, PartBegin):
                assert ended == len(parts)
                parts.append((event.headers, bytearray()))
            elif isinstance(event, PartData):
                parts[-1][1].extend(event.data)
            else:
                assert isinstance(event, PartEnd)
                ended += 1
    parser.close()
    assert ended == len(parts)
    return [(headers, bytes(content)) for headers, content in parts]


def build(contents: list[bytes], boundary: str = "b", preamble: bytes = b"") -> bytes:
    body = preamble
    for content in contents:
        body += b"\r\n--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n"
        body += content
    return body + b"\r\n--" + boundary.encode() + b"--"


# Content made of what confuses parsers: line breaks, dashes, the boundary, and other bytes.
tricky = st.lists(
    st.sampled_from([b"\r\n", b"--", b"b", b"\r", b"\n", b"-", b"\x00", b"DICM", b"\r\n--", b" "]),
    max_size=40,
).map(b"".join)


@given(
    contents=st.lists(st.one_of(st.binary(max_size=300), tricky), min_size=1, max_size=5),
    chunk=st.integers(1, 64),
    epilogue=st.binary(max_size=30),
)
@example(contents=[b"\r\n--boundar", b""], chunk=1, epilogue=b"")
def test_every_split_of_a_body_gives_back_its_parts(
    contents: list[bytes], chunk: int, epilogue: bytes
) -> None:
    boundary = "boundary_1'()+,-./:=?"
    body = build(contents, boundary) + epilogue

    parts = parse(body, boundary, chunk)

    assert [content for _, content in parts] == contents


@given(body=st.one_of(st.binary(max_size=400), tricky), chunk=st.integers(1, 50))
def test_any_bytes_are_parsed_or_refused(body: bytes, chunk: int) -> None:
    try:
        parse(body, "b", chunk)
    except BadRequest as error:
        assert "boundary" in str(error) or "delimiter" in str(error)


def test_a_line_that_only_begins_like_the_delimiter_is_content() -> None:
    content = b"1\r\n--bb\r\n2\r\n--b!\r\n3"

    assert [c for _, c in parse(build([content]))] == [content]


def test_headers_are_case_insensitive_and_padding_after_the_delimiter_is_skipped() -> None:
    body = b"--b \t\r\nCONTENT-Type:  application/dicom \r\nX: y\r\n\r\nA\r\n--b--"

    assert parse(body) == [({"content-type": "application/dicom", "x": "y"}, b"A")]


def test_a_missing_end_delimiter_names_the_part() -> None:
    with pytest.raises(BadRequest, match=r"ends inside part 2.*--b--"):
        parse(build([b"one", b"two"])[:-2])


def test_a_body_without_its_boundary_is_refused() -> None:
    with pytest.raises(BadRequest, match="does not contain its boundary 'b'"):
        parse(b"--other\r\n\r\n\r\n--other--")


def test_more_parts_than_the_limit_are_refused() -> None:
    assert len(parse(build([b"x"] * 3), max_parts=3)) == 3
    with pytest.raises(PayloadTooLarge, match="more than 3 parts"):
        parse(build([b"x"] * 4), max_parts=3)


def test_endless_headers_are_refused_without_keeping_them() -> None:
    parser = MultipartParser("b")
    list(parser.feed(b"--b\r\nX: "))
    with pytest.raises(BadRequest, match="bytes of headers"):
        for _ in range(100):
            list(parser.feed(b"y" * 4096))
            assert len(parser._buffer) <= MAX_HEADER_BYTES + 4096


@pytest.mark.parametrize("boundary", ["", "x" * 71, "a\nb", "ä", "trailing "])
def test_a_wrong_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(BadRequest, match="1 to 70"):
        MultipartParser(boundary)


def test_the_buffer_does_not_grow_with_the_body() -> None:
    parser = MultipartParser("b")
    list(parser.feed(b"--b\r\n\r\n"))
    for _ in range(50):
        list(parser.feed(b"\r\n--" * 16384))
        assert len(parser._buffer) < 300


def test_the_writer_is_read_back_by_the_parser() -> None:
    writer = MultipartWriter("application/dicom")
    body = writer.head("application/dicom", "http://x/1") + b"one"
    body += writer.head("application/dicom") + b"two" + writer.tail()

    parts = parse(body, writer.content_type.rpartition("=")[2])

    assert parts == [
        ({"content-type": "application/dicom", "content-location": "http://x/1"}, b"one"),
        ({"content-type": "application/dicom"}, b"two"),
    ]
