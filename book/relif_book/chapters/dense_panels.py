"""A few test images with what models predict on them: kept beside published records, and drawn.

A panel file is an ``.npz`` without pickles. It holds n images, their targets, and for every method the
predictions and audit scores; depth is stored in steps of 1/25 m and normals in steps of 1/32, which no eye
tells from the originals.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.packing import read_arrays
from relif_book.figures.style import new_figure
from relif_core.errors import InputError, RecordError
from relif_core.files import write_file
from relif_core.methods import title_of
from relif_core.record import Record
from relif_core.tensors.dense import IGNORE, DenseTensors, decode_normals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from relif_core.problems.dense import DenseProblem

PANELS = "panels.npz"
#: What was looked for when the images were chosen.
CHOICES = ("closest", "middle", "furthest")
#: Steps per metre of stored depth (uint8, so at most 10.2 m) and per unit of a stored normal (int8).
DEPTH_STEPS, NORMAL_STEPS = 25, 32
_STORED = {"labels": (np.uint8, 1), "depth": (np.uint8, DEPTH_STEPS), "normals": (np.int8, NORMAL_STEPS)}
ROW_INCHES = 0.95
#: Shades of depth and of each axis of the normals: more cost bytes and show nothing more.
LEVELS = 64
COLUMNS = ("image", "classes", "depth", "normals")


@dataclass(frozen=True)
class DensePanels:
    """n test images, their targets and the predictions of M models.

    Attributes:
        images: uint8 [n, h, w, 3].
        maps: "target", then every method → "labels" (uint8 [n, h, w], 255 for void), "depth" (float32 [n, h,
            w] in metres, 0 for none) and "normals" (float32 [n, h, w, 3], zero for none).
        scores: Method → float32 [n, T] in the order of ``tasks``.
        frames: int64 [n], the source's own numbers.
        records: Method → key of its run.
    """

    images: np.ndarray
    maps: dict[str, dict[str, np.ndarray]] = field(repr=False)
    scores: dict[str, np.ndarray]
    tasks: tuple[str, ...]
    frames: np.ndarray
    records: dict[str, str]
    fingerprint: str

    def distances(self, method: str) -> np.ndarray:
        """Return the mean distance [n] between the scores of an image over all task pairs."""
        return score_distances(self.scores[method])


def score_distances(scores: np.ndarray) -> np.ndarray:
    """Return every image's mean over task pairs of |p_i(x) − p_j(x)| [n]; ``scores`` is [n, T]."""
    pairs = itertools.combinations(range(scores.shape[1]), 2)
    return np.mean([np.abs(scores[:, a] - scores[:, b]) for a, b in pairs], axis=0)


