"""NYU Depth V2: three layouts end in the same set, and every kind of broken source is named."""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from relif_core.errors import DataError
from relif_core.tensors.dense import IGNORE, check_dense_tensors, decode_normals
from relif_data.nyuv2 import (
    CLASS_NAMES,
    COLOUR_CAMERA,
    MAPPING_FILE,
    MAT_FILE,
    OFFICIAL_SIZE,
    SPLIT_FILE,
    TRAVEL,
    list_frames,
    map_40_to_13,
    nearest,
    prepare,
    shrink_image,
)
from relif_data.nyuv2_travel import measure_travel_form, write_travel_form, write_travel_record
from relif_data.synthetic_rooms import Camera, render, sample_camera, sample_room

SIZE = (48, 64)
TRAINING, TESTING = [1, 2, 3, 7, 8, 12, 13, 14], [4, 5, 9, 15]
NUMBERS = sorted(TRAINING + TESTING)


@pytest.fixture(scope="module")
def frames():
    """Rendered rooms as seen by the dataset's camera, keyed by official number."""
    camera = COLOUR_CAMERA.resized(OFFICIAL_SIZE, SIZE)
    seen = {}
    for number in NUMBERS:
        generator = np.random.default_rng(number)
        room = sample_room(generator)
        view = sample_camera(room, generator, camera)
        seen[number] = render(room, Camera(view.position, view.yaw, view.pitch, camera), *SIZE)
    return seen


@pytest.fixture
def images(tmp_path, frames):
    for number, frame in frames.items():
        part = tmp_path / "source" / ("train" if number in TRAINING else "test")
        for kind in ("image", "label", "depth"):
            (part / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.image.transpose(1, 2, 0)).save(part / "image" / f"{number:04d}.png")
        Image.fromarray(frame.labels).save(part / "label" / f"{number:04d}.png")
        millimetres = np.rint(frame.depth * 1000).astype(np.uint16)
        Image.fromarray(millimetres).save(part / "depth" / f"{number:04d}.png")
    return tmp_path / "source"


@pytest.fixture
def arrays(tmp_path, frames):
    """The layout of MTAN, normals stored in another channel order."""
    for part, numbers in (("train", TRAINING), ("val", TESTING)):
        for kind in ("image", "label", "depth", "normal"):
            (tmp_path / "source" / part / kind).mkdir(parents=True)
        for k, number in enumerate(numbers):
            frame = frames[number]
            folder = tmp_path / "source" / part
            np.save(folder / "image" / f"{k}.npy", frame.image.transpose(1, 2, 0) / 255)
            np.save(folder / "label" / f"{k}.npy", np.where(frame.labels == IGNORE, -1.0, frame.labels))
            np.save(folder / "depth" / f"{k}.npy", frame.depth[..., None])
            stored = np.stack([frame.normals[0], -frame.normals[2], -frame.normals[1]], axis=-1)
            np.save(folder / "normal" / f"{k}.npy", stored)
    return tmp_path / "source"


