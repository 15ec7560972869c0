"""The dense model: one ResNet encoder for segmentation, depth and surface normals, and a decoder for each."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from relif_core.errors import DataError, InputError, listed
from relif_core.methods import DENSE_TASKS
from relif_core.models import MultiTaskModel
from relif_core.tensors.dense import IGNORE
from relif_core.torchvision_import import import_torchvision

TASKS = DENSE_TASKS
ENCODERS: dict[str, int] = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}
DOWNLOAD = "download"
#: What ImageNet-trained encoders expect of an RGB image in 0..1.
IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Head = Literal["decoder", "aspp"]


@dataclass(frozen=True)
class DenseOutputs:
    """One forward pass.

    Attributes:
        embedding: [B, D], the globally averaged encoder map.
        predictions: Logits [B, classes, H, W], depth [B, H, W] in metres, unit normals [B, 3, H, W].
        maps: The last feature map [B, C, h, w] of each decoder.
    """

    embedding: Tensor
    predictions: dict[str, Tensor]
    maps: dict[str, Tensor]


class Decoder(nn.Module):
    """Three blocks (3 × 3 convolution, batch norm, ReLU, bilinear ×2) to 256, 128, 64; a 1 × 1 output."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        widths = (channels, 256, 128, 64)
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                )
                for before, after in itertools.pairwise(widths)
            ]
        )
        self.output = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last feature map and the output, both at the decoder's own resolution."""
        last = self.blocks(features)
        return last, self.output(last)


class PyramidDecoder(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3, Chen et al. 2017), the usual head of NYUv2 results."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        head = import_torchvision().models.segmentation.deeplabv3.DeepLabHead(channels, outputs)
        self.blocks = nn.Sequential(*list(head)[:-1])
        self.output = head[-1]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last feature map (256 channels) and the output, both at the encoder's resolution."""
        last = self.blocks(features)
        return last, self.output(last)


class Encoder(nn.Module):
    """A torchvision ResNet without classifier: RGB in 0..1 (or uint8) to a map at 1/32 (dilated: 1/8).

    Raises:
        InputError: No encoder has this name, or it cannot be dilated.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, *, dilated: bool = False) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise InputError(f"no encoder is called {name!r}; known are {', '.join(ENCODERS)}")
        if dilated and name != "resnet50":
            raise InputError(f"head 'aspp' needs a dilated encoder, which {name} cannot be; use resnet50")
        options: dict[str, Any] = {"replace_stride_with_dilation": [False, True, True]} if dilated else {}
        self.name = name
        self.backbone = getattr(import_torchvision().models, name)(weights=None, **options)
        self.backbone.fc = nn.Identity()
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGE_DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map [B, channels, h, w] of ``images`` [B, 3, H, W]."""
        unit = images.float() / 255 if images.dtype == torch.uint8 else images
        net = self.backbone
        x = ((unit - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))