def choose_images(scores: np.ndarray) -> np.ndarray:
    """Return three rows of ``scores`` [n, T]: closest together, middle and furthest apart (``CHOICES``)."""
    order = np.argsort(score_distances(scores), kind="stable")
    return order[[0, len(order) // 2, -1]]


def make_panels(
    problem: "DenseProblem", models: Mapping[str, Any], records: Mapping[str, Record], chosen_by: str = "erm"
) -> DensePanels:
    """Run trained models on the three test images that the scores of one of them choose.

    Args:
        problem: The data.
        models: Method → model with its selected weights.
        records: Method → its record.
        chosen_by: The method whose scores choose.

    Raises:
        InputError: A record is of other data, or a test image carries no label for a task.
    """
    import torch

    for method, record in records.items():
        if record.content["dataset"]["fingerprint"] != problem.data_fingerprint:
            raise InputError(f"{method}: its record was made on other data than {problem.tensors.folder}")
    frames = problem.tensors.frames_of("test")
    tables = {}
    for method, record in records.items():
        pools = record.scores("test")
        if any(len(pool) != len(frames) for pool in pools.values()):
            raise InputError(f"{method}: some test images have no score for a task; choose other images")
        tables[method] = np.stack([pools[task] for task in record.tasks], axis=1)
    rows = choose_images(tables[chosen_by])
    batch = problem.batch(frames[rows])
    maps = {
        "target": {
            "labels": batch["labels"].cpu().numpy(),
            "depth": batch["depth"].float().cpu().numpy(),
            "normals": decode_normals(batch["normals"].cpu().numpy()).transpose(0, 2, 3, 1),
        }
    }
    for method, model in models.items():
        with torch.no_grad():
            found = model.eval()(batch).predictions
        maps[method] = {
            "labels": found["segmentation"].argmax(1).to(torch.uint8).cpu().numpy(),
            "depth": found["depth"].float().cpu().numpy(),
            "normals": found["normals"].float().permute(0, 2, 3, 1).cpu().numpy(),
        }
    return DensePanels(
        images=batch["images"].permute(0, 2, 3, 1).cpu().numpy(),
        maps=maps,
        scores={method: table[rows] for method, table in tables.items()},
        tasks=next(iter(records.values())).tasks,
        frames=np.asarray(problem.tensors.arrays["ids"][frames[rows]]),
        records={method: record.key for method, record in records.items()},
        fingerprint=problem.data_fingerprint,
    )


def load_models(
    data: Path | str, folders: Mapping[str, Path], weights: Path | str | None = None, device: str = "cpu"
) -> tuple["DenseProblem", dict[str, Any], dict[str, Record]]:
    """Return problem, trained models and records of finished runs; ``folders`` maps methods to runs.

    Raises:
        RecordError: A run's weights are missing.
    """
    from safetensors.torch import load_file

    from relif_core.problems.dense import DenseProblem
    from relif_core.training.loop import WEIGHTS

    records = {method: Record.load(folder) for method, folder in folders.items()}
    problem = DenseProblem(DenseTensors.open(data), device, weights=weights)
    models = {}
    for method, folder in folders.items():
        path = Path(folder) / WEIGHTS
        if not path.is_file():
            raise RecordError(
                f"{path} is missing: panels need the weights of the run, which published records lack"
            )
        model = problem.build_model(records[method].settings.model)  # type: ignore[arg-type]
        model.load_state_dict(load_file(path))
        models[method] = model.eval()
    return problem, models, records


def write_panels(
    data: Path | str,
    runs: Path | str,
    target: Path | str,
    *,
    weights: Path | str | None = None,
    methods: Sequence[str] = ("erm", "relif"),
    seed: int = 0,
) -> Path:
    """Write ``panels.npz`` into a published folder from finished runs and return its path.

    Args:
        data: Tensor folder of the runs.
        runs: The runs lie below it.
        target: The published folder.
        weights: File of the encoder weights that their settings name.
        methods: Whose predictions are kept.
        seed: Of the runs.

    Raises:
        RecordError: A method has no finished run of that seed, or several.
    """
    folders = {}
    for method in methods:
        found = [path for path in sorted(Path(runs).glob(f"{method}-seed{seed}-*")) if Record.finished(path)]
        if len(found) != 1:
            raise RecordError(
                f"{runs} holds {len(found)} finished runs of {method} with seed {seed}, expected one"
            )
        folders[method] = found[0]
    panels = make_panels(*load_models(data, folders, weights))
    path = Path(target) / PANELS
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **_packed(panels))
    write_file(path, stream.getvalue())
    return path


def read_panels(folder: Path | str) -> DensePanels:
    """Return the panels of a published folder.

    Raises:
        RecordError: They are missing or damaged.
    """
    path, mend = Path(folder) / PANELS, "write it with relif_book.chapters.dense_panels.write_panels"
    arrays = read_arrays(path, mend)
    try:
        methods = [str(name) for name in arrays["methods"]]
        return DensePanels(
            images=arrays["images"],
            maps={name: _unpacked(arrays, name) for name in ("target", *methods)},
            scores={method: arrays[f"{method}/scores"] for method in methods},
            tasks=tuple(str(task) for task in arrays["tasks"]),
            frames=arrays["frames"],
            records={method: str(key) for method, key in zip(methods, arrays["records"], strict=True)},
            fingerprint=str(arrays["fingerprint"]),
        )
    except (ValueError, KeyError) as error:
        raise RecordError(f"{path} cannot be read as panels ({error}); {mend}") from error


def _packed(panels: DensePanels) -> dict[str, np.ndarray]:
    methods = list(panels.scores)
    arrays = {
        "images": panels.images,
        "tasks": np.array(panels.tasks),
        "frames": panels.frames,
        "methods": np.array(methods),
        "records": np.array([panels.records[method] for method in methods]),
        "fingerprint": np.array(panels.fingerprint),
    }
    for name, (kind, (stored, steps)) in itertools.product(panels.maps, _STORED.items()):
        bounds = np.iinfo(stored)
        found = np.rint(panels.maps[name][kind] * steps).clip(bounds.min, bounds.max)
        arrays[f"{name}/{kind}"] = found.astype(stored)
    return arrays | {f"{method}/scores": scores for method, scores in panels.scores.items()}


def _unpacked(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    found = {kind: arrays[f"{name}/{kind}"] for kind in _STORED}
    for kind in ("depth", "normals"):
        found[kind] = found[kind].astype(np.float32) / _STORED[kind][1]
    return found


def panel_rows(panels: DensePanels) -> list[dict[str, str | float]]:
    """Audit scores of every image under every model, with their mean distance over task pairs."""
    return [
        {
            "Image": name,
            "Method": title_of(method),
            **{f"score, {task}": float(scores[index, place]) for place, task in enumerate(panels.tasks)},
            "Mean distance": float(panels.distances(method)[index]),
        }
        for index, name in enumerate(CHOICES)
        for method, scores in panels.scores.items()
    ]


def draw_panels(panels: DensePanels, class_names: Sequence[str]) -> "Figure":
    """Return a figure: per image the targets, then each model's predictions with its scores at the left."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    block = len(panels.maps)
    figure, axes = new_figure(rows=block * len(CHOICES), columns=len(COLUMNS), height=ROW_INCHES)
    colours = ListedColormap([*matplotlib.colormaps["tab20"].colors[: len(class_names)]])  # type: ignore[attr-defined]
    colours.set_bad("white")
    depths = matplotlib.colormaps["viridis"].resampled(LEVELS)
    for index, name in enumerate(CHOICES):
        far = float(panels.maps["target"]["depth"][index].max())
        rows = axes[index * block : (index + 1) * block]
        rows[0][0].imshow(panels.images[index])
        for row, (method, maps) in zip(rows, panels.maps.items(), strict=True):
            labels = np.ma.masked_equal(maps["labels"][index], IGNORE)
            normals = np.round((maps["normals"][index] + 1) * LEVELS / 2).clip(0, LEVELS) / LEVELS
            row[1].imshow(labels, cmap=colours, vmin=0, vmax=len(class_names) - 1, interpolation="nearest")
            row[2].imshow(maps["depth"][index], cmap=depths, vmin=0, vmax=far, interpolation="nearest")
            row[3].imshow(normals, interpolation="nearest")
            title = f"{name}\ntarget" if method == "target" else title_of(method)
            row[0].set_ylabel(title, fontsize=9)
            if method != "target":
                scores = zip(panels.tasks, panels.scores[method][index], strict=True)
                words = "\n".join(f"{task} {value:.2f}" for task, value in scores)
                row[0].text(0.5, 0.5, words, ha="center", va="center", fontsize=9, transform=row[0].transAxes)
    for panel in axes.ravel():
        panel.set(xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set_visible(False)
    for panel, title in zip(axes[0], COLUMNS, strict=True):
        panel.set_title(title, fontsize=9.5)
    figure.legend(
        [Patch(facecolor=colours(number)) for number in range(len(class_names))],
        class_names, loc="outside lower center", ncols=7, fontsize=9, handlelength=1,
    )  # fmt: skip
    return figure