@pytest.fixture
def official(tmp_path, frames):
    """The official HDF5 layout: 15 frames, axes reversed as in MATLAB, scene names behind references."""
    import h5py
    from scipy.io import savemat

    folder = tmp_path / "source"
    folder.mkdir()
    to_13 = map_40_to_13()
    # One of the 40 classes for each of the 13; the raw classes are the 40 in reverse.
    from_13 = {int(to_13[k]): k for k in range(40, 0, -1)}
    with h5py.File(folder / MAT_FILE, "w") as file:
        raw = {
            "images": np.zeros((15, 3, SIZE[1], SIZE[0]), np.uint8),
            "depths": np.ones((15, SIZE[1], SIZE[0]), np.float32),
            "labels": np.zeros((15, SIZE[1], SIZE[0]), np.uint16),
        }
        for number, frame in frames.items():
            raw["images"][number - 1] = frame.image.transpose(0, 2, 1)
            raw["depths"][number - 1] = frame.depth.T
            forty = np.vectorize(lambda label: from_13.get(int(label), 0))(frame.labels)
            raw["labels"][number - 1] = np.where(forty == 0, 0, 41 - forty).T
        for name, array in raw.items():
            file[name] = array
        references = np.zeros((1, 15), h5py.ref_dtype)
        for k in range(15):
            scene = f"room_{(k + 1) // 4:04d}" if k + 1 not in TESTING else f"hall_{k:04d}"
            file[f"names/{k}"] = np.frombuffer(scene.encode(), np.uint8).astype(np.uint16)[:, None]
            references[0, k] = file[f"names/{k}"].ref
        file["scenes"] = references
    savemat(
        folder / SPLIT_FILE,
        {"trainNdxs": np.array(TRAINING)[:, None], "testNdxs": np.array(TESTING)[:, None]},
    )
    savemat(folder / MAPPING_FILE, {"mapClass": np.arange(40, 0, -1)[None]})
    return folder


def prepared(source, tmp_path, **options):
    options = {"height": SIZE[0], "width": SIZE[1], "validation_fraction": 0.3} | options
    return check_dense_tensors(prepare(source, tmp_path / "target", **options))


def test_class_table_is_complete() -> None:
    table = map_40_to_13()
    assert table[0] == IGNORE
    assert sorted(set(table[1:])) == list(range(13))
    by_name = {"wall": 1, "floor": 2, "bed": 4, "chair": 5, "sofa": 6, "window": 9, "books": 23, "tv": 25}
    assert {name: CLASS_NAMES[table[code]] for name, code in by_name.items()} == {
        name: name for name in by_name
    }


def test_class_table_reproduces_published_labels(data_folder) -> None:
    """Two frames' published 13-class labels follow from their 40-class ones (less 1) by the table."""
    table = np.full(256, IGNORE, np.uint8)
    table[:40] = map_40_to_13()[1:]
    for number in ("0433", "0464"):
        forty = np.asarray(Image.open(data_folder / "nyuv2" / "reference" / f"{number}_label40.png"))
        thirteen = np.asarray(Image.open(data_folder / "nyuv2" / "test" / "label" / f"{number}.png"))
        np.testing.assert_array_equal(nearest(table[forty], thirteen.shape), thirteen)


def test_image_folders(images, tmp_path, frames) -> None:
    tensors = prepared(images, tmp_path)
    ids = tensors.arrays["ids"]
    np.testing.assert_array_equal(ids, NUMBERS)
    np.testing.assert_array_equal(ids[tensors.frames_of("test")], TESTING)
    for k, number in enumerate(NUMBERS):
        np.testing.assert_array_equal(tensors.arrays["images"][k], frames[number].image)
        np.testing.assert_array_equal(tensors.arrays["labels"][k], frames[number].labels)
        np.testing.assert_allclose(tensors.arrays["depth"][k], frames[number].depth, atol=4e-3)
    # Runs of consecutive training numbers stay together.
    validation = set(ids[tensors.frames_of("validation")].tolist())
    assert validation in [{1, 2, 3}, {7, 8}, {12, 13, 14}]
    assert "consecutive" in tensors.manifest["options"]["validation_rule"]
    assert tensors.manifest["options"]["normals"]["from"] == "depth"


def test_arrays_bring_their_own_normals(arrays, tmp_path, frames) -> None:
    for block in ("train",):
        assert len(list((arrays / block / "image").iterdir())) == len(TRAINING)
    # Eight training frames make one block of sixteen, which cannot be cut.
    with pytest.raises(DataError, match="cannot be cut"):
        prepared(arrays, tmp_path)
    tensors = prepared(arrays, tmp_path, validation_fraction=0.0)
    normals = tensors.manifest["options"]["normals"]
    assert (normals["from"], normals["channels"], normals["signs"]) == ("source", [0, 2, 1], [1, -1, -1])
    assert normals["median_angle_to_depth"] < 10
    for k, number in enumerate(TRAINING + TESTING):
        np.testing.assert_allclose(
            decode_normals(tensors.arrays["normals"][k]), frames[number].normals, atol=0.006
        )
        np.testing.assert_array_equal(tensors.arrays["labels"][k], frames[number].labels)
    assert len(tensors.frames_of("test")) == len(TESTING)


