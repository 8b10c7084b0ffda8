"""Models of other makers, shared: the plain model with weights composed by hand, whatever runs it."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stacks import STACKS, Stack, by_hand, gradients, loss_of, run, same, train
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.checkpoint import checkpoint

from lors.sharing import LowRank, merge, share

pytestmark = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def doubled(stack: Stack) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return tuple(x.double() if x.is_floating_point() else x for x in stack.inputs())


def test_outputs_and_gradients_are_those_of_weights_composed_by_hand(stack):
    model = stack.shared()
    ours, theirs = run(model, stack), by_hand(model, stack)
    same(ours, theirs)
    # two passes before one backward
    same(gradients(model, ours + run(model, stack)), gradients(model, 2 * theirs))


def test_at_the_start_every_layer_is_the_first(stack):
    model, plain = stack.plain(), stack.plain()
    share(model, stack.layers, LowRank(2))
    first, *others = (plain.get_submodule(name) for name in stack.names(plain))
    matrices = {name: p for name, p in first.named_parameters() if p.dim() > 1}
    for other in others:
        other.load_state_dict({**other.state_dict(), **matrices})
    same(run(model, stack), run(plain, stack))


def test_parameters_are_fewer_and_each_is_there_once(stack):
    model, plain = stack.shared(), stack.plain()
    assert len(parameters_to_vector(model.parameters())) < len(parameters_to_vector(plain.parameters()))
    tensors = model.state_dict(keep_vars=True)
    assert len({id(tensor) for tensor in tensors.values()}) == len(tensors)
    named = dict(model.named_parameters(remove_duplicate=False))
    assert len({id(p) for p in named.values()}) == len(named)
    assert named.keys() == tensors.keys() - {name for name, _ in model.named_buffers()}


def test_a_merged_copy_is_plain_and_the_same_function(stack):
    model, plain = stack.shared(), stack.plain()
    before = run(model, stack)
    train(model, stack)
    merged = merge(model)
    same(run(merged, stack), run(model, stack))
    assert not torch.allclose(run(merged, stack), before, rtol=1e-4)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    plain.load_state_dict(merged.state_dict())
    same(run(plain, stack), run(model, stack))
    trained = copy.deepcopy(model.state_dict())
    train(merged, stack)
    same(model.state_dict(), trained, 0)


def test_saved_and_loaded(stack, tmp_path: Path):
    model, other = stack.shared(), stack.plain()
    share(other, stack.layers, LowRank(2, [1, 2]))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    pth = torch.load(tmp_path / "model.pth", weights_only=True)
    safe = load_file(tmp_path / "model.safetensors")
    for state in (pth, safe):
        other.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in state.items()})
        other.load_state_dict(state)
        same(run(other, stack), run(model, stack), 0)
    whole = pickle.loads(pickle.dumps(model))
    train(model, stack)
    same(run(whole, stack), run(other, stack), 0)
    assert not torch.equal(run(whole, stack), run(model, stack))


def test_a_copy_is_whole_and_apart(stack):
    model = stack.shared()
    average = torch.optim.swa_utils.AveragedModel(model)  # a deepcopy, updated in place
    average.update_parameters(model)
    before = run(average, stack)
    same(before, run(model, stack))
    train(model, stack)
    same(run(average, stack), before, 0)
    after = run(model, stack)
    assert not torch.allclose(after, before, rtol=1e-4)
    same(run(merge(average.module), stack), before)
    average.update_parameters(model)
    same(run(model, stack), after, 0)
    between = copy.deepcopy(model)
    between.load_state_dict(average.module.state_dict())
    same(run(average, stack), run(between, stack))


def test_compiled_and_exported(stack):
    model = stack.shared()
    expected = gradients(model, run(model, stack))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y = run(compiled, stack)
    same(y, run(model, stack))
    same(gradients(model, y), expected)
    inputs = doubled(stack)
    traced = torch.jit.trace(model, inputs, strict=False, check_trace=False)
    batch = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    exported = torch.export.export(model, inputs, dynamic_shapes=batch).module()
    for times in (1, 20):
        more = stack._replace(inputs=lambda times=times: [torch.cat([x] * times) for x in inputs])
        same([run(exported, more), run(traced, more)], [run(model, more)] * 2)


def test_torch_func(stack):
    model, other = stack.shared(), stack.plain()
    share(other, stack.layers, LowRank(2, [1, 2]))
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return loss_of(run(lambda *x: torch.func.functional_call(other, {**state, **parameters}, x), stack))

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = torch.func.grad(loss)(parameters)
    same(found, gradients(model, run(model, stack)))
    parameters = {name: p for name, p in parameters.items() if name.startswith(stack.bank)}
    along = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slope = torch.func.jvp(loss, (parameters,), (along,))
    same(slope, sum((found[name] * along[name]).sum() for name in along), 1e-6)


def test_checkpointed(stack):
    model = stack.shared()
    expected = gradients(model, run(model, stack))
    for name in stack.names(model):
        layer = model.get_submodule(name)
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    same(gradients(model, run(model, stack)), expected)


def test_double_backward(stack):
    model = stack.shared()
    found = []
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for y in (run(model, stack), by_hand(model, stack)):
            first = torch.autograd.grad(
                loss_of(y.tanh()), list(model.parameters()), create_graph=True, allow_unused=True
            )
            penalty = sum(gradient.square().sum() for gradient in first if gradient is not None)
            found.append(torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True))
    same(*found, 1e-8)


def test_in_other_precisions_weights_are_composed_in_their_own(stack):
    model = stack.shared().float()
    merged, expected = merge(model), run(model, stack, torch.float32)
    last = stack.names(model)[-1]
    matrices = [name for name, p in merged.named_parameters() if p.dim() > 1 and name.startswith(last)]
    path, _, leaf = matrices[0].rpartition(".")
    weight = getattr(model.get_submodule(path), leaf)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, of_merged = run(model, stack, torch.float32), run(merged, stack, torch.float32)
        assert torch.equal(getattr(model.get_submodule(path), leaf), weight)
    error = (of_merged - expected).norm()  # what bfloat16 does to any model
    assert 0 < (y - expected).norm() < 3 * error and error < 0.1 * expected.norm()
    loss_of(y.float()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    same(run(model.double(), stack).float(), expected, 1e-3)
    half = run(model.bfloat16(), stack, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and (half - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluated_without_gradients(stack, mode):
    model = stack.shared().eval()
    merged = merge(model)
    with mode():
        same(run(model, stack), run(merged, stack))


def test_hooks_run_and_a_pass_that_fails_leaves_nothing_behind(stack):
    model = stack.plain()
    seen = []
    last = model.get_submodule(stack.names(model)[-1])
    inner = next(module for module in last.modules() if isinstance(module, (nn.Linear, nn.Conv2d)))

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    inner.register_forward_pre_hook(lambda *_: seen.append("before"))
    inner.register_full_backward_hook(lambda *_: seen.append("back"))
    share(model, stack.layers, LowRank(2))
    train(model, stack, steps=1)
    assert seen == ["before", "back"] or "before" not in seen  # attention applies some without calling them
    before = run(model, stack)
    handle = model.get_submodule(stack.names(model)[0]).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        run(model, stack)
    handle.remove()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    assert not torch.equal(run(model, stack), before)
    same(run(merge(model), stack), run(model, stack))
