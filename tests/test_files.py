"""Files and folders that appear whole or not at all."""

import hashlib
import os
import threading

import pytest
from filelock import FileLock

from interventions.errors import TestBedError
from interventions.files import append_lines, file_sha256, natural_order, new_folder, write_atomically


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    fsync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("on the disk"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("moved"), move(*paths)))
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, lambda temporary: temporary.write_text("whole"))
    assert done == ["on the disk", "moved"]
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_file_is_as_before_where_writing_fails(tmp_path):
    def half(temporary):
        temporary.write_text("half")
        raise OSError("no space left")

    (tmp_path / "a.txt").write_text("before")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(OSError, match="no space"):
            write_atomically(tmp_path / name, half)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "before"}


def test_two_who_write_one_file_do_not_write_into_each_other(tmp_path):
    path = tmp_path / "a.txt"

    def outer(temporary):
        temporary.write_text("outer")
        write_atomically(path, lambda other: other.write_text("inner"))
        assert temporary.read_text() == "outer" and path.read_text() == "inner"

    write_atomically(path, outer)
    assert path.read_text() == "outer" and list(tmp_path.iterdir()) == [path]


def make(out, name: str, meanwhile=lambda folder: None) -> None:
    """A folder of one file, and something done before it takes its place."""
    with new_folder(out) as folder:
        (folder / name).write_text(name)
        meanwhile(folder)


def names(root) -> list[str]:
    return sorted(path.name for path in root.rglob("*"))


def test_a_folder_appears_at_the_end_with_its_name(tmp_path):
    out, seen = tmp_path / "below" / "bed", []
    make(out, "a.txt", lambda folder: seen.append((folder.name, out.exists())))
    assert seen == [("bed", False)]
    assert names(tmp_path) == ["a.txt", "bed", "below"]
    assert out.stat().st_mode == out.parent.stat().st_mode  # as others may read it


def test_of_a_folder_that_cannot_be_made_nothing_is_left(tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "bed", "a.txt", interrupted)
    assert names(tmp_path) == []


def test_an_empty_folder_is_replaced_and_another_kept(tmp_path):
    (tmp_path / "bed").mkdir()
    make(tmp_path / "bed", "a.txt")
    with pytest.raises(OSError, match="not empty"):
        make(tmp_path / "bed", "b.txt")
    assert names(tmp_path) == ["a.txt", "bed"]


def test_two_who_make_one_folder_do_not_write_into_each_other(tmp_path):
    def another(folder):
        make(tmp_path / "bed", "b.txt")
        assert names(folder) == ["a.txt"]

    with pytest.raises(OSError, match="not empty"):
        make(tmp_path / "bed", "a.txt", another)
    assert names(tmp_path) == ["b.txt", "bed"]


def test_natural_order():
    names = ["Image_10.jpg", "image_2.jpg", "Image_1.jpg", "fig14", "fig2", "fig2b"]
    assert sorted(names, key=natural_order) == ["fig2", "fig2b", "fig14", "Image_1.jpg", "image_2.jpg", "Image_10.jpg"]


def test_a_line_that_was_cut_off_is_ended(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    append_lines(path, [{"a": 1}])
    path.write_bytes(path.read_bytes() + b'{"b"')
    append_lines(path, [{"c": 3}, {"d": 4}])
    append_lines(path, [])
    assert path.read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}', '{"d": 4}']


def test_who_appends_waits_for_another(tmp_path):
    path = tmp_path / "lines.jsonl"
    thread = threading.Thread(target=append_lines, args=(path, [{"a": 1}]))
    with FileLock(tmp_path / ".lines.jsonl.lock"):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not path.exists()
    thread.join()
    assert path.read_text() == '{"a": 1}\n'
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["lines.jsonl"]


def test_a_file_that_cannot_be_appended_to_is_one_sentence(tmp_path):
    with pytest.raises(TestBedError, match=r"cannot be written \(.*directory.*not saved\.$"):
        append_lines(tmp_path, [{"a": 1}])


def test_a_file_is_hashed_again_only_after_a_change(tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (read.append(1), digest(file, name))[1])
    path = tmp_path / "out" / "a.txt"
    with new_folder(path.parent) as folder:
        (folder / "a.txt").write_text("one")
        assert file_sha256(folder / "a.txt") == hashlib.sha256(b"one").hexdigest()
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest() and len(read) == 1  # it was moved
    path.write_text("other")
    assert file_sha256(path) == hashlib.sha256(b"other").hexdigest() and len(read) == 2
    other = tmp_path / "b.txt"
    other.write_text("twos!")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)
    assert file_sha256(path) == hashlib.sha256(b"twos!").hexdigest() and len(read) == 3
