"""Every way in which a JSON file can be wrong is told by a DataError that names the file."""

from __future__ import annotations

import pytest

from easyedit_personal.data.jsonfile import read_json_list
from easyedit_personal.errors import DataError
from tests.data.samples import write

FAULTS = {
    "empty": ("", "is empty"),
    "blank": (" \n\t", "is empty"),
    "a byte order mark only": (b"\xef\xbb\xbf", "is empty"),
    "no JSON": ("hello", "is not JSON"),
    "single quotes": ("[{'a': 1}]", "single quotes"),
    "truncated": ('[{"a": 1}, {"a"', "truncated"),
    "JSON Lines": ('{"a": 1}\n{"a": 2}', "JSON Lines"),
    "a web page": ("<!DOCTYPE html><html></html>", "HTML"),
    "a git-lfs pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "UTF-16": ('[{"a": 1}]'.encode("utf-16"), "is not UTF-8"),
    "Latin-1": ('[{"a": "café"}]'.encode("latin-1"), "is not UTF-8"),
    "binary": (bytes(range(256)), "is not UTF-8"),
    "an object": ('{"data": [1]}', "no list at its top level"),
    "a text": ('"data"', "no list at its top level"),
    "null": ("null", "no list at its top level"),
    "an empty list": ("[]", "empty list"),
    "a repeated key": ('[{"target": "a", "target": "b"}]', "key 'target' twice"),
    "a repeated key further down": ('[{"x": {"q": 1, "q": 1}}]', "key 'q' twice"),
    "NaN": ('[{"target": NaN}]', "NaN"),
    "infinity": ("[-Infinity]", "Infinity"),
    "a number of ten thousand digits": ("[" + "9" * 10_000 + "]", "is not JSON"),
    "a hundred thousand brackets": ("[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_refuses(name, tmp_path):
    content, told = FAULTS[name]
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_json_list(path)
    assert told in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_refuses_what_is_no_file(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path, f"{tmp_path}/a.json/b"):
        with pytest.raises(DataError, match="cannot be read"):
            read_json_list(path)


def test_names_the_offset_of_a_foreign_byte(tmp_path):
    with pytest.raises(DataError, match="0xe9 at offset 5"):
        read_json_list(write(tmp_path, b'["caf\xe9"]'))


def test_reads_a_list_with_and_without_byte_order_mark(tmp_path):
    text = '[{"a": "caf\u00e9"}, 2]'
    assert read_json_list(write(tmp_path, text)) == read_json_list(write(tmp_path, b"\xef\xbb\xbf" + text.encode()))
