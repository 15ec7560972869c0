"""Reading archives: the same members from every packing, and nothing that leaves the archive."""

import tarfile
import tracemalloc
import zipfile

import pytest

from relif_core.errors import DataError
from relif_data.archives import read_members

FILES = {"set/1.txt": b"one\n", "set/2.txt": b"two\n" * 500}


@pytest.mark.parametrize("name", ["x", "x.tar.xz", "x.tar.gz", "x.zip"])
def test_every_packing_gives_the_same_members(tmp_path, pack, name):
    hidden = {"set/._1.txt": b"junk", "__MACOSX/set/1.txt": b"junk", ".hidden": b"junk"}
    assert dict(read_members(pack(tmp_path / name, FILES | hidden))) == FILES


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".zip"])
@pytest.mark.parametrize("member", ["../1.txt", "/etc/1.txt", "set/../../1.txt", "C:\\1.txt", "..\\1.txt"])
def test_paths_that_climb_out_are_refused(tmp_path, pack, suffix, member):
    with pytest.raises(DataError, match="climbs out"):
        list(read_members(pack(tmp_path / f"x{suffix}", {member: b""})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_tar_links_and_devices_are_refused(tmp_path, kind):
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("set/1.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match="link or device"):
        list(read_members(path))


def test_zip_links_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    entry = zipfile.ZipInfo("set/1.txt")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        list(read_members(path))


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".zip"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_archives_cut_short_are_refused(tmp_path, pack, suffix, part):
    path = pack(tmp_path / f"x{suffix}", FILES)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match="broken or incomplete"):
        list(read_members(path))


@pytest.mark.parametrize("suffix", [".tar.xz", ".tar.gz", ".zip"])
def test_damaged_archives_are_refused(tmp_path, pack, suffix):
    path = pack(tmp_path / f"x{suffix}", {"1.txt": bytes(range(256)) * 40})
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 8] = bytes(byte ^ 0x5A for byte in content[middle : middle + 8])
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken or incomplete"):
        list(read_members(path))


def test_a_damaged_name_is_refused(tmp_path, pack):
    path = pack(tmp_path / "x.zip", {"é.txt": b"x"})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match="broken or incomplete"):
        list(read_members(path))


def test_contents_beyond_the_limit_are_refused(tmp_path, pack):
    path = pack(tmp_path / "x.tar.xz", {"1.txt": b"0" * 10_000})
    with pytest.raises(DataError, match="more than 9999 bytes"):
        list(read_members(path, largest=9_999))


def test_other_files_are_no_archives(tmp_path):
    (tmp_path / "x.rar").write_bytes(b"")
    with pytest.raises(DataError, match="neither a folder"):
        list(read_members(tmp_path / "x.rar"))


def test_a_small_archive_that_unpacks_to_much_fills_no_memory(tmp_path, pack):
    path = pack(tmp_path / "x.zip", {"1.txt": b"0" * 2**26})
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    with pytest.raises(DataError, match="more than 1000000 bytes"):
        list(read_members(path, largest=10**6))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_links_out_of_a_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="leads out of the folder"):
        list(read_members(tmp_path / "set"))
