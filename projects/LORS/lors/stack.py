"""LORS: a stack of N identical layers as one object (Li et al., CVPR 2024, sections 3.2 to 3.4).

Each module here holds one weight for all N layers; `forward(x, layer)` uses the weight of layer `layer`.

=================  =========================================  ==========================
module             weight of layer i                          parameters
=================  =========================================  ==========================
`DenseLinear`      W_i                                        nothing shared
`LORSLinear`       W_shared + sum_k B_ik A_ik                 LORS^T, equations 7 and 8
`DenseGenerator`   Linear_i(q)                                nothing shared
`LORSGenerator`    Linear_shared(q) + sum_k B_ik E_ik(q) A_ik LORS^A, equations 9 to 12
=================  =========================================  ==========================

A *linear* applies its weight to x. A *generator* turns a query q into weights of `shape` = (g, d, h): g
independent matrices of d x h. `merge` gives a LORS stack's dense twin, the same function; `factorize` a dense
stack's LORS twin, the nearest weights. The module needs torch alone.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.weak import WeakTensorKeyDictionary

Groups = Union[int, Sequence[int]]
Term = tuple[Tensor, Tensor, Tensor]  # B (g, d, r), E (g, r, r, q), A (g, r, h)
INITS = ("paper", "released")
# What torch.compile makes of F.linear on a CPU; not every build of torch has it.
_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


class DenseLinear(nn.Module):
    """N linear layers that share nothing: W_i x + b_i."""

    def __init__(self, num_layers: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.num_layers, self.in_features, self.out_features = num_layers, in_features, out_features
        self.weight = _parameters(num_layers, lambda i: (out_features, in_features))
        self.bias = _parameters(num_layers, lambda i: (out_features,))
        for weight, bias in zip(self.weight, self.bias):
            nn.init.xavier_uniform_(weight)
            _uniform(bias, 1 / math.sqrt(in_features))

    def forward(self, x: Tensor, layer: int) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return _linear(x, self.weight[layer], self.bias[layer])

    @torch.no_grad()
    def factorize(self, rank: int, groups: Groups = 1) -> LORSLinear:
        """The LORS twin with the nearest weights; private is the truncated SVD of what is not shared."""
        sizes = self.num_layers, self.in_features, self.out_features
        lors = LORSLinear(*sizes, rank, groups).to(self.bias[0])
        ranks = [min(k * rank, self.in_features, self.out_features) for k in lors.groups]

        def truncated_svd(layer: int, rest: Tensor) -> Tensor:
            U = _leading(rest, ranks[layer])
            return U @ (U.T @ rest)

        layers = [weight.double() for weight in self.weight]
        shorter = 0 if self.out_features <= self.in_features else 1
        shared = _guess_shared([layer.movedim(shorter, 0) for layer in layers], ranks).movedim(0, shorter)
        shared, private = _share(layers, truncated_svd, shared)
        lors.shared_weight.copy_(shared)
        for i, (part, r) in enumerate(zip(private, ranks)):
            U = _leading(part, r)
            A = U.T @ part
            scale = A.norm(dim=1).sqrt()  # B and A alike, which is how training likes them
            unused = lors.groups[i] * rank - r
            A, B = A / scale.clamp(min=1e-12)[:, None], U * scale
            lors.A[i].copy_(F.pad(A, (0, 0, 0, unused)).unflatten(0, (-1, rank)))
            lors.B[i].copy_(F.pad(B, (0, unused)).unflatten(1, (-1, rank)).transpose(0, 1))
            lors.bias[i].copy_(self.bias[i])
        return lors


class LORSLinear(nn.Module):
    """LORS^T (section 3.2): (W_shared + sum_k B_ik A_ik) x + b_i, with one bias per layer.

    Args:
        rank: r, the inner size of every B (out_features, r) and A (r, in_features).
        groups: K, the number of B A terms; one int for all layers or one per layer.
        shared, private: whether the first and the second term exist (Table 5).
        init: "paper" (section 4.1: A starts at 0) or "released" (the authors' program: B starts at 0).

    Raises:
        ValueError: a rank, group count or initialisation that does not fit.
    """

    def __init__(
        self,
        num_layers: int,
        in_features: int,
        out_features: int,
        rank: int,
        groups: Groups = 1,
        *,
        shared: bool = True,
        private: bool = True,
        init: str = "released",
    ) -> None:
        super().__init__()
        _check(rank, min(in_features, out_features), shared, private, init)
        self.num_layers, self.in_features, self.out_features = num_layers, in_features, out_features
        self.rank, self.groups = rank, _per_layer(groups, num_layers)
        self.shared_weight = nn.Parameter(torch.empty(out_features, in_features)) if shared else None
        if private:
            self.B = _parameters(num_layers, lambda i: (self.groups[i], out_features, rank))
            self.A = _parameters(num_layers, lambda i: (self.groups[i], rank, in_features))
        self.private = private
        self.bias = _parameters(num_layers, lambda i: (out_features,))
        self._reset(init)

    @torch.no_grad()
    def _reset(self, init: str) -> None:
        paper = init == "paper"
        for bias in self.bias:
            bias.zero_()
        if self.shared_weight is not None:
            # torch's default for Linear is Kaiming's bound for a = sqrt(5)
            _uniform(self.shared_weight, math.sqrt((6 if paper else 1) / self.in_features))
        if self.private:
            for B, A in zip(self.B, self.A):
                kept, fan_in, zeroed = (B, self.rank, A) if paper else (A, self.in_features, B)
                _kaiming(kept, fan_in)
                zeroed.zero_()

    def forward(self, x: Tensor, layer: int) -> Tensor:
        """(..., in_features) -> (..., out_features); the sum over k is one product of inner size K r."""
        bias = self.bias[layer]
        if not self.private:
            return _linear(x, self.shared_weight, bias)
        A = self.A[layer].flatten(0, 1)
        B = self.B[layer].transpose(0, 1).flatten(1)
        if self.shared_weight is None:
            return _linear(_linear(x, A), B, bias)
        flat = x.reshape(-1, self.in_features)
        # In this order the gradient of x is first the shared path's, to which the small product is added.
        private = _linear(_linear(flat, A), B)
        y = _linear(flat, self.shared_weight, bias) + private
        return y.view(*x.shape[:-1], self.out_features)

    @torch.no_grad()
    def merge(self) -> DenseLinear:
        """The dense stack with the same function."""
        dense = DenseLinear(self.num_layers, self.in_features, self.out_features).to(self.bias[0])
        for i, (weight, bias) in enumerate(zip(dense.weight, dense.bias)):
            bias.copy_(self.bias[i])
            merged = 0 if self.shared_weight is None else self.shared_weight.double()
            if self.private:
                merged = merged + (self.B[i].double() @ self.A[i].double()).sum(dim=0)
            weight.copy_(merged)
        return dense


class DenseGenerator(nn.Module):
    """N linear layers that each turn a query into weights of `shape` = (g, d, h) and share nothing.

    The weight starts at 0, so that at first the generated weights (the bias) are the same for every query.
    """

    def __init__(self, num_layers: int, query_dim: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.num_layers, self.query_dim, self.shape = num_layers, query_dim, _shape(shape)
        size = math.prod(self.shape)
        self.weight = _parameters(num_layers, lambda i: (size, query_dim))
        self.bias = _parameters(num_layers, lambda i: (size,))
        for weight, bias in zip(self.weight, self.bias):
            nn.init.zeros_(weight)
            _uniform(bias, 1 / math.sqrt(query_dim))

    def forward(self, query: Tensor, layer: int) -> Tensor:
        """(..., query_dim) -> (..., g, d, h)."""
        return _linear(query, self.weight[layer], self.bias[layer]).unflatten(-1, self.shape)

    @torch.no_grad()
    def factorize(self, rank: int, groups: Groups = 1) -> LORSGenerator:
        """The LORS twin with the nearest weights and biases.

        A private part, as a tensor (g, d, h, d_q + 1), is a sum over k of Tucker-2 forms B E A. First it is
        one form of inner size K r, then that is separated into K of inner size r, which are fitted in turn
        to what the others leave.
        """
        lors = LORSGenerator(self.num_layers, self.query_dim, self.shape, rank, groups).to(self.bias[0])
        layers = [
            torch.cat((weight, bias[:, None]), dim=1).view(*self.shape, -1).double()
            for weight, bias in zip(self.weight, self.bias)
        ]
        _, d, h = self.shape
        ranks = [k * rank for k in lors.groups]
        longer = 1 if d >= h else 2
        turned = [layer.movedim(longer, 1) for layer in layers]
        shared = _guess_shared([layer.flatten(2) for layer in turned], ranks)
        shared = shared.view_as(turned[0]).movedim(1, longer)
        terms: list[list[Term]] = [[] for _ in layers]

        def one_form(layer: int, rest: Tensor) -> Tensor:
            A = terms[layer][0][2] if terms[layer] else _rows(rest, min(ranks[layer], h))
            terms[layer] = [_tucker(rest, A, min(ranks[layer], d))]
            return _product(terms[layer][0])

        def in_turn(layer: int, rest: Tensor) -> Tensor:
            terms[layer] = _fit_in_turn(rest, terms[layer])
            return sum(map(_product, terms[layer]))

        shared, _ = _share(layers, one_form, shared)
        if max(lors.groups) > 1:
            terms = [_separate(known[0], k, rank) for known, k in zip(terms, lors.groups)]
            shared, _ = _share(layers, in_turn, shared)
        lors.shared.weight.copy_(shared[..., :-1].flatten(0, 2))
        lors.shared.bias.copy_(shared[..., -1].flatten())
        for i, known in enumerate(terms):
            B, E, A = (torch.stack(factor, dim=1) for factor in zip(*known))
            lors.B[i].copy_(B)
            lors.A[i].copy_(A)
            lors.E[i].weight.copy_(E[..., :-1].flatten(0, 3))
            lors.E[i].bias.copy_(E[..., -1].flatten())
        return lors


class LORSGenerator(nn.Module):
    """LORS^A (section 3.2): Linear_shared(q) + sum_k B_ik E_ik(q) A_ik, with E_ik(q) = Linear_ik(q).

    Args:
        shape: (g, d, h); each layer, matrix and term k has B (d, r), A (r, h) and a Linear to r x r.
        rank, groups, shared, private: as in `LORSLinear`.
        init: "paper" (section 4.1) or "released", where the shared weight and all of E start at 0.

    Raises:
        ValueError: a rank, group count or initialisation that does not fit.
    """

    def __init__(
        self,
        num_layers: int,
        query_dim: int,
        shape: Sequence[int],
        rank: int,
        groups: Groups = 1,
        *,
        shared: bool = True,
        private: bool = True,
        init: str = "released",
    ) -> None:
        super().__init__()
        self.num_layers, self.query_dim, self.shape = num_layers, query_dim, _shape(shape)
        g, d, h = self.shape
        _check(rank, min(d, h), shared, private, init)
        self.rank, self.groups = rank, _per_layer(groups, num_layers)
        self.shared = nn.Linear(query_dim, g * d * h) if shared else None
        if private:
            self.B = _parameters(num_layers, lambda i: (g, self.groups[i], d, rank))
            self.A = _parameters(num_layers, lambda i: (g, self.groups[i], rank, h))
            self.E = nn.ModuleList(nn.Linear(query_dim, g * k * rank**2) for k in self.groups)
        self.private = private
        self._reset(init)

    @torch.no_grad()
    def _reset(self, init: str) -> None:
        paper = init == "paper"
        _, d, h = self.shape
        if self.shared is not None:
            if paper:
                _kaiming(self.shared.weight, self.query_dim)
            else:
                self.shared.weight.zero_()
        if self.private:
            for B, A, E in zip(self.B, self.A, self.E):
                # The released program takes both sizes of a matrix as its fan-in.
                _kaiming(B, self.rank if paper else d * self.rank)
                _kaiming(A, h if paper else self.rank * h)
                E.weight.zero_()
                if not paper:
                    E.bias.zero_()

    def forward(self, query: Tensor, layer: int) -> Tensor:
        """(..., query_dim) -> (..., g, d, h).

        B_ik E_ik(q) A_ik is linear in q: B and A act on E(q) of each query or, where the queries are far
        more than the columns of E's weight, on those columns. No private weight of a query is ever stored
        apart.
        """
        if not self.private:
            return _linear(query, self.shared.weight, self.shared.bias).unflatten(-1, self.shape)
        if query.numel() > 2 * self.query_dim**2:
            return _linear(query, *self._as_linear(layer)).unflatten(-1, self.shape)
        flat = query.reshape(-1, self.query_dim)
        E = _linear(flat, self.E[layer].weight, self.E[layer].bias).view(
            -1, self.shape[0], self.groups[layer], self.rank, self.rank
        )
        if self.shared is None:
            weight = E.new_zeros(len(E), math.prod(self.shape))
        else:
            weight = _linear(flat, self.shared.weight, self.shared.bias)
        by_autograd = torch.is_grad_enabled() and not _transformed()
        add = _AddPrivate.apply if by_autograd else _add_private
        return add(weight, E, self.A[layer], self.B[layer]).view(*query.shape[:-1], *self.shape)

    @torch.no_grad()
    def merge(self) -> DenseGenerator:
        """The dense stack with the same function."""
        dense = DenseGenerator(self.num_layers, self.query_dim, self.shape).to(next(self.parameters()))
        for i in range(self.num_layers):
            weight, bias = self._as_linear(i, torch.float64)
            dense.weight[i].copy_(weight)
            dense.bias[i].copy_(bias)
        return dense

    def _as_linear(self, layer: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Weight (g d h, d_q) and bias (g d h,) of the one Linear that a layer amounts to."""
        if not self.private:
            return self.shared.weight, self.shared.bias
        g, d, h = self.shape
        A, E = self.A[layer].to(dtype=dtype), self.E[layer]
        # (g, K, r, r, d_q + 1)
        columns = torch.cat((E.weight, E.bias[:, None]), dim=1).to(A).view(*A.shape[:3], self.rank, -1)
        EA = A.transpose(2, 3)[:, :, None] @ columns
        B = _wide(self.B[layer]).to(A)
        merged = (B @ EA.view(g, -1, h * columns.shape[-1])).view(g * d * h, -1)
        weight, bias = merged[:, :-1], merged[:, -1]
        if self.shared is None:
            return weight.contiguous(), bias
        return self.shared.weight + weight, self.shared.bias + bias


def eager_on_cpu(x: Tensor) -> bool:
    """Whether what is done to x is done at once and on a CPU: not traced, compiled or transformed."""
    later = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return x.device.type == "cpu" and not later and not _transformed()


def _transformed() -> bool:
    """Under torch.func or forward-mode differentiation, which take torch's own operations alone."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear; float32 on a CPU by way of oneDNN, which takes about half of MKL's time there."""
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (_HAS_ONEDNN and eager_on_cpu(x) and float32 and x.numel()):
        return F.linear(x, weight, bias)
    if x.dim() != 2:
        return _linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))
    learnt = any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    if not (torch.is_grad_enabled() and learnt):
        return _onednn_linear(x, weight, bias)
    of_x, of_weight = _Gradient.of(x), _Gradient.of(weight)
    return _OneDNNLinear.apply(x, weight, bias, of_x, of_weight, of_x.token, of_weight.token)


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, k), weight (m, k), bias (m,) -> (N, m)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        of_x: _Gradient,
        of_weight: _Gradient,
        *tokens: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.of_x, ctx.of_weight = of_x, of_weight
        return _onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.of_x.add(gradient, weight)
        ctx.of_weight.add(gradient.t(), x)
        of_bias = gradient.sum(dim=0) if ctx.needs_input_grad[2] else None
        return None, None, of_bias, None, None, None, None


