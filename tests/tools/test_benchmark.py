"""The benchmarks time four detectors, three of which give the same."""

from __future__ import annotations

import json
import weakref

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(load_tool):
    return load_tool("benchmark")


@pytest.fixture
def models(tiny_model, load_tool):
    models = {"LORS": tiny_model(), "plain": tiny_model(None)}
    for parameter in models["LORS"].decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return load_tool("variants").with_twins(models)


@pytest.mark.parametrize("part", ["decoder", "detector"])
def test_what_is_timed_gives_the_same(part, benchmark, models):
    for training in (False, True):
        case = benchmark.Case(part, training, queries=7, batch=2)
        forwards = benchmark.prepare(models, case, (64, 96))
        literal, lors, merged = (forwards[name]() for name in ("literal", "LORS", "merged"))
        if training:
            assert literal.requires_grad and lors.item() > 0
        elif part == "detector":
            literal, lors, merged = (
                [image["instances"].pred_boxes.tensor for image in out] for out in (literal, lors, merged)
            )
        torch.testing.assert_close(lors, literal, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(merged, literal, rtol=1e-4, atol=1e-3)


def test_a_record_has_times_ratios_and_memory(benchmark, models):
    effort = benchmark.Effort(2, 2, 0.0)
    case = benchmark.Case("decoder", True, queries=5, batch=1)
    record = benchmark.measure(models, case, (64, 96), effort)
    assert record["turns"] == 2 and set(record["seconds"]) == set(benchmark.VARIANTS)
    assert all(value > 0 for value in (*record["seconds"].values(), *record["ratios"].values()))
    assert set(record["kept_bytes"]) == set(benchmark.VARIANTS)
    assert all(size > 0 for size in record["kept_bytes"].values())
    encoder = benchmark.measure_encoder(effort, width=32, tokens=4)
    assert encoder["parameters"]["shared"] < encoder["parameters"]["plain"]
    report = {"machine": benchmark.machine(), "cases": [record], "encoder": encoder}
    text = benchmark.as_text(report)
    assert "literal / LORS" in text and "keeps" in text and "shared / plain" in text
    assert json.loads(json.dumps(report)) == {**report, "encoder": {**encoder, "tokens": [4, 4]}}


def test_what_a_step_keeps_is_counted_and_let_go(benchmark):
    model, outputs = torch.nn.Linear(8, 8), []

    def forward() -> torch.Tensor:
        output = model(torch.randn(16, 8)).exp()  # keeps its input and its own output
        outputs.append(weakref.ref(output))
        return output.sum()

    assert benchmark.kept_bytes(model, forward) == 2 * 16 * 8 * 4
    assert outputs[0]() is None
