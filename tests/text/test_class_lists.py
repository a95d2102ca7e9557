import json
import unicodedata
from pathlib import Path

import pytest

from linnet.errors import UserError
from linnet.text.class_lists import read_names


def test_names_that_are_typed():
    assert read_names("red owl, wren ,sooty  gull") == ["red owl", "wren", "sooty gull"]
    assert read_names(["bird with a, b and c", "owl"]) == ["bird with a, b and c", "owl"]
    assert read_names('"bird, red", wren') == ["bird, red", "wren"]
    assert read_names("a" * 5000 + ",b") == ["a" * 5000, "b"]  # longer than a file name can be
    assert read_names("red owl\n#1 wren\n") == ["red owl", "#1 wren"]  # "$(cat names.txt)"
    assert read_names("\ufeffrose,tulip") == ["rose", "tulip"]
    assert read_names("ro\u00adse\u200b,\u202atulip\u202c") == ["rose", "tulip"]  # out of pages and windows
    assert read_names("['rose', 'tulip']") == read_names('["rose","tulip"]') == ["rose", "tulip"]
    assert read_names("[rose],{tulip}") == ["[rose]", "{tulip}"]
    assert read_names("St. Bernard,001.Laysan_Albatross,B.1.1.7,pickup/van") == [
        *("St. Bernard", "001.Laysan_Albatross", "B.1.1.7", "pickup/van"),
    ]
    assert read_names(unicodedata.normalize("NFD", "bläuling,öl")) == ["bläuling", "öl"]


ROSES = ["rose", "tulip"]


@pytest.mark.parametrize("name", ["names.txt", "names.list", "names", "NAMES.TXT"])
@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"rose\ntulip\n", ROSES),
        (b"\xef\xbb\xbfrose\r\ntulip\r\n", ROSES),  # as editors of Windows write it
        (b"rose\rtulip", ROSES),
        (b"# flowers\n\n  rose  \n#\ntulip\n\n", ROSES),
        (b"#1 rose\n#2 tulip", ["#1 rose", "#2 tulip"]),
        (b"#rose\ntulip", ["#rose", "tulip"]),
        (b"rose, tulip", ROSES),
        (b"rose, red\ntulip, white", ["rose, red", "tulip, white"]),
        (b'"rose, red"\n"tulip"', ["rose, red", "tulip"]),
        (b'["rose",\n "tulip"]\n', ROSES),
        (b"- rose\n- tulip\n", ROSES),
        (b'5" gun\n6" gun', ['5" gun', '6" gun']),
        ("rosé\nçiçek".encode(), ["rosé", "çiçek"]),
        (b"\xef\xbb\xbfrose\n\xef\xbb\xbftulip", ROSES),  # two files behind one another
    ],
)
def test_names_from_a_text_file(name: str, content: bytes, names: list[str], tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    assert read_names(str(tmp_path / name)) == names
    assert read_names(tmp_path / name) == names


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("class\nrose\ntulip", ROSES),
        ("\ufeffName\r\nrose\r\ntulip\r\n", ROSES),
        ("rose\ntulip", ROSES),
        ("rose,tulip", ROSES),
        ("id,class\n0,rose\n1,tulip\n", ROSES),
        ("label,name\n0,rose\n1,tulip\n", ROSES),
        ("Class Name;count\nrose;3\ntulip;4", ROSES),
        ("class\tcount\nrose\t3\ntulip\t4", ROSES),
        ('class\n"rose, red"\n"a ""wild"" tulip"\n', ["rose, red", 'a "wild" tulip']),
        ("\n\nclass\n\nrose\n\ntulip\n", ROSES),
    ],
)
def test_names_from_a_table(content: str, names: list[str], tmp_path: Path):
    (tmp_path / "names.csv").write_bytes(content.encode())
    assert read_names(str(tmp_path / "names.csv")) == names


def test_names_from_a_list_in_json_or_yaml(tmp_path: Path):
    (tmp_path / "names.json").write_text(json.dumps(ROSES))
    (tmp_path / "classes.json").write_text(json.dumps([{"name": name, "prompt_name": "x"} for name in ROSES]))
    (tmp_path / "names.yaml").write_text("- rose\n- tulip\n")
    for file in tmp_path.iterdir():
        assert read_names(str(file)) == ROSES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nmaes.list", "nmaes.list: no such file .* Did you mean 'names.list'?"),
        ("nmaes.txt", "nmaes.txt: no such file"),
        ("@names.list", "Did you mean 'names.list'?"),
        ("some/where", "no such file"),
        ("some\\where", "no such file"),
        ("rose,gone.txt", "no such file"),
        (["names.list", "other.list"], "'names.list' is one of several class names"),
        ("folder", "folder is a folder"),
        ("folder/", "folder is a folder"),
        ("", "no class names"),
        (" , ", "no class names"),
        ([], "no class names"),
        ("nmaes", "'nmaes' is one class alone"),
        ("St. Bernard", "'St. Bernard' is one class alone"),
        (["owl"], "'owl' is one class alone"),
        ("owl\n", "'owl' is one class alone"),
        ("owl,wren, owl", "'owl' is named twice"),
        ("class\nowl\nwren\n", "what was typed begins with 'class', the header"),
    ],
)
def test_bad_names(given: str | list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.list").write_text("rose\ntulip")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message):
        read_names(given)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", "", "no class names"),
        ("names.txt", "rose\n", "'rose' is one class alone"),
        ("names.csv", "class\nrose\n", "'rose' is one class alone"),
        ("names.txt", "class\nrose\ntulip", "begins with 'class', the header of a table"),
        ("names.txt", "id,name\n0,rose\n1,tulip", "begins with 'id,name', the header of a table"),
        ("names.txt", "rose\t3\ntulip\t4", r"has several columns, as in 'rose\\t3'"),
        ("names.jsonl", '{"name": "rose"}\n{"name": "tulip"}', "not valid YAML or JSON"),
        ("names.csv", "class,count", "no class names"),
        ("names.txt", "rose\ntulip\nrose\n", "'rose' is named twice"),
        ("names.csv", "0,rose\n1,tulip", "has several columns, as in '0,rose': put a header"),
        ("names.csv", "rose\ntulip, red", "has several columns, as in 'tulip, red'"),
        ("names.json", '{"0": "rose", "1": "tulip"}', "must hold a list of class names"),
        ("names.json", '["rose"', "not valid YAML or JSON"),
        ("names.yaml", "- rose\n- no\n", "must hold a list of class names, each a text, not False"),
    ],
)
def test_files_of_another_form(name: str, content: str, message: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_names(str(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_file_in_another_encoding(encoding: str, tmp_path: Path):
    (tmp_path / "names.txt").write_bytes("rose\nrosé\n".encode(encoding))
    with pytest.raises(UserError, match="it is not UTF-8 text: save it as UTF-8"):
        read_names(str(tmp_path / "names.txt"))
