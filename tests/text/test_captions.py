"""Texts about images, out of tables of every layout."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from linnet.errors import UserError
from linnet.text.captions import Caption, ImageTable, read_captions, read_texts, write_captions
from linnet.text.classes import class_table

ROOT = Path("/data/birds")
IMAGES = ImageTable(
    paths=[ROOT / "train/heron/1.jpg", ROOT / "train/heron/2.jpg", ROOT / "train/king_fisher/1.jpg", ROOT / "train/king_fisher/7.jpg"],
    digests=["aa", "bb", "cc", "dd"],
    labels=[0, 0, 1, 1],
    classes=class_table(["heron", "king_fisher"]),
    root=ROOT,
)  # fmt: skip

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """A CSV file out of its lines."""

    def write(*lines: str) -> Path:
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "t.csv"

    return write


def texts(file: Path, images: ImageTable = IMAGES, **how: Sequence[str]) -> list[tuple[str, ...]]:
    return read_texts(file, **how).of_images(images)


def test_a_long_table_by_digest(table: Write):
    file = table("digest,text", "bb,grey", "zz,somebody else's", "aa,long legs", "BB,  a  crest ", 'aa,""')
    assert texts(file) == [("long legs",), ("grey", "a crest"), (), ()]


@pytest.mark.parametrize("column", ["path", "image", "image_path", "file", "file_name", "filename", "filepath", "img"])
@pytest.mark.parametrize("value", ["/data/birds/train/heron/2.jpg", "train/heron/2.jpg", "images/heron/2.jpg", "heron\\2.jpg", "2.jpg", "birds/train/heron/2.jpg"])  # fmt: skip
def test_an_image_is_found_by_whatever_names_its_file(table: Write, column: str, value: str):
    assert texts(table(f"{column},caption", f"{value},grey")) == [(), ("grey",), (), ()]


def test_a_name_that_several_images_or_several_rows_have_finds_none(table: Write):
    assert texts(table("path,text", "1.jpg,which?", "2.jpg,this")) == [(), ("this",), (), ()]
    rows = ("path,text", "train/king_fisher/7.jpg,this", "test/heron/7.jpg,an image that is not here")
    assert texts(table(*rows)) == [(), (), (), ("this",)]


def test_a_row_with_a_digest_does_not_go_by_its_path(table: Write):
    """The file at this path may be another image by now."""
    file = table("path,digest,text", "train/heron/1.jpg,zz,old", "train/heron/2.jpg,bb,grey", "train/king_fisher/1.jpg,,blue")  # fmt: skip
    assert texts(file) == [(), ("grey",), ("blue",), ()]


def test_the_same_bytes_in_two_classes_keep_their_own_texts(table: Write):
    images = IMAGES._replace(digests=["aa", "bb", "aa", "dd"])
    file = table("digest,class,text", "aa,heron,a heron", "aa,king_fisher,a kingfisher", "aa,,a bird")
    assert texts(file, images) == [("a heron", "a bird"), (), ("a kingfisher", "a bird"), ()]


def test_a_wide_table(table: Write):
    file = table("path,caption_1,caption_2", "2.jpg,grey,tall", "7.jpg,,blue")
    assert texts(file, columns=["caption_1", "caption_2"]) == [(), ("grey", "tall"), (), ("blue",)]


def test_a_list_of_captions_in_parquet(tmp_path: Path):
    parquet.write_table(pyarrow.table({"image": ["2.jpg", "7.jpg"], "caption": [["grey", "tall"], None]}), tmp_path / "t.parquet")  # fmt: skip
    assert texts(tmp_path / "t.parquet") == [(), ("grey", "tall"), (), ()]


def test_rows_by_class_are_for_all_its_images(table: Write):
    file = table("class,text", "heron,grey", "king fisher,blue", "king_fisher,small", "owl,not here")
    assert texts(file) == [("grey",), ("grey",), ("blue", "small"), ("blue", "small")]


def test_templates_leave_out_what_has_no_value(table: Write):
    file = table("path,wing color,beak_length", "2.jpg,red,short", "7.jpg,,long")
    templates = ["a bird with {wing color} wings", "a {beak length} beak", "{wing color} and {beak_length}"]
    assert texts(file, templates=templates) == [(), ("a bird with red wings", "a short beak", "red and short"), (), ("a long beak",)]  # fmt: skip


def test_attributes_become_one_sentence(table: Write):
    file = table("path,label,split,wing_color,beak", "2.jpg,heron,train,red,short", "7.jpg,,,,long", "1.jpg,,,,")
    assert texts(file) == [(), ("wing color: red, beak: short",), (), ("beak: long",)]


def test_attributes_that_say_yes_or_no_become_a_list_of_what_is_true(tmp_path: Path, table: Write):
    file = table("path,has_crest,swims,blue,legs", "2.jpg,1,-1,True,2", "7.jpg,0,1,false,2")
    assert texts(file) == [(), ("has crest, blue, legs: 2",), (), ("swims, legs: 2",)]
    values = {"path": ["2.jpg", "7.jpg"], "crest": [True, False], "blue": [1, None], "size": [2.0, 2.5]}
    parquet.write_table(pyarrow.table(values), tmp_path / "t.parquet")
    assert texts(tmp_path / "t.parquet") == [(), ("crest, blue, size: 2",), (), ("size: 2.5",)]


@pytest.mark.parametrize(
    ("lines", "how", "message"),
    [
        (["text", "grey"], {}, "no column that names images .* or classes .*: its columns are text"),
        (["path,digest", "2.jpg,bb"], {}, "no column of texts .* and none of attributes"),
        (["path,text", "owl/9.jpg,grey"], {}, "names no image of the data: it has 'owl/9.jpg', the data have 'train/heron/1.jpg'"),
        (["digest,path,text", "zz,train/heron/1.jpg,grey"], {}, "it has 'zz', the data have 'aa'; without its digest column"),
        (["class,text", "owl,grey"], {}, "names no class of the data: it has 'owl', the data have 'heron'"),
        (["path,text", "2.jpg,"], {}, "holds no text: all of its 1 rows are empty"),
        (["path,text"], {}, "holds no text"),
        (["path,caption_1", "2.jpg,grey"], {"columns": ["caption1"]}, "no column 'caption1': .* Did you mean 'caption_1'"),
        (["path,wing", "2.jpg,grey"], {"templates": ["a {wings}"]}, "no column 'wings' for the template .* Did you mean 'wing'"),
        (["path,wing", "2.jpg,grey"], {"templates": ["a bird"]}, "with a {column} in them, not 'a bird'"),
        (["path,text", "2.jpg,grey"], {"templates": ["a {text}"], "columns": ["text"]}, "one of the two"),
        (["path,text", "2.jpg,grey,blue"], {}, "row 1 has 3 values for 2 columns"),
        (["path,path", "2.jpg,grey"], {}, "must name the columns, each once"),
        ([""], {}, "must name the columns"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said(table: Write, lines: list[str], how: dict, message: str):
    with pytest.raises(UserError, match=message):
        texts(table(*lines), **how)


def test_what_is_no_table_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        read_texts(tmp_path / "none.csv")
    for name, message in (("t.txt", "not a table that linnet reads"), ("t.parquet", "not a readable Parquet file"), ("t.csv", "not a readable CSV file")):  # fmt: skip
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError, match=message):
            read_texts(tmp_path / name)


def test_a_number_is_no_text(tmp_path: Path):
    parquet.write_table(pyarrow.table({"path": ["1.jpg", "2.jpg"], "text": [7, 8]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 1 of the column 'text' holds 7, which is not a text"):
        read_texts(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_linnets_own_file_comes_back_with_what_made_it(tmp_path: Path, name: str):
    captions = [
        Caption("train/heron/1.jpg", "aa", "heron", "p1", 'grey, with "long" legs'),
        Caption("train/heron/1.jpg", "aa", "heron", "p2", "a crest – “black”"),
    ]
    provenance = {"vlm": "some/model", "prompts": {"p1": "Describe."}}
    write_captions(tmp_path / name, captions, provenance)
    assert read_captions(tmp_path / name) == (captions, provenance)
    assert texts(tmp_path / name)[0] == tuple(caption.text for caption in captions)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_another_file_is_not_taken_for_linnets_own(tmp_path: Path, name: str):
    if name == "t.csv":
        (tmp_path / name).write_text("path,digest,class,prompt,text\na,b,c,d,e\n")
    else:
        parquet.write_table(pyarrow.table({"path": ["a"], "text": ["b"]}), tmp_path / name)
    with pytest.raises(UserError, match="was not written by linnet"):
        read_captions(tmp_path / name)


@pytest.mark.parametrize("column", ["path", "class"])
def test_accents_may_be_spelled_otherwise_in_the_table(column: str, tmp_path: Path):
    composed, taken_apart = (unicodedata.normalize(form, "Bläuling") for form in ("NFC", "NFD"))
    for own, other in ((composed, taken_apart), (taken_apart, composed)):
        value = f"{other}/1.jpg" if column == "path" else other
        (tmp_path / "t.csv").write_text(f"{column},text\n{value},blue\n", encoding="utf-8")
        images = ImageTable([tmp_path / own / "1.jpg"], ["00"], [0], class_table([own]), tmp_path)
        assert read_texts(tmp_path / "t.csv").of_images(images) == [("blue",)]