class _Gradient:
    """The gradient of a matrix from all the products of a graph, added up in place.

    So a weight that six layers share gets one matrix, not six and their sum. In the graph `token` stands for
    the matrix; its backward comes after those of all the products and hands their sum on.
    """

    def __init__(self, of: Tensor) -> None:
        self.version = of._version
        self.sums: dict[int, Tensor] = {}  # one for each backward pass under way
        self.token = _Token.apply(of, self.sums)

    @staticmethod
    def of(matrix: Tensor) -> _Gradient:
        """That of the graphs which the matrix, as it is now, is in already, or else a first."""
        known = _GRADIENTS.get(matrix, lambda: None)()
        if known is None or known.version != matrix._version:
            known = _Gradient(matrix)
            _GRADIENTS[matrix] = weakref.ref(known)
        return known

    def add(self, left: Tensor, right: Tensor) -> None:
        """+= left @ right, in the backward pass that is under way, if it wants this gradient."""
        node = self.token.grad_fn
        if node is None or not torch._C._will_engine_execute_node(node):
            return
        task = torch._C._current_graph_task_id()
        if task not in self.sums:
            tall = len(left) > max(right.shape)  # then MKL is no slower, nor is left copied
            self.sums[task] = left @ right if tall else _linear(left, right.t())
        elif len(left) < right.shape[1] and len(right) > 64:  # then oneDNN's product and a sum are faster
            for i in range(0, len(left), 128):
                self.sums[task][i : i + 128] += _linear(left[i : i + 128], right.t())
        else:
            self.sums[task].addmm_(left, right)


