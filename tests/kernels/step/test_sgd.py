"""SGD's kernel: PyTorch's bits, whatever the options, sizes, layouts and addresses, and nothing written beside them."""

from __future__ import annotations

import mmap
import platform

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import fastrank
from fastrank.reference.sgd import stacked_sgd_

pytest.importorskip("triton")
from fastrank.kernels.step import sgd
from fastrank.kernels.step.sgd import Kind

pytestmark = pytest.mark.usefixtures("served")

BLOCK = sgd.config().block
# None, one, a prime, exactly a block, one more, a prime number of several blocks; a kernel of a convolution.
SHAPES = [(0, 3), (), (7,), (BLOCK,), (BLOCK + 1,), (61, 89), (5, 3, 2, 2)]
OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.1, "maximize": True},
    "momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "dampening": {"momentum": 0.8, "dampening": 0.9, "maximize": True},
    "nesterov": {"momentum": 0.7, "nesterov": True, "weight_decay": 0.3},
}
options_of_sgd = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
ONE_ROUNDING = platform.machine() in ("x86_64", "AMD64")
"""Whether `add(alpha=...)` rounds once on this machine's CPU, as it does on CUDA."""


@pytest.fixture(autouse=True)
def _torch_s_own_forms_have_nothing_to_do(monkeypatch):
    monkeypatch.setattr(fastrank.SGD, "_step_group", None)