def test_official_file(official, tmp_path, frames) -> None:
    tensors = prepared(official, tmp_path, validation_fraction=0.4)
    np.testing.assert_array_equal(tensors.arrays["ids"], NUMBERS)
    for k, number in enumerate(NUMBERS):
        np.testing.assert_array_equal(tensors.arrays["images"][k], frames[number].image)
        np.testing.assert_array_equal(tensors.arrays["labels"][k], frames[number].labels)
    assert "scenes" in tensors.manifest["options"]["validation_rule"]
    scenes, split = tensors.arrays["scenes"], tensors.arrays["split"]
    assert (scenes >= 0).all()
    assert len(tensors.frames_of("validation")) > 0
    for scene in np.unique(scenes):
        assert len(np.unique(split[scenes == scene])) == 1


@pytest.mark.parametrize("missing", [SPLIT_FILE, MAPPING_FILE])
def test_official_file_needs_its_companions(official, tmp_path, missing) -> None:
    (official / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} is missing"):
        prepared(official, tmp_path)


def test_damaged_official_files(official, tmp_path) -> None:
    (official / SPLIT_FILE).write_bytes(b"not a mat file at all" * 20)
    with pytest.raises(DataError, match="cannot be read"):
        prepared(official, tmp_path)
    shutil.copy(official / MAPPING_FILE, official / SPLIT_FILE)
    with pytest.raises(DataError, match="trainNdxs"):
        prepared(official, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", [SPLIT_FILE, MAPPING_FILE])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.8, 0.95])
def test_cut_off_mat_files(official, tmp_path, name, left, packed) -> None:
    from scipy.io import savemat

    names = {"trainNdxs": TRAINING, "testNdxs": TESTING} if name == SPLIT_FILE else {"mapClass": range(1, 41)}
    savemat(
        official / name,
        {key: np.tile(np.array(value), 40) for key, value in names.items()},
        do_compression=packed,
    )
    content = (official / name).read_bytes()
    (official / name).write_bytes(content[: int(left * len(content))])
    with pytest.raises(DataError, match=f"{name} cannot be read .*Fetch it again"):
        prepared(official, tmp_path)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("depths", lambda a: a[:13]),
        ("labels", lambda a: a[:13]),
        ("depths", lambda a: a[0]),
        ("images", lambda a: a[:, :2]),
        ("labels", lambda a: a.astype(np.float32)),
        ("labels", None),
    ],
)
def test_arrays_of_the_official_file_that_disagree(official, tmp_path, kind, change) -> None:
    import h5py

    with h5py.File(official / MAT_FILE, "r+") as file:
        array = file.pop(kind)[()] if change is None else change(file.pop(kind)[()])
        if change is None:
            file.create_group(kind)
        else:
            file[kind] = array
    with pytest.raises(DataError, match="are no numbers of as many frames of one size"):
        prepared(official, tmp_path)


def test_scene_names_of_the_official_file_that_are_none(official, tmp_path) -> None:
    import h5py

    with h5py.File(official / MAT_FILE, "r+") as file:
        references = file.pop("scenes")[()]
        file["scenes"] = references[:, :9]
    with pytest.raises(DataError, match="names 9 scenes for 15 frames"):
        prepared(official, tmp_path)
    with h5py.File(official / MAT_FILE, "r+") as file:
        del file["scenes"]
        file.create_dataset("scenes", (1, 15), h5py.ref_dtype)
    with pytest.raises(DataError, match="scene names cannot be read"):
        prepared(official, tmp_path)


