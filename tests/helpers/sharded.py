"""Models that are sharded in several ways, each trained beside its unsharded twin, and their two histories."""

from __future__ import annotations

import warnings

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu
from torch.nn.parallel import DistributedDataParallel

from fastrank import RankTracker, Tolerance

WORDS, WIDTH, HIDDEN, HEADS = 96, 16, 40, 4


class Block(nn.Module):
    """A layer of a Llama."""

    def __init__(self, width, hidden):
        super().__init__()
        self.norm, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.w1, self.w3 = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (w(y).unflatten(-1, (-1, x.shape[-1] // HEADS)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        x = x + self.wo(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.w2(silu(self.w1(y)) * self.w3(y))


class Llama(nn.Module):
    """Two of them."""

    def __init__(self, width=WIDTH, hidden=HIDDEN):
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList([Block(width, hidden), Block(width, hidden)])
        self.head = nn.Linear(width, WORDS, bias=False)

    def forward(self, x):
        x = self.words(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Mixed(nn.Module):
    """Layers whose weights are several matrices, of odd sizes, and one that nobody trains."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 7)
        self.lstm = nn.LSTM(7, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.conv = nn.Conv1d(5, 6, 3, padding=1)
        self.groups = nn.Conv1d(6, 6, 3, padding=1, groups=3)
        self.back = nn.ConvTranspose1d(6, 9, 1)
        self.experts = nn.Parameter(torch.randn(5, 9, 3) / 3)
        self.frozen = nn.Linear(3, 11)
        self.frozen.weight.requires_grad_(False)
        self.head = nn.Linear(11, WORDS)

    def forward(self, x):
        y, _ = self.lstm(self.words(x))
        y, _ = self.attention(y, y, y)
        y = self.back(self.groups(self.conv(y.mT))).mT
        y = torch.einsum("bti,eij->btj", y, self.experts)
        return self.head(self.frozen(y))


def by_fsdp(model, mesh):
    for module in model.children():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_tensors(model, mesh):
    plan = {"words": RowwiseParallel(input_layouts=Replicate()), "head": ColwiseParallel(output_layouts=Replicate())}
    for i in range(len(model.layers)):
        plan |= {f"layers.{i}.{name}": ColwiseParallel() for name in ("wq", "wk", "wv", "w1", "w3")}
        plan |= {f"layers.{i}.{name}": RowwiseParallel() for name in ("wo", "w2")}
    return parallelize_module(model, mesh, plan)


def by_both(model, mesh):
    return by_fsdp(by_tensors(model, mesh["tp"]), mesh["dp"])


def by_ddp(model, mesh):
    return DistributedDataParallel(model)


def by_old_fsdp(model, mesh):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def line():
    return init_device_mesh("cpu", (distributed.get_world_size(),))


def grid(names=("dp", "tp")):
    return init_device_mesh("cpu", (distributed.get_world_size() // 2, 2), mesh_dim_names=names)


def batch(step, examples=4):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(WORDS, (examples, 6), generator=generator)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        words = batch(step)
        cross_entropy(model(words)[:, :-1].flatten(0, 1), words[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def decaying(r):
    """Singular values of which none is 0, over the largest."""
    return torch.linspace(0, -4, r).exp()


def twins(make, shard, mesh, spectrum_of=decaying, lr=0.3, **options):
    """A sharded model and an unsharded one of the same weights, each with its optimizer and its tracker.

    spectrum_of: by what the singular values `(r,)` of each weight are multiplied, given r.
    """
    options.setdefault("tolerance", (Tolerance(0.15), Tolerance(1e-3), Tolerance(0.3, "spectral")))
    found = []
    for sharded in (True, False):
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim == 2:  # so that ranks are not all full
                u, _, v = torch.linalg.svd(parameter.detach(), full_matrices=False)
                parameter.data.copy_((u * spectrum_of(min(parameter.shape))) @ v)
        own = dict(options)
        if "track" in own:
            own["track"] = own["track"](model)
        if sharded:
            model = shard(model, mesh)
            own.setdefault("timeout", 30)
        else:
            own |= {"directory": None, "share": None}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.05)
        found.append((model, optimizer, RankTracker(model, optimizer, **own)))
    return found


NUMBERS = {"stable_rank", "spectral_norm", "frobenius_norm", "effective_rank", "nuclear_norm", "participation_ratio"}


def assert_same(rows, expected, close=1e-5):
    """Two histories, or last rows, are the same: whole numbers equal, and others nearly."""
    assert len(rows) == len(expected)
    for row, own in zip(rows, expected, strict=True):
        assert row.keys() == own.keys()
        for key, value in own.items():
            if key in NUMBERS and value is not None:
                assert abs(row[key] - value) <= close * max(1.0, abs(value)), (own["name"], key, row[key], value)
            elif key == "singular_values" and value is not None:
                assert torch.allclose(torch.tensor(row[key]), torch.tensor(value), atol=1e-5), own["name"]
            else:
                assert row[key] == value, (own["step"], own["name"], key, row[key], value)


def rows_of(tracker):
    return tracker.to_arrow().to_pylist()


__all__ = ["Shard", "distribute_tensor"]