@pytest.fixture(autouse=True)
def _bfloat16_is_rounded(monkeypatch):
    """Triton's interpreter cuts off what bfloat16 does not hold; a GPU rounds to nearest, as PyTorch does."""
    from triton.runtime import interpreter

    stock = interpreter._convert_float

    def convert(values, source, target, mode):
        if (source.name, target.name) != ("fp32", "bf16"):
            return stock(values, source, target, mode)
        return torch.from_numpy(np.array(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters(device, dtype=torch.float32, shapes=SHAPES, lead=()):
    return [Parameter(noise(*lead, *shape, seed=i, dtype=dtype).to(device)) for i, shape in enumerate(shapes)]


def set_gradients(params, step):
    for i, param in enumerate(params):
        param.grad = noise(*param.shape, seed=100 * (step + 1) + i, dtype=param.dtype).to(param.device)


def run(kind, params, steps, **options):
    optimizer = kind(params, **options)
    for step in range(steps):
        set_gradients(params, step)
        optimizer.step()
    return optimizer


def assert_same(ours, theirs, steps=3):
    """To the bit; where PyTorch rounds twice, an ulp of numbers of order 1 for each of 4 operations a step."""
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.detach(), b.detach()
        same = torch.equal(a, b) or (not ONE_ROUNDING and not a.is_cuda and (a - b).abs().max() < steps * 4 * 2.0**-22)
        assert same, (a.shape, (a - b).abs().max())


def buffers(optimizer, params):
    return [optimizer.state[p]["momentum_buffer"] for p in params] if optimizer.param_groups[0]["momentum"] else []


@options_of_sgd
@pytest.mark.parametrize("fused", [None, True])
def test_bits_of_torch(options, fused, device):
    ours, theirs = parameters(device), parameters(device)
    a = run(fastrank.SGD, ours, 3, lr=0.1, fused=fused, **options)
    b = run(torch.optim.SGD, theirs, 3, lr=0.1, foreach=False, **options)
    assert_same(ours, theirs)
    assert_same(buffers(a, ours), buffers(b, theirs))


@options_of_sgd
def test_errors_are_those_of_fp32(options, device):
    """Against FP64: at most twice the for-loop's error, and half an ulp for numbers that are right."""
    ours, theirs = parameters(device), parameters(device)
    exact = [Parameter(p.detach().double()) for p in ours]
    run(fastrank.SGD, ours, 3, lr=0.1, **options)
    run(torch.optim.SGD, theirs, 3, lr=0.1, foreach=False, **options)
    optimizer = torch.optim.SGD(exact, lr=0.1, **options)
    for step in range(3):
        set_gradients(theirs, step)
        for p, q in zip(exact, theirs, strict=True):
            p.grad = q.grad.double()
        optimizer.step()
    for p, q, truth in zip(ours, theirs, exact, strict=True):
        assert ((p - truth).abs() <= 2 * (q - truth).abs() + truth.abs() * 2.0**-23 + 2.0**-24).all()


@options_of_sgd
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(options, dtype, device):
    """A step in FP32 of the values that half precision holds, and then one rounding of each tensor."""
    ours = parameters(device, dtype)
    wide = [Parameter(p.detach().float()) for p in ours]
    a = fastrank.SGD(ours, lr=0.1, **options)
    b = torch.optim.SGD(wide, lr=0.1, foreach=False, **options)
    for step in range(3):
        set_gradients(ours, step)
        for p, q in zip(ours, wide, strict=True):
            q.grad = p.grad.float()
        a.step()
        b.step()
        for tensor in (*wide, *buffers(b, wide)):
            tensor.data.copy_(tensor.detach().to(dtype))
    assert all(tensor.dtype == dtype for tensor in buffers(a, ours))
    if ONE_ROUNDING or device.type == "cuda":
        assert_same([p.float() for p in ours + buffers(a, ours)], wide + buffers(b, wide))
    else:
        for p, q in zip(ours, wide, strict=True):
            assert torch.allclose(p.float(), q, rtol=4 * torch.finfo(dtype).eps, atol=1e-2)


@options_of_sgd
@pytest.mark.parametrize("stacked", ["lr", "weight_decay", "both"])
def test_stacks(options, stacked, device):
    """Slices of every size, aligned and not; a device tensor a slot, a number for all, and one of 0."""
    values = {"lr": torch.tensor([0.5, 0.1, 0.0]), "weight_decay": torch.tensor([0.0, 0.1, 0.3])}
    numbers = {"lr": 0.2, "weight_decay": options.get("weight_decay", 0.0)}
    own = {k: values[k].to(device) if stacked in (k, "both") else numbers[k] for k in values}
    rest = {k: v for k, v in options.items() if k != "weight_decay"}
    ours, theirs = parameters(device, lead=(3,)), parameters(device, lead=(3,))
    run(fastrank.SGD, ours, 3, **own, **rest)
    wanted = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False} | rest
    momenta = [None] * len(theirs)
    for step in range(3):
        set_gradients(theirs, step)
        for i, p in enumerate(theirs):
            momenta[i] = stacked_sgd_(p.detach(), p.grad, momenta[i], **own, **wanted)
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_views_that_start_anywhere(dtype, device):
    """Parameters, gradients and buffers at every distance from an aligned address; what is beside them stays."""
    size, step = BLOCK + 5, BLOCK + 16
    memory = [noise(9 * step, seed=i, dtype=dtype).to(device) for i in range(3)]
    before = [m.clone() for m in memory]
    params, theirs = [], []
    for shift in range(9):
        # one of the three is misaligned, or two, or all
        places = [shift * step + (shift if shift % 4 != i else 8) for i in range(3)]
        w, g, b = (m[o : o + size] for m, o in zip(memory, places, strict=True))
        twin = Parameter(w.float().clone())
        twin.grad, own = g.float().clone(), b.float().clone()
        params.append((Parameter(w), g, b, places))
        theirs.append((twin, own))
    ours = fastrank.SGD([p for p, *_ in params], lr=0.1, momentum=0.9)
    stock = torch.optim.SGD([p for p, _ in theirs], lr=0.1, momentum=0.9, foreach=False)
    for (p, g, b, _), (q, own) in zip(params, theirs, strict=True):
        p.grad = g
        ours.state[p]["momentum_buffer"], stock.state[q]["momentum_buffer"] = b, own
    ours.step()
    stock.step()
    for (p, _, b, _), (q, own) in zip(params, theirs, strict=True):
        assert_same([p, b], [q.to(dtype), own.to(dtype)])
    inside = [torch.zeros(9 * step, dtype=torch.bool, device=device) for _ in memory]
    for *_, places in params:
        for mask, place in zip(inside, places, strict=True):
            mask[place : place + size] = True
    for i, (now, old, mask) in enumerate(zip(memory, before, inside, strict=True)):
        assert torch.equal(now[~mask], old[~mask])
        assert torch.equal(now[mask], old[mask]) == (i == 1)


def test_what_a_decay_of_zero_and_signed_zeros_become(device):
    ours, theirs = (Parameter(torch.tensor([torch.inf, -0.0, 0.0, 1.0], device=device)) for _ in range(2))
    for kind, param in ((fastrank.SGD, ours), (torch.optim.SGD, theirs)):
        optimizer = kind([param], lr=0.1, momentum=0.9, maximize=True, foreach=kind is torch.optim.SGD and None)
        for _ in range(2):
            param.grad = torch.tensor([1.0, 0.0, -0.0, torch.nan], device=device)
            optimizer.step()
    assert ours.isnan().tolist() == [False, False, False, True]
    assert torch.equal(ours[:3].view(torch.int32), theirs[:3].view(torch.int32))


@pytest.mark.parametrize(("slices", "numel"), [(1, 2**31 + 2 * BLOCK), (3, 2**30 + 8)])
def test_offsets_beyond_2_to_the_31(slices, numel, device):
    """The last block of more elements than 32 bits can count. No memory is touched but that block's.

    In 32 bits the offset of the block would wrap around: the naive product shows it.
    """
    size = slices * numel
    if device.type == "cuda":
        if torch.cuda.get_device_properties(device).total_memory < 24 * 2**30:
            pytest.skip("needs 20 GB")
        arrays = [torch.empty(size, dtype=torch.float16, device=device) for _ in range(3)]
    else:
        # Pages that nothing touches take no memory.
        arrays = [torch.frombuffer(mmap.mmap(-1, 2 * size), dtype=torch.float16) for _ in range(3)]
    block = (numel - 1) // BLOCK
    first = (slices - 1) * numel + block * BLOCK
    assert torch.tensor(first).to(torch.int32).item() != first
    for value, array in enumerate(arrays, start=1):
        array[first:] = value
    pointers = torch.tensor([[a.data_ptr() for a in arrays]], device=device)
    meta = torch.tensor([[numel, 0, 0]], device=device)
    hyper = torch.tensor([[0.5, 0.0]] * slices, device=device)
    tiles = torch.tensor([[0, slices - 1, block]], dtype=torch.int32, device=device)
    sgd.sgd_(pointers, meta, tiles, hyper, Kind(torch.float16, 0.5, 0.0, False, False))
    assert arrays[2][first:].eq(3 * 0.5 + 2).all()
    assert arrays[0][first:].eq(1 - 0.5 * 3.5).all()
    assert arrays[1][first:].eq(2).all()


def test_work_lists_each_block_of_each_slice_once():
    tiles = sgd.tiles_of([(1, 1), (2, BLOCK + 1), (1, 0), (3, BLOCK)], [1, 2, 3])
    assert tiles.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [3, 0, 0], [3, 1, 0], [3, 2, 0]]
    assert sgd.tiles_of([(1, 1)], []).shape == (0, 3)


def test_cost_is_twenty_bytes_an_element_with_momentum():
    assert sgd.sgd_cost(10, 4, momentum=True) == (200, 70)
    assert sgd.sgd_cost(10, 2, momentum=False) == (60, 40)