@pytest.mark.parametrize("kind", ["images", "depths", "labels"])
def test_a_damaged_piece_of_the_official_file(official, tmp_path, kind) -> None:
    import h5py

    path = official / MAT_FILE
    with h5py.File(path, "r+") as file:
        array = file.pop(kind)[()]
        file.create_dataset(kind, data=array, compression="gzip", chunks=(1, *array.shape[1:]))
    with h5py.File(path, "r") as file:
        piece = file[kind].id.get_chunk_info(6)
    with open(path, "r+b") as stream:
        stream.seek(piece.byte_offset)
        stream.write(b"\xff" * min(piece.size, 40))
    with pytest.raises(DataError, match=r"labeled\.mat: frame 7 cannot be read .*Download the file again"):
        prepared(official, tmp_path)


def test_truncated_hdf5(official, tmp_path) -> None:
    path = official / MAT_FILE
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        prepared(official, tmp_path)


def image_fault(folder, fault):
    """Break the image folders in one way and return the expected message."""
    part = folder / "train"
    match fault:
        case "no label":
            (part / "label" / "0007.png").unlink()
            return "train/label: 1 of 8 frames have no label: 7;"
        case "no image":
            (part / "image" / "0007.png").unlink()
            return "frames have no image"
        case "no folder":
            shutil.rmtree(part / "depth")
            return "train/depth is missing"
        case "truncated":
            path = part / "image" / "0007.png"
            path.write_bytes(path.read_bytes()[:400])
            return "0007.png cannot be read as an image"
        case "endless image":
            path = part / "image" / "0007.png"
            content = bytearray(path.read_bytes())
            content[16:24] = struct.pack(">II", 30_000, 30_000)
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
            path.write_bytes(content)
            return "0007.png cannot be read as an image .*copy it again"
        case "endless number":
            shutil.copy(part / "image" / "0007.png", part / "image" / f"{'9' * 25}.png")
            return f"not frame numbers: {'9' * 25}.png"
        case "colour label":
            Image.new("RGB", SIZE[::-1]).save(part / "label" / "0007.png")
            return "pixel mode RGB"
        case "8-bit depth":
            Image.new("L", SIZE[::-1]).save(part / "depth" / "0007.png")
            return "pixel mode L"
        case "other size":
            Image.new("L", (10, 10)).save(part / "label" / "0007.png")
            return "frame 7: label has shape \\(10, 10\\), its image"
        case "label 13":
            Image.new("L", SIZE[::-1], 13).save(part / "label" / "0007.png")
            return "frame 7: labels outside 0..12 and 255: 13"
        case "in both parts":
            for kind in ("image", "label", "depth"):
                shutil.copy(part / kind / "0007.png", folder / "test" / kind / "0007.png")
            return "in train and test: 7"
        case "odd name":
            shutil.copy(part / "image" / "0007.png", part / "image" / "copy.png")
            return "not frame numbers: copy.png; rename"
        case "no digit of ours":
            shutil.copy(part / "image" / "0007.png", part / "image" / "²³.png")
            return "not frame numbers: ²³.png"
        case "folder in a file's place":
            (part / "image" / "0007.png").unlink()
            (part / "image" / "0007.png").mkdir()
            return "1 of 8 frames have no image: 7"
        case "nothing measured":
            Image.new("I;16", SIZE[::-1]).save(part / "depth" / "0007.png")
            return "frame 7: depth is 0 at every pixel"
        case "centimetres" | "a tenth of a millimetre":
            for path in sorted((part / "depth").iterdir()):
                depth = np.asarray(Image.open(path)).astype(np.float64)
                depth *= 0.1 if fault == "centimetres" else 10
                Image.fromarray(np.minimum(depth, 65535).astype(np.uint16)).save(path)
            return "the median depth is .* m, and the sensor sees 0.7 to 10 m; folders"
    raise AssertionError(fault)


