"""Batches on their device: normalised, in an order and an augmentation that a saved generator repeats to the bit."""

from dataclasses import replace

import pytest
import torch

from fastrank.experiments.data import DataError, DataInfo, digits
from fastrank.experiments.data.feed import PADDING, Feed
from fastrank.experiments.data.info import Images

INFO = replace(digits.INFO, channels=3, height=6, width=5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


@pytest.fixture
def images() -> Images:
    """Twenty images whose pixels tell where they stood: no two of an image are alike, and none is the padding's 0."""
    draw = torch.Generator().manual_seed(0)
    x = torch.stack([(torch.randperm(90, generator=draw) + 1).view(3, 6, 5) for _ in range(20)])
    return Images(x.to(torch.uint8), torch.arange(20))


def normalised(x: torch.Tensor, info: DataInfo = INFO) -> torch.Tensor:
    """In FP64, as the definition has it."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (info.mean, info.std))
    return (x.double() / 255 - mean) / std


def pixels(x: torch.Tensor, info: DataInfo = INFO) -> torch.Tensor:
    """The bytes that a normalised batch was made of."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (info.mean, info.std))
    return ((x.double() * std + mean) * 255).round().to(torch.uint8)


def close(x: torch.Tensor, expected: torch.Tensor) -> bool:
    """To FP32: five roundings, of operands and results up to 1,275 over 255 of the largest, 5 in size."""
    return bool((x - expected).abs().max() <= 5 * 2**-24 * max(1.0, float(expected.abs().max())))


def test_a_batch_is_normalised(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=0)
    x, y = feed.batch(torch.tensor([7, 3, 7]))
    assert (x.dtype, x.shape, y.tolist()) == (torch.float32, (3, 3, 6, 5), [7, 3, 7])
    assert close(x, normalised(images.x[[7, 3, 7]]))
    assert feed.x.dtype == torch.uint8
    assert torch.equal(feed.x, images.x)  # what was asked for was a copy


def test_digits_are_scaled_by_their_own_constants() -> None:
    whole = digits.load()
    x, _ = Feed(whole, digits.INFO, "cpu", seed=0).batch(torch.arange(1797))
    assert close(x, (whole.x.double() - 4.884) / 6.017)
    assert abs(x.double().mean()) < 1e-4  # of the constants' four digits
    assert abs(x.double().std() - 1) < 1e-4


def test_all_goes_through_everything_once_and_draws_nothing(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=0, augment=True)
    before = feed.generator.get_state()
    chunks = list(feed.all(8))
    assert [len(y) for _, y in chunks] == [8, 8, 4]
    assert torch.equal(torch.cat([y for _, y in chunks]), images.y)
    assert close(torch.cat([x for x, _ in chunks]), normalised(images.x))
    assert torch.equal(feed.generator.get_state(), before)


def test_an_order_is_a_permutation_without_the_incomplete_batch(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=0)
    first, second = feed.order(6), feed.order(6)
    assert (first.shape, first.dtype) == ((3, 6), torch.int64)
    for order in (first, second):
        assert len(set(order.flatten().tolist())) == 18
        assert set(order.flatten().tolist()) <= set(range(20))
    assert not torch.equal(first, second)
    assert torch.equal(Feed(images, INFO, "cpu", seed=0).order(6), first)
    assert not torch.equal(Feed(images, INFO, "cpu", seed=1).order(6), first)
    assert feed.order(20).shape == (1, 20)
    state, other = feed.generator.get_state(), torch.Generator().manual_seed(0)
    assert torch.equal(feed.order(6, other), first)
    assert torch.equal(feed.generator.get_state(), state)
    with pytest.raises(DataError, match=r"grid\.batch_size: 21 is more than the 20 training examples"):
        feed.order(21)


def test_an_augmented_image_is_a_window_of_the_padded_one_or_its_mirror(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=0, augment=True)
    index = torch.arange(20).repeat(200)
    x, y = feed.batch(index)
    assert torch.equal(y, images.y[index])
    padded = torch.nn.functional.pad(images.x, (PADDING,) * 4)
    places = [(top, left) for top in range(2 * PADDING + 1) for left in range(2 * PADDING + 1)]
    windows = torch.stack([padded[:, :, top : top + 6, left : left + 5] for top, left in places])
    windows = torch.cat([windows, windows.flip(-1)])  # (162, 20, 3, 6, 5)
    found = [0] * len(windows)
    for i, window in zip(index.tolist(), pixels(x), strict=True):
        (place,) = (windows[:, i] == window).flatten(1).all(dim=1).nonzero().tolist()
        found[place[0]] += 1
    # 4,000 draws over 162 equal places: chi-squared of 161 degrees stays below 251 but once in 100,000 seeds
    assert sum((count - 4000 / 162) ** 2 for count in found) / (4000 / 162) < 251


def test_without_augmentation_nothing_moves_and_nothing_is_drawn(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=0)
    before = feed.generator.get_state()
    assert torch.equal(pixels(feed.batch(torch.arange(20))[0]), images.x)
    assert torch.equal(feed.generator.get_state(), before)


def test_a_resumed_feed_goes_on_to_the_bit(images: Images) -> None:
    feed = Feed(images, INFO, "cpu", seed=5, augment=True)
    for batch in feed.order(4):
        feed.batch(batch)
    state = feed.state_dict()
    expected = [feed.batch(batch)[0] for batch in feed.order(4)]
    resumed = Feed(images, INFO, "cpu", seed=99, augment=True)
    resumed.load_state_dict(state)
    assert all(torch.equal(resumed.batch(batch)[0], x) for batch, x in zip(resumed.order(4), expected, strict=True))
    fresh = Feed(images, INFO, "cpu", seed=5, augment=True)
    assert not all(torch.equal(fresh.batch(batch)[0], x) for batch, x in zip(fresh.order(4), expected, strict=True))


def test_the_global_generator_neither_matters_nor_changes(images: Images) -> None:
    batches = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        feed = Feed(images, INFO, "cpu", seed=0, augment=True)
        batches.append(feed.batch(feed.order(8)[0])[0])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*batches)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_batch_waits_for_nothing_and_repeats(images: Images) -> None:
    feed = Feed(images, INFO, "cuda", seed=0, augment=True)
    order, state = feed.order(4), feed.state_dict()
    torch.cuda.set_sync_debug_mode("error")
    try:
        x, y = feed.batch(order[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (x.device.type, y.device.type, feed.x.dtype) == ("cuda", "cuda", torch.uint8)
    feed.load_state_dict(state)
    assert torch.equal(feed.batch(order[0])[0], x)
    plain = Feed(images, INFO, "cuda", seed=0)
    assert close(plain.batch(torch.arange(20, device="cuda"))[0].cpu(), normalised(images.x))