_GRADIENTS = WeakTensorKeyDictionary()


class _Token(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of: Tensor, sums: dict[int, Tensor]) -> Tensor:
        ctx.sums = sums
        return of.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.sums.pop(torch._C._current_graph_task_id()), None


def _add_private(weight: Tensor, E: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """weight (N, g d h) += sum_k B_k E_k A_k, with E (N, g, K, r, r), A (g, K, r, h) and B (g, K, d, r).

    In place, since a copy takes almost as long as the sum.
    """
    for weight_part, E_part in _parts(weight, E):
        left, right = _factors(E_part, A, B)
        weight_part.view(len(left), left.shape[1], -1).baddbmm_(left, right)
    return weight


class _AddPrivate(torch.autograd.Function):
    """`_add_private` with gradients that make E A again: kept, it would take half as much as the weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, E: Tensor, A: Tensor, B: Tensor) -> Tensor:
        ctx.mark_dirty(weight)
        ctx.save_for_backward(E, A, B)
        return _add_private(weight, E, A, B)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        E, A, B = ctx.saved_tensors
        parts = [_private_gradients(*part, A, B) for part in _parts(gradient, E)]
        of_E, of_A, of_B = zip(*parts)
        return gradient, torch.cat(of_E), sum(of_A), sum(of_B)


def _private_gradients(gradient: Tensor, E: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, right = _factors(E, A, B)
    flat = gradient.reshape(len(left), left.shape[1], -1)
    of_left = (flat @ right.transpose(1, 2)).view(*E.shape[:2], B.shape[2], *E.shape[2:4]).sum(dim=0)
    of_right = (left.transpose(1, 2) @ flat).view(*E.shape[:-1], -1)
    of_E = of_right @ A.to(E).transpose(-1, -2)
    of_A = (E.transpose(-1, -2) @ of_right).sum(dim=0)
    return of_E, of_A.to(A), of_left.transpose(1, 2).to(B)


def _parts(*of_queries: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Tensors (N, ...) a few queries at a time where what is made of those stays in a processor's cache."""
    if not eager_on_cpu(of_queries[0]):
        return [of_queries]
    return zip(*(tensor.split(32) for tensor in of_queries))


def _factors(E: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """B (N g, d, K r) and E A (N g, K r, h), whose product sums over k."""
    left = _wide(B).to(E).expand(len(E), -1, -1, -1)
    return left.flatten(0, 1), (E @ A.to(E)).flatten(2, 3).flatten(0, 1)


def _wide(B: Tensor) -> Tensor:
    """(g, K, d, r) -> (g, d, K r)."""
    return B.transpose(1, 2).flatten(2)


def _guess_shared(layers: Sequence[Tensor], ranks: Sequence[int]) -> Tensor:
    """What layers (..., m, n) share if each is that and a private part of rank r_i; else often their mean.

    The columns of layer i's part lie in the column space of its difference from any other layer, and they are
    all that these spaces have in common as long as r_i + r_j + r_k <= m. Outside them a layer is what is
    shared. Of that and the mean it is the one that leaves less beyond the ranks.
    """
    identity = torch.eye(layers[0].shape[-2]).to(layers[0])
    weight, outside = torch.zeros_like(identity), torch.zeros_like(layers[0])
    for i, layer in enumerate(layers):
        others = [j for j in range(len(layers)) if j != i]
        if len(others) > 1 and ranks[i] + sum(sorted(ranks[j] for j in others)[:2]) <= len(identity):
            spaces = [_leading(layer - layers[j], min(ranks[i] + ranks[j], len(identity))) for j in others]
            private = _leading(sum(space @ space.mT for space in spaces), ranks[i])
            projection = identity - private @ private.mT
            weight, outside = weight + projection, outside + projection @ layer

    def beyond(shared: Tensor) -> Tensor:
        rests = [layer - shared for layer in layers]
        values = [torch.linalg.eigvalsh(rest @ rest.mT) for rest in rests]
        return sum(value[..., : max(len(identity) - r, 0)].sum() for value, r in zip(values, ranks))

    mean = sum(layers) / len(layers)
    return min(mean, torch.linalg.pinv(weight, hermitian=True) @ outside, key=beyond)


def _share(
    layers: Sequence[Tensor], approximate: Callable[[int, Tensor], Tensor], shared: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Layers as one shared tensor and, for each, a private one of the kind that `approximate` finds.

    In turn, a private one approximates what shared leaves, and shared is the mean of what the private ones
    leave. No turn makes the error larger; they end when it is all gone or hardly falls any more.
    """
    mean = sum(layers) / len(layers)
    total = sum((layer - mean).square().sum() for layer in layers)
    error = math.inf
    for _ in range(200):
        private = [approximate(i, layer - shared) for i, layer in enumerate(layers)]
        shared = sum(layer - part for layer, part in zip(layers, private)) / len(layers)
        before = error
        error = sum((layer - shared - part).square().sum() for layer, part in zip(layers, private))
        if error <= 1e-12 * total or error > 0.998 * before:
            break
    return shared, private


def _leading(matrices: Tensor, rank: int) -> Tensor:
    """(..., m, n) -> (..., m, rank), the left singular vectors of the largest singular values."""
    return torch.linalg.eigh(matrices @ matrices.mT)[1][..., -rank:]


def _rows(tensor: Tensor, rank: int) -> Tensor:
    """(g, d, h, q) -> A (g, rank, h), whose rows span most of the tensor's h side."""
    return _leading(tensor.transpose(1, 2).flatten(2), rank).mT


def _tucker(tensor: Tensor, A: Tensor, rank: int) -> Term:
    """A better B (g, d, rank), E and A (HOOI) for a tensor (g, d, h, q) and A (g, r, h)."""
    B = _leading((A[:, None] @ tensor).flatten(2), rank)
    left = (B.mT @ tensor.flatten(2)).unflatten(2, tensor.shape[2:])
    A = _rows(left, A.shape[1])
    return B, A[:, None] @ left, A


def _product(term: Term) -> Tensor:
    """B (g, d, r), E (g, r, r, q), A (g, r, h) -> (g, d, h, q)."""
    B, E, A = term
    EA = A.mT[:, None] @ E
    return (B @ EA.flatten(2)).unflatten(2, EA.shape[2:])


def _fit_in_turn(tensor: Tensor, terms: Sequence[Term]) -> list[Term]:
    """Better terms for a sum of them, each for what the others leave of the tensor."""
    left = tensor - sum(map(_product, terms))
    fitted = []
    for term in terms:
        left = left + _product(term)
        fitted.append(_tucker(left, term[2], term[0].shape[2]))
        left = left - _product(fitted[-1])
    return fitted


def _one_by_one(left: Tensor, groups: int, rank: int) -> list[Term]:
    """Forms that each fit what those before it leave."""
    terms = []
    for _ in range(groups):
        terms.append(_tucker(left, _rows(left, rank), rank))
        left = left - _product(terms[-1])
    return terms


def _separate(term: Term, groups: int, rank: int) -> list[Term]:
    """One form of inner size K r as K of inner size r: exactly, if it is such a sum.

    Such a sum stays one when a side of the tensor is multiplied by an invertible matrix. Where all singular
    values are 1 a few turns find the terms; where they fall off it may take thousands.
    """
    if groups == 1:
        return [term]
    B, E, A = term
    left, white = _whiten(E, 1)
    right, white = _whiten(white, 2)
    query, white = _whiten(white, 3)
    terms = _one_by_one(white, groups, rank)
    for _ in range(30):
        terms = _fit_in_turn(white, terms)
    exact = [(B @ left @ b, e @ query.mT[:, None], a @ right.mT @ A) for b, e, a in terms]
    whole = _product(term)
    nearest = _one_by_one(whole, groups, rank)
    return min(exact, nearest, key=lambda terms: (whole - sum(map(_product, terms))).norm())


def _whiten(tensor: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """L (g, n, k) and a tensor whose singular values along a side are 1, or 0 for noise.

    Its product with L on that side is the tensor (g, ...) that was given.
    """
    turned = tensor.movedim(side, 1)
    U, S, V = torch.linalg.svd(turned.flatten(2), full_matrices=False)
    V = V * (S > 1e-6 * S[:, :1])[..., None]
    return U * S[:, None], V.unflatten(2, turned.shape[2:]).movedim(1, side)


def _parameters(num_layers: int, shape) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.empty(shape(i))) for i in range(num_layers))


def _uniform(tensor: Tensor, bound: float) -> None:
    nn.init.uniform_(tensor, -bound, bound)


def _kaiming(tensor: Tensor, fan_in: int) -> None:
    _uniform(tensor, math.sqrt(6 / fan_in))


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    shape = tuple(int(s) for s in shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={shape}: must be (g, d, h), three positive numbers")
    return shape


def _per_layer(groups: Groups, num_layers: int) -> tuple[int, ...]:
    groups = tuple(groups) if isinstance(groups, Iterable) else (groups,) * num_layers
    if len(groups) != num_layers or any(not isinstance(k, int) or k < 1 for k in groups):
        raise ValueError(
            f"groups={list(groups)}: must be a positive int or one for each of the {num_layers} layers"
        )
    return groups


def _check(rank: int, largest: int, shared: bool, private: bool, init: str) -> None:
    if not isinstance(rank, int) or not 1 <= rank <= largest:
        raise ValueError(f"rank={rank}: must be an int from 1 to {largest}, the smaller side of the weight")
    if not (shared or private):
        raise ValueError("shared=False, private=False: at least one of the two terms must exist")
    if init not in INITS:
        raise ValueError(f"init={init!r}: must be one of {', '.join(INITS)}")