@pytest.mark.parametrize(
    "fault",
    [
        "no label",
        "no image",
        "no folder",
        "truncated",
        "endless image",
        "endless number",
        "colour label",
        "8-bit depth",
        "other size",
        "label 13",
        "in both parts",
        "odd name",
        "no digit of ours",
        "folder in a file's place",
        "nothing measured",
        "centimetres",
        "a tenth of a millimetre",
    ],
)
def test_broken_image_folders(images, tmp_path, fault) -> None:
    message = image_fault(images, fault)
    with pytest.raises(DataError, match=message):
        prepared(images, tmp_path)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("depth", lambda a: np.full_like(a, np.nan), "depth holds NaN"),
        ("depth", lambda a: -a, "depth is negative"),
        ("depth", lambda a: 0 * a, "depth is 0 at every pixel"),
        ("depth", lambda a: 1000 * a, "the median depth is .* metres"),
        ("normal", lambda a: 0 * a, "every normal is zero"),
        ("normal", lambda a: np.full_like(a, np.nan), "normals hold NaN"),
        ("normal", lambda a: a[:5], "normals have shape"),
        ("label", lambda a: a + 0.5, "not whole numbers"),
        ("label", lambda a: a + 20, "labels outside 0..12"),
        ("image", lambda a: a * 255, "colours outside 0..1"),
        ("image", lambda a: a[..., :2], "image has shape"),
        ("image", lambda a: a[:0], "label has shape .* its image"),
    ],
)
def test_broken_arrays(arrays, tmp_path, kind, change, message) -> None:
    path = arrays / "train" / kind / "3.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(DataError, match=message):
        prepared(arrays, tmp_path, validation_fraction=0.0)


def test_what_systems_leave_in_folders_is_no_frame(images, tmp_path) -> None:
    before = prepared(images, tmp_path / "before")
    for name in ("._0007.png", ".DS_Store", "Thumbs.db"):
        (images / "train" / "image" / name).write_bytes(b"left behind")
    after = prepared(images, tmp_path / "after")
    assert after.manifest["fingerprint"] == before.manifest["fingerprint"]


def test_unknown_layouts_and_sizes(tmp_path, images) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no NYU Depth V2 found"):
        list_frames(tmp_path / "empty")
    with pytest.raises(DataError, match="too small"):
        prepare(images, tmp_path / "target", height=8, width=8)


