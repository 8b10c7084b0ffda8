"""What tools/gpu.py compares, on the CPU and, where there is one, on a CUDA device."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def gpu(load_tool):
    return load_tool("gpu")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def models(request, load_tool, tiny_model):
    models = {"LORS": tiny_model(), "plain": tiny_model(None)}
    for parameter in models["LORS"].decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    twins = load_tool("variants").with_twins(models)
    return {name: model.to(request.param) for name, model in twins.items()}


def test_what_is_right_and_what_is_not_is_found(gpu, models):
    found = gpu.check(models, (64, 96))
    assert found["two runs of a step"] == {"gradients equal bit for bit": True}
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.1), ("float16", 0.02)):
        step = found[f"LORS in {precision} against literal in float32"]
        assert step["loss, relative difference"] < tolerance
        assert step["gradients, cosine"] > 1 - tolerance
        for detector in ("LORS", "merged") if precision == "float32" else ("LORS",):
            stage = found[f"{detector} in {precision} against literal in float32, stage 1"]
            assert stage["boxes, the same in pixels"][0] < 2 * tolerance
            assert stage["logits, median and largest difference"][0] < tolerance
    with torch.no_grad():
        models["LORS"].decoder.stages[0].offsets.bias.add_(0.1)
    wrong = gpu.check(models, (64, 96))["LORS in float32 against literal in float32"]
    assert wrong["loss, relative difference"] > 1e-5


def test_the_detectors_are_timed(gpu, models):
    records = gpu.measure(models, gpu.Case("detector", True, 5, 1), "float32", (64, 96), turns=2)
    report = {"machine": gpu.machine(), "checks": {}, "times": records}
    assert "literal" in gpu.as_text(report) and all(record["ms"] > 0 for record in records)


@pytest.mark.cuda
def test_compiled_it_is_the_same_on_a_card(gpu, tiny_model):
    model = tiny_model().to("cuda")
    found = gpu.check_compiled(model, gpu.compiled(model), "float32", (64, 96))
    step = found["compiled against eager in float32"]
    assert step["loss, relative difference"] < 1e-4 and step["gradients, cosine"] > 0.999
