"""Rollout, LeGrad and RISE against plain transcriptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_saliency import blobs, explained_tiny, plain_attention, tiny_head, tiny_model

from shared.errors import NotExplainableError
from shared.saliency.attention import attended
from shared.saliency.legrad import legrad
from shared.saliency.maps import Request
from shared.saliency.masked_queue import run_masked
from shared.saliency.rise import Rise, RiseParameters
from shared.saliency.rollout import rollout

SIZES = [(48, 48), (40, 64)]


def block_by_block(model, x):
    """Attention maps and tokens of each block, by the blocks themselves."""
    tokens = model.embeddings(x[None])
    for layer in model.encoder.layer:
        attention = plain_attention(layer, tokens[0])
        tokens = layer(tokens)
        yield attention, tokens[0]


def upsampled(shares: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.interpolate(shares[None, None], size=x.shape[1:], mode="bilinear")[0, 0].numpy()


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_attention_and_tokens_are_those_of_the_blocks(registers, height, width):
    model = tiny_model(registers=registers)
    x = blobs(height, width)
    kept = model.config._attn_implementation

    seen = attended(explained_tiny(model), x)

    for found, expected in zip(zip(seen.attentions, seen.tokens, strict=True), block_by_block(model, x), strict=True):
        torch.testing.assert_close(found[0][0], expected[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[1][0], expected[1], rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == kept


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rollout_agrees_with_its_definition(registers, height, width):
    model = tiny_model(registers=registers)
    x, head = blobs(height, width), tiny_head(model)

    found = rollout(explained_tiny(model), Request(x, head, 0))

    rolled = None
    for attention, _ in block_by_block(model, x):
        step = 0.5 * attention.double().mean(dim=0) + 0.5 * torch.eye(attention.shape[-1])
        rolled = step if rolled is None else step @ rolled
    shares = rolled[0, 5 if registers else 1 :].reshape(height // 8, width // 8)
    np.testing.assert_allclose(found.values, upsampled(shares, x), rtol=1e-4)
    assert (found.method, found.mask_count) == ("rollout", 0)
    assert found.probability == pytest.approx(float(head(explained_tiny(model).clean(x[None])).max()), abs=1e-6)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("target", [0, 2])
def test_legrad_agrees_with_its_definition(registers, height, width, target):
    model = tiny_model(registers=registers)
    x, head = blobs(height, width), tiny_head(model)

    found = legrad(explained_tiny(model), Request(x, head, 0, target))

    # The gradient of a block's logit by its own attention, which is put in by hand.
    prefix, total = 5 if registers else 1, 0.0
    tokens = model.embeddings(x[None])[0]
    for layer in model.encoder.layer:
        attention = plain_attention(layer, tokens).requires_grad_()
        parts = getattr(layer.attention, "attention", layer.attention)
        project = getattr(parts, "v_proj", None) or parts.value
        value = project(layer.norm1(tokens)).unflatten(-1, (4, -1)).transpose(0, 1)
        mixed = (attention @ value).transpose(0, 1).flatten(1)
        leave = getattr(layer.attention, "o_proj", None) or layer.attention.output.dense
        after = tokens + layer.layer_scale1(leave(mixed))
        after = after + layer.layer_scale2(layer.mlp(layer.norm2(after)))
        normed = model.layernorm(after)
        joined = torch.cat([normed[0], normed[prefix:].mean(dim=0)])
        (joined @ head.weight)[target].backward()
        total = total + attention.grad.clamp(min=0).mean(dim=(0, 1))
        tokens = layer(tokens[None])[0]
    shares = (total / len(model.encoder.layer))[prefix:].reshape(height // 8, width // 8)
    np.testing.assert_allclose(found.values, upsampled(shares, x), rtol=2e-3, atol=1e-3 * float(shares.max()))
    assert found.values.min() >= 0
    assert found.target == target


def test_legrad_works_on_an_image_made_in_inference_mode_and_under_it():
    model = tiny_model(layers=1)
    head = tiny_head(model)
    with torch.inference_mode():
        request = Request(blobs(48, 48), head, 0, 1)
        inside = legrad(explained_tiny(model), request)

    assert np.array_equal(inside.values, legrad(explained_tiny(model), Request(blobs(48, 48), head, 0, 1)).values)
    assert inside.values.max() > 0


def test_rise_is_the_mean_of_its_masks_weighted_by_their_scores():
    model = tiny_model(layers=2)
    explained, x, head = explained_tiny(model), blobs(40, 64), tiny_head(model)
    parameters = RiseParameters(masks=30, cells=4)
    images = []

    def forward(pixels):
        images.append(pixels)
        return explained.clean(pixels)

    starts = iter([lambda: Rise(explained, Request(x, head, 3), parameters)])
    (found,) = run_masked(lambda: next(starts, None), forward, batch_size=7)

    # What the masks were, from the masked images, where the image is not near 0.
    seen = torch.cat(images)
    masks = (seen * x).sum(dim=1) / (x * x).sum(dim=0)
    assert float(masks.min()) >= -1e-4
    assert float(masks.max()) <= 1 + 1e-4
    assert 0.35 < float(masks.mean()) < 0.65
    scores = head(explained.clean(seen))[:, found.target]
    expected = torch.tensordot(scores, masks, dims=1) / 30 / 0.5
    np.testing.assert_allclose(found.values, expected.numpy(), atol=2e-4)
    assert found.forwards == 31
    # A shifted grid: the corner of a cell is not always at the image's corner.
    assert len({tuple(np.round(mask[0].numpy(), 3)) for mask in masks}) > 25


def test_rise_finds_a_disc_that_decides():
    model = tiny_model(layers=1)
    explained, x = explained_tiny(model), blobs(48, 48)
    rows, columns = np.mgrid[:48, :48]
    disc = (rows - 12) ** 2 + (columns - 30) ** 2 < 40

    class DiscHead:
        """The share of the disc's pixels that are left of the image."""

        def __call__(self, pixels):
            kept = (pixels[:, :, disc] * x[:, disc]).mean(dim=(1, 2)) / (x[:, disc] ** 2).mean()
            return torch.stack([kept, 1 - kept], dim=1)

        logits = __call__

    plain = type(explained)(model, clean=lambda pixels: pixels, read=lambda tokens: tokens)
    starts = iter([lambda: Rise(plain, Request(x, DiscHead(), 3, 0), RiseParameters(masks=400))])
    (found,) = run_masked(lambda: next(starts, None), lambda pixels: pixels, batch_size=50)

    assert disc[np.unravel_index(found.values.argmax(), disc.shape)]
    assert found.values[disc].mean() > found.values[~disc].mean() + 0.05


@pytest.mark.parametrize("method", [rollout, legrad])
def test_a_score_that_is_not_finite_is_refused(method):
    model = tiny_model(layers=1)

    with pytest.raises(NotExplainableError, match="not finite"):
        method(explained_tiny(model), Request(torch.full((3, 48, 48), torch.nan), tiny_head(model), 0))
