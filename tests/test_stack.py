"""Stacks against the paper's pseudo-code, its formulas for parameters and its initial values."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from lors.stack import _GRADIENTS, DenseGenerator, DenseLinear, LORSGenerator, LORSLinear, _linear
from oracle import dynamic_fused_weight, non_dynamic_fused_weight

# (num_layers, sizes, rank, groups)
LINEARS = [(1, (3, 5), 1, 1), (3, (7, 4), 4, 2), (4, (6, 9), 3, [1, 3, 2, 1])]
GENERATORS = [
    (1, 3, (1, 2, 5), 1, 1),
    (3, 5, (2, 4, 3), 3, 2),
    (3, 6, (3, 3, 6), 2, [2, 1, 3]),
    (2, 24, (2, 3, 4), 2, [1, 2]),
]
TERMS = [dict(), dict(shared=False), dict(private=False)]


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


def same(module: nn.Module, ours: Tensor, theirs: Tensor, x: Tensor) -> None:
    """The same values and the same gradients of everything."""
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    chosen = torch.randn_like(ours)
    inputs = [x, *module.parameters()]
    for our, their in zip(
        *(torch.autograd.grad((y * chosen).sum(), inputs, allow_unused=True) for y in (ours, theirs))
    ):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if our is None else our, zero if their is None else their, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("num_layers, sizes, rank, groups", LINEARS)
def test_lors_linear_is_figure_2(num_layers, sizes, rank, groups, terms):
    module = randomised(LORSLinear(num_layers, *sizes, rank, groups, **terms))
    x = torch.randn(2, 3, sizes[0], dtype=torch.float64, requires_grad=True)
    for layer in range(num_layers):
        shared = torch.zeros(sizes[1], sizes[0], dtype=torch.float64)
        A, B = shared.new_zeros(1, rank, sizes[0]), shared.new_zeros(1, sizes[1], rank)
        if terms.get("shared", True):
            shared = module.shared_weight
        if terms.get("private", True):
            A, B = module.A[layer], module.B[layer]
            assert len(A) == (groups if isinstance(groups, int) else groups[layer])
        weight = non_dynamic_fused_weight(shared[None], A, B)
        same(module, module(x, layer), x @ weight.T + module.bias[layer], x)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("num_layers, sizes, rank, groups", LINEARS)
def test_a_merged_linear_is_the_same_function(num_layers, sizes, rank, groups, terms):
    module = randomised(LORSLinear(num_layers, *sizes, rank, groups, **terms))
    merged = module.merge()
    assert isinstance(merged, DenseLinear) and merged.weight[0].dtype == torch.float64
    x = torch.randn(2, sizes[0], dtype=torch.float64)
    for layer in range(num_layers):
        torch.testing.assert_close(merged(x, layer), module(x, layer), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("num_layers, dim, shape, rank, groups", GENERATORS)
def test_a_merged_generator_is_the_same_function(num_layers, dim, shape, rank, groups, terms):
    module = randomised(LORSGenerator(num_layers, dim, shape, rank, groups, **terms))
    merged = module.merge()
    assert isinstance(merged, DenseGenerator) and merged.weight[0].dtype == torch.float64
    # Few queries and many: LORS has a way for each.
    for queries in (1, 3 * dim):
        q = torch.randn(queries, dim, dtype=torch.float64)
        for layer in range(num_layers):
            torch.testing.assert_close(merged(q, layer), module(q, layer), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("num_layers, dim, shape, rank, groups", GENERATORS)
def test_lors_generator_is_figure_3(num_layers, dim, shape, rank, groups, terms):
    module = randomised(LORSGenerator(num_layers, dim, shape, rank, groups, **terms))
    q = torch.randn(2 * dim - 2, dim, dtype=torch.float64, requires_grad=True)
    g, d, h = shape
    for layer in range(num_layers):
        K = groups if isinstance(groups, int) else groups[layer]

        def shared_linear(q):
            if not terms.get("shared", True):
                return q.new_zeros(len(q), g * d * h)
            return q @ module.shared.weight.T + module.shared.bias

        def private_linear(q, layer=layer, K=K):
            if not terms.get("private", True):
                return q.new_zeros(len(q), g * K * rank**2)
            return q @ module.E[layer].weight.T + module.E[layer].bias

        A, B = q.new_zeros(g, K, rank, h), q.new_zeros(g, K, d, rank)
        if terms.get("private", True):
            A, B = module.A[layer], module.B[layer]
        expected = dynamic_fused_weight(q, shared_linear, private_linear, A[None], B[None])
        same(module, module(q, layer), expected, q)


def test_leading_dimensions_of_the_query_are_kept():
    module = randomised(LORSGenerator(2, 5, (2, 3, 4), 2))
    q = torch.randn(2, 7, 5, dtype=torch.float64)
    assert module(q, 1).shape == (2, 7, 2, 3, 4)
    torch.testing.assert_close(module(q, 1)[1, 6], module(q[1, 6:], 1)[0])


def test_dense_stacks_are_separate_linear_layers():
    linear = randomised(DenseLinear(3, 4, 5))
    generator = randomised(DenseGenerator(3, 4, (2, 3, 5)))
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    for layer in range(3):
        same(linear, linear(x, layer), x @ linear.weight[layer].T + linear.bias[layer], x)
        expected = x @ generator.weight[layer].T + generator.bias[layer]
        same(generator, generator(x, layer), expected.view(6, 2, 3, 5), x)


def weights(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if "bias" not in name)


def biases(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if "bias" in name)


@pytest.mark.parametrize("shared, private", [(True, True), (True, False), (False, True)])
def test_parameters_are_those_of_section_3_4(shared, private):
    N, q, g, d, h, r, K = 4, 5, 3, 6, 7, 2, [1, 3, 2, 1]
    linear = LORSLinear(N, h, d, r, K, shared=shared, private=private)
    assert weights(linear) == shared * d * h + private * sum(K) * (d * r + r * h)
    assert biases(linear) == N * d
    generator = LORSGenerator(N, q, (g, d, h), r, K, shared=shared, private=private)
    expected = shared * q * d * h + private * sum(K) * (q * r**2 + d * r + r * h)
    assert weights(generator) == g * expected
    assert biases(generator) == g * (shared * d * h + private * sum(K) * r**2)
    assert weights(DenseLinear(N, h, d)) == N * d * h
    assert weights(DenseGenerator(N, q, (g, d, h))) == N * q * g * d * h


# Millions per layer: LORS^T and LORS^A at each rank, beside 8.39 and 2.10 of the dense ones.
TABLE_1 = {4: (1.53, 0.36), 8: (1.66, 0.39), 16: (1.93, 0.49), 32: (2.46, 0.89)}


@pytest.mark.parametrize("rank", TABLE_1)
def test_table_1(rank):
    N, features, shape = 6, 2 * 128 * 128, (1, 64, 128)
    with torch.device("meta"):
        counts = [
            weights(module) / N / 1e6
            for module in (
                LORSLinear(N, features, 256, rank, 1),
                LORSGenerator(N, 256, shape, rank, 2),
                DenseLinear(N, features, 256),
                DenseGenerator(N, 256, shape),
            )
        ]
    # Half of the last digit; the paper rounds 2.4549 up.
    assert counts == pytest.approx([*TABLE_1[rank], 8.39, 2.10], abs=0.0052)


def is_uniform(tensor: Tensor, bound: float) -> None:
    largest = tensor.abs().max().item()
    assert 0.97 * bound < largest <= bound * (1 + 1e-6)
    assert tensor.mean().abs() < 0.1 * bound
    assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("init", ["paper", "released"])
def test_initial_values_of_the_static_stack(init):
    linear = LORSLinear(3, 60, 40, 10, [1, 2, 3], init=init)
    is_uniform(linear.shared_weight, math.sqrt((6 if init == "paper" else 1) / 60))
    x = torch.randn(5, 60)
    for layer, (A, B) in enumerate(zip(linear.A, linear.B)):
        if init == "paper":
            is_uniform(B, math.sqrt(6 / 10))
            assert not A.any()
        else:
            is_uniform(A, math.sqrt(6 / 60))
            assert not B.any()
        torch.testing.assert_close(linear(x, layer), x @ linear.shared_weight.T + linear.bias[layer])


@pytest.mark.parametrize("init", ["paper", "released"])
def test_initial_values_of_the_adaptive_stack(init):
    generator = LORSGenerator(3, 24, (4, 20, 30), 10, [1, 2, 3], init=init)
    is_uniform(generator.shared.bias, 1 / math.sqrt(24))
    if init == "paper":
        is_uniform(generator.shared.weight, math.sqrt(6 / 24))
    else:
        assert not generator.shared.weight.any()
    for A, B, E in zip(generator.A, generator.B, generator.E):
        is_uniform(B, math.sqrt(6 / (10 if init == "paper" else 20 * 10)))
        is_uniform(A, math.sqrt(6 / (30 if init == "paper" else 10 * 30)))
        assert not E.weight.any()
        assert bool(E.bias.any()) == (init == "paper")


def test_initial_values_of_the_dense_stacks():
    generator, linear = DenseGenerator(2, 24, (4, 20, 30)), DenseLinear(2, 60, 400)
    for weight, bias in zip(generator.weight, generator.bias):
        assert not weight.any()
        is_uniform(bias, 1 / math.sqrt(24))
    for weight, bias in zip(linear.weight, linear.bias):
        is_uniform(weight, math.sqrt(6 / (60 + 400)))
        is_uniform(bias, 1 / math.sqrt(60))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(rank=0), r"rank=0: .*from 1 to 4"),
        (dict(rank=5), r"rank=5: .*from 1 to 4"),
        (dict(rank=1.5), r"rank=1\.5: must be an int from 1 to 4"),
        (dict(groups=0), r"groups=\[0, 0, 0\]: .*positive int.*3 layers"),
        (dict(groups=[1, 2]), r"groups=\[1, 2\]: .*3 layers"),
        (dict(groups=[1, -1, 2]), r"groups=\[1, -1, 2\]: .*positive"),
        (dict(groups=[1, 1.5, 2]), r"groups=\[1, 1\.5, 2\]: .*int"),
        (dict(shared=False, private=False), r"shared=False, private=False: .*at least one"),
        (dict(init="zero"), r"init='zero': .*paper, released"),
    ],
)
def test_wrong_arguments_are_named_with_what_is_allowed(wrong, message):
    for build in (
        lambda **kwargs: LORSLinear(3, 6, 4, **kwargs),
        lambda **kwargs: LORSGenerator(3, 5, (2, 6, 4), **kwargs),
    ):
        with pytest.raises(ValueError, match=message):
            build(**{"rank": 2, **wrong})


@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 4), (1, 2, 3, 4)])
def test_a_generators_shape_has_three_positive_numbers(shape):
    for build in (lambda: DenseGenerator(2, 5, shape), lambda: LORSGenerator(2, 5, shape, 1)):
        with pytest.raises(ValueError, match=r"shape=\(.*: must be \(g, d, h\), three positive numbers"):
            build()


@pytest.mark.parametrize(
    "module",
    [
        DenseLinear(3, 4, 5),
        LORSLinear(3, 4, 5, 2),
        DenseGenerator(3, 4, (2, 3, 5)),
        LORSGenerator(3, 4, (2, 3, 5), 2, [1, 2, 3]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_state_dict_has_each_tensor_once_and_nothing_else(module):
    tensors = module.state_dict()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in module.parameters())


def test_the_stack_needs_no_detectron2():
    code = "import sys, lors.stack; print([m for m in sys.modules if m.startswith('detectron2')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7), (2, 0, 7)])
@pytest.mark.parametrize("features", [3, 30])  # weights wider and taller than they are
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_of_float32_is_torchs_with_its_gradients(shape, features, has_bias):
    def of(multiply) -> list[Tensor]:
        torch.manual_seed(0)
        x, weight, bias = torch.randn(shape), torch.randn(features, 7), torch.randn(features)
        given = [tensor.requires_grad_() for tensor in (x, weight, bias)[: 3 if has_bias else 2]]
        y = multiply(*given)
        first = torch.autograd.grad(y.tanh().sum(), given, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum((g**2).sum() for g in first), given[:2])]

    for ours, theirs in zip(of(_linear), of(F.linear)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("terms", [{}, {"shared": False}])
def test_few_queries_and_many_get_the_same_weights(terms):
    # With far more queries than query_dim, B and A act on the columns of E's weight instead.
    generator = LORSGenerator(2, 6, (2, 5, 4), rank=3, groups=[1, 2], **terms).double()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter)
    query = torch.randn(4, 5, 6, dtype=torch.float64)
    for layer in range(2):
        many = generator(query, layer)
        few = torch.stack([generator(q, layer) for q in query])
        torch.testing.assert_close(many, few, rtol=1e-10, atol=1e-10)
        for a, b in zip(
            *(torch.autograd.grad(w.square().sum(), generator.E[layer].weight) for w in (many, few))
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def once(run, module, x):
    run(module, x).backward()


def twice(run, module, x):
    loss = run(module, x)
    loss.backward(retain_graph=True)
    loss.backward()


def two_graphs_at_once(run, module, x):
    first, second = run(module, x), run(module, 2 * x)
    second.backward()
    first.backward()


def weights_changed_between(run, module, x):
    run(module, x).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    run(module, x).backward()


def input_changed_in_place(run, module, x):
    y = x.sin()
    unused = run(module, y)
    y.mul_(2)
    run(module, y).backward()
    assert unused.requires_grad


def first_for_the_input_alone(run, module, x):
    loss = run(module, x)
    torch.autograd.grad(loss, x, retain_graph=True)
    assert not any(_GRADIENTS[p]().sums for p in module.parameters() if p in _GRADIENTS)
    loss.backward()


def after_one_that_failed(run, module, x):
    def fail(_):
        raise RuntimeError("out of memory")

    # A bias of a layer, whose gradient is done when other layers' are not.
    handle = list(module.parameters())[-1].register_hook(fail)
    loss = run(module, x)
    with pytest.raises(RuntimeError, match="out of memory"):
        loss.backward(retain_graph=True)
    handle.remove()
    module.zero_grad()
    loss.backward()


def with_checkpoints(run, module, x):
    checkpoint(run, module, x, use_reentrant=False).backward()


def with_reentrant_checkpoints(run, module, x):
    checkpoint(run, module, x, use_reentrant=True).backward()


def of_the_gradients(run, module, x):
    given = [x, *module.parameters()]
    sum(g.square().sum() for g in torch.autograd.grad(run(module, x), given, create_graph=True)).backward()


def many_at_once(run, module, x):
    y = torch.stack((run(module, x), run(module, 2 * x)))
    rows = torch.autograd.grad(y, [x, *module.parameters()], torch.eye(2), is_grads_batched=True)
    for tensor, of_tensor in zip([x, *module.parameters()], rows):
        tensor.grad = of_tensor[1]


@pytest.mark.parametrize(
    "backward",
    [
        once,
        twice,
        two_graphs_at_once,
        weights_changed_between,
        input_changed_in_place,
        first_for_the_input_alone,
        after_one_that_failed,
        with_checkpoints,
        with_reentrant_checkpoints,
        of_the_gradients,
        many_at_once,
    ],
)
@pytest.mark.parametrize(
    "module",
    [
        DenseLinear(3, 48, 24),
        LORSLinear(3, 48, 24, 2, 2),
        DenseGenerator(3, 48, (2, 4, 6)),
        LORSGenerator(3, 48, (2, 4, 6), 2, [1, 3, 2]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_gradients_of_float32_are_those_of_float64(module, backward):
    # In float32 on a CPU the gradients of a weight that layers share are added up in place.
    def run(module: nn.Module, x: Tensor) -> Tensor:
        for layer in (0, 2, 1, 2):
            y = module(x, layer).flatten(1).tanh()
            x = x + F.pad(y, (0, 48 - y.shape[1]))
        return x.square().mean()

    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(80, 48)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        twin, of = copy.deepcopy(module).to(dtype), x.to(dtype, copy=True).requires_grad_()
        twin.zero_grad()
        backward(run, twin, of)
        gradients.append([tensor.grad for tensor in (of, *twin.parameters())])
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize(
    "module",
    [
        DenseLinear(2, 6, 5),
        LORSLinear(2, 6, 5, 2),
        DenseGenerator(2, 6, (2, 3, 4)),
        LORSGenerator(2, 6, (2, 3, 4), 2, [1, 2]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_transforms_of_torch_func_and_forward_mode(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x, along = torch.randn(7, 6), torch.randn(7, 6)
    parameters = dict(module.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, parameters, (x, 1)).tanh().sum()

    def same(ours: object, theirs: object) -> None:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    same(torch.func.vmap(lambda x: module(x, 1))(x), module(x, 1))
    gradients = torch.func.grad(loss)(parameters, x)
    loss(parameters, x).backward()
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            same(gradients[name], parameter.grad)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    same({name: of_each.sum(dim=0) for name, of_each in each.items()}, gradients)
    _, slope = torch.func.jvp(lambda x: loss(parameters, x), (x,), (along,))
    same(slope, (torch.func.jacrev(lambda x: loss(parameters, x))(x) * along).sum())
    with forward_ad.dual_level():
        dual = loss(parameters, forward_ad.make_dual(x, along))
        same(forward_ad.unpack_dual(dual).tangent, slope)
