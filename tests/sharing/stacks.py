"""Small models of all kinds with a stack of layers in each, and their shared weights composed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lors.sharing import LowRank, share


class Stack(NamedTuple):
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    layers: str  # as `share` takes it
    container: str
    first: int = 0
    bank: str = "bank"

    def plain(self) -> nn.Module:
        torch.manual_seed(1)
        model = self.build().double()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # so that the output depends on all of them
                nn.init.xavier_normal_(parameter)
        return model

    def shared(self) -> nn.Module:
        """Of one group and of two, trained a little: no factor is 0 and no two layers are alike."""
        model = self.plain()
        share(model, self.layers, LowRank(2, [1, 2]))
        train(model, self)
        return model

    def names(self, model: nn.Module) -> list[str]:
        """The path of each layer."""
        children = model.get_submodule(self.container).named_children()
        return [f"{self.container}.{name}" for name, _ in children][self.first :]


def run(model: Callable, stack: Stack, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    inputs = (x.to(dtype) if x.is_floating_point() else x for x in stack.inputs())
    output = model(*inputs)
    return output if isinstance(output, Tensor) else output[0]


def loss_of(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 1, y.numel()).to(y).view_as(y)).sum()


def train(model: nn.Module, stack: Stack, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(run(model, stack)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()


def composed(model: nn.Module, stack: Stack, plain: nn.Module) -> dict[str, Tensor]:
    """What a plain model is given to be the shared one: W_shared + sum_k B_k A_k, and the rest by name."""
    given = dict(model.named_parameters())
    weights = {}
    for name, parameter in plain.named_parameters():
        if name in given:
            weights[name] = given[name]
            continue
        i, of_layer = next(
            (i, name.removeprefix(f"{layer}."))
            for i, layer in enumerate(stack.names(plain))
            if name.startswith(f"{layer}.")
        )
        shared, B, A = (given[f"{stack.bank}.{of_layer}.{leaf}"] for leaf in ("shared", f"B.{i}", f"A.{i}"))
        weights[name] = shared + torch.einsum("kdr,krh->dh", B, A).reshape(parameter.shape)
    return weights


def by_hand(model: nn.Module, stack: Stack) -> Tensor:
    """What the plain class makes of weights composed by hand, differentiable in the bank's parameters."""
    plain = stack.plain().train(model.training)
    weights = composed(model, stack, plain)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return run(lambda *x: torch.func.functional_call(plain, {**weights, **buffers}, x), stack)


def gradients(model: nn.Module, y: Tensor, **options: bool) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss_of(y), list(named.values()), materialize_grads=True, **options)
    return dict(zip(named, found))


def same(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def linears(d: int, h: int, layers: int = 3, **options: bool) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(h, d, **options) for _ in range(layers))
    return model


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def _decoder() -> nn.Module:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 24, dropout=0.0, batch_first=True), 2)


def _vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    return timm.models.VisionTransformer(**sizes, num_classes=5)


def _convnext() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_classes=5, ls_init_value=1.0)


WORDS = dict(vocab_size=11, hidden_size=16, num_hidden_layers=2, intermediate_size=24, return_dict=False)


def _llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    return transformers.LlamaModel(transformers.LlamaConfig(**WORDS, **heads, use_cache=False))


def _bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return transformers.BertModel(transformers.BertConfig(**WORDS, **dropout, num_attention_heads=2))


def _resnet() -> nn.Module:
    resnet = pytest.importorskip("torchvision").models.resnet
    model = resnet.ResNet(resnet.Bottleneck, [1, 1, 3, 1], num_classes=5, width_per_group=8)
    model.layer4, model.fc = nn.Identity(), nn.Linear(1024, 5)
    return model.eval()


def _image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


def _large_image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 32, 32),)


def _words() -> tuple[Tensor, ...]:
    return (torch.randint(11, (2, 7)),)


STACKS = {
    "encoder": Stack(_encoder, lambda: (torch.randn(2, 7, 6),), "1.layers", "1.layers", bank="1.bank"),
    "decoder": Stack(_decoder, lambda: (torch.randn(2, 5, 16), torch.randn(2, 7, 16)), "layers", "layers"),
    "vit": Stack(_vit, _image, "blocks", "blocks"),
    "convnext": Stack(
        _convnext,
        lambda: (torch.randn(2, 3, 32, 32),),
        "stages.1.blocks",
        "stages.1.blocks",
        bank="stages.1.bank",
    ),
    "llama": Stack(_llama, _words, "layers", "layers"),
    "bert": Stack(_bert, _words, "encoder.layer", "encoder.layer", bank="encoder.bank"),
    "resnet": Stack(_resnet, _large_image, "layer3[1:]", "layer3", 1),
}
