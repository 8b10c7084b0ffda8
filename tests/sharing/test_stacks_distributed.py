"""Two processes compute the gradients of one on the whole batch."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from stacks import STACKS, same
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lors.sharing import LowRank, merge, share

STACK = STACKS["encoder"]


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def sharded(model: nn.Module) -> nn.Module:
    """As usual, each layer and then the whole; the bank belongs to the whole, since all layers read it."""
    mesh = init_device_mesh("cpu", (2,))
    for name in STACK.names(model):
        fully_shard(model.get_submodule(name), mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded_at_the_root(model: nn.Module) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


def process(rank: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    options = dict(rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60))
    dist.init_process_group("gloo", init_method=f"file://{meeting}", **options)
    for wrap in (ddp, sharded, sharded_at_the_root):
        trains_as_one(rank, wrap)
    dist.barrier()
    dist.destroy_process_group()


def trains_as_one(rank: int, wrap: Callable[[nn.Module], nn.Module]) -> None:
    one = STACK.shared()
    wrapped = wrap(copy.deepcopy(one))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (one, wrapped)]
    x = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for batch in x:
        found = gradients(wrapped, batch[2 * rank : 2 * rank + 2])
        for name, expected in gradients(one, batch).items():
            same(whole(found[name]), expected)
        for optimizer in optimizers:
            optimizer.step()
    state = {name.removeprefix("module."): whole(tensor) for name, tensor in wrapped.state_dict().items()}
    alone = STACK.plain()
    share(alone, STACK.layers, LowRank(2, [1, 2]))
    alone.load_state_dict(state)
    same(merge(alone)(x[0]), one(x[0]))


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def test_two_processes_are_one(tmp_path):
    torch.multiprocessing.spawn(process, (tmp_path / "meeting",), nprocs=2)
