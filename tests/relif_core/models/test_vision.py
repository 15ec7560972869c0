"""The dense model: shapes, losses and scores by hand, gradients where they belong, weights from files."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from relif_core.errors import DataError, InputError
from relif_core.models.vision import (
    TASKS,
    DenseModel,
    DenseOutputs,
    Encoder,
    calibration_quantiles,
    load_encoder_weights,
    valid_pixels,
)
from relif_core.torchvision_import import import_torchvision

HEIGHT, WIDTH = 64, 96


def make_batch(count: int = 3) -> dict[str, torch.Tensor]:
    """Random stored arrays: the last image has no label, the first no depth, some normals are missing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 13, (count, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    labels[:, :5] = 255
    labels[-1] = 255
    depth = torch.rand((count, HEIGHT, WIDTH), generator=generator).half() * 5 + 0.5
    depth[0] = 0
    depth[:, :, :7] = 0
    normals = torch.randint(-127, 128, (count, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.int8)
    normals[:, :, :3] = 0
    images = torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    return {"images": images, "labels": labels, "depth": depth, "normals": normals}


@pytest.fixture(scope="module")
def model() -> DenseModel:
    torch.manual_seed(0)
    return DenseModel("resnet18")


@pytest.fixture
def trained(model) -> DenseModel:
    """A copy in training mode: batch norm may move its running means."""
    return copy.deepcopy(model).train()


@pytest.fixture(scope="module")
def passed(model):
    batch = make_batch()
    model.eval()
    with torch.no_grad():
        return batch, model(batch)


def test_shapes_and_units(model, passed) -> None:
    batch, outputs = passed
    assert outputs.embedding.shape == (3, 512)
    assert outputs.predictions["segmentation"].shape == (3, 13, HEIGHT, WIDTH)
    assert outputs.predictions["depth"].shape == (3, HEIGHT, WIDTH)
    normals = outputs.predictions["normals"]
    torch.testing.assert_close(torch.linalg.vector_norm(normals, dim=1), torch.ones(3, HEIGHT, WIDTH))
    for task in TASKS:
        assert outputs.maps[task].shape == (3, 64, HEIGHT // 4, WIDTH // 4)
        assert (outputs.maps[task] >= 0).all()
    features = model.encoder(batch["images"])
    torch.testing.assert_close(outputs.embedding, features.mean(dim=(2, 3)))
    assert model.task_names == TASKS


def test_quantiles_that_are_one_number_in_float32_are_no_scale() -> None:
    with pytest.raises(InputError, match="not finite and ascending"):
        DenseModel("resnet18").calibrate({"depth": (0.5, 0.5 + 1e-9)})


def test_losses_by_hand(model, passed) -> None:
    batch, outputs = passed
    losses = model.losses(outputs, batch).values
    logits = outputs.predictions["segmentation"]
    expected = functional.cross_entropy(logits, batch["labels"].long(), ignore_index=255)
    torch.testing.assert_close(losses[0], expected)
    depth = batch["depth"].float()
    valid = depth > 0
    torch.testing.assert_close(losses[1], (outputs.predictions["depth"] - depth)[valid].abs().mean())
    truth = batch["normals"].float()
    present = (truth != 0).any(dim=1)
    unit = functional.normalize(truth, dim=1)
    cosine = (unit * outputs.predictions["normals"]).sum(dim=1)
    torch.testing.assert_close(losses[2], (1 - cosine)[present].mean())


def test_scores_by_hand(model, passed) -> None:
    batch, outputs = passed
    raw = model.raw_scores(outputs, batch)
    confidence = outputs.predictions["segmentation"].softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(raw["segmentation"][1], confidence[1][batch["labels"][1] != 255].mean())
    for task, valid in (("depth", batch["depth"] > 0), ("normals", (batch["normals"] != 0).any(dim=1))):
        norm = outputs.maps[task].square().sum(dim=1).sqrt()
        resized = functional.interpolate(
            norm[:, None], size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(raw[task][1], resized[1, 0][valid[1]].mean())
    # No label in the last image, no depth in the first.
    assert raw["segmentation"][2] == 0
    assert raw["depth"][0] == 0
    carries = model.carries(batch)
    assert carries["segmentation"].tolist() == [True, True, False]
    assert carries["depth"].tolist() == [False, True, True]
    assert carries["normals"].tolist() == [True, True, True]


def test_calibration_maps_quantiles_to_the_unit_interval(passed) -> None:
    batch, _ = passed
    torch.manual_seed(0)
    model = DenseModel("resnet18").eval()
    with torch.no_grad():
        outputs = model(batch)
    raw = model.raw_scores(outputs, batch)
    assert model.calibration == {task: (0.0, 1.0) for task in TASKS}
    low, high = raw["depth"][1].item() - 0.25, raw["depth"][1].item() + 0.75
    model.calibrate({"depth": (low, high), "normals": (100.0, 200.0)})
    scores = model.scores(outputs, batch)
    assert scores["depth"][1].item() == pytest.approx(0.25, abs=1e-5)
    assert (scores["normals"] == 0).all()
    assert scores["depth"][0] == 0
    torch.testing.assert_close(scores["segmentation"], raw["segmentation"])
    other = DenseModel("resnet18")
    other.load_state_dict(model.state_dict())
    assert other.calibration == model.calibration
    for bad in ({"depth": (1.0, 1.0)}, {"depth": (float("nan"), 1.0)}, {"pose": (0.0, 1.0)}):
        with pytest.raises(InputError):
            model.calibrate(bad)


def test_calibration_quantiles() -> None:
    raw = torch.arange(11.0)
    assert calibration_quantiles(raw) == (1.0, 9.0)
    with pytest.raises(InputError, match="all finite"):
        calibration_quantiles(torch.tensor([1.0, float("nan")]))


def test_an_empty_batch_of_targets_costs_nothing_and_breaks_nothing(trained) -> None:
    batch = make_batch()
    batch["labels"][:] = 255
    batch["depth"][:] = 0
    batch["normals"][:] = 0
    outputs = trained(batch)
    found = trained.losses(outputs, batch)
    losses = found.values
    assert (losses == 0).all()
    assert found.present.tolist() == [False] * 3
    (losses.sum() + sum(score.sum() for score in trained.scores(outputs, batch).values())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.parameters())


def test_each_head_learns_from_its_own_task_only(trained) -> None:
    batch = make_batch()
    losses = trained.losses(trained(batch), batch).values
    for index, task in enumerate(TASKS):
        for other in TASKS:
            gradients = torch.autograd.grad(
                losses[index], trained.head_parameters(other), retain_graph=True, allow_unused=True
            )
            reached = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
            assert any(reached) == (task == other)
        shared = torch.autograd.grad(losses[index], trained.shared_parameters(), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in shared)
    parameters = trained.shared_parameters() + [p for task in TASKS for p in trained.head_parameters(task)]
    assert len({id(p) for p in parameters}) == len(parameters) == len(list(trained.parameters()))


def test_scores_carry_gradient_to_the_encoder(trained) -> None:
    batch = make_batch()
    outputs = trained(batch)
    for task, score in trained.raw_scores(outputs, batch).items():
        gradients = torch.autograd.grad(score.sum(), trained.shared_parameters(), retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients), task
        assert any(gradient.abs().sum() > 0 for gradient in gradients), task


def test_bfloat16_autocast_keeps_losses_and_scores_in_float32(model, passed) -> None:
    batch, plain = passed
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch)
        losses, scores = model.losses(outputs, batch).values, model.raw_scores(outputs, batch)
    assert losses.dtype == torch.float32
    assert outputs.embedding.dtype == torch.float32
    assert all(score.dtype == torch.float32 for score in scores.values())
    torch.testing.assert_close(losses, model.losses(plain, batch).values, rtol=0.05, atol=0.02)


def test_float_images_equal_uint8_images(model, passed) -> None:
    batch, outputs = passed
    model.eval()
    with torch.no_grad():
        again = model({"images": batch["images"].float() / 255})
    assert isinstance(again, DenseOutputs)
    torch.testing.assert_close(again.embedding, outputs.embedding)


def test_decoder_follows_its_description() -> None:
    torch.manual_seed(0)
    model = DenseModel("resnet50")
    shapes = [tuple(p.shape) for p in model.heads["normals"].parameters() if p.dim() == 4]
    assert shapes == [(256, 2048, 3, 3), (128, 256, 3, 3), (64, 128, 3, 3), (3, 64, 1, 1)]
    assert "random" in model.weights_note


def test_pyramid_head_runs_on_a_dilated_encoder() -> None:
    torch.manual_seed(0)
    model = DenseModel("resnet50", head="aspp").eval()
    with torch.no_grad():
        outputs = model({"images": torch.zeros(1, 3, 32, 48, dtype=torch.uint8)})
    assert outputs.maps["depth"].shape == (1, 256, 4, 6)
    assert outputs.predictions["depth"].shape == (1, 32, 48)
    with pytest.raises(InputError, match="use resnet50"):
        DenseModel("resnet18", head="aspp")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="no encoder"):
        DenseModel("vgg")
    with pytest.raises(InputError, match="no head"):
        DenseModel("resnet18", head="mlp")  # type: ignore[arg-type]


def test_weights_from_files(tmp_path) -> None:
    torch.manual_seed(1)
    source = Encoder("resnet18").backbone.state_dict()
    plain = {name: value.clone() for name, value in source.items() if "num_batches" not in name}
    save_file(
        {**plain, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, tmp_path / "a.safetensors"
    )
    torch.save(source, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        encoder = Encoder("resnet18")
        note = load_encoder_weights(encoder, tmp_path / name)
        assert name in note
        for key, value in plain.items():
            torch.testing.assert_close(encoder.backbone.state_dict()[key], value)


def test_strides_follow_the_metadata(tmp_path) -> None:
    plain = {k: v for k, v in Encoder("resnet50").backbone.state_dict().items() if "num_batches" not in k}
    for version, expected in (("v1: on conv1", ((2, 2), (1, 1))), ("v1.5: on conv2", ((1, 1), (2, 2)))):
        save_file(plain, tmp_path / "w.safetensors", metadata={"stride": version})
        encoder = Encoder("resnet50")
        note = load_encoder_weights(encoder, tmp_path / "w.safetensors")
        for layer in ("layer2", "layer3", "layer4"):
            block = getattr(encoder.backbone, layer)[0]
            assert (block.conv1.stride, block.conv2.stride) == expected
        assert ("v1 strides" in note) == (expected[0] == (2, 2))


def test_wrong_weights_are_named(tmp_path) -> None:
    encoder = Encoder("resnet18")
    with pytest.raises(DataError, match="no such weights file"):
        load_encoder_weights(encoder, tmp_path / "none.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"abc")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_encoder_weights(encoder, tmp_path / "broken.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="no state dictionary"):
        load_encoder_weights(encoder, tmp_path / "list.pth")
    state = encoder.backbone.state_dict()
    torch.save({k: v for k, v in state.items() if k != "conv1.weight"}, tmp_path / "short.pth")
    with pytest.raises(DataError, match=r"missing conv1.weight"):
        load_encoder_weights(encoder, tmp_path / "short.pth")
    torch.save({**state, "conv1.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    with pytest.raises(DataError, match=r"conv1\.weight has shape"):
        load_encoder_weights(encoder, tmp_path / "shape.pth")
    before = {name: value.clone() for name, value in state.items()}
    torch.save({**state, "bn1.running_var": torch.full((64,), torch.inf)}, tmp_path / "inf.pth")
    with pytest.raises(DataError, match=r"inf\.pth: bn1\.running_var holds NaN or infinity; fetch it again"):
        load_encoder_weights(encoder, tmp_path / "inf.pth")
    assert all(torch.equal(value, before[name]) for name, value in encoder.backbone.state_dict().items())


def test_download_without_internet_says_what_to_do(monkeypatch) -> None:
    models = import_torchvision().models

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.__class__, "get_state_dict", refuse)
    with pytest.raises(DataError, match="pass a weights file instead"):
        load_encoder_weights(Encoder("resnet18"), "download")


def test_pretrained_weights_see_what_is_there(data_folder) -> None:
    """The published encoder with its own strides is more certain on real images than with torchvision's."""
    from PIL import Image
    from safetensors import safe_open

    path = data_folder / "resnet50_imagenet" / "resnet50_v1_fp16.safetensors"
    encoder = Encoder("resnet50").eval()
    assert load_encoder_weights(encoder, path).endswith("(v1 strides)")
    with safe_open(path, framework="pt") as file:
        weight, bias = file.get_tensor("fc.weight").float(), file.get_tensor("fc.bias").float()
    files = sorted((data_folder / "nyuv2" / "test" / "image").iterdir())[:6]
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(path).resize((224, 224)))).permute(2, 0, 1) for path in files]
    )
    with torch.no_grad():
        first = (encoder(images).mean(dim=(2, 3)) @ weight.T + bias).softmax(1).amax(1).mean()
        for layer in (encoder.backbone.layer2, encoder.backbone.layer3, encoder.backbone.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (1, 1), (2, 2)
        swapped = (encoder(images).mean(dim=(2, 3)) @ weight.T + bias).softmax(1).amax(1).mean()
    assert first > swapped


def test_valid_pixels_read_the_stored_types() -> None:
    batch = make_batch()
    valid = valid_pixels(batch)
    assert all(mask.dtype == torch.bool and mask.shape == (3, HEIGHT, WIDTH) for mask in valid.values())