def test_resizing_rules() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    small = shrink_image(image, (2, 3))
    np.testing.assert_allclose(small, image.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3)), atol=0.51)
    assert shrink_image(image, (8, 12)).shape == (8, 12, 3)
    labels = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(nearest(labels, (2, 3)), labels[1::2, 1::2])
    np.testing.assert_array_equal(nearest(nearest(labels, (8, 12)), (4, 6)), labels)
    pillow = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((5, 3), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(nearest(labels, (3, 5)), pillow)


def test_real_frames(data_folder, tmp_path) -> None:
    """A few real frames: class shares, ignore label and depth as stated, normals but at holes."""
    source = tmp_path / "source"
    for part, numbers in (("train", (3, 4, 10, 11)), ("test", (1, 2))):
        for kind, suffix in (("image", "jpg"), ("label", "png"), ("depth", "png")):
            (source / part / kind).mkdir(parents=True)
            for number in numbers:
                name = f"{number:04d}.{suffix}"
                path = data_folder / "nyuv2" / part / kind / name
                if path.is_file():
                    shutil.copy(path, source / part / kind / name)
    tensors = check_dense_tensors(
        prepare(source, tmp_path / "target", height=144, width=192, validation_fraction=0.0)
    )
    assert tensors.arrays["images"].shape[1:] == (3, 144, 192)
    depth, normals = tensors.arrays["depth"], tensors.arrays["normals"]
    assert 0.7 < depth[depth > 0].min() < depth.max() < 10
    assert (normals != 0).any(axis=1).mean() > 0.95
    assert tensors.manifest["intrinsics"]["fx"] == pytest.approx(518.857901 * 192 / 640)


SMALLER = (36, 48)


@pytest.fixture
def travel(images, tmp_path):
    return write_travel_form(images, tmp_path / "travel", height=SMALLER[0], width=SMALLER[1], workers=1)


def test_the_travelling_form_makes_the_same_targets(images, travel, tmp_path) -> None:
    """Tensors of the form have the labels and depth of tensors made from the source at that size."""
    size = {"height": SMALLER[0], "width": SMALLER[1], "validation_fraction": 0.3, "workers": 1}
    direct = check_dense_tensors(prepare(images, tmp_path / "direct", **size))
    carried = check_dense_tensors(prepare(travel, tmp_path / "carried", **size))
    for name in ("labels", "depth", "normals", "split", "ids"):
        np.testing.assert_array_equal(carried.arrays[name], direct.arrays[name])
    difference = carried.arrays["images"].astype(float) - direct.arrays["images"]
    assert 0 < np.abs(difference).mean() < 8
    assert carried.manifest["intrinsics"] == direct.manifest["intrinsics"]
    # What was changed, and of which files, stays with the tensors.
    stated = carried.manifest["options"]["travelling_form"]
    assert stated["sources"] == direct.manifest["sources"]
    assert any("normals are left out" in note for note in carried.manifest["notes"])
    assert "travelling_form" not in direct.manifest["options"]


@pytest.mark.parametrize("layout", ["arrays", "official"])
def test_every_layout_travels(layout, request, tmp_path) -> None:
    source = request.getfixturevalue(layout)
    source = source if source.is_dir() else source.parent
    travel = write_travel_form(source, tmp_path / "travel", height=36, width=48, workers=1)
    before, after = list_frames(source), list_frames(travel)
    np.testing.assert_array_equal(after.ids, np.sort(before.ids))
    np.testing.assert_array_equal(after.test, before.test[np.argsort(before.ids)])


def test_what_the_travelling_form_loses_is_measured(images, travel, tmp_path) -> None:
    found = measure_travel_form(images, travel)
    assert found["labels_changed"] == 0
    assert found["depth_error"] < 1e-6
    assert found["normals_half"] == pytest.approx(0, abs=0.1)
    assert 20 < found["image_psnr"] < 60
    files = [path for path in travel.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert len(files) == 3 * len(NUMBERS) + 1
    written = write_travel_record(images, travel, tmp_path / "record")
    assert json.loads(written.read_text()) == found
    # A label that differs is seen.
    path = next((travel / "test" / "label").iterdir())
    labels = np.asarray(Image.open(path))
    Image.fromarray(np.where(labels == 11, 5, 11).astype(np.uint8)).save(path)
    assert measure_travel_form(images, travel)["labels_changed"] > 0.5 / len(NUMBERS)


def test_the_travelling_form_refuses(images, travel, tmp_path) -> None:
    with pytest.raises(DataError, match="exists; name a new folder"):
        write_travel_form(images, travel)
    for options in ({"quality": 0}, {"height": 16}):
        with pytest.raises(DataError, match=r"give 1\.\.95 and at least 32 x 32"):
            write_travel_form(images, tmp_path / "other", **options)
    label = images / "train" / "label" / "0001.png"
    Image.fromarray(np.full(SIZE, 40, dtype=np.uint8)).save(label)
    with pytest.raises(DataError, match=r"frame 1: labels outside 0\.\.12 and 255"):
        write_travel_form(images, tmp_path / "other", height=36, width=48, workers=1)
    assert not (tmp_path / "other").exists()
    (travel / TRAVEL).write_text("{}")
    with pytest.raises(DataError, match="no statement of a travelling form"):
        prepare(travel, tmp_path / "tensors", height=36, width=48)
    (travel / "test" / "image" / "0004.jpg").unlink()
    with pytest.raises(DataError, match="have no image"):
        measure_travel_form(images, travel)