class DenseModel(MultiTaskModel):
    """ResNet encoder with decoders for segmentation, depth and surface normals, or for one ``task``.

    A batch is a mapping with ``images`` uint8 [B, 3, H, W] and the targets as stored: ``labels`` [B, H, W]
    (255 = none), ``depth`` [B, H, W] in metres (0 = none) and ``normals`` [B, 3, H, W] (any scale, zero =
    none). ``weights`` is a file of encoder weights (safetensors, or a torchvision state dictionary),
    "download" (torchvision's ImageNet weights), or None; ``weights_note`` says in words what the encoder
    started from. Head "decoder" is the plain decoder on the undilated encoder, "aspp" the DeepLab head on a
    dilated one.

    Audit scores of depth and normals are calibrated by ``calibrate``; until then the raw score is only
    clipped to [0, 1].

    Raises:
        InputError: No encoder, head or task has this name.
    """

    #: All whole batches have one shape, and no pass waits for the host.
    capturable = True
    score_low: Tensor
    score_high: Tensor

    def __init__(
        self,
        encoder: str = "resnet50",
        classes: int = 13,
        weights: Path | str | None = None,
        head: Head = "decoder",
        task: str | None = None,
    ) -> None:
        super().__init__()
        if head not in ("decoder", "aspp"):
            raise InputError(f"no head is called {head!r}; known are 'decoder' and 'aspp'")
        if task is not None and task not in TASKS:
            raise InputError(f"no task is called {task!r}; known are {', '.join(TASKS)}")
        self.encoder = Encoder(encoder, dilated=head == "aspp")
        self.weights_note = load_encoder_weights(self.encoder, weights)
        kind = Decoder if head == "decoder" else PyramidDecoder
        outputs = {"segmentation": classes, "depth": 1, "normals": 3}
        self.heads = nn.ModuleDict(
            {name: kind(ENCODERS[encoder], outputs[name]) for name in ((task,) if task else TASKS)}
        )
        self.register_buffer("score_low", torch.zeros(len(TASKS)))
        self.register_buffer("score_high", torch.ones(len(TASKS)))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Mapping[str, Tensor]) -> DenseOutputs:
        """Run the encoder once and every decoder on its map; predictions are upsampled to the image."""
        images = batch["images"]
        size = images.shape[-2:]
        features = self.encoder(images)
        predictions, maps = {}, {}
        for task, head in self.heads.items():
            maps[task], output = head(features)
            output = functional.interpolate(output, size=size, mode="bilinear", align_corners=False)
            if task == "depth":
                output = output.squeeze(1)
            elif task == "normals":
                output = functional.normalize(output.float(), dim=1)
            predictions[task] = output
        return DenseOutputs(features.float().mean(dim=(2, 3)), predictions, maps)

    def _loss(self, task: str, outputs: DenseOutputs, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return segmentation's cross entropy, |error| of depth in metres, or 1 − cosine of normals."""
        valid = valid_pixels(batch, (task,))[task]
        return _mean(_pixel_loss(task, outputs.predictions[task], batch), valid), valid.any()

    def features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the images' 8 × 8 thumbnails in 0..1 [B, 192], which an external distance compares."""
        return functional.adaptive_avg_pool2d(batch["images"].float() / 255, 8).flatten(1)

    @torch.no_grad()
    def start_at(self, depth: float, normal: Tensor) -> None:
        """Set the output biases of the depth and normals decoders: the constants that training starts from.

        Args:
            depth: Median of the training frames, in metres.
            normal: Their mean normal [3].
        """
        if "depth" in self.heads:
            self.heads["depth"].get_parameter("output.bias").fill_(depth)
        if "normals" in self.heads:
            self.heads["normals"].get_parameter("output.bias").copy_(normal)

    def raw_scores(self, outputs: DenseOutputs, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every task's uncalibrated audit score [B] (float32), 0 where an image has no valid pixel.

        Each is a mean over the image's valid pixels: for segmentation of the largest softmax, for depth and
        normals of the L2 norm over the channels of the decoder's last map, resized to the image.

        Args:
            outputs: Of this batch.
            batch: See the class.
        """
        scores = {}
        for task, valid in valid_pixels(batch, self.task_names).items():
            if task == "segmentation":
                map_ = outputs.predictions[task].float().softmax(dim=1).amax(dim=1)
            else:
                norm = torch.linalg.vector_norm(outputs.maps[task].float(), dim=1, keepdim=True)
                map_ = functional.interpolate(
                    norm, size=valid.shape[-2:], mode="bilinear", align_corners=False
                ).squeeze(1)
            weight = valid.to(map_.dtype)
            scores[task] = (map_ * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1)
        return scores

    def scores(self, outputs: DenseOutputs, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every task's score [B]: clip((raw − q10) / (q90 − q10), 0, 1), 0 without a valid pixel.

        Args:
            outputs: Of this batch.
            batch: See the class.
        """
        return self.scaled(self.raw_scores(outputs, batch), self.carries(batch))

    def scaled(self, raw: Mapping[str, Tensor], carries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the audit scores that raw ones make.

        Args:
            raw: As of :meth:`raw_scores`.
            carries: As of :meth:`carries`.
        """
        scores = {}
        for task, values in raw.items():
            low, high = self.score_low[TASKS.index(task)], self.score_high[TASKS.index(task)]
            scores[task] = ((values - low) / (high - low)).clamp(0, 1) * carries[task]
        return scores

    def carries(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return bool [B] per task: images with a valid pixel, which form the task's pool."""
        return {
            task: valid.flatten(1).any(dim=1) for task, valid in valid_pixels(batch, self.task_names).items()
        }

    def calibrate(self, quantiles: Mapping[str, tuple[float, float]]) -> None:
        """Set (q10, q90) of the raw score; they travel with the state dictionary.

        Args:
            quantiles: (q10, q90) by task.

        Raises:
            InputError: An unknown task, or quantiles that are not finite and ascending in float32.
        """
        for task, (low, high) in quantiles.items():
            if task not in TASKS:
                raise InputError(f"no task is called {task!r}; known are {', '.join(TASKS)}")
            pair = torch.tensor([low, high])
            if not (pair.isfinite().all() and pair[0] < pair[1]):
                raise InputError(f"task {task!r}: quantiles ({low}, {high}) are not finite and ascending")
            self.score_low[TASKS.index(task)] = low
            self.score_high[TASKS.index(task)] = high

    @property
    def calibration(self) -> dict[str, tuple[float, float]]:
        """The (q10, q90) in force per task; (0, 1) leaves a score as it is."""
        return {
            task: (float(self.score_low[index]), float(self.score_high[index]))
            for index, task in enumerate(TASKS)
        }


def calibration_quantiles(raw: Tensor) -> tuple[float, float]:
    """Return q10 and q90 (linear interpolation) of a reference model's raw scores [n] of one task.

    Raises:
        InputError: There is no score, or one that is not finite.
    """
    if raw.numel() == 0 or not raw.isfinite().all():
        raise InputError("calibration needs at least one raw score, all finite")
    low, high = torch.quantile(
        raw.double().flatten(), torch.tensor([0.1, 0.9], dtype=torch.float64, device=raw.device)
    )
    return float(low), float(high)


def valid_pixels(batch: Mapping[str, Tensor], tasks: Sequence[str] = TASKS) -> dict[str, Tensor]:
    """Return bool [B, H, W] per task: where the target says something.

    Args:
        batch: Stored arrays of frames.
        tasks: Those asked for.
    """
    says: dict[str, Callable[[], Tensor]] = {
        "segmentation": lambda: batch["labels"] != IGNORE,
        "depth": lambda: batch["depth"] > 0,
        "normals": lambda: (batch["normals"] != 0).any(dim=1),
    }
    return {task: says[task]() for task in tasks}


def load_encoder_weights(encoder: Encoder, weights: Path | str | None) -> str:
    """Fill an encoder from a file, torchvision's download or nothing; return in words what was loaded.

    In a version 1 ResNet (He et al. 2016) the stride of a bottleneck sits on its first convolution, in
    torchvision's ("v1.5") on the second; a safetensors file whose metadata entry ``stride`` begins with "v1:"
    gets the former. Classifier weights are ignored.

    Args:
        encoder: Filled in place.
        weights: A file, ``DOWNLOAD`` for torchvision's own, or None for random ones.

    Raises:
        DataError: The file is missing, unreadable or of another encoder, or nothing can be downloaded.
    """
    if weights is None:
        return f"{encoder.name}, random initialisation: no pretrained weights were given"
    metadata: dict[str, str] = {}
    if str(weights) == DOWNLOAD:
        state, origin = _download(encoder.name)
    else:
        path = Path(weights)
        state, metadata = _read_weights(path)
        origin = path.name
    wanted = encoder.backbone.state_dict()
    state = {name: value.float() for name, value in state.items() if not name.startswith("fc.")}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = sorted(wanted.keys() - state.keys() - counters)
    unknown = sorted(state.keys() - wanted.keys())
    if missing or unknown:
        raise DataError(
            f"{origin} does not hold {encoder.name}: missing {listed(missing) or 'nothing'}, unknown"
            f" {listed(unknown) or 'nothing'}"
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise DataError(
                f"{origin} does not hold {encoder.name}: {name} has shape {list(value.shape)}, "
                f"expected {list(wanted[name].shape)}"
            )
        if not value.isfinite().all():
            raise DataError(f"{origin}: {name} holds NaN or infinity; fetch it again")
    encoder.backbone.load_state_dict(state, strict=False)
    first_version = metadata.get("stride", "").startswith("v1:")
    if first_version:
        _stride_on_first_convolution(encoder)
    return f"{encoder.name} from {origin}" + (" (v1 strides)" if first_version else "")


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file or a torch state dictionary."""
    if not path.is_file():
        raise DataError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, dict(file.metadata() or {})
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds for a damaged file
        raise DataError(f"{path} cannot be read as weights ({error}); fetch it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dictionary of tensors")
    return dict(state), {}


def _download(name: str) -> tuple[dict[str, Tensor], str]:
    """Fetch torchvision's ImageNet weights (checked by the hash in their name)."""
    entry = import_torchvision().models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return entry.get_state_dict(progress=False, check_hash=True), f"torchvision {entry}"
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"torchvision's weights for {name} cannot be downloaded ({error}); pass a weights file instead"
        ) from error


def _stride_on_first_convolution(encoder: Encoder) -> None:
    for layer in (encoder.backbone.layer2, encoder.backbone.layer3, encoder.backbone.layer4):
        block = layer[0]
        if hasattr(block, "conv3") and block.conv2.stride == (2, 2):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _pixel_loss(task: str, predicted: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss of every pixel [B, H, W], valid or not."""
    if task == "segmentation":
        return functional.cross_entropy(
            predicted.float(), batch["labels"].long(), ignore_index=IGNORE, reduction="none"
        )
    if task == "depth":
        return (predicted.float() - batch["depth"].float()).abs()
    return 1 - functional.cosine_similarity(predicted, batch["normals"].float(), dim=1)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid entries; 0 with a gradient path where there are none."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
